package kubectl

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/shopset/shopset/api/v1alpha1"
	"github.com/shopset/shopset/internal/placement"
	"github.com/shopset/shopset/internal/routetable"
)

type moveOptions struct {
	trafficOptions
	fleet string
	back  bool
	span  time.Duration
}

func (t *tool) moveCommand() *cobra.Command {
	o := &moveOptions{}
	c := &cobra.Command{
		Use:   "move HOST --to CELL | --back",
		Short: "Pin a host to a cell, or let the function place it again",
		Example: `  kubectl shopset move shop.example --to main-2 --for 2h
  kubectl shopset move '*.shop.example' --to main-2     # all names below shop.example
  kubectl shopset move shop.example --back`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			switch {
			case o.back == (o.to != ""):
				return usage(c, fmt.Errorf("say where to: --to CELL, or --back"))
			case o.back && c.Flags().Changed("for"), c.Flags().Changed("for") && o.span < time.Second:
				return usage(c, fmt.Errorf("--for is how long --to holds, as in 2h"))
			}
			if err := t.connect(); err != nil {
				return err
			}
			return t.move(c.Context(), args[0], o)
		},
	}
	c.Flags().StringVar(&o.to, "to", "", "the cell")
	c.Flags().BoolVar(&o.back, "back", false, "remove the pin of the host")
	c.Flags().DurationVar(&o.span, "for", 0, "end the pin by itself after this time, as in 2h")
	c.Flags().StringVar(&o.fleet, "fleet", "", "name of the Fleet, if there are several")
	o.waitFlags(c, "a routing table is published that says so")
	return c
}

func (t *tool) move(ctx context.Context, host string, o *moveOptions) error {
	name, err := placement.NormalisePin(host)
	if err != nil {
		return fmt.Errorf("%w; give a host name, or *.example.com for all names below example.com", err)
	}
	f, err := t.getFleet(ctx, o.fleet)
	if err != nil {
		return err
	}
	if o.back {
		err = t.moveBack(ctx, f, name)
	} else {
		err = t.moveTo(ctx, f, name, o)
	}
	if err != nil || !o.wait {
		return err
	}
	return t.await(ctx, o.timeout, func(ctx context.Context) (bool, string, error) {
		table, err := t.publishedTable(ctx, f, "")
		if err != nil {
			return false, "", err
		}
		at := slices.IndexFunc(table.Pins, func(p routetable.Pin) bool { return p.Host == name })
		if o.back && at < 0 || !o.back && at >= 0 && table.Pins[at].Cell == o.to {
			return true, fmt.Sprintf("published in version %d of the routing table", table.Version), nil
		}
		return false, "waiting for the operator to publish it", nil
	})
}

func (t *tool) moveTo(ctx context.Context, f *v1alpha1.Fleet, name string, o *moveOptions) error {
	view, err := t.viewOf(ctx, f, "")
	if err != nil {
		return err
	}
	if cells := view.cells(t.now()); !slices.Contains(cells, o.to) {
		return fmt.Errorf("%s is no cell of fleet %s; there is %s", o.to, f.Name, listed(cells))
	}
	pin := v1alpha1.Pin{Host: name, Cell: o.to}
	until := ""
	if o.span > 0 {
		end := metav1.NewTime(t.now().Add(o.span).Truncate(time.Second))
		pin.Until, until = &end, " until "+end.UTC().Format(time.RFC3339)
	}
	before := ""
	if err := edit(ctx, t, f, func(f *v1alpha1.Fleet) error {
		if f.Spec.Placement == nil {
			f.Spec.Placement = &v1alpha1.FleetPlacement{}
		}
		if at := pinOf(f, name); at >= 0 {
			before = f.Spec.Placement.Pins[at].Cell
			f.Spec.Placement.Pins[at] = pin
		} else {
			f.Spec.Placement.Pins = append(f.Spec.Placement.Pins, pin)
		}
		return nil
	}); err != nil {
		return err
	}
	from := ""
	if before != "" && before != o.to {
		from = ", no longer to " + before
	}
	fmt.Fprintf(t.Out, "%s is pinned to %s%s%s\n", name, o.to, from, until)
	for _, cell := range view.decide(t.now()).Cells {
		if cell.Name == o.to && cell.State != v1alpha1.CellActive {
			fmt.Fprintf(t.ErrOut, "kubectl shopset: %s takes no hosts now (%s), and until it does the pin has no effect\n", o.to, cell.State)
		}
	}
	return nil
}

func (t *tool) moveBack(ctx context.Context, f *v1alpha1.Fleet, name string) error {
	cell := ""
	if err := edit(ctx, t, f, func(f *v1alpha1.Fleet) error {
		at := pinOf(f, name)
		if at < 0 {
			return notPinned(f, name)
		}
		cell = f.Spec.Placement.Pins[at].Cell
		f.Spec.Placement.Pins = slices.Delete(f.Spec.Placement.Pins, at, at+1)
		return nil
	}); err != nil {
		return err
	}
	fmt.Fprintf(t.Out, "%s is no longer pinned to %s\n", name, cell)
	return nil
}

// notPinned says which pin holds the host, if another one does.
func notPinned(f *v1alpha1.Fleet, name string) error {
	for _, rest, more := strings.Cut(name, "."); more; _, rest, more = strings.Cut(rest, ".") {
		if at := pinOf(f, "*."+rest); at >= 0 && "*."+rest != name {
			return fmt.Errorf("%s itself is not pinned; *.%s holds it at %s: move '*.%s' --back, or move %s --to another cell",
				name, rest, f.Spec.Placement.Pins[at].Cell, rest, name)
		}
	}
	return fmt.Errorf("%s is not pinned in fleet %s; kubectl shopset explain %s says why it is where it is", name, f.Name, name)
}
