package fleet

import (
	"errors"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"

	"github.com/shopset/shopset/api/v1alpha1"
	"github.com/shopset/shopset/internal/routetable"
)

// Seen is what the cluster holds of a fleet.
type Seen struct {
	// ShopSets of the namespace, whoever's.
	ShopSets []*v1alpha1.ShopSet
	// Endpoints of the edges, by the name of the ShopSet.
	Endpoints map[string]routetable.Endpoints
	// Table is the one that was published last; nil if there is none that can be read.
	Table *routetable.Table
}

// Verb says what an action does.
type Verb string

// Actions on cells.
const (
	Create Verb = "create"
	Change Verb = "change"
	Delete Verb = "delete"
)

// Action is one write.
type Action struct {
	Verb   Verb
	Reason string
	// Before is the ShopSet as it is, nil for Create.
	Before *v1alpha1.ShopSet
	// After is the ShopSet as it shall be, nil for Delete.
	After *v1alpha1.ShopSet
}

// Cell is one cell as the fleet sees it.
type Cell struct {
	Name  string
	State v1alpha1.CellState
	// ShopSet is nil if it is not there, or not the fleet's.
	ShopSet *v1alpha1.ShopSet
	Ready   bool
	// Current says that the ShopSet is as the spec wants it.
	Current bool
	// Stuck says that only a human can help.
	Stuck bool
	// Message says what it waits for, or what is wrong.
	Message string
}

// Plan is the decision.
type Plan struct {
	// Problem says what is wrong with the spec; nothing but the table's endpoints and drains follows it then.
	Problem error
	// Notes are sentences for humans about what is not wrong, but not as they may think.
	Notes   []string
	Actions []Action
	// Cells by name; those that leave included.
	Cells []Cell
	// Desired is how many cells there shall be.
	Desired int
	// Table is what to publish, without epoch, version and time; nil if there is nothing to say yet.
	Table *routetable.Table
	// Next is when something changes by time alone; zero if nothing does.
	Next time.Time
}

// Decide makes the plan. Nothing that it is given is changed.
func Decide(fleet *v1alpha1.Fleet, seen Seen, now time.Time) *Plan {
	plan := &Plan{}
	members := findMembers(fleet, seen.ShopSets)
	plan.Desired, plan.Notes = len(members.wanted), members.notes
	pins, next := currentPins(fleet, now)
	plan.Next = next
	weights := weightsOf(fleet, members)
	plan.Problem = errors.Join(problems(fleet, members, pins, weights)...)

	states := members.states(fleet, seen)
	switch {
	case plan.Problem == nil:
		plan.Table = buildTable(fleet, seen, states, pins, weights, plan)
	case seen.Table != nil:
		plan.Table = refreshTable(fleet, seen, states)
	}
	plan.Cells = describe(fleet, members, states)
	if plan.Problem == nil {
		plan.act(fleet, members, seen)
	}
	return plan
}

func isReady(ss *v1alpha1.ShopSet) bool {
	ready := meta.FindStatusCondition(ss.Status.Conditions, v1alpha1.ConditionReady)
	return ready != nil && ready.Status == "True" && ready.ObservedGeneration == ss.Generation
}

// conditionOf gives a condition that speaks of the present spec, nil otherwise.
func conditionOf(ss *v1alpha1.ShopSet, kind string) (found bool, status bool, message string) {
	condition := meta.FindStatusCondition(ss.Status.Conditions, kind)
	if condition == nil || condition.ObservedGeneration != ss.Generation {
		return false, false, ""
	}
	return true, condition.Status == "True", condition.Message
}
