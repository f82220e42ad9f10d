// Command certs measures TLS for many domains: our certstore over Redis beside nginx with Lua over Redis, HAProxy
// with all certificates loaded, and Caddy with its http certificate manager, on the same machine, one after the
// other. See the README of bench/.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/shopset/shopset/bench/internal/report"
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == "serve" {
		fmt.Fprintln(os.Stderr, "bench certs serve:", serve(os.Args[2:])) // It ends by a signal, else with an error.
		os.Exit(1)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench certs:", err)
		os.Exit(1)
	}
}

type settings struct {
	duration    time.Duration
	connections int
	only        string
	caddy       string
}

func run(ctx context.Context) error {
	var s settings
	sizes := flag.String("domains", "10000,100000", "how many domains, one run each")
	oursAlone := flag.Int("ours-alone", 0, "another run of ours with so many domains")
	flag.DurationVar(&s.duration, "duration", 8*time.Second, "how long each measurement takes")
	flag.IntVar(&s.connections, "connections", 16, "handshakes at once")
	flag.StringVar(&s.only, "only", "", "one contender alone")
	flag.StringVar(&s.caddy, "caddy", "", "the program caddy; it is left out when empty")
	flag.Parse()
	for _, text := range strings.Split(*sizes, ",") {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 || n > 1_000_000 {
			return fmt.Errorf("--domains %q: want numbers up to a million", text)
		}
		if err := measure(ctx, s, n); err != nil {
			return err
		}
	}
	if *oursAlone > 0 {
		s.only = "ours"
		return measure(ctx, s, *oursAlone)
	}
	return ctx.Err()
}

// measure runs all contenders with a number of domains.
func measure(ctx context.Context, s settings, domains int) error {
	w, err := newWorld(ctx, domains)
	if err != nil {
		return err
	}
	defer w.close()
	ours := map[string]float64{}
	for _, c := range contenders(s) {
		if s.only != "" && s.only != c.name {
			continue
		}
		if c.most > 0 && domains > c.most {
			report.Say("%s: left out with %d domains: %s", c.name, domains, c.why)
			continue
		}
		figures, err := w.contend(ctx, s, c)
		if err != nil {
			return fmt.Errorf("%s: %w", c.name, err)
		}
		prefix := fmt.Sprintf("certs.%dk.%s", domains/1000, c.name)
		for _, f := range figures {
			report.Result(prefix+"."+f.name, f.value, f.unit)
			if c.name == "ours" {
				ours[f.name] = f.value
			} else if mine := ours[f.name]; mine > 0 && f.value > 0 {
				report.Result(fmt.Sprintf("certs.%dk.vs_%s.%s", domains/1000, c.name, f.name), mine/f.value, "ratio")
			}
		}
	}
	return errors.Join(ctx.Err())
}
