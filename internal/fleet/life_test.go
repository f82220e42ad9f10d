package fleet_test

import (
	"strings"
	"testing"

	"github.com/shopset/shopset/api/v1alpha1"
	"github.com/shopset/shopset/internal/routetable"
)

// TestFirstStart: all cells at once; each takes hosts when it is ready for the first time, and keeps them.
func TestFirstStart(t *testing.T) {
	w := newWorld(t, counted(3))
	w.step()
	w.expectLog(t, "create main-1", "create main-2", "create main-3")
	w.step()
	if got := w.states(); got != "main-1:Drain:0 main-2:Drain:0 main-3:Drain:0" {
		t.Errorf("before any is ready: %s", got)
	}
	w.ready("main-2")
	w.step()
	if got := w.states(); got != "main-1:Drain:0 main-2:Active:100 main-3:Drain:0" {
		t.Errorf("one is ready: %s", got)
	}
	w.ready("main-1", "main-3")
	w.step()
	w.condition("main-2", v1alpha1.ConditionReady, false, "proxy: crashed")
	w.addresses["main-2"] = 0
	plan := w.step()
	if got := w.states(); got != "main-1:Active:100 main-2:Active:100 main-3:Active:100" {
		t.Errorf("a cell that fails must keep its hosts, routers know better: %s", got)
	}
	if got := messageOf(plan, "main-2"); got != "Active proxy: crashed" {
		t.Errorf("message %q", got)
	}
	probe := w.table.Cells[0].Probe
	if probe == nil || probe.Port != 9090 || probe.Path != "/readyz" {
		t.Errorf("probe %+v", probe)
	}
	if w.expectLog(t); len(w.decide().Actions) > 0 {
		t.Error("actions at rest")
	}
}

// TestLostTable: without a table to go by, who is there takes hosts: not being ready for a moment must not move them.
func TestLostTable(t *testing.T) {
	w := newWorld(t, counted(2))
	w.run(t)
	w.condition("main-1", v1alpha1.ConditionReady, false, "proxy: restarts")
	w.table = nil
	w.step()
	if got := w.states(); got != "main-1:Active:100 main-2:Active:100" {
		t.Error(got)
	}
}

// TestNoneReady: a cell that is not ready serves better than none.
func TestNoneReady(t *testing.T) {
	w := newWorld(t, counted(2))
	w.step()
	w.addresses["main-2"] = 1
	w.step()
	if got := w.states(); got != "main-1:Drain:0 main-2:Active:100" {
		t.Error(got)
	}
}

// TestUpdate goes over the fleet one cell at a time, waits for each, and mends what is broken first.
func TestUpdate(t *testing.T) {
	w := newWorld(t, counted(3))
	w.run(t)
	w.log = nil
	image := func(image string) { w.fleet.Spec.Template.Spec.Components[0].Image = image }
	image("proxy:2")
	plan := w.step()
	w.expectLog(t, "change main-1: its spec differs from the template, and it is its turn")
	if got := messageOf(plan, "main-2"); got != "Active waits for its turn to get the new template, until main-1 is ready" {
		t.Errorf("message %q", got)
	}
	w.step()
	w.expectLog(t) // main-1 is not ready yet.
	w.condition("main-1", v1alpha1.ConditionReady, false, "proxy: image proxy:2 cannot be pulled")
	w.step()
	w.expectLog(t)
	// A mended template goes to the broken cell first, not to one that serves.
	w.condition("main-3", v1alpha1.ConditionReady, true, "all components serve")
	image("proxy:3")
	w.step()
	w.expectLog(t, "change main-1: its spec differs from the template, and it is its turn")
	w.ready("main-1")
	w.step()
	w.expectLog(t, "change main-2: its spec differs from the template, and it is its turn")
	// In the middle of it: another cell, and one that fails by itself takes the room.
	w.ready("main-2")
	w.condition("main-1", v1alpha1.ConditionReady, false, "proxy: crashed")
	plan = w.step()
	w.expectLog(t)
	if got := messageOf(plan, "main-3"); got != "Active waits for its turn to get the new template, until main-1 is ready" {
		t.Errorf("message %q", got)
	}
	w.ready("main-1")
	w.run(t)
	w.expectLog(t, "change main-3: its spec differs from the template, and it is its turn")
	for _, ss := range w.sets {
		if ss.Spec.Components[0].Image != "proxy:3" || ss.Spec.Traffic != v1alpha1.TrafficActive {
			t.Errorf("%s has %s, %s", ss.Name, ss.Spec.Components[0].Image, ss.Spec.Traffic)
		}
	}
}

// TestUpdateOfABrokenFleet: when all are down at a bad template, a good one reaches them, one after the other.
func TestUpdateOfABrokenFleet(t *testing.T) {
	w := newWorld(t, counted(3))
	w.run(t)
	w.log = nil
	for _, name := range sortedNames(w.sets) {
		w.condition(name, v1alpha1.ConditionReady, false, "proxy: crashed")
	}
	w.fleet.Spec.Template.Spec.Components[0].Image = "proxy:2"
	for _, name := range []string{"main-1", "main-2", "main-3"} {
		w.step()
		w.expectLog(t, "change "+name+": its spec differs from the template, and it is its turn")
		w.step()
		w.expectLog(t)
		w.ready(name)
	}
}

func TestMaxUnavailable(t *testing.T) {
	w := newWorld(t, counted(5))
	w.run(t)
	w.log = nil
	w.fleet.Spec.Update = &v1alpha1.FleetUpdate{MaxUnavailable: 2}
	w.fleet.Spec.Template.Spec.Components[0].Image = "proxy:2"
	w.condition("main-4", v1alpha1.ConditionReady, false, "proxy: crashed")
	w.step()
	w.expectLog(t, "change main-1: its spec differs from the template, and it is its turn", "change main-4: its spec differs from the template, and it is its turn")
}

