package fleet_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/shopset/shopset/api/v1alpha1"
	"github.com/shopset/shopset/internal/fleet"
	"github.com/shopset/shopset/internal/routetable"
)

func TestNamedCells(t *testing.T) {
	weight := int32(300)
	w := newWorld(t, func(s *v1alpha1.FleetSpec) {
		s.Template.Metadata = v1alpha1.TemplateMetadata{Labels: map[string]string{"team": "shops", "tier": "gold"}, Annotations: map[string]string{"note": "x"}}
		s.Template.Spec.Values = map[string]v1alpha1.Value{"A": "1", "B": "2"}
		s.NamedCells = []v1alpha1.NamedCell{
			{Name: "north", Weight: &weight, Labels: map[string]string{"tier": "silver"}, Values: map[string]v1alpha1.Value{"B": "3"}},
			{Name: "south", Traffic: v1alpha1.TrafficDrain},
			{Name: "west", Traffic: v1alpha1.TrafficActive},
		}
	})
	w.run(t)
	w.expectLog(t, "create north", "create south", "create west")
	if got := w.states(); got != "north:Active:300 south:Drain:0 west:Active:100" {
		t.Errorf("table %s", got)
	}
	north := w.sets["north"]
	if north.Labels["team"] != "shops" || north.Labels["tier"] != "silver" || north.Annotations["note"] != "x" || north.Labels[v1alpha1.LabelFleet] != "main" ||
		north.Spec.Values["A"] != "1" || north.Spec.Values["B"] != "3" || !metav1.IsControlledBy(north, w.fleet) {
		t.Errorf("north is %+v", north)
	}
	if w.sets["south"].Spec.Traffic != v1alpha1.TrafficDrain {
		t.Error("south is not drained")
	}
	// What namedCells states, nobody else changes for long.
	w.sets["west"].Spec.Traffic = v1alpha1.TrafficDrain
	w.step()
	w.expectLog(t, "change west: namedCells says traffic: Active")
	// Labels go with the template; those of others stay.
	delete(w.fleet.Spec.Template.Metadata.Labels, "team")
	w.fleet.Spec.Template.Metadata.Annotations = nil
	w.sets["north"].Labels["mine"] = "stays"
	w.run(t)
	if north := w.sets["north"]; north.Labels["team"] != "" || north.Annotations["note"] != "" || north.Labels["mine"] != "stays" || north.Labels["tier"] != "silver" {
		t.Errorf("north has %v %v", north.Labels, north.Annotations)
	}
	// A name that goes from the list goes from the fleet.
	w.log = nil
	w.fleet.Spec.NamedCells = w.fleet.Spec.NamedCells[:2]
	w.step()
	w.expectLog(t, "change west: it leaves the fleet and is drained first")
}

