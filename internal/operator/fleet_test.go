package operator_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/shopset/shopset/api/v1alpha1"
	"github.com/shopset/shopset/internal/operator"
	"github.com/shopset/shopset/internal/routetable"
)

// startedFleet is a fleet of n cells that are ready and have one Pod of the edge each.
func startedFleet(t *testing.T, n int32) (*v1alpha1.Fleet, *connections) {
	t.Helper()
	namespace, counter := newNamespace(t), &connections{}
	startOperator(t, namespace, counter)
	f := sampleFleet(t, namespace, n)
	create(t, f)
	for i := range n {
		startCell(t, namespace, fmt.Sprintf("main-%d", i+1))
	}
	waitFleet(t, f, v1alpha1.ConditionReady, metav1.ConditionTrue, "all cells serve")
	return f, counter
}

// startCell plays Kubernetes until a cell is ready.
func startCell(t *testing.T, namespace, name string) *v1alpha1.ShopSet {
	t.Helper()
	ss := &v1alpha1.ShopSet{}
	eventually(t, func() error { return get(t, ss, namespace, name) })
	rollOutAll(t, ss)
	serve(t, namespace, name, 1, 0)
	return ss
}

// TestFleet is the whole life of a fleet beside the ShopSets' own reconciler: made, drained, pinned, moved, scaled.
func TestFleet(t *testing.T) {
	t.Parallel()
	f, counter := startedFleet(t, 3)
	table := waitTable(t, f, "main-1:Active:1+0 main-2:Active:1+0 main-3:Active:1+0")
	if probe := table.Cells[0].Probe; probe == nil || probe.Port != 9090 || probe.Path != "/healthz" {
		t.Errorf("probe %+v", probe)
	}
	waitStatus := func(check func(v1alpha1.FleetStatus) bool) {
		t.Helper()
		eventually(t, func() error {
			if err := get(t, f, f.Namespace, f.Name); err != nil {
				return err
			}
			if !check(f.Status) {
				return fmt.Errorf("status is %+v, blast radius %+v, table %+v", f.Status, f.Status.BlastRadius, f.Status.Table)
			}
			return nil
		})
	}
	waitStatus(func(s v1alpha1.FleetStatus) bool {
		return s.Summary == "3/3" && s.BlastRadius != nil && *s.BlastRadius == v1alpha1.BlastRadius{
			LargestShare: "33.3%", LargestCell: "main-1", ShardOverlap: "100.0%", AfterOneMoreFailure: "50.0%", LostAfterOneMoreFailure: "0.0%",
		} && s.Table != nil && s.Table.Version == int64(table.Version) && s.Cells[0].Share == "33.3%" && s.Cells[0].Endpoints == 1 && s.Cells[0].Ready
	})

	// A human drains a cell on the ShopSet itself, as kubectl shopset drain does; it stays so.
	drained := &v1alpha1.ShopSet{}
	drained.Namespace, drained.Name = f.Namespace, "main-2"
	change(t, drained, func(s *v1alpha1.ShopSet) { s.Spec.Traffic = v1alpha1.TrafficDrain })
	next := waitTable(t, f, "main-1:Active:1+0 main-2:Drain:1+0 main-3:Active:1+0")
	if next.Version != table.Version+1 || next.Epoch != table.Epoch {
		t.Errorf("after version %d of epoch %d comes %d of %d", table.Version, table.Epoch, next.Version, next.Epoch)
	}
	waitFleet(t, f, v1alpha1.ConditionReady, metav1.ConditionTrue, "all cells are ready, 1 of them drained")

	// Endpoints come and go; a cell without a ready one keeps those that are there.
	serve(t, f.Namespace, "main-3", 2, 1)
	waitTable(t, f, "main-1:Active:1+0 main-2:Drain:1+0 main-3:Active:2+0")
	serve(t, f.Namespace, "main-3", 0, 3)
	waitTable(t, f, "main-1:Active:1+0 main-2:Drain:1+0 main-3:Active:3+0")

	change(t, f, func(f *v1alpha1.Fleet) {
		f.Spec.Placement = &v1alpha1.FleetPlacement{Pins: []v1alpha1.Pin{{Host: "Big.example", Cell: "main-3"}}}
	})
	waitTable(t, f, "main-1:Active:1+0 main-2:Drain:1+0 main-3:Active:3+0 big.example=main-3")
	change(t, drained, func(s *v1alpha1.ShopSet) { s.Spec.Traffic = v1alpha1.TrafficActive })
	rollOutAll(t, drained)
	waitTable(t, f, "main-1:Active:1+0 main-2:Active:1+0 main-3:Active:3+0 big.example=main-3")

	// Scaling in: the pinned cell stays, the other drains and is kept while it is in use.
	pod := edgePod(t, drained)
	counter.open.Store(3)
	change(t, f, func(f *v1alpha1.Fleet) { *f.Spec.Cells = 2 })
	waitTable(t, f, "main-1:Active:1+0 main-2:Drain:1+0 main-3:Active:3+0 big.example=main-3")
	waitFleet(t, f, v1alpha1.ConditionReady, metav1.ConditionFalse, "main-2: leaves the fleet, and is kept while it is not idle: waiting until all connections have ended")
	if err := get(t, drained, f.Namespace, "main-2"); err != nil || !drained.DeletionTimestamp.IsZero() || drained.Annotations[v1alpha1.AnnotationDrainedBy] != v1alpha1.DrainedByFleet {
		t.Fatalf("a cell in use is being deleted: %v %v", drained.ObjectMeta, err)
	}
	counter.open.Store(0)
	eventually(t, func() error {
		err := get(t, drained, f.Namespace, "main-2")
		if err == nil && drained.DeletionTimestamp.IsZero() {
			return errors.New("an idle cell that left is still there")
		}
		return client.IgnoreNotFound(err)
	})
	endPod(t, pod)
	eventually(t, func() error {
		if err := get(t, drained, f.Namespace, "main-2"); !apierrors.IsNotFound(err) {
			return fmt.Errorf("still there: %w", err)
		}
		return nil
	})
	waitTable(t, f, "main-1:Active:1+0 main-3:Active:3+0 big.example=main-3")
	waitFleet(t, f, v1alpha1.ConditionReady, metav1.ConditionTrue, "all cells serve")
}