// TestScaleIn drains first, deletes what is idle, keeps what is not with the reason, and can be taken back.
func TestScaleIn(t *testing.T) {
	w := newWorld(t, counted(4))
	w.run(t)
	w.log = nil
	*w.fleet.Spec.Cells = 2
	w.step()
	w.expectLog(t, "change main-3: it leaves the fleet and is drained first", "change main-4: it leaves the fleet and is drained first")
	if got := w.states(); got != "main-1:Active:100 main-2:Active:100 main-3:Drain:0 main-4:Drain:0" {
		t.Errorf("table %s", got)
	}
	if got := messageOf(w.step(), "main-3"); got != "Leaving leaves the fleet; draining" {
		t.Errorf("message %q", got)
	}
	w.condition("main-3", v1alpha1.ConditionIdle, false, "waiting until all connections have ended for open connections at the edge to end")
	w.condition("main-4", v1alpha1.ConditionIdle, true, "no connection is open at the edge")
	plan := w.step()
	w.expectLog(t, "delete main-4")
	if got := messageOf(plan, "main-3"); !strings.Contains(got, "is kept while it is not idle: waiting until all connections") {
		t.Errorf("message %q", got)
	}
	// Idle at an earlier spec does not count.
	w.condition("main-3", v1alpha1.ConditionIdle, true, "no connection is open at the edge")
	w.sets["main-3"].Generation++
	w.step()
	w.expectLog(t)
	*w.fleet.Spec.Cells = 3
	w.step()
	w.expectLog(t, "change main-3: it stays in the fleet after all")
	w.ready("main-3")
	w.step()
	if got := w.states(); got != "main-1:Active:100 main-2:Active:100 main-3:Active:100" || w.sets["main-3"].Spec.Traffic != v1alpha1.TrafficActive {
		t.Errorf("table %s", got)
	}
}

// TestDeleteNeedsThePublishedTable: a cell that is idle by chance is not deleted while routers may still send to it.
func TestDeleteNeedsThePublishedTable(t *testing.T) {
	w := newWorld(t, counted(2))
	w.run(t)
	w.log = nil
	w.sets["main-2"].Spec.Traffic = v1alpha1.TrafficDrain
	w.condition("main-2", v1alpha1.ConditionIdle, true, "no connection is open at the edge")
	*w.fleet.Spec.Cells = 1
	published := w.table
	if plan := w.decide(); len(plan.Actions) > 0 {
		t.Errorf("before the table says so: %s", describePlan(plan))
	}
	if published.Cells[1].State != routetable.Active {
		t.Fatal("the test is wrong")
	}
	w.step()
	w.step()
	w.expectLog(t, "delete main-2")
}

// TestWhoLeaves: those that are drained, before those that serve; never one that a pin names, if there is another.
func TestWhoLeaves(t *testing.T) {
	w := newWorld(t, counted(4))
	w.run(t)
	w.fleet.Spec.Placement = &v1alpha1.FleetPlacement{Pins: []v1alpha1.Pin{{Host: "big.example", Cell: "main-4"}}, Weights: map[string]int32{"main-3": 200}}
	w.sets["main-1"].Spec.Traffic = v1alpha1.TrafficDrain
	*w.fleet.Spec.Cells = 2
	w.log = nil
	plan := w.step()
	if got := messageOf(plan, "main-1") + messageOf(plan, "main-2"); strings.Count(got, "Leaving") != 2 || plan.Problem != nil {
		t.Errorf("%s", describePlan(plan))
	}
	*w.fleet.Spec.Cells = 1
	plan = w.decide()
	want := `spec.placement.pins: host "big.example" is pinned to cell "main-4", which is not a cell of the fleet; its cells are main-3`
	if plan.Problem == nil || plan.Problem.Error() != want {
		t.Errorf("problem %v", plan.Problem)
	}
}

// TestHumanDrain stays, takes the cell out of the table, and ends with the human.
func TestHumanDrain(t *testing.T) {
	w := newWorld(t, counted(3))
	w.run(t)
	w.log = nil
	w.sets["main-2"].Spec.Traffic = v1alpha1.TrafficDrain
	w.sets["main-2"].Generation++
	w.ready("main-2")
	w.fleet.Spec.Template.Spec.Components[0].Image = "proxy:2" // A change of the template does not undrain either.
	w.run(t)
	if got := w.states(); got != "main-1:Active:100 main-2:Drain:0 main-3:Active:100" || w.sets["main-2"].Spec.Traffic != v1alpha1.TrafficDrain {
		t.Errorf("%s", got)
	}
	if got := messageOf(w.decide(), "main-2"); got != "Drain drained by hand; kubectl shopset undrain brings it back" {
		t.Errorf("message %q", got)
	}
	w.sets["main-2"].Spec.Traffic = v1alpha1.TrafficActive
	w.run(t)
	if got := w.states(); got != "main-1:Active:100 main-2:Active:100 main-3:Active:100" {
		t.Errorf("%s", got)
	}
	// A cell that a human drained before it left is not undrained when it stays after all.
	w.sets["main-3"].Spec.Traffic = v1alpha1.TrafficDrain
	*w.fleet.Spec.Cells = 2
	w.step()
	*w.fleet.Spec.Cells = 3
	w.step()
	if w.sets["main-3"].Spec.Traffic != v1alpha1.TrafficDrain {
		t.Error("what a human drained was undrained")
	}
}