// TestAdoption takes what nobody controls and has the label or the name, if there is a place for it.
func TestAdoption(t *testing.T) {
	bare := func(name string, edit func(*v1alpha1.ShopSet)) *v1alpha1.ShopSet {
		ss := &v1alpha1.ShopSet{ObjectMeta: metav1.ObjectMeta{Namespace: "shops", Name: name, UID: types.UID("uid-" + name), Generation: 1}}
		ss.Spec = *newWorld(t, counted(1)).fleet.Spec.Template.Spec.DeepCopy()
		edit(ss)
		return ss
	}
	label := func(ss *v1alpha1.ShopSet) { ss.Labels = map[string]string{v1alpha1.LabelFleet: "main"} }
	other := func(ss *v1alpha1.ShopSet) {
		ss.OwnerReferences = []metav1.OwnerReference{{Kind: "Fleet", Name: "other", UID: "other", Controller: new(true)}}
	}
	t.Run("counted", func(t *testing.T) {
		w := newWorld(t, counted(3))
		w.sets["a"], w.sets["main-1"], w.sets["main-2"], w.sets["stranger"] = bare("a", label), bare("main-1", other), bare("main-2", func(*v1alpha1.ShopSet) {}), bare("stranger", func(*v1alpha1.ShopSet) {})
		w.ready("a", "main-2")
		w.sets["a"].Spec.Components[0].Image = "proxy:0"
		plan := w.step()
		if plan.Problem != nil {
			t.Fatal(plan.Problem)
		}
		w.expectLog(t, "change a: its spec differs from the template, and it is its turn", "change main-2: it belongs to the fleet from now on", "create main-3")
		if metav1.IsControlledBy(w.sets["stranger"], w.fleet) || metav1.IsControlledBy(w.sets["main-1"], w.fleet) {
			t.Error("took what is not its own")
		}
	})
	t.Run("no place", func(t *testing.T) {
		w := newWorld(t, counted(1))
		w.run(t)
		w.log = nil
		w.sets["a"] = bare("a", label)
		plan := w.step()
		w.expectLog(t)
		if want := []string{"ShopSet a has the label of this fleet and is not taken: the fleet has its 1 cells already; raise cells, or take the label off"}; !slices.Equal(plan.Notes, want) {
			t.Errorf("notes %q", plan.Notes)
		}
	})
	t.Run("named", func(t *testing.T) {
		w := newWorld(t, func(s *v1alpha1.FleetSpec) { s.NamedCells = []v1alpha1.NamedCell{{Name: "a"}, {Name: "b"}} })
		w.sets["a"], w.sets["b"], w.sets["c"] = bare("a", func(*v1alpha1.ShopSet) {}), bare("b", other), bare("c", label)
		plan := w.step()
		w.expectLog(t)
		want := "cell b: a ShopSet of that name is there and belongs to Fleet other; delete it or rename the cell"
		if plan.Problem == nil || plan.Problem.Error() != want || len(plan.Notes) != 1 || !strings.Contains(plan.Notes[0], "ShopSet c has the label of this fleet and is not taken: namedCells does not name it") {
			t.Errorf("%s", describePlan(plan))
		}
		delete(w.sets, "b")
		w.step()
		w.expectLog(t, "change a: it belongs to the fleet from now on", "create b")
	})
}

// TestMadeAnew: the cells of a Fleet of the same name that was deleted are waited for; they are not taken, and no other names are.
func TestMadeAnew(t *testing.T) {
	for name, edit := range map[string]func(*v1alpha1.FleetSpec){
		"counted": counted(2),
		"named":   func(s *v1alpha1.FleetSpec) { s.NamedCells = []v1alpha1.NamedCell{{Name: "main-1"}, {Name: "main-2"}} },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, edit)
			w.run(t)
			w.log = nil
			w.fleet.UID, w.table = "another", nil
			w.sets["main-1"].DeletionTimestamp = &metav1.Time{Time: now}
			plan := w.step()
			w.expectLog(t)
			// Nobody else is there, so the old ones serve as long as they are.
			if plan.Problem != nil || w.states() != "main-1:Active:100 main-2:Active:100" || !strings.Contains(messageOf(plan, "main-2"), "is made when the ShopSet of that name") {
				t.Errorf("%s\n%s", w.states(), describePlan(plan))
			}
			delete(w.sets, "main-1")
			w.step()
			w.expectLog(t, "create main-1")
			delete(w.sets, "main-2")
			w.run(t)
			w.expectLog(t, "create main-2")
		})
	}
}

// TestReservedKeys: what the operator tells its own doings by is not for templates.
func TestReservedKeys(t *testing.T) {
	w := newWorld(t, func(s *v1alpha1.FleetSpec) {
		s.Template.Metadata.Annotations = map[string]string{v1alpha1.AnnotationDrainedBy: v1alpha1.DrainedByFleet}
		s.NamedCells = []v1alpha1.NamedCell{{Name: "a", Labels: map[string]string{v1alpha1.LabelFleet: "other"}}}
	})
	plan := w.step()
	w.expectLog(t)
	want := `spec: a template or a cell sets "shopset.dev/drained-by"; labels and annotations of shopset.dev/ are the operator's own, leave it out
spec: a template or a cell sets "shopset.dev/fleet"; labels and annotations of shopset.dev/ are the operator's own, leave it out`
	if plan.Problem == nil || plan.Problem.Error() != want {
		t.Errorf("%v", plan.Problem)
	}
}

