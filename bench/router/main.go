// Command router measures shopset-router beside HAProxy and nginx, both routing TLS by its server name without ending it, on the same
// machine, in turns, in front of the same backends. See the README of bench/.
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
	if len(os.Args) > 2 && os.Args[1] == "backend" {
		fmt.Fprintln(os.Stderr, "bench router:", backend(os.Args[2:])) // It ends by a signal, else with an error.
		os.Exit(1)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench router:", err)
		os.Exit(1)
	}
}

// cells is the number of backends.
const cells = 3

type settings struct {
	duration      time.Duration
	rounds        int
	only, cases   string
	haproxySplice bool
	nginxBuffer   string
	idle          int
	profile       string
}

func run(ctx context.Context) error {
	var s settings
	flag.DurationVar(&s.duration, "duration", 3*time.Second, "how long each measurement takes")
	flag.IntVar(&s.rounds, "rounds", 5, "how many turns; medians count")
	flag.StringVar(&s.only, "only", "direct,haproxy,nginx,ours,plain", "these contenders alone, with commas")
	flag.StringVar(&s.cases, "cases", "table,placement,bulk,conns,small,latency,idle", "these cases alone, with commas")
	flag.BoolVar(&s.haproxySplice, "haproxy-splice", true, "let HAProxy splice, which is faster for it")
	flag.StringVar(&s.nginxBuffer, "nginx-buffer", "64k", "size of nginx' buffers")
	flag.IntVar(&s.idle, "idle", idleDefault(), "idle connections of the case idle; by default 10000, or what the limit of file descriptors allows")
	flag.StringVar(&s.profile, "profile", "", "begin of the names of files for CPU profiles of ours")
	flag.Parse()
	wanted := strings.Split(s.cases, ",")
	if slices.Contains(wanted, "table") {
		if err := measureTable(s.rounds); err != nil {
			return fmt.Errorf("table: %w", err)
		}
	}
	if slices.Contains(wanted, "placement") {
		if err := measurePlacement(s.rounds); err != nil {
			return fmt.Errorf("placement: %w", err)
		}
	}
	if !slices.ContainsFunc(cases, func(c benchCase) bool { return slices.Contains(wanted, c.name) }) {
		return nil
	}
	w, err := newWorld(ctx, s)
	if err != nil {
		return err
	}
	defer w.close()
	for _, c := range cases {
		if !slices.Contains(wanted, c.name) {
			continue
		}
		if err := w.turns(ctx, c); err != nil {
			return fmt.Errorf("%s: %w", c.name, err)
		}
		if ctx.Err() != nil {
			return errors.New("interrupted")
		}
	}
	return nil
}

// idleDefault leaves room for two descriptors of each connection in one process.
func idleDefault() int {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return 1000
	}
	return min(10000, int(limit.Max)/2-1200) //nolint:gosec // It is far below.
}

// turns measures all contenders one after the other, several times, and reports medians; a ratio is the median of those of the turns.
func (w *world) turns(ctx context.Context, c benchCase) error {
	values := map[string]map[string][]float64{}
	rounds := w.settings.rounds
	if c.once {
		rounds = 1
	}
	for round := range rounds {
		for i := range w.running {
			r := w.turn(round, i)
			// The engine plain has six descriptors for each connection, so it cannot hold as many.
			if c.routersOnly && (r.command == nil || r.name == "plain") {
				continue
			}
			if w.settings.profile != "" && r.name == "ours" {
				go w.profile(c.name)
			}
			figures, err := c.measure(ctx, w, r)
			if err != nil {
				return fmt.Errorf("%s: %w", r.name, err)
			}
			for what, value := range figures {
				if values[what] == nil {
					values[what] = map[string][]float64{}
				}
				values[what][r.name] = append(values[what][r.name], value)
			}
			report.Say("%s %d %s: %v", c.name, round+1, r.name, figures)
		}
	}
	for _, f := range c.figures {
		w.report(f, values[f.name])
	}
	return nil
}

// turn is who comes i-th in a round: first the way without a router, if it takes part, and of the routers nobody is always the first.
func (w *world) turn(round, i int) *running {
	list := w.running
	if list[0].command == nil {
		if i == 0 {
			return list[0]
		}
		list, i = list[1:], i-1
	}
	return list[(i+round)%len(list)]
}

func (w *world) report(f figure, values map[string][]float64) {
	for _, r := range w.running {
		if list := values[r.name]; len(list) > 0 {
			report.Result("router."+f.name+"."+r.name, report.Median(list), f.unit)
		}
	}
	if f.absolute {
		return
	}
	ours := values["ours"]
	for _, peer := range []string{"haproxy", "nginx", "plain"} {
		var ratios []float64
		for i := range min(len(ours), len(values[peer])) {
			ratio := ours[i] / values[peer][i]
			if f.lessIsBetter {
				ratio = 1 / ratio
			}
			ratios = append(ratios, ratio)
		}
		if len(ratios) > 0 {
			report.Result("router."+f.name+".ratio_"+peer, report.Median(ratios), "")
		}
	}
}

// backend serves as the cell of a name until it is killed.
func backend(args []string) error {
	l, err := net.Listen("tcp", args[0])
	if err != nil {
		return err
	}
	return layer4.Server{Name: 'b'}.Serve(l)
}
