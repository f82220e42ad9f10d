package operator_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/shopset/shopset/api/v1alpha1"
	"github.com/shopset/shopset/internal/cell"
	"github.com/shopset/shopset/internal/operator"
)

// TestKilledAfterEveryCall kills the operator after each single call of a creation, a change and a
// deletion, lets a new one finish, and compares with what an undisturbed one makes.
func TestKilledAfterEveryCall(t *testing.T) {
	t.Parallel()
	phases := []struct {
		name   string
		change func(*testing.T, *v1alpha1.ShopSet)
	}{
		{"create", func(*testing.T, *v1alpha1.ShopSet) {}},
		{"change", func(t *testing.T, ss *v1alpha1.ShopSet) {
			change(t, ss, func(s *v1alpha1.ShopSet) {
				s.Spec.Values["LOG_LEVEL"] = "debug"
				s.Spec.Components[0].Config[0].Template += "# changed\n"
			})
		}},
		{"delete", func(t *testing.T, ss *v1alpha1.ShopSet) {
			if err := cluster.admin.Delete(t.Context(), ss); err != nil {
				t.Fatal(err)
			}
		}},
	}
	for phase, test := range phases {
		t.Run(test.name, func(t *testing.T) {
			prepare := func(last int) (*v1alpha1.ShopSet, *mortal) {
				ss := sample(t, newNamespace(t), "a")
				create(t, ss)
				if phase > 0 {
					converge(t, ss)
				}
				test.change(t, ss)
				m := &mortal{last: last}
				_ = reconcile(t, m.reconciler(t), ss) // Its error is the death.
				return ss, m
			}
			ss, undisturbed := prepare(-1)
			converge(t, ss)
			want := picture(t, ss)
			if undisturbed.writes == 0 {
				t.Fatal("the phase writes nothing")
			}
			for last := range undisturbed.calls {
				ss, m := prepare(last)
				if m.calls > last {
					t.Fatalf("%d calls after death at %d", m.calls, last)
				}
				converge(t, ss)
				if got := picture(t, ss); got != want {
					t.Fatalf("killed after call %d of %d the result differs:\n%s\nwant:\n%s", last, undisturbed.calls, got, want)
				}
			}
		})
	}
}

// converge runs a fresh operator until a run writes nothing and wants no other. Its clock is fast, so
// that draining takes no time.
func converge(t *testing.T, ss *v1alpha1.ShopSet) {
	t.Helper()
	m := &mortal{last: -1}
	r := m.reconciler(t)
	now := time.Now()
	r.Now = func() time.Time { return now }
	for range 20 {
		now = now.Add(time.Minute)
		before := m.writes
		result, err := r.Reconcile(t.Context(), ctrl.Request{NamespacedName: client.ObjectKeyFromObject(ss)})
		if err != nil {
			t.Fatal(err)
		}
		if m.writes == before && result.RequeueAfter == 0 {
			return
		}
	}
	t.Fatal("does not come to rest in 20 runs")
}

// picture is all that the operator made, without what differs from run to run.
func picture(t *testing.T, ss *v1alpha1.ShopSet) string {
	t.Helper()
	lines := children(t, ss.Namespace)
	current := &v1alpha1.ShopSet{}
	if err := get(t, current, ss.Namespace, ss.Name); err != nil {
		return strings.Join(append(lines, "ShopSet: gone"), "\n")
	}
	lines = append(lines, dump(t, ss.Namespace))
	current.Status.DrainStarted = nil
	for i := range current.Status.Conditions {
		current.Status.Conditions[i].LastTransitionTime = metav1.Time{}
	}
	if meta.FindStatusCondition(current.Status.Conditions, v1alpha1.ConditionReady) == nil {
		t.Fatal("no status was written")
	}
	status, err := yaml.Marshal(current.Status)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(append(lines, string(status)), "\n")
}

