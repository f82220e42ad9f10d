package fleet

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/shopset/shopset/api/v1alpha1"
)

// member is one cell of the fleet.
type member struct {
	name string
	// shopSet is nil if there is none yet.
	shopSet *v1alpha1.ShopSet
	// named is nil for a cell that is only counted.
	named *v1alpha1.NamedCell
	// taken says who has the name, if it is not the fleet's to take.
	taken string
	// former says that a ShopSet of an earlier Fleet of the same name has the name, and is about to go.
	former bool
}

type members struct {
	// wanted and leaving are sorted by name.
	wanted, leaving []*member
	notes           []string
}

// owned says whether the fleet controls a ShopSet; free, whether nobody does.
func owned(fleet *v1alpha1.Fleet, ss *v1alpha1.ShopSet) bool { return metav1.IsControlledBy(ss, fleet) }

func free(ss *v1alpha1.ShopSet) bool { return metav1.GetControllerOf(ss) == nil }

func labelled(fleet *v1alpha1.Fleet, ss *v1alpha1.ShopSet) bool {
	return ss.Labels[v1alpha1.LabelFleet] == fleet.Name
}

func findMembers(fleet *v1alpha1.Fleet, shopSets []*v1alpha1.ShopSet) *members {
	byName := map[string]*v1alpha1.ShopSet{}
	for _, ss := range shopSets {
		byName[ss.Name] = ss
	}
	if fleet.Spec.Cells != nil {
		return countedMembers(fleet, byName, int(*fleet.Spec.Cells))
	}
	return namedMembers(fleet, byName)
}

func namedMembers(fleet *v1alpha1.Fleet, byName map[string]*v1alpha1.ShopSet) *members {
	m := &members{}
	names := map[string]bool{}
	for i := range fleet.Spec.NamedCells {
		named := &fleet.Spec.NamedCells[i]
		names[named.Name] = true
		m.want(fleet, named.Name, byName[named.Name], named)
	}
	for _, name := range slices.Sorted(maps.Keys(byName)) {
		if !names[name] {
			m.surplus(fleet, byName[name], "namedCells does not name it; add it there, or take the label off")
		}
	}
	m.sort()
	return m
}

// countedMembers are the cells that are there, up to the number, and new ones for the rest. Those that go first are
// those that are going already, then drained ones, then those that nobody names, the highest numbers first.
func countedMembers(fleet *v1alpha1.Fleet, byName map[string]*v1alpha1.ShopSet, number int) *members {
	m := &members{}
	var have []*v1alpha1.ShopSet
	for _, name := range slices.Sorted(maps.Keys(byName)) {
		if ss := byName[name]; owned(fleet, ss) {
			have = append(have, ss)
		}
	}
	if len(have) > number {
		byKeep(fleet, have)
		for _, ss := range have[number:] {
			m.leaving = append(m.leaving, &member{name: ss.Name, shopSet: ss})
		}
		have = have[:number]
	}
	for _, ss := range have {
		m.want(fleet, ss.Name, ss, nil)
	}
	known := map[string]bool{}
	for _, cell := range append(slices.Clone(m.wanted), m.leaving...) {
		known[cell.name] = true
	}
	for _, name := range slices.SortedFunc(maps.Keys(byName), compareNames) {
		if ss := byName[name]; !known[name] && labelled(fleet, ss) && free(ss) && len(m.wanted) < number {
			m.want(fleet, name, ss, nil)
			known[name] = true
		}
	}
	for i := 1; len(m.wanted) < number; i++ {
		name := fmt.Sprintf("%s-%d", fleet.Name, i)
		if !known[name] && takenBy(fleet, byName[name]) == "" {
			m.want(fleet, name, byName[name], nil)
			known[name] = true
		}
	}
	for _, name := range slices.Sorted(maps.Keys(byName)) {
		if !known[name] {
			m.surplus(fleet, byName[name], fmt.Sprintf("the fleet has its %d cells already; raise cells, or take the label off", number))
		}
	}
	m.sort()
	return m
}

