package kubectl

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/shopset/shopset/api/v1alpha1"
	"github.com/shopset/shopset/internal/placement"
	"github.com/shopset/shopset/internal/routetable"
)

// drainedByHand is the value of v1alpha1.AnnotationDrainedBy for what this program drains.
const drainedByHand = manager

type trafficOptions struct {
	wait, force bool
	timeout     time.Duration
	to          string
}

func (o *trafficOptions) waitFlags(c *cobra.Command, what string) {
	c.Flags().BoolVar(&o.wait, "wait", false, "wait until "+what)
	c.Flags().DurationVar(&o.timeout, "timeout", 10*time.Minute, "how long --wait waits; the exit code is 1 then")
}

func (o *trafficOptions) forceFlag(c *cobra.Command) {
	c.Flags().BoolVar(&o.force, "force", false, "do it even if the other cells may not or cannot take the hosts")
}

// onCell makes a command that does something with one cell.
func (t *tool) onCell(use, short string, do func(ctx context.Context, ss *v1alpha1.ShopSet) error) *cobra.Command {
	return &cobra.Command{
		Use: use + " CELL", Short: short, Args: cobra.ExactArgs(1), ValidArgsFunction: t.complete(shopSetList),
		RunE: func(c *cobra.Command, args []string) error {
			if err := t.connect(); err != nil {
				return err
			}
			ss, err := t.getShopSet(c.Context(), args[0])
			if err != nil {
				return err
			}
			return do(c.Context(), ss)
		},
	}
}

func (t *tool) drainCommand() *cobra.Command {
	o := &trafficOptions{}
	c := t.onCell("drain", "Move the traffic of a cell to the others", func(ctx context.Context, ss *v1alpha1.ShopSet) error {
		return t.drain(ctx, ss, o)
	})
	o.waitFlags(c, "the cell is idle: no connection is open any more")
	o.forceFlag(c)
	return c
}

func (t *tool) undrainCommand() *cobra.Command {
	o := &trafficOptions{}
	c := t.onCell("undrain", "Let a drained cell take hosts again", func(ctx context.Context, ss *v1alpha1.ShopSet) error {
		return t.undrain(ctx, ss, o)
	})
	o.waitFlags(c, "the cell is ready and takes hosts")
	return c
}

func (t *tool) evacuateCommand() *cobra.Command {
	o := &trafficOptions{}
	c := t.onCell("evacuate", "Drain a cell, and remove the pins to it or move them to another one", func(ctx context.Context, ss *v1alpha1.ShopSet) error {
		return t.evacuate(ctx, ss, o)
	})
	c.Long = `Drain a cell for good: drain leaves pins to the cell as they are, so that its hosts come back with undrain;
evacuate removes them, or moves them to another cell by --to.`
	c.Flags().StringVar(&o.to, "to", "", "the cell that the pins go to")
	o.waitFlags(c, "the cell is idle: no connection is open any more")
	o.forceFlag(c)
	return c
}

// fleetViewOf is the view of the Fleet of a cell, nil if it has none.
func (t *tool) fleetViewOf(ctx context.Context, ss *v1alpha1.ShopSet) (*fleetView, error) {
	name := fleetOf(ss)
	if name == "" {
		return nil, nil
	}
	f, err := t.getFleet(ctx, name)
	if err != nil {
		return nil, err
	}
	return t.viewOf(ctx, f, "")
}

func (t *tool) drain(ctx context.Context, ss *v1alpha1.ShopSet, o *trafficOptions) error {
	view, err := t.fleetViewOf(ctx, ss)
	if err != nil {
		return err
	}
	if err := t.mayDrain(view, ss, o.force); err != nil {
		return err
	}
	was := ss.Spec.Traffic
	if err := t.setTraffic(ctx, ss, v1alpha1.TrafficDrain); err != nil {
		return err
	}
	if view != nil && !o.force && was != v1alpha1.TrafficDrain {
		if err := t.stillMayDrain(ctx, ss); err != nil {
			return err
		}
	}
	if view == nil {
		fmt.Fprintf(t.Out, "%s drains; it is in no fleet: whoever sends traffic to it must know where else to go\n", ss.Name)
	} else {
		fmt.Fprintf(t.Out, "%s drains; its hosts go to the other cells of fleet %s\n", ss.Name, view.fleet.Name)
	}
	if !o.wait {
		return nil
	}
	return t.await(ctx, o.timeout, t.idleness(ss, view))
}

// mayDrain refuses to take a cell away from hosts that the others may not or cannot take.
func (t *tool) mayDrain(view *fleetView, ss *v1alpha1.ShopSet, force bool) error {
	if !ss.DeletionTimestamp.IsZero() {
		return fmt.Errorf("%s is being deleted, which drains it; kubectl shopset status shows how far it is", ss.Name)
	}
	if view == nil {
		return nil
	}
	if fixed := trafficOfNamed(view.fleet, ss.Name); fixed == v1alpha1.TrafficActive {
		return fmt.Errorf("spec.namedCells of Fleet %s says traffic: Active for %s, and the operator would set it back; say Drain there, or nothing", view.fleet.Name, ss.Name)
	}
	if force || ss.Spec.Traffic == v1alpha1.TrafficDrain {
		return nil
	}
	if problem := drainProblem(view, ss.Name, t.now()); problem != nil {
		return fmt.Errorf("%s is not drained: %w; or do it anyway by --force", ss.Name, problem)
	}
	return nil
}

