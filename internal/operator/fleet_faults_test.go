package operator_test

import (
	"context"
	"crypto/ed25519"
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/shopset/shopset/api/v1alpha1"
	"github.com/shopset/shopset/internal/operator"
	"github.com/shopset/shopset/internal/routetable"
)

func tryFleet(t *testing.T, r *operator.FleetReconciler, f *v1alpha1.Fleet) (ctrl.Result, error) {
	t.Helper()
	return r.Reconcile(t.Context(), ctrl.Request{NamespacedName: client.ObjectKeyFromObject(f)})
}

func reconcileFleet(t *testing.T, r *operator.FleetReconciler, f *v1alpha1.Fleet) {
	t.Helper()
	if _, err := tryFleet(t, r, f); err != nil {
		t.Fatal(err)
	}
}

func newPrivateKey(t *testing.T) []byte {
	t.Helper()
	_, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	text, err := routetable.MarshalPrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// convergeFleet runs a fresh operator, with ShopSets that do as they are told, until nothing is written any more.
func convergeFleet(t *testing.T, f *v1alpha1.Fleet) {
	t.Helper()
	m := &mortal{last: -1}
	r := m.fleetReconciler(t)
	for range 20 {
		playShopSets(t, f.Namespace)
		before := m.writes
		reconcileFleet(t, r, f)
		if m.writes == before {
			return
		}
	}
	t.Fatal("does not come to rest in 20 runs")
}

// fleetPicture is all that the operator made, without what differs from run to run.
func fleetPicture(t *testing.T, f *v1alpha1.Fleet) string {
	t.Helper()
	var text strings.Builder
	for _, ss := range shopSetsOf(t, f.Namespace) {
		fmt.Fprintln(&text, ss.Name, ss.Labels, ss.Annotations, ss.Spec.Traffic, ss.Spec.Components[0].Image, ss.OwnerReferences[0].Name)
	}
	table, err := tableOf(t, f)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintln(&text, cellsOf(table))
	current := &v1alpha1.Fleet{}
	if err := get(t, current, f.Namespace, f.Name); err != nil {
		t.Fatal(err)
	}
	if current.Status.Table == nil || current.Status.Table.Version != int64(table.Version) {
		t.Fatalf("status has table %+v, published is %d", current.Status.Table, table.Version)
	}
	current.Status.Table, current.Status.ObservedGeneration = nil, current.Status.ObservedGeneration-current.Generation
	for i := range current.Status.Conditions {
		current.Status.Conditions[i].LastTransitionTime, current.Status.Conditions[i].ObservedGeneration = metav1.Time{}, 0
	}
	status, err := yaml.Marshal(current.Status)
	if err != nil {
		t.Fatal(err)
	}
	return text.String() + string(status)
}

// TestFleetAtRest: a second run, and a run after a restart, write nothing.
func TestFleetAtRest(t *testing.T) {
	t.Parallel()
	f := sampleFleet(t, newNamespace(t), 2)
	create(t, f)
	convergeFleet(t, f)
	m := &mortal{last: -1}
	r := m.fleetReconciler(t)
	for range 3 {
		reconcileFleet(t, r, f)
	}
	if m.writes != 0 {
		t.Errorf("%d writes at rest", m.writes)
	}
}

// TestFleetFaults lets each single write of a creation, a change of the template and a scale-in fail once, and each call be
// the last one before the operator is killed, and compares where that ends with an undisturbed run. The version of the
// table never goes back meanwhile.
func TestFleetFaults(t *testing.T) {
	t.Parallel()
	phases := map[string]func(*testing.T, *v1alpha1.Fleet){
		"create": nil,
		"change": func(t *testing.T, f *v1alpha1.Fleet) {
			change(t, f, func(f *v1alpha1.Fleet) {
				f.Spec.Template.Spec.Components[0].Image = "example/proxy:2"
				f.Spec.Template.Metadata.Labels = map[string]string{"team": "shops"}
				f.Spec.Placement = &v1alpha1.FleetPlacement{Pins: []v1alpha1.Pin{{Host: "big.example", Cell: "main-1"}}}
			})
		},
		"scale in": func(t *testing.T, f *v1alpha1.Fleet) { change(t, f, func(f *v1alpha1.Fleet) { *f.Spec.Cells = 1 }) },
	}
	for name, edit := range phases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			// Several runs of one operator, which may fail or die, with the cells' answers in between.
			disturbed := func(m *mortal) *v1alpha1.Fleet {
				f := sampleFleet(t, newNamespace(t), 2)
				create(t, f)
				version := uint64(0)
				if edit != nil {
					convergeFleet(t, f)
					edit(t, f)
				}
				r := m.fleetReconciler(t)
				for range 4 {
					_, _ = tryFleet(t, r, f) // Its error is the fault.
					playShopSets(t, f.Namespace)
					if table, err := tableOf(t, f); err == nil {
						if table.Version < version {
							t.Fatalf("version %d after %d", table.Version, version)
						}
						version = table.Version
					}
				}
				convergeFleet(t, f)
				return f
			}
			undisturbed := &mortal{last: -1}
			want := fleetPicture(t, disturbed(undisturbed))
			if undisturbed.writes == 0 {
				t.Fatal("the phase writes nothing")
			}
			// A read that fails ends the run, as death does.
			try := func(what string, m *mortal) {
				t.Helper()
				if got := fleetPicture(t, disturbed(m)); got != want {
					t.Fatalf("%s of %d calls, %d writes: the result differs:\n%s\nwant:\n%s", what, undisturbed.calls, undisturbed.writes, got, want)
				}
			}
			for at := range undisturbed.calls {
				try(fmt.Sprint("killed after call ", at), &mortal{last: at})
			}
			for at := range undisturbed.writes {
				try(fmt.Sprint("failed at write ", at+1), &mortal{last: -1, fails: at + 1})
			}
		})
	}
}

