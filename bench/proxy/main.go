// Command proxy measures shopset-proxy beside nginx, HAProxy, httputil.ReverseProxy, and Caddy and Traefik where they are
// given, on the same machine, one after the other, in front of the same upstream. See the README of bench/.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/shopset/shopset/bench/internal/report"
)

func main() {
	if len(os.Args) > 2 && os.Args[1] == "reverseproxy" {
		fmt.Fprintln(os.Stderr, "bench proxy:", reverseProxy(os.Args[2:])) // It ends by a signal, else with an error.
		os.Exit(1)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench proxy:", err)
		os.Exit(1)
	}
}

type settings struct {
	duration       time.Duration
	rounds         int
	connections    int
	only, cases    string
	caddy, traefik string
	profile        string
}

// load is one kind of request.
type load struct {
	name   string
	secure bool
	h2     bool
	path   string
}

var loads = []load{
	{"http_1k", false, false, "/1k"},
	{"tls_h1_1k", true, false, "/1k"},
	{"tls_h1_64k", true, false, "/64k"},
	{"h2_1k", true, true, "/1k"},
	{"h2_64k", true, true, "/64k"},
}

func run(ctx context.Context) error {
	var s settings
	flag.DurationVar(&s.duration, "duration", 4*time.Second, "how long each measurement takes")
	flag.IntVar(&s.rounds, "rounds", 2, "how often each is measured; the best counts")
	flag.IntVar(&s.connections, "connections", 64, "connections at once")
	flag.StringVar(&s.only, "only", "", "these contenders alone, with commas")
	flag.StringVar(&s.cases, "cases", "", "these cases alone, with commas; route for the cost of routing alone")
	flag.StringVar(&s.caddy, "caddy", "", "the program caddy; it is left out when empty")
	flag.StringVar(&s.traefik, "traefik", "", "the program traefik; it is left out when empty")
	flag.StringVar(&s.profile, "profile", "", "begin of the names of files for CPU profiles; wants --only ours")
	flag.Parse()
	if s.cases == "route" {
		return routeCost(ctx)
	}
	w, err := newWorld(ctx)
	if err != nil {
		return err
	}
	defer w.close()
	named := func(list, name string) bool { return list == "" || slices.Contains(strings.Split(list, ","), name) }
	// rps[case][contender]
	rps := map[string]map[string]float64{}
	for _, c := range contenders(s) {
		if !named(s.only, c.name) {
			continue
		}
		figures, err := w.contend(ctx, s, c, func(l load) bool { return named(s.cases, l.name) })
		if err != nil {
			return fmt.Errorf("%s: %w", c.name, err)
		}
		for _, f := range figures {
			name, who := f.load, c.name
			if who == oursFiltered {
				name, who = name+"_filters", "ours"
			}
			report.Result("proxy."+name+"."+who+"_"+f.what, f.value, f.unit)
			if f.what == "rps" {
				if rps[name] == nil {
					rps[name] = map[string]float64{}
				}
				rps[name][who] = f.value
			}
		}
		if ctx.Err() != nil {
			return errors.New("interrupted")
		}
	}
	for _, l := range loads {
		bare, filtered := rps[l.name]["ours"], rps[l.name+"_filters"]["ours"]
		for _, peer := range []string{"nginx", "haproxy", "caddy", "traefik", "reverseproxy"} {
			theirs := rps[l.name][peer] // They have no filters in either case.
			if bare > 0 && theirs > 0 {
				report.Result("proxy."+l.name+".ratio_"+peer, bare/theirs, "")
			}
			if filtered > 0 && theirs > 0 {
				report.Result("proxy."+l.name+"_filters.ratio_"+peer, filtered/theirs, "")
			}
		}
		if bare > 0 && filtered > 0 {
			report.Result("proxy."+l.name+".filters_cost", 100*(1-filtered/bare), "%")
		}
	}
	if named(s.only, "ours") && named(s.cases, "route") {
		return routeCost(ctx)
	}
	return nil
}