// TestFleetUpdate: a change of the template goes over the cells one at a time.
func TestFleetUpdate(t *testing.T) {
	t.Parallel()
	f, _ := startedFleet(t, 2)
	change(t, f, func(f *v1alpha1.Fleet) { f.Spec.Template.Spec.Components[2].Image = "example/api:2" })
	image := func(name string) string {
		ss := &v1alpha1.ShopSet{}
		if err := get(t, ss, f.Namespace, name); err != nil {
			t.Fatal(err)
		}
		return ss.Spec.Components[2].Image
	}
	waitFleet(t, f, v1alpha1.ConditionReady, metav1.ConditionFalse, "main-2: waits for its turn to get the new template, until main-1 is ready")
	if one, two := image("main-1"), image("main-2"); one != "example/api:2" || two != "example/api:1" {
		t.Fatalf("main-1 has %s, main-2 %s", one, two)
	}
	startCell(t, f.Namespace, "main-1")
	eventually(t, func() error {
		if two := image("main-2"); two != "example/api:2" {
			return fmt.Errorf("main-2 has %s", two)
		}
		return nil
	})
	startCell(t, f.Namespace, "main-2")
	waitFleet(t, f, v1alpha1.ConditionReady, metav1.ConditionTrue, "all cells serve")
}

// TestFleetRefused: what the schema cannot see stalls the fleet, with the sentence, and the table goes on.
func TestFleetRefused(t *testing.T) {
	t.Parallel()
	f, _ := startedFleet(t, 2)
	table := waitTable(t, f, "main-1:Active:1+0 main-2:Active:1+0")
	change(t, f, func(f *v1alpha1.Fleet) {
		f.Spec.Placement = &v1alpha1.FleetPlacement{Pins: []v1alpha1.Pin{{Host: "big.example", Cell: "main-7"}}}
		*f.Spec.Cells = 3
	})
	waitFleet(t, f, v1alpha1.ConditionStalled, metav1.ConditionTrue,
		`no cell was changed, and the table goes on with the placement that it has: spec.placement.pins: host "big.example" is pinned to cell "main-7", which is not a cell of the fleet; its cells are main-1, main-2, main-3`)
	serve(t, f.Namespace, "main-1", 2, 0)
	waitTable(t, f, "main-1:Active:2+0 main-2:Active:1+0")
	if len(shopSetsOf(t, f.Namespace)) != 2 {
		t.Error("a cell was made by a spec with a problem")
	}
	change(t, f, func(f *v1alpha1.Fleet) { f.Spec.Placement.Pins[0].Cell = "main-2" })
	startCell(t, f.Namespace, "main-3")
	last := waitTable(t, f, "main-1:Active:2+0 main-2:Active:1+0 main-3:Active:1+0 big.example=main-2")
	if !last.After(table) {
		t.Errorf("version %d after %d", last.Version, table.Version)
	}
}

