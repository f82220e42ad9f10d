package fleet

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/shopset/shopset/api/v1alpha1"
	"github.com/shopset/shopset/internal/cell"
	"github.com/shopset/shopset/internal/placement"
	"github.com/shopset/shopset/internal/routetable"
)

const (
	defaultWeight      = 100
	defaultMaxFailover = 50
)

// Ports of the edge that routers dial.
const (
	PortHTTPS = "https"
	PortHTTP  = "http"
)

// currentPins are those that have not ended, and when the next one ends.
func currentPins(fleet *v1alpha1.Fleet, now time.Time) (pins []v1alpha1.Pin, next time.Time) {
	if fleet.Spec.Placement == nil {
		return nil, next
	}
	for _, pin := range fleet.Spec.Placement.Pins {
		if pin.Until != nil {
			if !now.Before(pin.Until.Time) {
				continue
			}
			if next.IsZero() || pin.Until.Time.Before(next) {
				next = pin.Until.Time
			}
		}
		pins = append(pins, pin)
	}
	return pins, next
}

func weightsOf(fleet *v1alpha1.Fleet, members *members) map[string]uint32 {
	weights := map[string]uint32{}
	for _, cell := range members.wanted {
		weight := int32(defaultWeight)
		if cell.named != nil && cell.named.Weight != nil {
			weight = *cell.named.Weight
		}
		if fleet.Spec.Placement != nil {
			if stated, found := fleet.Spec.Placement.Weights[cell.name]; found {
				weight = stated
			}
		}
		weights[cell.name] = uint32(max(weight, 0))
	}
	return weights
}

func bounds(fleet *v1alpha1.Fleet) (shardSize int, maxShare float64, maxFailover int) {
	maxFailover = defaultMaxFailover
	if p := fleet.Spec.Placement; p != nil {
		if p.ShardSize != nil {
			shardSize = int(*p.ShardSize)
		}
		if p.MaxShare != nil {
			maxShare = float64(*p.MaxShare) / 100
		}
		if p.MaxFailover != nil {
			maxFailover = int(*p.MaxFailover)
		}
	}
	return shardSize, maxShare, maxFailover
}

// problems are all that the schema cannot say.
func problems(fleet *v1alpha1.Fleet, members *members, pins []v1alpha1.Pin, weights map[string]uint32) (result []error) {
	bad := func(format string, values ...any) { result = append(result, fmt.Errorf(format, values...)) }
	names := slices.SortedFunc(maps.Keys(weights), compareNames)
	known := map[string]bool{}
	withWeight := 0
	for _, cell := range members.wanted {
		known[cell.name] = true
		if weights[cell.name] > 0 {
			withWeight++
		}
		if cell.taken != "" {
			bad("cell %s: a ShopSet of that name is there and belongs to %s; delete it or rename the cell", cell.name, cell.taken)
		}
	}
	shardSize, maxShare, _ := bounds(fleet)
	if err := placement.Need(withWeight, shardSize, maxShare); err != nil {
		bad("spec.placement: %w", err)
	}
	if withWeight == 0 {
		bad("spec.placement.weights: every cell has weight 0, so no host has a cell; give one of them a weight")
	}
	if fleet.Spec.Placement != nil {
		for _, name := range slices.SortedFunc(maps.Keys(fleet.Spec.Placement.Weights), compareNames) {
			if !known[name] {
				bad("spec.placement.weights: %q is not a cell of the fleet; its cells are %s", name, list(names))
			}
		}
	}
	// What placement itself finds wrong with the pins, against the cells that there shall be.
	config := placement.Config{}
	for _, name := range names {
		config.Cells = append(config.Cells, placement.Cell{Name: name, Weight: 1})
	}
	for _, pin := range pins {
		if !known[pin.Cell] {
			bad("spec.placement.pins: host %q is pinned to cell %q, which is not a cell of the fleet; its cells are %s", pin.Host, pin.Cell, list(names))
			continue
		}
		config.Pins = append(config.Pins, placement.Pin{Host: pin.Host, Cell: pin.Cell})
	}
	_, err := placement.New(config)
	for _, err := range each(err) {
		bad("spec.placement: %w", err)
	}
	for _, key := range reservedKeys(fleet) {
		bad("spec: a template or a cell sets %q; labels and annotations of shopset.dev/ are the operator's own, leave it out", key)
	}
	edge := edgeOf(&fleet.Spec.Template.Spec)
	if edge == nil || !slices.ContainsFunc(edge.Ports, func(p v1alpha1.Port) bool { return p.Name == PortHTTPS || p.Name == PortHTTP }) {
		bad("spec.template.spec.components: the edge has no port named %s or %s, so routers have nowhere to go; name one of its ports so", PortHTTPS, PortHTTP)
	}
	return bounded(result)
}

// each gives the errors that were joined, so that a bound counts them.
func each(err error) []error {
	if err == nil {
		return nil
	}
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		return joined.Unwrap()
	}
	return []error{err}
}

