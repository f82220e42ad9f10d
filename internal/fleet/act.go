package fleet

import (
	"fmt"
	"slices"

	"k8s.io/apimachinery/pkg/api/equality"

	"github.com/shopset/shopset/api/v1alpha1"
	"github.com/shopset/shopset/internal/routetable"
)

// WaitsForTurn begins the message of a cell that is well and is to be changed after others.
const WaitsForTurn = "waits for its turn"

// act decides the writes. It goes over the cells in the order of their names, and says in their messages what waits.
func (p *Plan) act(fleet *v1alpha1.Fleet, members *members, seen Seen) {
	mayChange, why := p.turns(fleet)
	for _, member := range members.wanted {
		if member.former {
			continue // It is made when the one of that name is gone.
		}
		if member.shopSet == nil {
			p.Actions = append(p.Actions, Action{Verb: Create, After: newShopSet(fleet, member), Reason: "the fleet wants it and it is not there"})
			continue
		}
		if !member.shopSet.DeletionTimestamp.IsZero() {
			continue // It is made again when it is gone.
		}
		after := member.shopSet.DeepCopy()
		setMetadata(fleet, member, after)
		setTraffic(after, member, false)
		reason := reasonOf(fleet, member.shopSet, after)
		if !p.find(member.name).Current {
			wanted := desiredSpec(fleet, member)
			differs := !sameSpec(wanted, &after.Spec)
			if differs && mayChange[member.name] {
				wanted.Traffic = after.Spec.Traffic
				after.Spec = *wanted
				reason = "its spec differs from the template, and it is its turn"
			} else if differs {
				p.note(member.name, why)
			}
		}
		if !equality.Semantic.DeepEqual(member.shopSet, after) {
			p.Actions = append(p.Actions, Action{Verb: Change, Before: member.shopSet, After: after, Reason: reason})
		}
	}
	for _, member := range members.leaving {
		p.leave(member, seen)
	}
}

func reasonOf(fleet *v1alpha1.Fleet, before, after *v1alpha1.ShopSet) string {
	switch {
	case !owned(fleet, before):
		return "it belongs to the fleet from now on"
	case before.Spec.Traffic != after.Spec.Traffic && before.Annotations[v1alpha1.AnnotationDrainedBy] == v1alpha1.DrainedByFleet:
		return "it stays in the fleet after all"
	case before.Spec.Traffic != after.Spec.Traffic:
		return fmt.Sprintf("namedCells says traffic: %s", after.Spec.Traffic)
	default:
		return "its labels or annotations differ from the template"
	}
}

// leave drains a cell, and deletes it once every router can know that it is drained and nobody uses it any more.
func (p *Plan) leave(member *member, seen Seen) {
	ss := member.shopSet
	if !ss.DeletionTimestamp.IsZero() {
		return
	}
	after := ss.DeepCopy()
	setTraffic(after, member, true)
	if after.Spec.Traffic != ss.Spec.Traffic {
		p.Actions = append(p.Actions, Action{Verb: Change, Before: ss, After: after, Reason: "it leaves the fleet and is drained first"})
		return
	}
	published := seen.Table != nil && !slices.ContainsFunc(seen.Table.Cells, func(c routetable.Cell) bool {
		return c.Name == member.name && c.State != routetable.Drain
	})
	if found, idle, message := conditionOf(ss, v1alpha1.ConditionIdle); found && idle && published {
		p.Actions = append(p.Actions, Action{Verb: Delete, Before: ss, Reason: "it left the fleet and is idle: " + message})
	}
}

// turns says which cells may get a new spec now, and why the others wait.
func (p *Plan) turns(fleet *v1alpha1.Fleet) (mayChange map[string]bool, why string) {
	room := 1
	if fleet.Spec.Update != nil && fleet.Spec.Update.MaxUnavailable > 0 {
		room = int(fleet.Spec.Update.MaxUnavailable)
	}
	mayChange = map[string]bool{}
	var well, unwell []string
	var under []string // Not ready at the present template: changed, and not through yet.
	for _, cell := range p.Cells {
		switch {
		case cell.State == v1alpha1.CellLeaving || cell.ShopSet == nil || !cell.ShopSet.DeletionTimestamp.IsZero():
		case cell.Current && !cell.Ready:
			under = append(under, cell.Name)
		case cell.Current:
		case cell.Ready:
			well = append(well, cell.Name)
		default:
			unwell = append(unwell, cell.Name)
		}
	}
	left := room - len(under)
	for _, name := range unwell {
		if left > 0 {
			mayChange[name] = true
			left--
		}
	}
	// Those that are not ready and do not change now take room from those that would become so.
	left -= max(0, len(unwell)-len(mayChange))
	for _, name := range well {
		if left > 0 {
			mayChange[name] = true
			left--
		}
	}
	waitsFor := under
	for _, name := range slices.Concat(unwell, well) {
		if mayChange[name] {
			waitsFor = append(waitsFor, name)
		}
	}
	slices.SortFunc(waitsFor, compareNames)
	return mayChange, fmt.Sprintf(WaitsForTurn+" to get the new template, until %s is ready", list(waitsFor))
}

func (p *Plan) find(name string) *Cell {
	at := slices.IndexFunc(p.Cells, func(c Cell) bool { return c.Name == name })
	return &p.Cells[at]
}

func (p *Plan) note(name, message string) {
	if cell := p.find(name); cell.Message == "" {
		cell.Message = message
	} else {
		cell.Message += "; " + message
	}
}
