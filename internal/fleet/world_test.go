package fleet_test

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/shopset/shopset/api/v1alpha1"
	"github.com/shopset/shopset/internal/fleet"
	"github.com/shopset/shopset/internal/routetable"
)

var now = time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)

// world is a fleet and all that it is decided from; tests play the cluster.
type world struct {
	t     *testing.T
	fleet *v1alpha1.Fleet
	sets  map[string]*v1alpha1.ShopSet
	// addresses are the edges' Pods.
	addresses map[string]int
	table     *routetable.Table
	now       time.Time
	log       []string
}

func newWorld(t *testing.T, edit func(*v1alpha1.FleetSpec)) *world {
	t.Helper()
	spec := v1alpha1.FleetSpec{Template: v1alpha1.FleetTemplate{Spec: v1alpha1.ShopSetSpec{
		Traffic: v1alpha1.TrafficActive,
		Components: []v1alpha1.Component{{
			Name: "proxy", Image: "proxy:1", Edge: true, Ports: []v1alpha1.Port{{Name: "https", Port: 8443}, {Name: "http", Port: 8080}},
			Health: &v1alpha1.Health{Path: "/healthz", ReadyPath: "/readyz", Port: intstr.FromString("admin")},
		}},
	}}}
	edit(&spec)
	return &world{t: t, sets: map[string]*v1alpha1.ShopSet{}, addresses: map[string]int{}, now: now,
		fleet: &v1alpha1.Fleet{ObjectMeta: metav1.ObjectMeta{Namespace: "shops", Name: "main", UID: "fleet-uid"}, Spec: spec}}
}

func counted(n int32) func(*v1alpha1.FleetSpec) {
	return func(s *v1alpha1.FleetSpec) { s.Cells = &n }
}

func (w *world) decide() *fleet.Plan {
	seen := fleet.Seen{Table: w.table, Endpoints: map[string]routetable.Endpoints{}}
	for _, name := range sortedNames(w.sets) {
		seen.ShopSets = append(seen.ShopSets, w.sets[name])
	}
	for name, n := range w.addresses {
		for i := range n {
			seen.Endpoints[name] = routetable.Endpoints{HTTPS: append(seen.Endpoints[name].HTTPS,
				netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, name[len(name)-1], byte(i + 1)}), 8443))}
		}
	}
	before := fmt.Sprintf("%+v", seen.ShopSets)
	plan := fleet.Decide(w.fleet, seen, w.now)
	slices.Reverse(seen.ShopSets)
	again := fleet.Decide(w.fleet, seen, w.now)
	slices.Reverse(seen.ShopSets)
	if describePlan(plan) != describePlan(again) {
		w.t.Fatalf("the decision depends on the order of ShopSets:\n%s\n%s", describePlan(plan), describePlan(again))
	}
	if fmt.Sprintf("%+v", seen.ShopSets) != before {
		w.t.Fatal("deciding changed what was seen")
	}
	return plan
}

func sortedNames(sets map[string]*v1alpha1.ShopSet) []string {
	var names []string
	for name := range sets {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

func describePlan(plan *fleet.Plan) string {
	var lines []string
	if plan.Problem != nil {
		lines = append(lines, "problem: "+plan.Problem.Error())
	}
	for _, action := range plan.Actions {
		name := ""
		if action.After != nil {
			name = action.After.Name
		} else {
			name = action.Before.Name
		}
		lines = append(lines, fmt.Sprintf("%s %s: %s", action.Verb, name, action.Reason))
	}
	for _, cell := range plan.Cells {
		lines = append(lines, strings.TrimSpace(fmt.Sprintf("  %s %s %s", cell.Name, cell.State, cell.Message)))
	}
	return strings.Join(append(lines, plan.Notes...), "\n")
}

// step decides, logs, and does what is decided, as the operator and the API server would.
func (w *world) step() *fleet.Plan {
	plan := w.decide()
	for _, action := range plan.Actions {
		switch action.Verb {
		case fleet.Create:
			ss := action.After.DeepCopy()
			ss.UID, ss.Generation = types.UID("uid-"+ss.Name), 1
			w.sets[ss.Name] = ss
			w.log = append(w.log, "create "+ss.Name)
		case fleet.Change:
			ss := action.After.DeepCopy()
			ss.Generation++
			w.sets[ss.Name] = ss
			w.log = append(w.log, "change "+ss.Name+": "+action.Reason)
		case fleet.Delete:
			delete(w.sets, action.Before.Name)
			delete(w.addresses, action.Before.Name)
			w.log = append(w.log, "delete "+action.Before.Name)
		}
	}
	if plan.Table != nil {
		w.table = plan.Table
		w.fleet.Status.Table = &v1alpha1.TableStatus{}
	}
	return plan
}

func (w *world) condition(name, kind string, value bool, message string) {
	ss := w.sets[name]
	status := metav1.ConditionFalse
	if value {
		status = metav1.ConditionTrue
	}
	meta.SetStatusCondition(&ss.Status.Conditions, metav1.Condition{Type: kind, Status: status, Reason: "Test", Message: message, ObservedGeneration: ss.Generation})
}

// ready makes cells ready, with Pods.
func (w *world) ready(names ...string) {
	for _, name := range names {
		w.condition(name, v1alpha1.ConditionReady, true, "all components serve")
		w.condition(name, v1alpha1.ConditionIdle, false, "the edge receives traffic")
		w.addresses[name] = 2
	}
}

func (w *world) run(t *testing.T) {
	t.Helper()
	for range 30 {
		before := len(w.log)
		w.step()
		w.ready(sortedNames(w.sets)...)
		if len(w.log) == before {
			return
		}
	}
	t.Fatalf("does not come to rest:\n%s", strings.Join(w.log, "\n"))
}

func (w *world) expectLog(t *testing.T, want ...string) {
	t.Helper()
	if !slices.Equal(w.log, want) {
		t.Fatalf("did\n  %s\nwant\n  %s", strings.Join(w.log, "\n  "), strings.Join(want, "\n  "))
	}
	w.log = nil
}

// states is the cells of the table that take hosts, and those that do not.
func (w *world) states() string {
	var parts []string
	for _, cell := range w.table.Cells {
		parts = append(parts, fmt.Sprintf("%s:%s:%d", cell.Name, cell.State, cell.Weight))
	}
	return strings.Join(parts, " ")
}

func messageOf(plan *fleet.Plan, name string) string {
	for _, cell := range plan.Cells {
		if cell.Name == name {
			return string(cell.State) + " " + cell.Message
		}
	}
	return "no such cell"
}
