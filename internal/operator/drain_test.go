package operator_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/shopset/shopset/api/v1alpha1"
	"github.com/shopset/shopset/internal/cell"
	"github.com/shopset/shopset/internal/operator"
)

// connections is a ConnectionCounter that answers a number, or an error below zero.
type connections struct{ open atomic.Int64 }

func (c *connections) Open(context.Context, string, string) (int64, error) {
	if n := c.open.Load(); n >= 0 {
		return n, nil
	}
	return 0, errors.New("no answer")
}

var _ operator.ConnectionCounter = (*connections)(nil)

// TestDrain: a drained cell is idle when its edge has no connections, and serves again after.
func TestDrain(t *testing.T) {
	ss, counter := started(t)
	edgePod(t, ss)
	counter.open.Store(3)
	change(t, ss, func(s *v1alpha1.ShopSet) { s.Spec.Traffic = v1alpha1.TrafficDrain })
	waitCondition(t, ss, v1alpha1.ConditionIdle, metav1.ConditionFalse, "open connections at the edge")
	service := &corev1.Service{}
	if err := get(t, service, ss.Namespace, "a-proxy"); err != nil || service.Spec.Selector["shopset.dev/drained"] == "" {
		t.Fatalf("the edge is still in service: %v %v", service.Spec.Selector, err)
	}
	change(t, ss, func(s *v1alpha1.ShopSet) { s.Spec.Drain.Deadline = &metav1.Duration{Duration: time.Millisecond} })
	waitCondition(t, ss, v1alpha1.ConditionIdle, metav1.ConditionFalse, "until all connections have ended")
	counter.open.Store(0)
	waitCondition(t, ss, v1alpha1.ConditionIdle, metav1.ConditionTrue, "no connection is open")
	// With a spec that cannot be built nothing is changed, and a cell in service is not idle.
	change(t, ss, func(s *v1alpha1.ShopSet) { s.Spec.Traffic = v1alpha1.TrafficActive })
	waitCondition(t, ss, v1alpha1.ConditionIdle, metav1.ConditionFalse, "the edge receives traffic")
	change(t, ss, func(s *v1alpha1.ShopSet) {
		s.Spec.Traffic = v1alpha1.TrafficDrain
		s.Spec.Components[2].Uses = []string{"proxy"}
	})
	waitCondition(t, ss, v1alpha1.ConditionIdle, metav1.ConditionFalse, "Service a-proxy still takes connections")
	change(t, ss, func(s *v1alpha1.ShopSet) { s.Spec.Components[2].Uses = nil })
	waitCondition(t, ss, v1alpha1.ConditionIdle, metav1.ConditionTrue, "no connection is open")
	change(t, ss, func(s *v1alpha1.ShopSet) { s.Spec.Traffic = v1alpha1.TrafficActive })
	waitCondition(t, ss, v1alpha1.ConditionIdle, metav1.ConditionFalse, "the edge receives traffic")
	eventually(t, func() error {
		if err := get(t, service, ss.Namespace, "a-proxy"); err != nil {
			return err
		}
		if service.Spec.Selector["shopset.dev/drained"] != "" {
			return errors.New("the edge is not back in service")
		}
		return nil
	})
}