// TestTwoOperators: of two that both believe they lead, one publishes; the other finds that it lost, and nothing of it
// stays.
func TestTwoOperators(t *testing.T) {
	t.Parallel()
	f := sampleFleet(t, newNamespace(t), 1)
	create(t, f)
	convergeFleet(t, f)
	first, second := (&mortal{last: -1}).fleetReconciler(t), (&mortal{last: -1}).fleetReconciler(t)
	stale := &staleTables{Reader: second.Tables}
	second.Tables = stale
	stale.freeze(t, f.Namespace, "main-routes")
	serve(t, f.Namespace, "main-1", 1, 0)
	reconcileFleet(t, first, f)
	won, err := tableOf(t, f)
	if err != nil {
		t.Fatal(err)
	}
	serve(t, f.Namespace, "main-1", 2, 0)
	result, err := tryFleet(t, second, f)
	if err != nil || result.RequeueAfter == 0 || result.RequeueAfter > time.Second {
		t.Fatalf("the one that lost: %v %v", result, err)
	}
	if still, err := tableOf(t, f); err != nil || still.Version != won.Version || cellsOf(still) != cellsOf(won) {
		t.Fatalf("the one that lost wrote over version %d: %v %v", won.Version, still, err)
	}
	stale.frozen = nil
	reconcileFleet(t, second, f)
	if last, err := tableOf(t, f); err != nil || last.Version != won.Version+1 || cellsOf(last) != "main-1:Active:2+0" {
		t.Fatalf("%v %v", last, err)
	}
}

// staleTables shows one ConfigMap as it was.
type staleTables struct {
	client.Reader
	frozen *corev1.ConfigMap
}

func (s *staleTables) freeze(t *testing.T, namespace, name string) {
	t.Helper()
	s.frozen = &corev1.ConfigMap{}
	if err := get(t, s.frozen, namespace, name); err != nil {
		t.Fatal(err)
	}
}

func (s *staleTables) Get(ctx context.Context, key client.ObjectKey, object client.Object, options ...client.GetOption) error {
	if configMap, ok := object.(*corev1.ConfigMap); ok && s.frozen != nil && key.Name == s.frozen.Name {
		s.frozen.DeepCopyInto(configMap)
		return nil
	}
	return s.Reader.Get(ctx, key, object, options...)
}

// TestUnpublished: while routers cannot be told, cells stay as they are; missing ones are made, and the status says what routers
// go on with.
func TestUnpublished(t *testing.T) {
	t.Parallel()
	f := sampleFleet(t, newNamespace(t), 2)
	create(t, f)
	convergeFleet(t, f)
	if err := get(t, f, f.Namespace, f.Name); err != nil {
		t.Fatal(err)
	}
	before := f.Status.DeepCopy()
	secret := &corev1.Secret{}
	secret.Namespace, secret.Name = keyNamespace, operator.SecretName(f.Namespace, f.Name)
	var good []byte
	change(t, secret, func(s *corev1.Secret) { good, s.Data["private.pem"] = s.Data["private.pem"], []byte("nonsense") })
	change(t, f, func(f *v1alpha1.Fleet) {
		f.Spec.Template.Spec.Components[0].Image = "example/proxy:2"
		*f.Spec.Cells = 3
	})
	r := (&mortal{last: -1}).fleetReconciler(t)
	for range 3 {
		reconcileFleet(t, r, f)
		playShopSets(t, f.Namespace)
	}
	var images []string
	for _, ss := range shopSetsOf(t, f.Namespace) {
		images = append(images, ss.Name+" "+ss.Spec.Components[0].Image)
	}
	if got, want := strings.Join(images, ", "), "main-1 example/proxy:1, main-2 example/proxy:1, main-3 example/proxy:2"; got != want {
		t.Errorf("there is %s, want %s", got, want)
	}
	waitFleet(t, f, v1alpha1.ConditionStalled, metav1.ConditionTrue, "; until it is, no cell is changed or deleted")
	if was, is := before.Cells[0], f.Status.Cells[0]; is.Share != was.Share || is.Weight != was.Weight || *f.Status.Table != *before.Table {
		t.Errorf("routers go on with %+v, the status says %+v", was, is)
	}
	change(t, secret, func(s *corev1.Secret) { s.Data["private.pem"] = good })
	convergeFleet(t, f)
	for _, ss := range shopSetsOf(t, f.Namespace) {
		if ss.Spec.Components[0].Image != "example/proxy:2" {
			t.Errorf("%s still has %s", ss.Name, ss.Spec.Components[0].Image)
		}
	}
	if table, err := tableOf(t, f); err != nil || table.Epoch != uint64(before.Table.Epoch) || table.Version <= uint64(before.Table.Version) {
		t.Errorf("after %+v comes %+v: %v", before.Table, table, err)
	}
}