// TestOrderOfNames: numbers count as numbers, and whatever the names, the order is one.
func TestOrderOfNames(t *testing.T) {
	w := newWorld(t, func(s *v1alpha1.FleetSpec) {
		for _, name := range []string{"main-1a", "main-10", "b-2-1", "main-2", "main", "b-10", "main-02", "b-2"} {
			s.NamedCells = append(s.NamedCells, v1alpha1.NamedCell{Name: name})
		}
		s.Placement = &v1alpha1.FleetPlacement{Pins: []v1alpha1.Pin{{Host: "a.example", Cell: "x"}}}
	})
	for range 20 {
		problem := w.decide().Problem
		if want := "its cells are b-2, b-10, b-2-1, main, main-02, main-2, main-10, main-1a"; problem == nil || !strings.HasSuffix(problem.Error(), want) {
			t.Fatal(problem)
		}
		slices.Reverse(w.fleet.Spec.NamedCells)
	}
}

// TestGone: a cell that somebody deletes is drained in the table while it goes, and made again.
func TestGone(t *testing.T) {
	w := newWorld(t, counted(2))
	w.run(t)
	w.log = nil
	w.sets["main-1"].DeletionTimestamp = &metav1.Time{Time: now}
	plan := w.step()
	w.expectLog(t)
	if got := w.states(); got != "main-1:Drain:0 main-2:Active:100" || !strings.HasPrefix(messageOf(plan, "main-1"), "Drain is being deleted") {
		t.Errorf("%s %s", got, messageOf(plan, "main-1"))
	}
	delete(w.sets, "main-1")
	w.step()
	w.expectLog(t, "create main-1")
	w.step()
	if got := w.states(); got != "main-1:Drain:0 main-2:Active:100" {
		t.Errorf("the new one takes hosts before it is ready: %s", got)
	}
}

// TestProblems: all at once, and nothing is touched but the endpoints and drains of the table.
func TestProblems(t *testing.T) {
	w := newWorld(t, counted(3))
	w.run(t)
	w.log = nil
	shard, share := int32(3), int32(30)
	w.fleet.Spec.Placement = &v1alpha1.FleetPlacement{
		ShardSize: &shard, MaxShare: &share, Weights: map[string]int32{"main-3": 0, "main-9": 5},
		Pins: []v1alpha1.Pin{{Host: "a.example", Cell: "nowhere"}, {Host: "b..example", Cell: "main-1"}, {Host: "C.example", Cell: "main-1"}, {Host: "c.example.", Cell: "main-2"}},
	}
	w.fleet.Spec.Template.Spec.Components[0].Image = "proxy:2"
	w.fleet.Spec.Template.Spec.Components[0].Ports = []v1alpha1.Port{{Name: "web", Port: 1}}
	w.sets["main-2"].Spec.Traffic = v1alpha1.TrafficDrain
	w.addresses["main-1"] = 3
	plan := w.step()
	w.expectLog(t)
	if plan.Problem == nil {
		t.Fatal("no problem")
	}
	for _, want := range []string{
		"spec.placement: maxShare 30% takes at least 4 cells with a weight, and there are 2; add cells or raise maxShare to 50%",
		"shardSize 3 takes at least 3 cells with a weight, and there are 2; add cells or lower shardSize",
		`spec.placement.weights: "main-9" is not a cell of the fleet; its cells are main-1, main-2, main-3`,
		`spec.placement.pins: host "a.example" is pinned to cell "nowhere", which is not a cell of the fleet; its cells are main-1, main-2, main-3`,
		`host "b..example" is no host name`, `host "c.example." is pinned twice`, "the edge has no port named https or http, so routers have nowhere to go",
	} {
		if !strings.Contains(plan.Problem.Error(), want) {
			t.Errorf("no %q in\n%v", want, plan.Problem)
		}
	}
	if got := w.states(); got != "main-1:Active:100 main-2:Drain:100 main-3:Active:100" || len(w.table.Cells[0].Endpoints.HTTPS) != 3 || w.table.ShardSize != 0 || len(w.table.Pins) != 0 {
		t.Errorf("the table is %s %+v", got, w.table)
	}
	w.sets["main-2"].Spec.Traffic = v1alpha1.TrafficActive
	w.ready("main-2")
	w.step()
	if got := w.states(); got != "main-1:Active:100 main-2:Active:100 main-3:Active:100" {
		t.Errorf("the table is %s", got)
	}
	var many []v1alpha1.Pin
	for i := range 100 {
		many = append(many, v1alpha1.Pin{Host: fmt.Sprintf("h%d.example", i), Cell: "nowhere"})
	}
	w.fleet.Spec.Placement.Pins = many
	if lines := strings.Count(w.decide().Problem.Error(), "\n"); lines > 25 {
		t.Errorf("%d lines of problems", lines)
	}
	for i := range many {
		many[i] = v1alpha1.Pin{Host: fmt.Sprintf("h%d..example", i), Cell: "main-1"}
	}
	if lines := strings.Count(w.decide().Problem.Error(), "\n"); lines > 25 {
		t.Errorf("%d lines of problems with hosts", lines)
	}
	// With nothing published yet there is nothing to go on with.
	w.table = nil
	if plan := w.decide(); plan.Table != nil {
		t.Error("a table from a spec with problems")
	}
}