// reservedKeys are the labels and annotations of the spec by which the operator tells what it did itself: a template that
// sets shopset.dev/drained-by would undo what a human drains.
func reservedKeys(fleet *v1alpha1.Fleet) []string {
	found := map[string]bool{}
	note := func(entries map[string]string) {
		for key := range entries {
			if strings.HasPrefix(key, "shopset.dev/") {
				found[key] = true
			}
		}
	}
	note(fleet.Spec.Template.Metadata.Labels)
	note(fleet.Spec.Template.Metadata.Annotations)
	for i := range fleet.Spec.NamedCells {
		note(fleet.Spec.NamedCells[i].Labels)
	}
	return slices.Sorted(maps.Keys(found))
}

// maxProblems bounds what is said about a spec with thousands of pins.
const maxProblems = 20

func bounded(problems []error) []error {
	if len(problems) <= maxProblems {
		return problems
	}
	return append(problems[:maxProblems:maxProblems], fmt.Errorf("and %d more", len(problems)-maxProblems))
}

func list(names []string) string {
	if len(names) > 10 {
		return strings.Join(names[:10], ", ") + fmt.Sprintf(" and %d more", len(names)-10)
	}
	return strings.Join(names, ", ")
}

func edgeOf(spec *v1alpha1.ShopSetSpec) *v1alpha1.Component {
	for i := range spec.Components {
		if spec.Components[i].Edge {
			return &spec.Components[i]
		}
	}
	return nil
}

// buildTable says who serves which hosts from now on.
func buildTable(fleet *v1alpha1.Fleet, seen Seen, states map[string]state, pins []v1alpha1.Pin, weights map[string]uint32, plan *Plan) *routetable.Table {
	shardSize, maxShare, maxFailover := bounds(fleet)
	table := &routetable.Table{Format: routetable.Format, Fleet: fleet.Namespace + "/" + fleet.Name, ShardSize: shardSize, MaxFailover: maxFailover}
	var active []placement.Cell
	names := slices.SortedFunc(maps.Keys(states), cmp.Compare[string])
	for _, name := range names {
		if states[name].state == v1alpha1.CellActive && weights[name] > 0 {
			active = append(active, placement.Cell{Name: name, Weight: weights[name]})
		}
	}
	if maxShare > 0 && len(active) > 0 {
		if placement.Need(len(active), 0, maxShare) != nil {
			plan.Notes = append(plan.Notes, fmt.Sprintf("maxShare %d%% is not kept while only %d cells take hosts: each has its even share",
				int(maxShare*100+0.5), len(active)))
			maxShare = 1 / float64(len(active))
		}
		// Weights are bounded by the schema, and there are enough cells now, so this cannot fail.
		if capped, err := placement.Cap(active, maxShare); err != nil {
			plan.Problem = errors.Join(plan.Problem, err)
		} else {
			active = capped
		}
	}
	effective := map[string]uint32{}
	for _, cell := range active {
		effective[cell.Name] = cell.Weight
	}
	for _, name := range names {
		if states[name].state == v1alpha1.CellLeaving && len(names) > routetable.MaxCells {
			continue // There is no room, and one that is not in the table takes no hosts either.
		}
		entry := routetable.Cell{Name: name, State: routetable.Drain, Endpoints: seen.Endpoints[name], Probe: probeOf(fleet, states[name].shopSet)}
		if states[name].state == v1alpha1.CellActive {
			entry.State, entry.Weight = routetable.Active, effective[name]
		}
		table.Cells = append(table.Cells, entry)
	}
	for _, pin := range pins {
		host, _ := placement.NormalisePin(pin.Host) // Checked among the problems.
		table.Pins = append(table.Pins, routetable.Pin{Host: host, Cell: pin.Cell})
	}
	return table.Canonical()
}

// refreshTable goes on from the last table while the spec is not to be used: the same placement, with the endpoints
// and the drains of today.
func refreshTable(fleet *v1alpha1.Fleet, seen Seen, states map[string]state) *routetable.Table {
	table := seen.Table.Canonical()
	table.Epoch, table.Version, table.Created = 0, 0, time.Time{}
	for i := range table.Cells {
		entry := &table.Cells[i]
		now, found := states[entry.Name]
		if !found || now.shopSet == nil || !now.shopSet.DeletionTimestamp.IsZero() || now.shopSet.Spec.Traffic == v1alpha1.TrafficDrain {
			entry.State = routetable.Drain
		} else if entry.Weight > 0 && now.state == v1alpha1.CellActive {
			entry.State = routetable.Active
		}
		entry.Endpoints = seen.Endpoints[entry.Name]
		if found {
			entry.Probe = probeOf(fleet, now.shopSet)
		}
	}
	return table.Canonical()
}

// probeOf is where the edge tells its health: that of the ShopSet as it is, for it may be at an earlier template.
func probeOf(fleet *v1alpha1.Fleet, ss *v1alpha1.ShopSet) *routetable.Probe {
	spec := &fleet.Spec.Template.Spec
	if ss != nil {
		spec = &ss.Spec
	}
	edge := edgeOf(spec)
	if edge == nil || edge.Health == nil {
		return nil
	}
	path := cmp.Or(edge.Health.ServingPath, edge.Health.ReadyPath, edge.Health.Path)
	if path == "" {
		return nil
	}
	port := cell.PortNumber(edge, edge.Health.Port)
	if port < 1 || port > 65535 {
		return nil
	}
	return &routetable.Probe{Port: uint16(port), Path: path}
}
