// Command failover measures what clients notice when a cell dies, hangs or is drained: with shopset-router, and with HAProxy as it is and
// with checks as hard as it allows. See the README of bench/.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/shopset/shopset/bench/internal/layer4"
	"github.com/shopset/shopset/bench/internal/report"
)

func main() {
	if len(os.Args) > 2 && os.Args[1] == "cell" {
		fmt.Fprintln(os.Stderr, "bench failover:", serveCell(os.Args[2:])) // It ends by a signal, else with an error.
		os.Exit(1)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench failover:", err)
		os.Exit(1)
	}
}

const (
	cells     = 3
	endpoints = 2 // of each cell
)

type settings struct {
	rate          int
	before, after time.Duration
	rounds        int
	only, cases   string
}

// fault is something that happens to the first cell.
type fault struct {
	name     string
	oursOnly bool
	happen   func(w *world) error
}

var faults = []fault{
	{"dead", false, func(w *world) error { return w.signal(syscall.SIGKILL) }},
	{"hung", false, func(w *world) error { return w.signal(syscall.SIGSTOP) }},
	{"drain", true, func(w *world) error { return w.drain() }},
}

func run(ctx context.Context) error {
	var s settings
	flag.IntVar(&s.rate, "rate", 300, "new connections per second")
	flag.DurationVar(&s.before, "before", 2*time.Second, "how long all is well first")
	flag.DurationVar(&s.after, "after", 8*time.Second, "how long it goes on after the fault")
	flag.IntVar(&s.rounds, "rounds", 3, "how often; medians count")
	flag.StringVar(&s.only, "only", "", "these contenders alone, with commas")
	flag.StringVar(&s.cases, "cases", "", "these faults alone, with commas")
	flag.Parse()
	programs, err := os.MkdirTemp("", "bench-failover-programs-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(programs)
	named := func(list, name string) bool { return list == "" || slices.Contains(strings.Split(list, ","), name) }
	for _, f := range faults {
		if !named(s.cases, f.name) {
			continue
		}
		values := map[string]map[string][]float64{}
		for round := range s.rounds {
			for _, c := range contenders {
				if !named(s.only, c.name) || (f.oursOnly && c.name != "ours") {
					continue
				}
				figures, err := measure(ctx, s, programs, c, f)
				if err != nil {
					return fmt.Errorf("%s: %s: %w", f.name, c.name, err)
				}
				report.Say("%s %d %s: %v", f.name, round+1, c.name, figures)
				if values[c.name] == nil {
					values[c.name] = map[string][]float64{}
				}
				for what, value := range figures {
					values[c.name][what] = append(values[c.name][what], value)
				}
				if ctx.Err() != nil {
					return errors.New("interrupted")
				}
			}
		}
		for _, c := range contenders {
			for _, what := range units {
				if list := values[c.name][what.name]; len(list) > 0 {
					report.Result("failover."+f.name+"."+c.name+"."+what.name, report.Median(list), what.unit)
				}
			}
		}
	}
	return nil
}

var units = []struct{ name, unit string }{{"failed", ""}, {"failed_share", "%"}, {"p99_ms", "ms"}, {"longest_ms", "ms"}, {"noticed_ms", "ms"}, {"applied_ms", "ms"}}

// measure runs one contender in a world of its own.
func measure(ctx context.Context, s settings, programs string, c contender, f fault) (map[string]float64, error) {
	w, err := newWorld(ctx, programs, c)
	if err != nil {
		return nil, err
	}
	defer w.close()
	load := startLoad(ctx, s, w)
	select {
	case <-ctx.Done():
	case <-time.After(s.before):
	}
	at := time.Now()
	if err := f.happen(w); err != nil {
		return nil, err
	}
	samples := load.wait()
	if early := samples.failedBefore(at); early > 0 {
		return nil, fmt.Errorf("%d connections failed before anything happened", early)
	}
	return samples.figures(at, f), nil
}

// serveCell is a cell: all its endpoints in one process, until it is killed. The arguments are its name and its addresses.
func serveCell(args []string) error {
	failed := make(chan error)
	for _, address := range args[1:] {
		l, err := net.Listen("tcp", address)
		if err != nil {
			return err
		}
		go func() { failed <- layer4.Server{Name: args[0][0]}.Serve(l) }()
	}
	return <-failed
}
