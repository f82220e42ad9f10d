package kubectl

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/util/duration"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/shopset/shopset/api/v1alpha1"
)

type statusOptions struct {
	output        string
	watch, full   bool
	allNamespaces bool
	timeout       time.Duration
}

func (t *tool) statusCommand() *cobra.Command {
	o := &statusOptions{}
	c := &cobra.Command{
		Use:   "status [FLEET]",
		Short: "Show where something is broken: fleets, cells, components",
		Long: `Show fleets, their cells, and the components of those that are not well, each with its reason;
and the ShopSets of no fleet. The exit code is 0 if all is well, 1 if not, 2 if it could not be asked.`,
		Args: cobra.MaximumNArgs(1), ValidArgsFunction: t.complete(func() client.ObjectList { return &v1alpha1.FleetList{} }),
		RunE: func(c *cobra.Command, args []string) error {
			if !slices.Contains([]string{"", "json", "yaml"}, o.output) {
				return usage(c, fmt.Errorf("-o %s is unknown; it is json or yaml", o.output))
			}
			return t.status(c.Context(), strings.Join(args, ""), o)
		},
	}
	c.Flags().StringVarP(&o.output, "output", "o", "", "json or yaml")
	c.Flags().BoolVarP(&o.watch, "watch", "w", false, "show it again whenever something changes, until interrupted")
	c.Flags().DurationVar(&o.timeout, "timeout", 0, "end --watch after this time; 0 is never")
	c.Flags().BoolVar(&o.full, "full", false, "show the components of cells that are well, too")
	c.Flags().BoolVarP(&o.allNamespaces, "all-namespaces", "A", false, "of all namespaces")
	return c
}

func (t *tool) status(ctx context.Context, fleet string, o *statusOptions) error {
	if err := t.connect(); err != nil {
		return err
	}
	if fleet != "" && o.allNamespaces {
		return fmt.Errorf("a Fleet is in one namespace; leave out either its name or --all-namespaces")
	}
	report, err := t.report(ctx, fleet, o)
	if err == nil {
		err = t.show(report, o, false)
	}
	if err == nil && o.watch {
		report, err = t.watchStatus(ctx, fleet, o, report)
	}
	if err == nil && !report.Well {
		return errNotWell
	}
	return err
}

// report gathers. A Fleet that is named must be there.
func (t *tool) report(ctx context.Context, fleet string, o *statusOptions) (*Report, error) {
	namespace := client.InNamespace(t.namespace)
	if o.allNamespaces {
		namespace = ""
	}
	fleets, shopSets := &v1alpha1.FleetList{}, &v1alpha1.ShopSetList{}
	if fleet != "" {
		f, err := t.getFleet(ctx, fleet)
		if err != nil {
			return nil, err
		}
		fleets.Items = append(fleets.Items, *f)
	} else if err := t.client.List(ctx, fleets, namespace); err != nil {
		return nil, err
	}
	if err := t.client.List(ctx, shopSets, namespace); err != nil {
		return nil, err
	}
	if fleet != "" {
		shopSets.Items = slices.DeleteFunc(shopSets.Items, func(ss v1alpha1.ShopSet) bool { return fleetOf(&ss) != fleet })
	}
	return newReport(fleets.Items, shopSets.Items), nil
}

// show prints a report; over what is on the screen, if it is another one of a watch.
func (t *tool) show(report *Report, o *statusOptions, again bool) error {
	var text bytes.Buffer
	out := newPrinter(t.Out)
	screen := out.Writer
	out.Writer = &text
	switch o.output {
	case "json":
		if err := printJSON(&text, report); err != nil {
			return err
		}
	case "yaml":
		encoded, err := yaml.Marshal(report)
		if err != nil {
			return err
		}
		text.Write(encoded)
	default:
		out.report(report, o.full, t.now())
		if len(report.Fleets)+len(report.ShopSets) == 0 {
			where := "namespace " + t.namespace
			if o.allNamespaces {
				where = "any namespace"
			}
			fmt.Fprintf(&text, "There is no Fleet and no ShopSet in %s.\n", where)
		}
	}
	switch {
	case again && isTerminal(t.Out):
		io.WriteString(screen, "\x1b[H\x1b[2J") //nolint:errcheck // The next write tells.
	case again && o.output != "json":
		io.WriteString(screen, "---\n") //nolint:errcheck // The next write tells.
	}
	_, err := screen.Write(text.Bytes())
	return err
}

func printJSON(out io.Writer, value any) error {
	encoder := json.NewEncoder(out)
	encoder.SetIndent("", "  ")
	encoder.SetEscapeHTML(false)
	return encoder.Encode(value)
}

// Bounds of a watch: it is drawn at most so often, and asked for anew so often if no news come.
const (
	redrawEvery = 200 * time.Millisecond
	askEvery    = 30 * time.Second
)

