package fleet

import (
	"fmt"

	"github.com/shopset/shopset/api/v1alpha1"
	"github.com/shopset/shopset/internal/routetable"
)

// state is what a cell does in the table.
type state struct {
	state   v1alpha1.CellState
	shopSet *v1alpha1.ShopSet
	why     string
}

// states says of each cell whether it takes hosts.
func (m *members) states(fleet *v1alpha1.Fleet, seen Seen) map[string]state {
	result := map[string]state{}
	before := map[string]routetable.State{}
	if seen.Table != nil {
		for _, cell := range seen.Table.Cells {
			before[cell.Name] = cell.State
		}
	}
	// A table that was lost says nothing about who took hosts; whoever is there does then.
	lost := seen.Table == nil && fleet.Status.Table != nil
	active := 0
	for _, cell := range m.wanted {
		now := stateOf(cell)
		if now.state == v1alpha1.CellJoining && cell.shopSet != nil && (before[cell.name] == routetable.Active || lost || isReady(cell.shopSet)) {
			now = state{state: v1alpha1.CellActive}
		}
		if now.state == v1alpha1.CellActive {
			active++
		}
		now.shopSet = cell.shopSet
		result[cell.name] = now
	}
	if active == 0 {
		// A cell that is not ready may serve better than none.
		for _, cell := range m.wanted {
			if addresses := seen.Endpoints[cell.name]; result[cell.name].state == v1alpha1.CellJoining && len(addresses.HTTPS)+len(addresses.HTTP) > 0 {
				result[cell.name] = state{state: v1alpha1.CellActive, shopSet: cell.shopSet}
			}
		}
	}
	for _, cell := range m.leaving {
		result[cell.name] = state{state: v1alpha1.CellLeaving, shopSet: cell.shopSet}
	}
	return result
}

// stateOf is Joining for every cell that may take hosts.
func stateOf(cell *member) state {
	ss := cell.shopSet
	switch {
	case cell.named != nil && cell.named.Traffic == v1alpha1.TrafficDrain:
		return state{state: v1alpha1.CellDrain, why: "drained by namedCells"}
	case ss == nil:
		return state{state: v1alpha1.CellJoining}
	case !ss.DeletionTimestamp.IsZero():
		return state{state: v1alpha1.CellDrain, why: "is being deleted, and will be made again"}
	case cell.named != nil && cell.named.Traffic == v1alpha1.TrafficActive:
		return state{state: v1alpha1.CellJoining}
	case ss.Spec.Traffic == v1alpha1.TrafficDrain && ss.Annotations[v1alpha1.AnnotationDrainedBy] != v1alpha1.DrainedByFleet:
		return state{state: v1alpha1.CellDrain, why: "drained by hand; kubectl shopset undrain brings it back"}
	default:
		return state{state: v1alpha1.CellJoining}
	}
}

// describe says how each cell is.
func describe(fleet *v1alpha1.Fleet, members *members, states map[string]state) (cells []Cell) {
	for _, member := range members.all() {
		now := states[member.name]
		cell := Cell{Name: member.name, State: now.state, ShopSet: member.shopSet, Message: now.why}
		if ss := member.shopSet; ss != nil {
			cell.Ready = isReady(ss)
			cell.Current = owned(fleet, ss) && sameSpec(&ss.Spec, desiredSpec(fleet, member))
			if found, stalled, message := conditionOf(ss, v1alpha1.ConditionStalled); found && stalled {
				cell.Stuck, cell.Message = true, message
			} else if found, ready, message := conditionOf(ss, v1alpha1.ConditionReady); found && !ready {
				cell.Message = message
			} else if !cell.Ready && cell.Message == "" {
				cell.Message = "waiting for the operator to take up the change"
			}
		}
		switch {
		case member.taken != "":
			cell.Stuck, cell.Message = true, "the name belongs to "+member.taken
		case member.former:
			cell.Message = "is made when the ShopSet of that name, which a deleted Fleet " + fleet.Name + " had, has drained and is gone"
		case now.state == v1alpha1.CellLeaving:
			cell.Message = leavingMessage(member.shopSet)
		case member.shopSet == nil && cell.Message == "":
			cell.Message = "is being made"
		case now.state == v1alpha1.CellJoining:
			cell.Message = "takes hosts as soon as it is ready: " + cell.Message
		}
		cells = append(cells, cell)
	}
	return cells
}

// leavingMessage says why a cell that shall go is still there.
func leavingMessage(ss *v1alpha1.ShopSet) string {
	if !ss.DeletionTimestamp.IsZero() {
		if _, _, message := conditionOf(ss, v1alpha1.ConditionReady); message != "" {
			return message
		}
		return "is being deleted"
	}
	found, idle, message := conditionOf(ss, v1alpha1.ConditionIdle)
	switch {
	case !found:
		return "leaves the fleet; draining"
	case idle:
		return "leaves the fleet; idle, about to be deleted"
	default:
		return fmt.Sprintf("leaves the fleet, and is kept while it is not idle: %s", message)
	}
}