// dump is all children as the API server has them, without what differs from one namespace or run to the
// next.
func dump(t *testing.T, namespace string) string {
	t.Helper()
	var text strings.Builder
	for _, list := range childLists() {
		if err := cluster.admin.List(t.Context(), list, client.InNamespace(namespace), client.HasLabels{cell.LabelShopSet}); err != nil {
			t.Fatal(err)
		}
		items, err := meta.ExtractList(list)
		if err != nil {
			t.Fatal(err)
		}
		for _, item := range items {
			content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(item)
			if err != nil {
				t.Fatal(err)
			}
			object := unstructured.Unstructured{Object: content}
			for _, field := range [][]string{
				{"metadata", "uid"}, {"metadata", "resourceVersion"}, {"metadata", "managedFields"}, {"metadata", "creationTimestamp"},
				{"metadata", "generation"}, {"metadata", "namespace"}, {"metadata", "annotations", cell.AnnotationApplied},
				{"spec", "clusterIP"}, {"spec", "clusterIPs"}, {"status"}, {"revision"},
			} {
				unstructured.RemoveNestedField(content, field...)
			}
			owners := object.GetOwnerReferences()
			for i := range owners {
				owners[i].UID = ""
			}
			object.SetOwnerReferences(owners)
			// The environment of a Pod holds its namespace.
			raw, err := yaml.Marshal(content)
			if err != nil {
				t.Fatal(err)
			}
			fmt.Fprintf(&text, "%T\n%s\n", item, strings.ReplaceAll(string(raw), namespace, "NAMESPACE"))
		}
	}
	return text.String()
}

// TestKilledInAnyWave kills the operator after each call of a whole change that comes in waves, with a
// component and a config file that go at its end, and compares where it ends with an undisturbed one.
func TestKilledInAnyWave(t *testing.T) {
	t.Parallel()
	// drive runs the operator, and plays Kubernetes, until the change is through.
	drive := func(ss *v1alpha1.ShopSet, r *operator.Reconciler, pod *corev1.Pod) (through bool) {
		for range 12 {
			if err := reconcile(t, r, ss); err != nil {
				return false
			}
			deployments := &appsv1.DeploymentList{}
			if err := cluster.admin.List(t.Context(), deployments, client.InNamespace(ss.Namespace)); err != nil {
				t.Fatal(err)
			}
			for _, d := range deployments.Items {
				rollOut(t, ss.Namespace, d.Name)
			}
			if err := get(t, ss, ss.Namespace, ss.Name); err != nil {
				t.Fatal(err)
			}
			if ss.Status.Summary == "2/2" && ss.Status.ObservedGeneration == ss.Generation {
				if err := get(t, pod, pod.Namespace, pod.Name); err == nil {
					endPod(t, pod)
				}
				if reconcile(t, r, ss) == nil {
					return true
				}
			}
		}
		return false
	}
	prepare := func() (*v1alpha1.ShopSet, *corev1.Pod) {
		ss := sample(t, newNamespace(t), "a")
		create(t, ss)
		r := (&mortal{last: -1}).reconciler(t)
		rollOutAllBy(t, ss, func() { _ = reconcile(t, r, ss) })
		pod := runningPod(t, ss, "shop")
		change(t, ss, func(s *v1alpha1.ShopSet) {
			s.Spec.RevisionHistoryLimit = new(int32(1))
			s.Spec.Values["LOG_LEVEL"] = "debug"
			s.Spec.Components[0].Config[0].Template += "# changed\n"
			s.Spec.Components[1].Uses = nil
			s.Spec.Components = s.Spec.Components[:2] // api goes.
		})
		return ss, pod
	}
	ss, pod := prepare()
	m := &mortal{last: -1}
	if !drive(ss, m.reconciler(t), pod) {
		t.Fatalf("the change does not get through: %v", ss.Status)
	}
	converge(t, ss)
	want, calls := picture(t, ss), m.calls
	if strings.Contains(want, "a-api") || m.writes < 10 {
		t.Fatalf("%d writes led to\n%s", m.writes, want)
	}
	for last := range calls {
		ss, pod := prepare()
		drive(ss, (&mortal{last: last}).reconciler(t), pod)
		if !drive(ss, (&mortal{last: -1}).reconciler(t), pod) {
			t.Fatalf("killed after call %d the change does not get through: %v", last, ss.Status)
		}
		converge(t, ss)
		if got := picture(t, ss); got != want {
			t.Fatalf("killed after call %d of %d the result differs:\n%s\nwant:\n%s", last, calls, got, want)
		}
	}
}
