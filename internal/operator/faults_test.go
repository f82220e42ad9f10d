package operator_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"
	"sigs.k8s.io/yaml"

	"github.com/shopset/shopset/api/v1alpha1"
	"github.com/shopset/shopset/internal/cell"
	"github.com/shopset/shopset/internal/operator"
)

// errKilled is what every call returns once the operator is "dead".
var errKilled = errors.New("killed")

// mortal counts calls and dies: the call before the deadline is done, no other after it.
type mortal struct {
	calls, writes int
	// last is the number of calls that are let through; below zero all are.
	last int
}

func (m *mortal) call(write bool) error {
	if m.last >= 0 && m.calls >= m.last {
		return errKilled
	}
	m.calls++
	if write {
		m.writes++
	}
	return nil
}

// reconciler works without a cache, with the operator's rights, through a client that may die.
func (m *mortal) reconciler(t *testing.T) *operator.Reconciler {
	t.Helper()
	base, err := client.NewWithWatch(cluster.operatorConfig, client.Options{Scheme: cluster.admin.Scheme()})
	if err != nil {
		t.Fatal(err)
	}
	through := interceptor.NewClient(base, interceptor.Funcs{
		Get: func(ctx context.Context, c client.WithWatch, key client.ObjectKey, o client.Object, options ...client.GetOption) error {
			return errors.Join(m.call(false), c.Get(ctx, key, o, options...))
		},
		List: func(ctx context.Context, c client.WithWatch, l client.ObjectList, options ...client.ListOption) error {
			return errors.Join(m.call(false), c.List(ctx, l, options...))
		},
		Patch: func(ctx context.Context, c client.WithWatch, o client.Object, p client.Patch, options ...client.PatchOption) error {
			if err := m.call(true); err != nil {
				return err
			}
			return c.Patch(ctx, o, p, options...)
		},
		Delete: func(ctx context.Context, c client.WithWatch, o client.Object, options ...client.DeleteOption) error {
			if err := m.call(true); err != nil {
				return err
			}
			return c.Delete(ctx, o, options...)
		},
		SubResourcePatch: func(ctx context.Context, c client.Client, sub string, o client.Object, p client.Patch, options ...client.SubResourcePatchOption) error {
			if err := m.call(true); err != nil {
				return err
			}
			return c.SubResource(sub).Patch(ctx, o, p, options...)
		},
	})
	return &operator.Reconciler{Client: through, Live: through, Connections: &connections{}}
}

func reconcile(t *testing.T, r *operator.Reconciler, ss *v1alpha1.ShopSet) error {
	t.Helper()
	_, err := r.Reconcile(t.Context(), ctrl.Request{NamespacedName: client.ObjectKeyFromObject(ss)})
	return err
}

// TestNothingWrittenAtRest: a second run, and a run after a restart, write nothing.
func TestNothingWrittenAtRest(t *testing.T) {
	ss := sample(t, newNamespace(t), "a")
	create(t, ss)
	m := &mortal{last: -1}
	first := m.reconciler(t)
	for range 2 {
		if err := reconcile(t, first, ss); err != nil {
			t.Fatal(err)
		}
	}
	if m.writes == 0 {
		t.Fatal("the test counts no writes")
	}
	for name, r := range map[string]*operator.Reconciler{"same process": first, "after a restart": m.reconciler(t)} {
		m.writes = 0
		for range 3 {
			if err := reconcile(t, r, ss); err != nil {
				t.Fatal(err)
			}
		}
		if m.writes != 0 {
			t.Errorf("%s: %d writes at rest", name, m.writes)
		}
	}
}

// TestStaleShopSet: a cache that lags behind the operator's own writes must not make it believe that its
// status is written already.
func TestStaleShopSet(t *testing.T) {
	ss := sample(t, newNamespace(t), "a")
	create(t, ss)
	m := &mortal{last: -1}
	r := m.reconciler(t)
	stale := &staleClient{Client: r.Client}
	r.Client = stale
	if err := reconcile(t, r, ss); err != nil {
		t.Fatal(err)
	}
	rollOutAllBy(t, ss, func() { _ = reconcile(t, r, ss) })
	stale.freeze(t, ss) // The cache stays at: ready.
	notReady(t, ss.Namespace, "a-api")
	if err := reconcile(t, r, ss); err != nil {
		t.Fatal(err)
	}
	waitCondition(t, ss, v1alpha1.ConditionReady, metav1.ConditionFalse, "api")
	rollOut(t, ss.Namespace, "a-api")
	result, err := r.Reconcile(t.Context(), ctrl.Request{NamespacedName: client.ObjectKeyFromObject(ss)})
	if err != nil || result.RequeueAfter == 0 {
		t.Fatalf("worked on a ShopSet that it wrote over itself, and will not look again: %v %v", result, err)
	}
	stale.thaw()
	if err := reconcile(t, r, ss); err != nil {
		t.Fatal(err)
	}
	waitCondition(t, ss, v1alpha1.ConditionReady, metav1.ConditionTrue, "all components serve")
}

// staleClient shows one ShopSet as it was.
type staleClient struct {
	client.Client
	frozen *v1alpha1.ShopSet
}

func (c *staleClient) freeze(t *testing.T, ss *v1alpha1.ShopSet) {
	t.Helper()
	frozen := &v1alpha1.ShopSet{}
	if err := get(t, frozen, ss.Namespace, ss.Name); err != nil {
		t.Fatal(err)
	}
	c.frozen = frozen
}

func (c *staleClient) thaw() { c.frozen = nil }

func (c *staleClient) Get(ctx context.Context, key client.ObjectKey, object client.Object, options ...client.GetOption) error {
	if ss, ok := object.(*v1alpha1.ShopSet); ok && c.frozen != nil {
		c.frozen.DeepCopyInto(ss)
		return nil
	}
	return c.Client.Get(ctx, key, object, options...)
}

// TestConflictLooksAgain: a write that loses against somebody else's is tried again by itself.
func TestConflictLooksAgain(t *testing.T) {
	ss := sample(t, newNamespace(t), "a")
	create(t, ss)
	r := (&mortal{last: -1}).reconciler(t)
	stale := &staleClient{Client: r.Client}
	r.Client = stale
	stale.freeze(t, ss)
	change(t, ss, func(s *v1alpha1.ShopSet) { s.Annotations = map[string]string{"somebody": "else"} })
	result, err := r.Reconcile(t.Context(), ctrl.Request{NamespacedName: client.ObjectKeyFromObject(ss)})
	if err != nil || result.RequeueAfter == 0 {
		t.Fatalf("after a conflict: %v %v", result, err)
	}
	stale.thaw()
	if err := reconcile(t, r, ss); err != nil {
		t.Fatal(err)
	}
	if err := get(t, ss, ss.Namespace, ss.Name); err != nil || len(ss.Finalizers) != 1 || ss.Annotations["somebody"] != "else" {
		t.Fatalf("%v %v %v", ss.Finalizers, ss.Annotations, err)
	}
}

// TestKilledAfterEveryCall kills the operator after each single call of a creation, a change and a
// deletion, lets a new one finish, and compares with what an undisturbed one makes.
func TestKilledAfterEveryCall(t *testing.T) {
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
	desired, err := cell.Build(current)
	if err != nil {
		t.Fatal(err)
	}
	for _, object := range desired.Objects() {
		live := object.DeepCopyObject().(client.Object)
		if err := get(t, live, ss.Namespace, object.GetName()); err != nil {
			lines = append(lines, err.Error())
			continue
		}
		lines = append(lines, fmt.Sprintf("%s: covers %v", live.GetName(), cell.Covers(object, live)))
	}
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
