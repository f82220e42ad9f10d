package operator_test

import (
	"context"
	"errors"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/shopset/shopset/api/v1alpha1"
	"github.com/shopset/shopset/internal/operator"
)

// errKilled is what every call returns once the operator is "dead".
var errKilled = errors.New("killed")

// errFailed is what the one call returns that fails.
var errFailed = errors.New("the API server is away")

// mortal counts calls and dies: the call before the deadline is done, no other after it.
type mortal struct {
	calls, writes int
	// last is the number of calls that are let through; below zero all are.
	last int
	// fails is the number of one write that is not done, after which all goes on; zero is none.
	fails int
}

func (m *mortal) call(write bool) error {
	if m.last >= 0 && m.calls >= m.last {
		return errKilled
	}
	m.calls++
	if write {
		if m.writes++; m.writes == m.fails {
			return errFailed
		}
	}
	return nil
}

// reconciler works without a cache, with the operator's rights, through a client that may die.
func (m *mortal) reconciler(t *testing.T) *operator.Reconciler {
	t.Helper()
	through := m.client(t)
	return &operator.Reconciler{Client: through, Live: through, Connections: &connections{}}
}

func (m *mortal) client(t *testing.T) client.Client {
	t.Helper()
	base, err := client.NewWithWatch(cluster.operatorConfig, client.Options{Scheme: cluster.admin.Scheme()})
	if err != nil {
		t.Fatal(err)
	}
	return interceptor.NewClient(base, interceptor.Funcs{
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
		Create: func(ctx context.Context, c client.WithWatch, o client.Object, options ...client.CreateOption) error {
			if err := m.call(true); err != nil {
				return err
			}
			return c.Create(ctx, o, options...)
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

// TestAsksSeldom: however often there is news of a Pod that is not well, its events are asked for once in a
// while.
func TestAsksSeldom(t *testing.T) {
	ss := sample(t, newNamespace(t), "a")
	create(t, ss)
	r := (&mortal{last: -1}).reconciler(t)
	events := &countingReader{Reader: r.Live}
	now := time.Now()
	r.Live, r.Now = events, func() time.Time { return now }
	if err := reconcile(t, r, ss); err != nil {
		t.Fatal(err)
	}
	pod := runningPod(t, ss, "api")
	pod.Status.ContainerStatuses[0].Ready = false
	if err := cluster.admin.Status().Update(t.Context(), pod); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		after time.Duration
		want  int
	}{{0, 1}, {time.Second, 1}, {time.Second, 1}, {10 * time.Second, 2}} {
		now = now.Add(test.after)
		if err := reconcile(t, r, ss); err != nil {
			t.Fatal(err)
		}
		if events.lists != test.want {
			t.Fatalf("asked %d times, want %d", events.lists, test.want)
		}
	}
	endPod(t, pod)
}

type countingReader struct {
	client.Reader
	lists int
}

func (c *countingReader) List(ctx context.Context, list client.ObjectList, options ...client.ListOption) error {
	if _, ok := list.(*corev1.EventList); ok {
		c.lists++
	}
	return c.Reader.List(ctx, list, options...)
}