// stillMayDrain takes a drain back if others have drained cells at the same moment, each of which could have gone alone.
func (t *tool) stillMayDrain(ctx context.Context, ss *v1alpha1.ShopSet) error {
	view, err := t.fleetViewOf(ctx, ss)
	if err != nil || view == nil {
		return err
	}
	problem := drainProblem(view, ss.Name, t.now())
	if problem == nil {
		return nil
	}
	if err := t.setTraffic(ctx, ss, v1alpha1.TrafficActive); err != nil {
		return fmt.Errorf("%s is drained, though %w; and it could not be taken back: %w", ss.Name, problem, err)
	}
	return fmt.Errorf("%s is not drained: %w; or do it anyway by --force", ss.Name, problem)
}

// drainProblem asks the operator's decision what the fleet would be without the cell.
func drainProblem(view *fleetView, name string, now time.Time) error {
	without := *view
	without.shopSets = slices.Clone(view.shopSets)
	for i, ss := range without.shopSets {
		if ss.Name == name {
			without.shopSets[i] = ss.DeepCopy()
			without.shopSets[i].Spec.Traffic = v1alpha1.TrafficDrain
			delete(without.shopSets[i].Annotations, v1alpha1.AnnotationDrainedBy)
		}
	}
	plan := without.decide(now)
	if plan.Table == nil {
		return fmt.Errorf("the spec of Fleet %s cannot be used, and no table is published that says who else takes hosts: %w", view.fleet.Name, plan.Problem)
	}
	active, ready := 0, 0
	for _, entry := range plan.Table.Cells {
		if entry.State != routetable.Active || entry.Weight == 0 {
			continue
		}
		active++
		if ss := view.shopSet(entry.Name); ss != nil && cellReport(ss).Well {
			ready++
		}
	}
	switch maxShare := view.fleet.Spec.Placement; {
	case active == 0:
		return errors.New("no other cell takes hosts, so they would have none; undrain another one first")
	case ready == 0:
		return errors.New("no other cell that takes hosts is ready; mend one first (kubectl shopset status)")
	case maxShare != nil && maxShare.MaxShare != nil:
		return placement.Need(active, 0, float64(*maxShare.MaxShare)/100)
	default:
		return nil
	}
}

func trafficOfNamed(f *v1alpha1.Fleet, name string) v1alpha1.Traffic {
	for _, named := range f.Spec.NamedCells {
		if named.Name == name {
			return named.Traffic
		}
	}
	return ""
}

// setTraffic writes spec.traffic, and who did it.
func (t *tool) setTraffic(ctx context.Context, ss *v1alpha1.ShopSet, traffic v1alpha1.Traffic) error {
	return edit(ctx, t, ss, func(ss *v1alpha1.ShopSet) error {
		if ss.Spec.Traffic = traffic; traffic == v1alpha1.TrafficActive {
			delete(ss.Annotations, v1alpha1.AnnotationDrainedBy)
		} else {
			metav1.SetMetaDataAnnotation(&ss.ObjectMeta, v1alpha1.AnnotationDrainedBy, drainedByHand)
		}
		return nil
	})
}

func (t *tool) undrain(ctx context.Context, ss *v1alpha1.ShopSet, o *trafficOptions) error {
	view, err := t.fleetViewOf(ctx, ss)
	if err != nil {
		return err
	}
	switch {
	case !ss.DeletionTimestamp.IsZero():
		return fmt.Errorf("%s is being deleted, and nothing brings it back; make it anew when it is gone", ss.Name)
	case view != nil && ss.Annotations[v1alpha1.AnnotationDrainedBy] == v1alpha1.DrainedByFleet:
		return fmt.Errorf("%s leaves Fleet %s, which drains it; to keep it, give it a place in spec.cells or spec.namedCells", ss.Name, view.fleet.Name)
	case view != nil && trafficOfNamed(view.fleet, ss.Name) == v1alpha1.TrafficDrain:
		return fmt.Errorf("spec.namedCells of Fleet %s says traffic: Drain for %s, and the operator would set it back; take it out there", view.fleet.Name, ss.Name)
	}
	if err := t.setTraffic(ctx, ss, v1alpha1.TrafficActive); err != nil {
		return err
	}
	fmt.Fprintf(t.Out, "%s takes hosts again as soon as it is ready\n", ss.Name)
	if !o.wait {
		return nil
	}
	return t.await(ctx, o.timeout, t.readiness(ss, view))
}