func TestPinsAndWeights(t *testing.T) {
	until := metav1.NewTime(now.Add(time.Hour))
	share := int32(40)
	w := newWorld(t, func(s *v1alpha1.FleetSpec) {
		counted(3)(s)
		s.Placement = &v1alpha1.FleetPlacement{MaxShare: &share, Weights: map[string]int32{"main-1": 1000}, Pins: []v1alpha1.Pin{
			{Host: "Big.example", Cell: "main-2"}, {Host: "*.Group.example", Cell: "main-3"}, {Host: "moved.example", Cell: "main-1", Until: &until},
		}}
	})
	w.run(t)
	if got := fmt.Sprint(w.table.Pins); got != "[{*.group.example main-3} {big.example main-2} {moved.example main-1}]" {
		t.Errorf("pins %s", got)
	}
	if plan := w.decide(); !plan.Next.Equal(until.Time) {
		t.Errorf("looks again at %v", plan.Next)
	}
	f, err := w.table.Function()
	if err != nil {
		t.Fatal(err)
	}
	if shares := f.Shares(); shares.Largest > 0.4+1e-6 || shares.Largest < 0.399 {
		t.Errorf("largest share %v", shares.Largest)
	}
	w.now = until.Time
	plan := w.step()
	if got := fmt.Sprint(w.table.Pins); got != "[{*.group.example main-3} {big.example main-2}]" || !plan.Next.IsZero() {
		t.Errorf("after its end: pins %s, looks again at %v", got, plan.Next)
	}
	// While too few take hosts for maxShare, they share evenly, and the status says so.
	w.sets["main-3"].Spec.Traffic = v1alpha1.TrafficDrain
	plan = w.step()
	if got := w.states(); got != "main-1:Active:102400 main-2:Active:102400 main-3:Drain:0" {
		t.Errorf("table %s", got)
	}
	if len(plan.Notes) != 1 || plan.Notes[0] != "maxShare 40% is not kept while only 2 cells take hosts: each has its even share" {
		t.Errorf("notes %q", plan.Notes)
	}
}

// TestManyCells: the table holds 256; those that leave have no room beside 256 that stay, and need none.
func TestManyCells(t *testing.T) {
	w := newWorld(t, counted(256))
	w.run(t)
	var named []v1alpha1.NamedCell
	for i := range 256 {
		named = append(named, v1alpha1.NamedCell{Name: fmt.Sprintf("cell-%d", i)})
	}
	w.fleet.Spec.Cells, w.fleet.Spec.NamedCells = nil, named
	w.log = nil
	plan := w.step()
	if len(plan.Table.Cells) != 256 || len(plan.Cells) != 512 || len(w.log) != 512 {
		t.Errorf("%d cells in the table, %d in all, %d actions", len(plan.Table.Cells), len(plan.Cells), len(w.log))
	}
}

func BenchmarkDecide64(b *testing.B) {
	t := &testing.T{}
	w := newWorld(t, counted(64))
	w.run(t)
	seen := fleet.Seen{Table: w.table, Endpoints: map[string]routetable.Endpoints{}}
	for _, name := range sortedNames(w.sets) {
		seen.ShopSets = append(seen.ShopSets, w.sets[name])
	}
	w.fleet.Spec.Placement = &v1alpha1.FleetPlacement{}
	for i := range 1000 {
		w.fleet.Spec.Placement.Pins = append(w.fleet.Spec.Placement.Pins, v1alpha1.Pin{Host: fmt.Sprintf("h%d.example", i), Cell: "main-1"})
	}
	for b.Loop() {
		if plan := fleet.Decide(w.fleet, seen, now); plan.Problem != nil {
			b.Fatal(plan.Problem)
		}
	}
}