// byKeep sorts ShopSets by who is to be kept first.
func byKeep(fleet *v1alpha1.Fleet, list []*v1alpha1.ShopSet) {
	mentioned := map[string]bool{}
	if placement := fleet.Spec.Placement; placement != nil {
		for _, pin := range placement.Pins {
			mentioned[pin.Cell] = true
		}
		for name := range placement.Weights {
			mentioned[name] = true
		}
	}
	rank := func(ss *v1alpha1.ShopSet) int {
		switch {
		case !ss.DeletionTimestamp.IsZero():
			return 4
		case ss.Annotations[v1alpha1.AnnotationDrainedBy] == v1alpha1.DrainedByFleet:
			return 3
		case mentioned[ss.Name]:
			return 0
		case ss.Spec.Traffic == v1alpha1.TrafficDrain:
			return 2
		default:
			return 1
		}
	}
	slices.SortStableFunc(list, func(a, b *v1alpha1.ShopSet) int {
		if difference := rank(a) - rank(b); difference != 0 {
			return difference
		}
		return compareNames(a.Name, b.Name)
	})
}

// compareNames puts main-2 before main-10. What is before the number comes first, so that any names have one order.
func compareNames(a, b string) int {
	stem := func(name string) (string, int) {
		at := strings.LastIndexByte(name, '-')
		if number, err := strconv.Atoi(name[at+1:]); err == nil && at >= 0 {
			return name[:at], number
		}
		return name, -1
	}
	stemA, numberA := stem(a)
	stemB, numberB := stem(b)
	return cmp.Or(strings.Compare(stemA, stemB), cmp.Compare(numberA, numberB), strings.Compare(a, b))
}

// takenBy says whose a ShopSet is that the fleet may not take, empty if it may.
func takenBy(fleet *v1alpha1.Fleet, ss *v1alpha1.ShopSet) string {
	switch {
	case ss == nil || owned(fleet, ss) || formers(fleet, ss):
		return ""
	case !free(ss):
		owner := metav1.GetControllerOf(ss)
		return owner.Kind + " " + owner.Name
	case ss.Labels[v1alpha1.LabelFleet] != "" && !labelled(fleet, ss):
		return "Fleet " + ss.Labels[v1alpha1.LabelFleet] + ", as its label says"
	default:
		return ""
	}
}

// formers says whether a ShopSet is that of a Fleet of the same name which was deleted: Kubernetes deletes it, too, and the
// cells of the new Fleet shall not get other names because that takes as long as a drain.
func formers(fleet *v1alpha1.Fleet, ss *v1alpha1.ShopSet) bool {
	owner := metav1.GetControllerOf(ss)
	return owner != nil && owner.Kind == "Fleet" && owner.Name == fleet.Name && owner.UID != fleet.UID
}

// want adds a cell that there shall be.
func (m *members) want(fleet *v1alpha1.Fleet, name string, ss *v1alpha1.ShopSet, named *v1alpha1.NamedCell) {
	cell := &member{name: name, shopSet: ss, named: named, taken: takenBy(fleet, ss), former: ss != nil && formers(fleet, ss)}
	if cell.taken != "" || cell.former {
		cell.shopSet = nil
	}
	m.wanted = append(m.wanted, cell)
}

// surplus lets a cell of the fleet go that is not wanted, and says of others why they are not taken.
func (m *members) surplus(fleet *v1alpha1.Fleet, ss *v1alpha1.ShopSet, why string) {
	switch {
	case owned(fleet, ss):
		m.leaving = append(m.leaving, &member{name: ss.Name, shopSet: ss})
	case labelled(fleet, ss) && free(ss):
		m.notes = append(m.notes, fmt.Sprintf("ShopSet %s has the label of this fleet and is not taken: %s", ss.Name, why))
	}
}

func (m *members) sort() {
	byName := func(a, b *member) int { return compareNames(a.name, b.name) }
	slices.SortFunc(m.wanted, byName)
	slices.SortFunc(m.leaving, byName)
}

func (m *members) all() []*member {
	result := append(slices.Clone(m.wanted), m.leaving...)
	slices.SortFunc(result, func(a, b *member) int { return compareNames(a.name, b.name) })
	return result
}