// TestDeletionDrainsFirst: connections hold it up, with the reason in sight; then all is gone.
func TestDeletionDrainsFirst(t *testing.T) {
	ss, counter := started(t)
	pod := edgePod(t, ss)
	counter.open.Store(-1)
	if err := cluster.admin.Delete(t.Context(), ss); err != nil {
		t.Fatal(err)
	}
	waitDeleting := func(message string) {
		t.Helper()
		eventually(t, func() error {
			if err := get(t, ss, ss.Namespace, ss.Name); err != nil {
				return err
			}
			for _, condition := range ss.Status.Conditions {
				if condition.Type == v1alpha1.ConditionReady && strings.Contains(condition.Message, message) {
					return nil
				}
			}
			return fmt.Errorf("conditions are %v", ss.Status.Conditions)
		})
	}
	waitDeleting("Pod " + pod.Name + " does not tell its connections: no answer")
	counter.open.Store(2)
	waitDeleting("open connections at the edge")
	if err := get(t, &appsv1.Deployment{}, ss.Namespace, "a-proxy"); err != nil {
		t.Fatalf("deleted with open connections: %v", err)
	}
	if ss.Status.Summary != "3/3" {
		t.Errorf("while it still serves the summary is %s", ss.Status.Summary)
	}
	counter.open.Store(0)
	waitDeleting("1 Pods are still ending")
	// What is around the Pods stays as long as they do.
	eventually(t, func() error {
		if err := get(t, &appsv1.Deployment{}, ss.Namespace, "a-proxy"); !apierrors.IsNotFound(err) {
			return fmt.Errorf("the Deployment is still there: %v", err)
		}
		return nil
	})
	if err := get(t, &networkingv1.NetworkPolicy{}, ss.Namespace, "a-proxy"); err != nil {
		t.Fatalf("gone before the Pods: %v", err)
	}
	eventually(t, func() error {
		if err := get(t, ss, ss.Namespace, ss.Name); err != nil || ss.Status.Summary != "0/3" {
			return fmt.Errorf("when nothing serves any more the summary is %s, %w", ss.Status.Summary, err)
		}
		return nil
	})
	endPod(t, pod)
	remove(t, ss)
}

func TestDeletionDeadline(t *testing.T) {
	ss, counter := started(t)
	pod := edgePod(t, ss)
	counter.open.Store(5)
	change(t, ss, func(s *v1alpha1.ShopSet) { s.Spec.Drain.Deadline = &metav1.Duration{Duration: 3 * time.Second} })
	if err := cluster.admin.Delete(t.Context(), ss); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error {
		if err := get(t, &appsv1.Deployment{}, ss.Namespace, "a-proxy"); !apierrors.IsNotFound(err) {
			return fmt.Errorf("not deleted after the deadline: %v", err)
		}
		return nil
	})
	endPod(t, pod)
	remove(t, ss)
}

// TestDeletionDeadlineWithRefusedWrites: a Service that cannot be written holds deletion up no longer than
// the deadline.
func TestDeletionDeadlineWithRefusedWrites(t *testing.T) {
	ss := sample(t, newNamespace(t), "a")
	create(t, ss)
	converge(t, ss)
	if err := cluster.admin.Delete(t.Context(), ss); err != nil {
		t.Fatal(err)
	}
	r := (&mortal{last: -1}).reconciler(t)
	r.Client = &noServices{r.Client}
	now := time.Now()
	r.Now = func() time.Time { return now }
	if err := reconcile(t, r, ss); err == nil {
		t.Fatal("a failed write was not told")
	}
	waitCondition(t, ss, v1alpha1.ConditionIdle, metav1.ConditionFalse, "Service a-proxy still takes connections")
	now = now.Add(61 * time.Minute)
	for range 3 {
		if err := reconcile(t, r, ss); err != nil {
			t.Fatal(err)
		}
	}
	if err := get(t, ss, ss.Namespace, ss.Name); !apierrors.IsNotFound(err) {
		t.Fatalf("still there after the deadline: %v", err)
	}
}

// noServices fails every write to a Service, as a broken webhook does.
type noServices struct{ client.Client }

func (c *noServices) Patch(ctx context.Context, object client.Object, patch client.Patch, options ...client.PatchOption) error {
	if object.GetObjectKind().GroupVersionKind().Kind == "Service" {
		return apierrors.NewInternalError(errors.New("failed calling webhook"))
	}
	return c.Client.Patch(ctx, object, patch, options...)
}

// TestOrphan: with --cascade=orphan the children live on, in service.
func TestOrphan(t *testing.T) {
	ss := sample(t, newNamespace(t), "a")
	create(t, ss)
	converge(t, ss)
	before := children(t, ss.Namespace)
	if err := cluster.admin.Delete(t.Context(), ss, client.PropagationPolicy(metav1.DeletePropagationOrphan)); err != nil {
		t.Fatal(err)
	}
	r := (&mortal{last: -1}).reconciler(t)
	for range 3 {
		if err := reconcile(t, r, ss); err != nil {
			t.Fatal(err)
		}
	}
	orphan(t, ss)
	if err := reconcile(t, r, ss); err != nil {
		t.Fatal(err)
	}
	if err := get(t, ss, ss.Namespace, ss.Name); !apierrors.IsNotFound(err) {
		t.Fatalf("the ShopSet is still there: %v", err)
	}
	if after := children(t, ss.Namespace); !slices.Equal(before, after) {
		t.Fatalf("children before %q and after %q", before, after)
	}
	service := &corev1.Service{}
	if err := get(t, service, ss.Namespace, "a-proxy"); err != nil || cell.Drained(service) {
		t.Fatalf("taken out of service: %v %v", service.Spec.Selector, err)
	}
}