// watchStatus shows reports that differ from the one before, until the context ends or the time is over.
func (t *tool) watchStatus(ctx context.Context, fleet string, o *statusOptions, last *Report) (*Report, error) {
	outer := ctx
	if o.timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, o.timeout)
		defer cancel()
	}
	news := t.news(ctx, o.allNamespaces)
	for {
		select {
		case <-ctx.Done():
		case <-news:
		case <-time.After(askEvery):
		}
		if outer.Err() != nil || ctx.Err() != nil {
			return last, nil // Interrupted, or the time is over: that is how a watch ends.
		}
		report, err := t.report(ctx, fleet, o)
		if ctx.Err() != nil {
			return last, nil
		}
		if err != nil {
			// The API server may be away for a while; what broke there must not end the view.
			fmt.Fprintln(t.ErrOut, "kubectl shopset:", sentence(err))
		} else if !equality.Semantic.DeepEqual(report, last) {
			if err := t.show(report, o, true); err != nil {
				return last, err
			}
			last = report
		}
		select {
		case <-ctx.Done():
		case <-time.After(redrawEvery):
		}
	}
}

// news tells that Fleets or ShopSets changed; many changes at once are one piece of news.
func (t *tool) news(ctx context.Context, everywhere bool) <-chan struct{} {
	news := make(chan struct{}, 1)
	var options []client.ListOption
	if !everywhere {
		options = append(options, client.InNamespace(t.namespace))
	}
	for _, list := range []client.ObjectList{&v1alpha1.FleetList{}, &v1alpha1.ShopSetList{}} {
		go func() {
			for ctx.Err() == nil {
				if watch, err := t.client.Watch(ctx, list, options...); err == nil {
					for range watch.ResultChan() {
						select {
						case news <- struct{}{}:
						default:
						}
					}
					watch.Stop()
				}
				// API servers end watches now and then.
				select {
				case <-ctx.Done():
				case <-time.After(time.Second):
				}
			}
		}()
	}
	return news
}

// report draws the tree of a report.
func (p *printer) report(report *Report, full bool, now time.Time) {
	for i := range report.Fleets {
		p.fleet(&report.Fleets[i], full, now)
	}
	var lines []line
	for i := range report.ShopSets {
		cell := &report.ShopSets[i]
		l := cellLine(cell, full)
		l.columns[0].text = "ShopSet " + cell.Namespace + "/" + cell.Name
		lines = append(lines, l)
	}
	p.tree(lines)
}

func (p *printer) fleet(f *FleetReport, full bool, now time.Time) {
	head := []column{{"Fleet " + f.Namespace + "/" + f.Name, bold}, wellness(f.Well)}
	if f.Summary != "" {
		head = append(head, column{text: f.Summary + " cells ready"})
	}
	if f.Message != "" && (!f.Well || f.Message != "all cells serve") {
		head = append(head, column{text: f.Message})
	}
	var details []line
	detail := func(name, format string, values ...any) {
		details = append(details, line{columns: columns("   "+name, fmt.Sprintf(format, values...))})
	}
	if !f.Well {
		pins := ""
		if f.TouchedPins > 0 {
			pins = fmt.Sprintf(" and %s", count(f.TouchedPins, "pin", "pins"))
		}
		detail("touched", "%.1f%% of all hosts%s, whose cell is not well", f.TouchedPercent, pins)
	}
	if b := f.BlastRadius; b != nil {
		detail("blast radius", "%s of all hosts on one cell at most (%s); after one more failure %s, and %s without a cell; %s share all their cells",
			b.LargestShare, b.LargestCell, b.AfterOneMoreFailure, b.LostAfterOneMoreFailure, b.ShardOverlap)
	}
	if table := f.Table; table != nil {
		detail("table", "version %d of epoch %d, published %s ago", table.Version, table.Epoch, duration.HumanDuration(now.Sub(table.Published.Time)))
	} else {
		detail("table", "none is published yet")
	}
	p.tree([]line{{columns: head}})
	p.tree(details)
	var cells []line
	for i := range f.Cells {
		cells = append(cells, cellLine(&f.Cells[i], full))
	}
	p.below("", cells, false)
}

func wellness(well bool) column {
	if well {
		return column{"well", green}
	}
	return column{"not well", red}
}

func count(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

// cellLine is a cell and, if it is not well, its components.
func cellLine(cell *CellReport, full bool) line {
	state := column{text: cell.State}
	if cell.State != string(v1alpha1.CellActive) {
		state.colour = yellow
	}
	message := cell.Message
	switch {
	case cell.State != string(v1alpha1.CellDrain) && cell.State != string(v1alpha1.CellLeaving):
	case cell.Idle:
		message = joined("idle", message)
	case cell.Connections != nil:
		message = joined(count(int(*cell.Connections), "connection open", "connections open"), message)
	}
	l := line{columns: []column{{text: cell.Name}, wellness(cell.Well), state, {text: cell.Share}, {text: cell.Summary}, {text: cell.Revision}, {text: message}}}
	if cell.Well && !full {
		return l
	}
	for _, component := range cell.Components {
		pods := column{text: fmt.Sprintf("%d/%d", component.Ready, component.Desired)}
		if !component.Well {
			pods.colour = red
		}
		l.children = append(l.children, line{columns: []column{{text: component.Name}, pods, {text: component.Message}}})
	}
	return l
}

func joined(parts ...string) string {
	return strings.Join(slices.DeleteFunc(parts, func(s string) bool { return s == "" }), "; ")
}