// TestTableOutlives the operator, and what people do to the ConfigMaps and the keys.
func TestTableOutlives(t *testing.T) {
	t.Parallel()
	f := sampleFleet(t, newNamespace(t), 1)
	create(t, f)
	first := (&mortal{last: -1}).fleetReconciler(t)
	step := func(r *operator.FleetReconciler) *routetable.Table {
		t.Helper()
		reconcileFleet(t, r, f)
		table, err := tableOf(t, f)
		if err != nil {
			t.Fatal(err)
		}
		return table
	}
	step(first)
	playShopSets(t, f.Namespace)
	before := step(first)
	serve(t, f.Namespace, "main-1", 1, 0)
	after := step((&mortal{last: -1}).fleetReconciler(t)) // Another operator.
	if after.Version != before.Version+1 || after.Epoch != before.Epoch {
		t.Errorf("after version %d of epoch %d comes %d of %d", before.Version, before.Epoch, after.Version, after.Epoch)
	}
	routes := &corev1.ConfigMap{}
	if err := get(t, routes, f.Namespace, "main-routes"); err != nil {
		t.Fatal(err)
	}
	earlier := routes.DeepCopy()

	// Lost or broken, it comes back in a new epoch, which routers take for later.
	for name, harm := range map[string]func(){
		"deleted": func() { _ = cluster.admin.Delete(t.Context(), routes) },
		"broken": func() {
			change(t, routes, func(m *corev1.ConfigMap) { m.BinaryData["routes"][200] ^= 1 })
		},
	} {
		harm()
		back := step((&mortal{last: -1}).fleetReconciler(t))
		if !back.After(after) || back.Version != 1 || back.Epoch <= after.Epoch || cellsOf(back) != cellsOf(after) {
			t.Errorf("%s: came back as version %d of epoch %d: %s", name, back.Version, back.Epoch, cellsOf(back))
		}
		after = back
	}

	// An earlier table that is put back would stop routers, which know later ones: it is replaced by one later than all.
	change(t, routes, func(m *corev1.ConfigMap) { m.BinaryData = earlier.BinaryData })
	if back := step(first); !back.After(after) || cellsOf(back) != cellsOf(after) {
		t.Errorf("after version %d of epoch %d comes %d of %d: %s", after.Version, after.Epoch, back.Version, back.Epoch, cellsOf(back))
	}

	// A second key is trusted; when it becomes the first, the table is signed anew, as a later version.
	current := step(first)
	secret := &corev1.Secret{}
	secret.Namespace, secret.Name = keyNamespace, operator.SecretName(f.Namespace, f.Name)
	fresh := newPrivateKey(t)
	change(t, secret, func(s *corev1.Secret) { s.Data["next.pem"] = fresh })
	step((&mortal{last: -1}).fleetReconciler(t))
	if keys, err := publicKeysOf(t, f); err != nil || len(keys) != 2 {
		t.Fatalf("%d keys are public: %v", len(keys), err)
	}
	change(t, secret, func(s *corev1.Secret) { s.Data["private.pem"] = fresh; delete(s.Data, "next.pem") })
	rotated := step((&mortal{last: -1}).fleetReconciler(t))
	if keys, _ := publicKeysOf(t, f); len(keys) != 1 || !rotated.After(current) {
		t.Errorf("%d keys, version %d after %d", len(keys), rotated.Version, current.Version)
	}

	// A key that is none is for a human; the table that is there stays.
	change(t, secret, func(s *corev1.Secret) { s.Data["private.pem"] = []byte("nonsense") })
	reconcileFleet(t, (&mortal{last: -1}).fleetReconciler(t), f)
	waitFleet(t, f, v1alpha1.ConditionStalled, metav1.ConditionTrue, "the routing table is not published: Secret "+keyNamespace+"/"+secret.Name+": private.pem: there is no block PRIVATE KEY")
	if still, err := tableOf(t, f); err != nil || still.Version != rotated.Version {
		t.Errorf("%v %v", still, err)
	}
}