// orphan plays Kubernetes' garbage collector: nobody owns the children any more.
func orphan(t *testing.T, ss *v1alpha1.ShopSet) {
	t.Helper()
	for _, list := range childLists() {
		if err := cluster.admin.List(t.Context(), list, client.InNamespace(ss.Namespace)); err != nil {
			t.Fatal(err)
		}
		items, err := meta.ExtractList(list)
		if err != nil {
			t.Fatal(err)
		}
		for _, item := range items {
			change(t, item.(client.Object), func(o client.Object) { o.SetOwnerReferences(nil) })
		}
	}
	change(t, ss, func(s *v1alpha1.ShopSet) {
		s.Finalizers = slices.DeleteFunc(s.Finalizers, func(name string) bool { return name == metav1.FinalizerOrphanDependents })
	})
}

// TestDeletionInAnyPhase: before the operator ran at all, with a bad spec, and right after creation.
func TestDeletionInAnyPhase(t *testing.T) {
	namespace := newNamespace(t)
	startOperator(t, namespace, &connections{})
	for i := range 5 {
		ss := sample(t, namespace, "a")
		if i == 1 {
			ss.Spec.Components[2].Uses = []string{"proxy"}
		}
		create(t, ss)
		switch i {
		case 1:
			waitCondition(t, ss, v1alpha1.ConditionStalled, metav1.ConditionTrue, "circle")
		case 2:
			eventually(t, func() error { return get(t, &corev1.Service{}, namespace, "a-proxy") })
		case 3:
			rollOutAll(t, ss)
		case 4:
			rollOutAll(t, ss)
			change(t, ss, func(s *v1alpha1.ShopSet) { s.Spec.Components[2].Uses = []string{"proxy"} })
			waitCondition(t, ss, v1alpha1.ConditionStalled, metav1.ConditionTrue, "circle")
		}
		remove(t, ss)
	}
}

// edgePod makes a Pod of the edge that runs.
func edgePod(t *testing.T, ss *v1alpha1.ShopSet) *corev1.Pod {
	t.Helper()
	return runningPod(t, ss, "proxy")
}

// runningPod makes a Pod of a component at its Deployment's present revision that runs, as the kubelet
// would report it.
func runningPod(t *testing.T, ss *v1alpha1.ShopSet, component string) *corev1.Pod {
	t.Helper()
	d := &appsv1.Deployment{}
	if err := get(t, d, ss.Namespace, cell.ObjectName(ss.Name, component)); err != nil {
		t.Fatal(err)
	}
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: ss.Namespace, GenerateName: d.Name + "-", Labels: d.Spec.Template.Labels,
			Finalizers: []string{"test.shopset.dev/terminating"},
		},
		Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: component, Image: "x"}}},
	}
	create(t, pod)
	pod.Status = corev1.PodStatus{Phase: corev1.PodRunning, PodIP: "192.0.2.1", PodIPs: []corev1.PodIP{{IP: "192.0.2.1"}},
		ContainerStatuses: []corev1.ContainerStatus{{Name: component, Ready: true, State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}}}}
	if err := cluster.admin.Status().Update(t.Context(), pod); err != nil {
		t.Fatal(err)
	}
	return pod
}

// terminate tells a Pod to end; endPod ends it.
func terminate(t *testing.T, pod *corev1.Pod) {
	t.Helper()
	if err := cluster.admin.Delete(t.Context(), pod, client.GracePeriodSeconds(0)); client.IgnoreNotFound(err) != nil {
		t.Fatal(err)
	}
}

func endPod(t *testing.T, pod *corev1.Pod) {
	t.Helper()
	terminate(t, pod)
	change(t, pod, func(p *corev1.Pod) { p.Finalizers = nil })
}