func (t *tool) evacuate(ctx context.Context, ss *v1alpha1.ShopSet, o *trafficOptions) error {
	view, err := t.fleetViewOf(ctx, ss)
	if err != nil {
		return err
	}
	if view == nil {
		return fmt.Errorf("%s is in no fleet, so it has no pins; kubectl shopset drain %s takes it out of service", ss.Name, ss.Name)
	}
	if cells := view.cells(t.now()); o.to != "" && (o.to == ss.Name || !slices.Contains(cells, o.to)) {
		return fmt.Errorf("--to %s is no other cell of fleet %s; there is %s", o.to, view.fleet.Name,
			listed(slices.DeleteFunc(cells, func(name string) bool { return name == ss.Name })))
	}
	// What may not be drained shall keep its pins.
	if err := t.mayDrain(view, ss, o.force); err != nil {
		return err
	}
	if err := t.movePins(ctx, view.fleet, ss.Name, o.to); err != nil {
		return err
	}
	return t.drain(ctx, ss, o)
}

// movePins moves all pins of a cell to another one, or removes them, and says which.
func (t *tool) movePins(ctx context.Context, f *v1alpha1.Fleet, from, to string) error {
	var moved []v1alpha1.Pin
	err := edit(ctx, t, f, func(f *v1alpha1.Fleet) error {
		moved = nil
		if f.Spec.Placement == nil {
			return nil
		}
		var pins []v1alpha1.Pin
		for _, pin := range f.Spec.Placement.Pins {
			if pin.Cell == from {
				moved = append(moved, pin)
				if pin.Cell = to; to == "" {
					continue
				}
			}
			pins = append(pins, pin)
		}
		f.Spec.Placement.Pins = pins
		return nil
	})
	if err != nil {
		return err
	}
	for _, pin := range moved {
		if to == "" {
			fmt.Fprintf(t.Out, "pin of %s to %s removed\n", pin.Host, from)
		} else {
			fmt.Fprintf(t.Out, "pin of %s moved from %s to %s\n", pin.Host, from, to)
		}
	}
	return nil
}

// idleness is done when routers know that the cell is drained and nobody uses it.
func (t *tool) idleness(ss *v1alpha1.ShopSet, view *fleetView) func(context.Context) (bool, string, error) {
	return func(ctx context.Context) (bool, string, error) {
		if err := t.client.Get(ctx, client.ObjectKeyFromObject(ss), ss); err != nil {
			return false, "", err
		}
		if ss.Spec.Traffic != v1alpha1.TrafficDrain {
			return false, "", fmt.Errorf("%s is not drained any more: somebody has set traffic: %s meanwhile", ss.Name, ss.Spec.Traffic)
		}
		idle := condition(ss, ss.Status.Conditions, v1alpha1.ConditionIdle)
		if idle == nil {
			return false, ss.Name + ": waiting for the operator", nil
		}
		if idle.Status == metav1.ConditionTrue {
			if known, err := t.tableSays(ctx, view, ss.Name, routetable.Drain); err != nil || !known {
				return false, ss.Name + ": waiting for a routing table that says so", err
			}
			return true, ss.Name + " is idle: " + idle.Message, nil
		}
		open := ""
		if ss.Status.Connections != nil {
			open = count(int(*ss.Status.Connections), "connection open", "connections open")
		}
		return false, ss.Name + ": " + joined(open, idle.Message), nil
	}
}

func (t *tool) readiness(ss *v1alpha1.ShopSet, view *fleetView) func(context.Context) (bool, string, error) {
	return func(ctx context.Context) (bool, string, error) {
		if err := t.client.Get(ctx, client.ObjectKeyFromObject(ss), ss); err != nil {
			return false, "", err
		}
		if report := cellReport(ss); !report.Well {
			return false, ss.Name + ": " + unwellMessage(&report), nil
		}
		if known, err := t.tableSays(ctx, view, ss.Name, routetable.Active); err != nil || !known {
			return false, ss.Name + ": waiting for a routing table that says so", err
		}
		return true, ss.Name + " is ready and takes hosts", nil
	}
}

// tableSays whether routers can know the state of a cell. A cell of no fleet is in no table.
func (t *tool) tableSays(ctx context.Context, view *fleetView, name string, state routetable.State) (bool, error) {
	if view == nil {
		return true, nil
	}
	table, err := t.publishedTable(ctx, view.fleet, "")
	if err != nil {
		return false, err
	}
	at := slices.IndexFunc(table.Cells, func(c routetable.Cell) bool { return c.Name == name })
	if at < 0 {
		return state == routetable.Drain, nil
	}
	return table.Cells[at].State == state, nil
}

// lookEvery is how often a wait looks.
const lookEvery = 250 * time.Millisecond

// await looks until it is done, and says what it waits for whenever that is something else.
func (t *tool) await(ctx context.Context, timeout time.Duration, look func(context.Context) (done bool, message string, err error)) error {
	limit, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	last := ""
	for {
		done, message, err := look(limit)
		switch {
		case limit.Err() != nil && ctx.Err() == nil:
			return notInTime{fmt.Errorf("not within %s: %s", timeout, cmp.Or(last, "the API server did not answer"))}
		case err != nil && !passes(err):
			return err
		case err != nil: // What was set stays set; that the API server is away for a moment is no end of the wait.
			message = sentence(err)
		}
		if message != last {
			fmt.Fprintln(t.Out, message)
			last = message
		}
		if done {
			return nil
		}
		select {
		case <-limit.Done():
		case <-time.After(lookEvery):
		}
	}
}