// TestForeignConfigMap: a ConfigMap of the name that is somebody else's is left as it is.
func TestForeignConfigMap(t *testing.T) {
	t.Parallel()
	f := sampleFleet(t, newNamespace(t), 1)
	create(t, f)
	create(t, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: f.Namespace, Name: "main-routes"}, Data: map[string]string{"mine": "yes"}})
	reconcileFleet(t, (&mortal{last: -1}).fleetReconciler(t), f)
	waitFleet(t, f, v1alpha1.ConditionStalled, metav1.ConditionTrue, "ConfigMap main-routes exists already and belongs to nobody's controller")
	foreign := &corev1.ConfigMap{}
	if err := get(t, foreign, f.Namespace, "main-routes"); err != nil || len(foreign.BinaryData) > 0 {
		t.Errorf("%v %v", foreign, err)
	}
}

// TestFleetSchema: the API server itself refuses what one resource can be checked against alone.
func TestFleetSchema(t *testing.T) {
	namespace := newNamespace(t)
	for name, test := range map[string]struct {
		change func(*v1alpha1.Fleet)
		want   string
	}{
		"neither": {func(f *v1alpha1.Fleet) { f.Spec.Cells = nil }, "a fleet has either cells, a number, or namedCells, a list; set one of the two"},
		"both":    {func(f *v1alpha1.Fleet) { f.Spec.NamedCells = []v1alpha1.NamedCell{{Name: "a"}} }, "set one of the two"},
		"too few for shardSize": {func(f *v1alpha1.Fleet) { f.Spec.Placement = &v1alpha1.FleetPlacement{ShardSize: new(int32(4))} },
			"placement.shardSize takes at least as many cells as it says, and there are fewer; add cells or lower shardSize"},
		"too few for maxShare": {func(f *v1alpha1.Fleet) { f.Spec.Placement = &v1alpha1.FleetPlacement{MaxShare: new(int32(30))} },
			"placement.maxShare (percent) takes at least 100/maxShare cells, rounded up, and there are fewer; add cells or raise maxShare"},
		"too few named": {func(f *v1alpha1.Fleet) {
			f.Spec.Cells, f.Spec.NamedCells = nil, []v1alpha1.NamedCell{{Name: "a"}}
			f.Spec.Placement = &v1alpha1.FleetPlacement{MaxShare: new(int32(50))}
		}, "placement.maxShare (percent) takes at least 100/maxShare cells"},
		"drained template": {func(f *v1alpha1.Fleet) { f.Spec.Template.Spec.Traffic = v1alpha1.TrafficDrain },
			"template.spec.traffic: Drain would drain every cell at once; drain single cells, by traffic of namedCells or by kubectl shopset drain CELL"},
		"two edges": {func(f *v1alpha1.Fleet) { f.Spec.Template.Spec.Components[1].Edge = true }, "exactly one component must have edge: true"},
		"pinned once": {func(f *v1alpha1.Fleet) {
			f.Spec.Placement = &v1alpha1.FleetPlacement{Pins: []v1alpha1.Pin{{Host: "a.example", Cell: "main-1"}, {Host: "a.example", Cell: "main-2"}}}
		}, "Duplicate value"},
		"weight": {func(f *v1alpha1.Fleet) {
			f.Spec.Placement = &v1alpha1.FleetPlacement{Weights: map[string]int32{"main-1": -1}}
		}, "a weight is a number from 0 to 1000000"},
		"long name": {func(f *v1alpha1.Fleet) { f.Name = strings.Repeat("a", 37) }, "metadata.name is longer than 36 characters"},
		"odd name":  {func(f *v1alpha1.Fleet) { f.Name = "1a" }, "metadata.name must start with a letter"},
		"no cells":  {func(f *v1alpha1.Fleet) { *f.Spec.Cells = 0 }, "should be greater than or equal to 1"},
	} {
		t.Run(name, func(t *testing.T) {
			f := sampleFleet(t, namespace, 3)
			test.change(f)
			if err := cluster.admin.Create(t.Context(), f); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Fatalf("got  %v\nwant %s", err, test.want)
			}
		})
	}
	create(t, sampleFleet(t, namespace, 3))
}
