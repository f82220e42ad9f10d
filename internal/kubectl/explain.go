package kubectl

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/shopset/shopset/internal/placement"
)

// Explained is what explain says, and its JSON.
type Explained struct {
	// Host in its normal form, with the hash that places it.
	Host  string `json:"host"`
	Hash  string `json:"hash"`
	Fleet string `json:"fleet"`
	Epoch uint64 `json:"epoch"`
	// Version of the routing table that says so.
	Version uint64 `json:"version"`
	// Pin applies, unless its cell is drained.
	Pin        string `json:"pin,omitempty"`
	PinnedTo   string `json:"pinnedTo,omitempty"`
	PinDrained bool   `json:"pinDrained,omitempty"`
	// PinUntil is when it ends by itself.
	PinUntil *time.Time `json:"pinUntil,omitempty"`
	// Cells in the order in which they would serve the host.
	Cells []ExplainedCell `json:"cells"`
}

// ExplainedCell is one cell, as the host sees it.
type ExplainedCell struct {
	Name   string  `json:"name"`
	Why    string  `json:"why"`
	Weight uint32  `json:"weight"`
	Score  float64 `json:"score"`
	// Serves says that the cell may serve the host at all.
	Serves bool `json:"serves"`
	Well   bool `json:"well"`
	// Message says why it is not well.
	Message string `json:"message,omitempty"`
}

func (t *tool) explainCommand() *cobra.Command {
	var fleet, keys, output string
	c := &cobra.Command{
		Use:   "explain HOST",
		Short: "Say why a host is on its cell, what would serve it next, and whether that is well",
		Args:  cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if output != "" && output != "json" {
				return usage(c, fmt.Errorf("-o %s is unknown; it is json", output))
			}
			if err := t.connect(); err != nil {
				return err
			}
			explained, err := t.explain(c.Context(), args[0], fleet, keys)
			if err != nil {
				return err
			}
			if output == "json" {
				return printJSON(t.Out, explained)
			}
			newPrinter(t.Out).explained(explained)
			return nil
		},
	}
	c.Flags().StringVar(&fleet, "fleet", "", "name of the Fleet, if there are several")
	c.Flags().StringVar(&keys, "keys", "", "file with the public keys that routers trust; those that the operator publishes if not given")
	c.Flags().StringVarP(&output, "output", "o", "", "json")
	return c
}

func (t *tool) explain(ctx context.Context, host, fleet, keys string) (*Explained, error) {
	f, err := t.getFleet(ctx, fleet)
	if err != nil {
		return nil, err
	}
	view, err := t.viewOf(ctx, f, keys)
	if err != nil {
		return nil, err
	}
	if view.noTable != nil {
		return nil, view.noTable
	}
	function, err := view.table.Function()
	if err != nil {
		return nil, err
	}
	found, err := function.Explain(host)
	if err != nil {
		return nil, fmt.Errorf("%w; give a host name as it is in a URL", err)
	}
	return newExplained(view, &found), nil
}

func newExplained(view *fleetView, found *placement.Explanation) *Explained {
	result := &Explained{Host: found.Host, Hash: fmt.Sprintf("%016x", found.Hash), Fleet: view.table.Fleet,
		Epoch: view.table.Epoch, Version: view.table.Version, Pin: found.Pin, PinnedTo: found.PinnedTo, PinDrained: found.PinDrained}
	if at := pinOf(view.fleet, found.Pin); found.Pin != "" && at >= 0 {
		if until := view.fleet.Spec.Placement.Pins[at].Until; until != nil {
			result.PinUntil = &until.Time
		}
	}
	for i, candidate := range found.Candidates {
		cell := ExplainedCell{Name: candidate.Cell, Why: found.Why(i), Weight: candidate.Weight, Score: candidate.Score, Serves: candidate.InShard,
			Message: "there is no such ShopSet any more"}
		if ss := view.shopSet(candidate.Cell); ss != nil {
			report := cellReport(ss)
			cell.Well, cell.Message = report.Well, ""
			if !report.Well {
				cell.Message = unwellMessage(&report)
			}
		}
		result.Cells = append(result.Cells, cell)
	}
	return result
}

// unwellMessage is what a cell that is not well says in one line.
func unwellMessage(cell *CellReport) string {
	var parts []string
	if cell.Message != "" {
		parts = append(parts, cell.Message)
	}
	for _, component := range cell.Components {
		if !component.Well {
			parts = append(parts, component.Name+": "+component.Message)
		}
	}
	return joined(parts...)
}

func (p *printer) explained(e *Explained) {
	fmt.Fprintf(p, "%s in fleet %s, by version %d of its routing table (epoch %d)\n", p.paint(column{e.Host, bold}), e.Fleet, e.Version, e.Epoch)
	until := ""
	if e.PinUntil != nil {
		until = " until " + e.PinUntil.UTC().Format(time.RFC3339)
	}
	switch {
	case e.PinDrained:
		fmt.Fprintf(p, "pinned to %s by %s%s, but that cell takes no hosts: placed by the function, as if there were no pin\n", e.PinnedTo, e.Pin, until)
	case e.Pin != "":
		fmt.Fprintf(p, "pinned to %s by %s%s; the others by the function\n", e.PinnedTo, e.Pin, until)
	default:
		fmt.Fprintf(p, "placed by the function: the smallest score is first (hash %s)\n", e.Hash)
	}
	var lines []line
	for i, cell := range e.Cells {
		score := ""
		if cell.Weight > 0 {
			score = fmt.Sprintf("weight %d, score %.6g", cell.Weight, cell.Score)
		}
		lines = append(lines, line{columns: []column{{text: fmt.Sprintf("%3d. %s", i+1, cell.Name)}, {text: cell.Why}, wellness(cell.Well), {text: score}, {text: cell.Message}}})
	}
	p.tree(lines)
	if !slices.ContainsFunc(e.Cells, func(c ExplainedCell) bool { return c.Serves }) {
		fmt.Fprintln(p, "No cell takes hosts: undrain one, or give one a weight.")
	}
}
