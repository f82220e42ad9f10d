package devcluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/shopset/shopset/api/v1alpha1"
	"github.com/shopset/shopset/examples/platform/buyer"
)

// FleetName is the name of the demo's fleet; config/router names it, too.
const FleetName = "main"

// privateNetworks are where routers are, as a cell's proxy sees them.
const privateNetworks = "10.0.0.0/8, 172.16.0.0/12, 192.168.0.0/16, fc00::/7"

// Sample reads the ShopSet of config/samples, images pinned.
func (t *Target) Sample(images Images) (*v1alpha1.ShopSet, error) {
	content, err := os.ReadFile(filepath.Join(t.Root, "config/samples/shopset.yaml"))
	if err != nil {
		return nil, err
	}
	objects, err := Parse(images.Pin(string(content)))
	if err != nil {
		return nil, err
	}
	for _, object := range objects {
		if object.GetKind() == "ShopSet" {
			ss := &v1alpha1.ShopSet{}
			return ss, runtime.DefaultUnstructuredConverter.FromUnstructuredWithValidation(object.Object, ss, true)
		}
	}
	return nil, errors.New("the sample has no ShopSet")
}

// FleetOf makes a fleet of so many cells, each as the ShopSet says, but behind routers, and with one Pod of each component: what
// the second of two Pods is for in a lone ShopSet, the other cells are for in a fleet.
func FleetOf(ss *v1alpha1.ShopSet, cells int) *v1alpha1.Fleet {
	spec := ss.Spec.DeepCopy()
	spec.Traffic = ""
	spec.Values["PROXY_NETWORKS"] = privateNetworks
	for i := range spec.Components {
		component := &spec.Components[i]
		component.Replicas, component.Service = new(int32(1)), nil
		for j := range component.Ports {
			component.Ports[j].NodePort = 0
		}
	}
	return &v1alpha1.Fleet{
		TypeMeta:   metav1.TypeMeta{APIVersion: v1alpha1.GroupVersion.String(), Kind: "Fleet"},
		ObjectMeta: metav1.ObjectMeta{Namespace: ss.Namespace, Name: FleetName},
		Spec: v1alpha1.FleetSpec{
			Template: v1alpha1.FleetTemplate{Spec: *spec}, Cells: new(int32(cells)), //nolint:gosec // A few.
		},
	}
}

// ApplyDemoFleet applies the demo as a fleet with routers in front of it, and what else the sample has.
func (t *Target) ApplyDemoFleet(ctx context.Context, images Images, cells int) error {
	content, err := os.ReadFile(filepath.Join(t.Root, "config/samples/shopset.yaml"))
	if err != nil {
		return err
	}
	objects, err := Parse(images.Pin(string(content)))
	if err != nil {
		return err
	}
	for _, object := range objects {
		if object.GetKind() == "ShopSet" {
			continue
		}
		if err := t.Apply(ctx, object); err != nil {
			return err
		}
	}
	sample, err := t.Sample(images)
	if err != nil {
		return err
	}
	if err := t.ApplyFleet(ctx, FleetOf(sample, cells)); err != nil {
		return err
	}
	return t.ApplyFiles(ctx, images, "config/router/router.yaml")
}

// ApplyFleet applies a fleet.
func (t *Target) ApplyFleet(ctx context.Context, fleet *v1alpha1.Fleet) error {
	content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(fleet)
	if err != nil {
		return err
	}
	delete(content, "status")
	return t.Apply(ctx, &unstructured.Unstructured{Object: content})
}

// WaitFleet waits until a fleet is ready at its present generation; say hears its message whenever that changes.
func (t *Target) WaitFleet(ctx context.Context, key client.ObjectKey, say func(string)) (*v1alpha1.Fleet, error) {
	fleet := &v1alpha1.Fleet{}
	err := t.waitReady(ctx, fleet, key, func() ([]metav1.Condition, string) { return fleet.Status.Conditions, fleet.Status.Summary }, say)
	return fleet, err
}

// waitReady waits until an object is ready at its present generation.
func (t *Target) waitReady(ctx context.Context, object client.Object, key client.ObjectKey, status func() ([]metav1.Condition, string), say func(string)) error {
	last := ""
	err := until(ctx, func() (bool, error) {
		if err := t.Client.Get(ctx, key, object); err != nil {
			return false, err
		}
		conditions, summary := status()
		ready := meta.FindStatusCondition(conditions, v1alpha1.ConditionReady)
		if ready == nil || ready.ObservedGeneration != object.GetGeneration() {
			return false, nil
		}
		if ready.Message != last {
			last = ready.Message
			say(summary + " " + last)
		}
		return ready.Status == metav1.ConditionTrue, nil
	})
	if err != nil {
		return fmt.Errorf("%T %s: %w: %s", object, key, err, last)
	}
	return nil
}

// RouterBuyer are the options to buy through the routers of a namespace; the shop is still to be named.
func (t *Target) RouterBuyer(ctx context.Context, namespace string) (buyer.Options, error) {
	address, err := t.serviceAddress(ctx, client.ObjectKey{Namespace: namespace, Name: "shopset-router"})
	if err != nil {
		return buyer.Options{}, err
	}
	roots, err := t.Roots()
	return buyer.Options{Address: address, RootCAs: roots}, err
}
