package operator_test

import (
	"fmt"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/shopset/shopset/api/v1alpha1"
	"github.com/shopset/shopset/internal/cell"
)

func waitPorts(t *testing.T, ss *v1alpha1.ShopSet, service, want string) {
	t.Helper()
	eventually(t, func() error {
		s := &corev1.Service{}
		if err := get(t, s, ss.Namespace, service); err != nil {
			return err
		}
		var got []int32
		for _, port := range s.Spec.Ports {
			got = append(got, port.Port)
		}
		if fmt.Sprint(got) != want {
			return fmt.Errorf("%s has the ports %v, want %s", service, got, want)
		}
		return nil
	})
}

// TestEarlierPodsKeepTheirWay: a Pod that knows api by its earlier port reaches it until it has ended,
// terminating or not. A Pod that is not ready opens nothing again.
func TestEarlierPodsKeepTheirWay(t *testing.T) {
	ss, _ := started(t)
	pod := runningPod(t, ss, "shop")
	change(t, ss, func(s *v1alpha1.ShopSet) { s.Spec.Components[2].Ports[0].Port = 8081 })
	waitPorts(t, ss, "a-api", "[8081 8080]")
	rollOutAll(t, ss)
	waitPorts(t, ss, "a-api", "[8081 8080]")
	terminate(t, pod)
	// A run that has seen the Pod terminate, and more.
	change(t, ss, func(s *v1alpha1.ShopSet) { s.Spec.Components[2].Replicas = new(int32(4)) })
	rollOutAll(t, ss)
	waitPorts(t, ss, "a-api", "[8081 8080]")
	endPod(t, pod)
	waitPorts(t, ss, "a-api", "[8081]")
	notReady(t, ss.Namespace, "a-api")
	waitCondition(t, ss, v1alpha1.ConditionReady, metav1.ConditionFalse, "api")
	waitPorts(t, ss, "a-api", "[8081]")
}

// TestRecordOfWhatRuns: however many changes come while a Pod of an earlier revision runs, its record stays,
// and goes with it.
func TestRecordOfWhatRuns(t *testing.T) {
	ss, _ := started(t)
	change(t, ss, func(s *v1alpha1.ShopSet) { s.Spec.RevisionHistoryLimit = new(int32(1)) })
	pod := runningPod(t, ss, "proxy")
	for i := range 3 {
		change(t, ss, func(s *v1alpha1.ShopSet) { s.Spec.Components[2].Args = []string{fmt.Sprint(i)} })
		rollOutAll(t, ss)
	}
	// Nothing of proxy changed: its Pod is of the present revision, so the record is of no use.
	waitRecords(t, ss, 2)
	first := ss.Name + "-" + ss.Status.Revision
	change(t, ss, func(s *v1alpha1.ShopSet) { s.Spec.Components[0].Args = []string{"new"} })
	rollOutAll(t, ss)
	for i := range 3 {
		change(t, ss, func(s *v1alpha1.ShopSet) { s.Spec.Components[2].Args = []string{fmt.Sprint("again", i)} })
		rollOutAll(t, ss)
	}
	waitRecords(t, ss, 3)
	if err := get(t, &appsv1.ControllerRevision{}, ss.Namespace, first); err != nil {
		t.Fatalf("the record of what runs is gone: %v", err)
	}
	endPod(t, pod)
	waitRecords(t, ss, 2)
}

func waitRecords(t *testing.T, ss *v1alpha1.ShopSet, want int) {
	t.Helper()
	eventually(t, func() error {
		records := &appsv1.ControllerRevisionList{}
		if err := cluster.admin.List(t.Context(), records, client.InNamespace(ss.Namespace)); err != nil {
			return err
		}
		if len(records.Items) != want {
			return fmt.Errorf("%d records, want %d", len(records.Items), want)
		}
		return nil
	})
}

// TestHeldWithoutRecord: a component that must wait and whose revision is not on record stays as it is, but
// for the number of its Pods.
func TestHeldWithoutRecord(t *testing.T) {
	ss, _ := started(t)
	before := &appsv1.Deployment{}
	if err := get(t, before, ss.Namespace, "a-shop"); err != nil {
		t.Fatal(err)
	}
	if err := cluster.admin.DeleteAllOf(t.Context(), &appsv1.ControllerRevision{}, client.InNamespace(ss.Namespace)); err != nil {
		t.Fatal(err)
	}
	change(t, ss, func(s *v1alpha1.ShopSet) {
		s.Spec.Values["LOG_LEVEL"] = "debug"
		s.Spec.Components[1].Replicas = new(int32(5))
	})
	waitCondition(t, ss, v1alpha1.ConditionReady, metav1.ConditionFalse, "shop: waits until the change of api is done")
	eventually(t, func() error {
		d := &appsv1.Deployment{}
		if err := get(t, d, ss.Namespace, "a-shop"); err != nil {
			return err
		}
		if *d.Spec.Replicas != 5 || d.Annotations[cell.AnnotationRevision] != before.Annotations[cell.AnnotationRevision] {
			return fmt.Errorf("%d Pods at %s", *d.Spec.Replicas, d.Annotations[cell.AnnotationRevision])
		}
		return nil
	})
	rollOutAll(t, ss)
}

// TestEdgeMoves: the way in through the former edge is closed when the new one serves, not before.
func TestEdgeMoves(t *testing.T) {
	ss, _ := started(t)
	change(t, ss, func(s *v1alpha1.ShopSet) {
		gate := *s.Spec.Components[0].DeepCopy()
		gate.Name = "gate"
		s.Spec.Components[0].Edge = false
		s.Spec.Components[0].Connections = nil
		s.Spec.Components = append(s.Spec.Components, gate)
	})
	rollOut(t, ss.Namespace, "a-proxy")
	waitCondition(t, ss, v1alpha1.ConditionReady, metav1.ConditionFalse, "gate")
	open := func() (bool, error) {
		policy := &networkingv1.NetworkPolicy{}
		err := get(t, policy, ss.Namespace, "a-proxy")
		return len(policy.Spec.Ingress) > 0 && len(policy.Spec.Ingress[0].From) == 0, err
	}
	if still, err := open(); err != nil || !still {
		t.Fatalf("nobody gets in any more, and the new edge does not serve yet: %v", err)
	}
	rollOutAll(t, ss)
	eventually(t, func() error {
		if still, err := open(); err != nil || still {
			return fmt.Errorf("the former edge is still open to everybody: %v", err)
		}
		return nil
	})
}