// TestLetGo: a fleet that is made again goes on with what the one of its name left by --cascade=orphan, and with its table.
func TestLetGo(t *testing.T) {
	t.Parallel()
	f := sampleFleet(t, newNamespace(t), 1)
	create(t, f)
	convergeFleet(t, f)
	before, err := tableOf(t, f)
	if err != nil {
		t.Fatal(err)
	}
	// There is no garbage collector here.
	routes, keys := &corev1.ConfigMap{}, &corev1.ConfigMap{}
	for name, object := range map[string]client.Object{"main-1": &v1alpha1.ShopSet{}, "main-routes": routes, "main-routes-keys": keys} {
		object.SetNamespace(f.Namespace)
		object.SetName(name)
		change(t, object, func(o client.Object) { o.SetOwnerReferences(nil) })
	}
	if err := cluster.admin.Delete(t.Context(), f); err != nil {
		t.Fatal(err)
	}
	again := sampleFleet(t, f.Namespace, 2)
	create(t, again)
	convergeFleet(t, again)
	after, err := tableOf(t, again)
	if err != nil || after.Epoch != before.Epoch || after.Version <= before.Version {
		t.Fatalf("after version %d of epoch %d comes %+v: %v", before.Version, before.Epoch, after, err)
	}
	for _, object := range []client.Object{routes, keys} {
		if err := get(t, object, f.Namespace, object.GetName()); err != nil || !metav1.IsControlledBy(object, again) {
			t.Errorf("%s belongs to %v: %v", object.GetName(), object.GetOwnerReferences(), err)
		}
	}
	waitFleet(t, again, v1alpha1.ConditionReady, metav1.ConditionTrue, "all cells serve")
}

// TestSpecOfThisMoment: a cell that is idle is not deleted by a spec that a cache still shows and that has changed.
func TestSpecOfThisMoment(t *testing.T) {
	t.Parallel()
	f := sampleFleet(t, newNamespace(t), 2)
	create(t, f)
	convergeFleet(t, f)
	change(t, f, func(f *v1alpha1.Fleet) { *f.Spec.Cells = 1 })
	r := (&mortal{last: -1}).fleetReconciler(t)
	for range 3 { // It drains main-2, and publishes that; then main-2 is idle.
		reconcileFleet(t, r, f)
	}
	playShopSets(t, f.Namespace)
	stale := &v1alpha1.Fleet{}
	if err := get(t, stale, f.Namespace, f.Name); err != nil {
		t.Fatal(err)
	}
	change(t, f, func(f *v1alpha1.Fleet) { *f.Spec.Cells = 2 })
	fresh := r.Client
	r.Client = &staleFleet{fresh, stale}
	if result, err := tryFleet(t, r, f); err != nil || result.RequeueAfter == 0 || result.RequeueAfter > time.Second {
		t.Fatalf("%v %v", result, err)
	}
	if sets := shopSetsOf(t, f.Namespace); len(sets) != 2 {
		t.Fatalf("there are %d cells", len(sets))
	}
	r.Client = fresh
	for range 3 {
		reconcileFleet(t, r, f)
		playShopSets(t, f.Namespace)
	}
	for _, ss := range shopSetsOf(t, f.Namespace) {
		if ss.Spec.Traffic != v1alpha1.TrafficActive {
			t.Errorf("%s is still drained", ss.Name)
		}
	}
}

// staleFleet shows a Fleet as it was.
type staleFleet struct {
	client.Client
	stale *v1alpha1.Fleet
}

func (s *staleFleet) Get(ctx context.Context, key client.ObjectKey, object client.Object, options ...client.GetOption) error {
	if f, ok := object.(*v1alpha1.Fleet); ok {
		s.stale.DeepCopyInto(f)
		return nil
	}
	return s.Client.Get(ctx, key, object, options...)
}
