package operator_test

import (
	"crypto/ed25519"
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/shopset/shopset/api/v1alpha1"
	"github.com/shopset/shopset/internal/cell"
	"github.com/shopset/shopset/internal/operator"
	"github.com/shopset/shopset/internal/routetable"
)

// sampleFleet is n cells of the sample ShopSet.
func sampleFleet(t *testing.T, namespace string, n int32) *v1alpha1.Fleet {
	t.Helper()
	f := &v1alpha1.Fleet{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "main"}}
	f.Spec.Template.Spec = sample(t, namespace, "template").Spec
	f.Spec.Cells = &n
	return f
}

func (m *mortal) fleetReconciler(t *testing.T) *operator.FleetReconciler {
	t.Helper()
	through := m.client(t)
	return &operator.FleetReconciler{Client: through, Live: through, Tables: through, KeyNamespace: keyNamespace}
}

func shopSetsOf(t *testing.T, namespace string) []v1alpha1.ShopSet {
	t.Helper()
	list := &v1alpha1.ShopSetList{}
	if err := cluster.admin.List(t.Context(), list, client.InNamespace(namespace)); err != nil {
		t.Fatal(err)
	}
	return list.Items
}

// playShopSets plays the ShopSets' own reconciler where it does not run: all are ready, and drained ones idle.
func playShopSets(t *testing.T, namespace string) {
	t.Helper()
	for _, ss := range shopSetsOf(t, namespace) {
		set := func(kind string, value bool, message string) {
			status := metav1.ConditionFalse
			if value {
				status = metav1.ConditionTrue
			}
			meta.SetStatusCondition(&ss.Status.Conditions, metav1.Condition{Type: kind, Status: status, Reason: "Test", Message: message, ObservedGeneration: ss.Generation})
		}
		set(v1alpha1.ConditionReady, true, "all components serve")
		set(v1alpha1.ConditionIdle, ss.Spec.Traffic == v1alpha1.TrafficDrain, "by the test")
		if err := cluster.admin.Status().Update(t.Context(), &ss); err != nil {
			t.Fatal(err)
		}
	}
}

// publicKeysOf are those that routers would be given.
func publicKeysOf(t *testing.T, f *v1alpha1.Fleet) ([]ed25519.PublicKey, error) {
	t.Helper()
	keys := &corev1.ConfigMap{}
	if err := get(t, keys, f.Namespace, f.Name+"-routes-keys"); err != nil {
		return nil, err
	}
	return routetable.ParsePublicKeys([]byte(keys.Data["keys.pem"]))
}

// tableOf opens what is published, as a router does.
func tableOf(t *testing.T, f *v1alpha1.Fleet) (*routetable.Table, error) {
	t.Helper()
	trusted, err := publicKeysOf(t, f)
	if err != nil {
		return nil, err
	}
	routes := &corev1.ConfigMap{}
	if err := get(t, routes, f.Namespace, f.Name+"-routes"); err != nil {
		return nil, err
	}
	return routetable.Open(routes.BinaryData["routes"], trusted)
}

// waitTable waits for a published table that says so.
func waitTable(t *testing.T, f *v1alpha1.Fleet, want string) *routetable.Table {
	t.Helper()
	var table *routetable.Table
	eventually(t, func() (err error) {
		if table, err = tableOf(t, f); err != nil {
			return err
		}
		if got := cellsOf(table); got != want {
			return fmt.Errorf("version %d says %s, want %s", table.Version, got, want)
		}
		return nil
	})
	return table
}

// cellsOf is NAME:STATE:ENDPOINTS of each cell, and the pins.
func cellsOf(table *routetable.Table) string {
	var parts []string
	for _, cell := range table.Cells {
		parts = append(parts, fmt.Sprintf("%s:%s:%d+%d", cell.Name, cell.State, len(cell.Endpoints.HTTPS), len(cell.Endpoints.HTTP)))
	}
	for _, pin := range table.Pins {
		parts = append(parts, pin.Host+"="+pin.Cell)
	}
	return strings.Join(parts, " ")
}

func waitFleet(t *testing.T, f *v1alpha1.Fleet, kind string, want metav1.ConditionStatus, message string) {
	t.Helper()
	eventually(t, func() error {
		if err := get(t, f, f.Namespace, f.Name); err != nil {
			return err
		}
		condition := meta.FindStatusCondition(f.Status.Conditions, kind)
		if condition == nil || condition.Status != want || condition.ObservedGeneration != f.Generation || !strings.Contains(condition.Message, message) {
			return fmt.Errorf("%s is %+v; want %s with %q; cells %+v", kind, condition, want, message, f.Status.Cells)
		}
		return nil
	})
}

// serve plays the EndpointSlice controller: so many ready Pods of the edge, and others that are not.
func serve(t *testing.T, namespace, shopSet string, ready, others int) {
	t.Helper()
	slice := &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: shopSet + "-proxy-abc", Labels: map[string]string{
			cell.LabelShopSet: shopSet, cell.LabelComponent: "proxy", cell.LabelEdge: "true", discoveryv1.LabelServiceName: shopSet + "-proxy",
		}},
		AddressType: discoveryv1.AddressTypeIPv4,
		Ports:       []discoveryv1.EndpointPort{{Name: new("https"), Port: new(int32(8443)), Protocol: new(corev1.ProtocolTCP)}},
	}
	for i := range ready + others {
		slice.Endpoints = append(slice.Endpoints, discoveryv1.Endpoint{
			Addresses: []string{fmt.Sprintf("10.1.%d.%d", shopSet[len(shopSet)-1], i+1)}, Conditions: discoveryv1.EndpointConditions{Ready: new(i < ready)},
		})
	}
	existing := &discoveryv1.EndpointSlice{}
	if err := get(t, existing, namespace, slice.Name); err == nil {
		slice.ResourceVersion = existing.ResourceVersion
		if err := cluster.admin.Update(t.Context(), slice); err != nil {
			t.Fatal(err)
		}
		return
	}
	create(t, slice)
}
