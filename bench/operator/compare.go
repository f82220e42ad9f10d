package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/shopset/shopset/bench/internal/report"
)

// rounds are the measurements of two contenders that took turns.
type rounds struct {
	bare []measurement
	ours []operatorRun
}

// ratio of a figure of the operator to that of the bare client, the median of the rounds.
func (r rounds) ratio(of func(measurement) float64) float64 {
	var values []float64
	for i := range r.bare {
		values = append(values, of(r.ours[i].measurement)/of(r.bare[i]))
	}
	return report.Median(values)
}

// figure of the operator, the median of the rounds.
func (r rounds) figure(of func(operatorRun) float64) float64 {
	var values []float64
	for _, m := range r.ours {
		values = append(values, of(m))
	}
	return report.Median(values)
}

func wall(m measurement) float64 { return m.wall.Seconds() }
func cpu(m measurement) float64  { return m.cpu.Seconds() }

func mib(bytes int64) float64 { return float64(bytes) / (1 << 20) }

// compare runs everything and prints the results.
func (b *bench) compare(ctx context.Context, o options) error {
	report.Say("looking for the fastest way to be a bare client")
	v, err := fastestVariant(ctx, b)
	if err != nil {
		return err
	}
	report.Say("the bare client works %s", v)
	if o.small > 0 {
		small, err := b.takeTurns(ctx, o.small, o.smallRounds, v, o)
		if err != nil {
			return err
		}
		report.Result(fmt.Sprintf("operator.apply_ratio_%d", o.small), small.ratio(wall), "x")
		report.Result(fmt.Sprintf("operator.cpu_ratio_%d", o.small), small.ratio(cpu), "x")
		if err := b.compareKubectl(ctx, o, small); err != nil {
			return err
		}
	}
	if o.large == 0 {
		return nil
	}
	large, err := b.takeTurns(ctx, o.large, o.largeRounds, v, o)
	if err != nil {
		return err
	}
	last := large.ours[len(large.ours)-1]
	report.Result("operator.apply_ratio", large.ratio(wall), "x")
	report.Result("operator.cpu_ratio", large.ratio(cpu), "x")
	report.Result("operator.apply_s", large.figure(func(m operatorRun) float64 { return m.wall.Seconds() }), "s")
	report.Result("operator.children_per_s", large.figure(func(m operatorRun) float64 { return m.rate() }), "/s")
	report.Result("operator.rss_mib", large.figure(func(m operatorRun) float64 { return mib(m.settled.Peak) }), "MiB")
	report.Result("operator.rss_settled_mib", large.figure(func(m operatorRun) float64 { return mib(m.settled.RSS) }), "MiB")
	report.Result("operator.cpu_s", large.figure(func(m operatorRun) float64 { return m.own.Seconds() }), "s")
	report.Result("operator.reconciles_per_shopset", large.figure(func(m operatorRun) float64 { return m.reconciles / float64(o.large) }), "")
	report.Result("operator.requests_per_shopset", large.figure(func(m operatorRun) float64 { return float64(m.requests.all()) / float64(o.large) }), "")
	report.Result("operator.reconcile_p99_ms", 1000*large.figure(func(m operatorRun) float64 { return m.reconcileP99 }), "ms")
	report.Result("operator.queue_p99_ms", 1000*large.figure(func(m operatorRun) float64 { return m.queueP99 }), "ms")
	if o.rest > 0 {
		report.Result("operator.steady_writes", float64(last.steady.writes()), "requests")
		report.Result("operator.steady_requests", float64(last.steady.all()), "requests")
		report.Result("operator.restart_s", last.restart.Seconds(), "s")
		report.Result("operator.restart_writes", float64(last.restarted.writes()), "requests")
	}
	return nil
}

// takeTurns runs the bare client and the operator one after the other, several times, so that a busy
// minute of the machine does not hit one of them alone. The operator is watched at rest after its
// last run.
func (b *bench) takeTurns(ctx context.Context, n, times int, v variant, o options) (r rounds, err error) {
	for round := range times {
		bare, err := runBare(ctx, b, n, v)
		if err != nil {
			return r, fmt.Errorf("bare client: %w", err)
		}
		report.Say("%d ShopSets, bare client: %s", n, bare)
		rest := o.rest
		if n != o.large || round < times-1 {
			rest = 0
		}
		ours, err := runOurs(ctx, b, n, rest)
		if err != nil {
			return r, fmt.Errorf("operator: %w", err)
		}
		report.Say("%d ShopSets, operator: %s; %.0f MiB at most, %.0f reconciles", n, ours.measurement,
			mib(ours.settled.Peak), ours.reconciles)
		report.Say("  %s", ours.requests)
		r.bare, r.ours = append(r.bare, bare), append(r.ours, ours)
		if rest > 0 {
			report.Say("  at rest for %s: %s", rest, ours.steady)
			report.Say("  started anew over them, with %.1f s of its own CPU: %s", ours.restartCPU.Seconds(), ours.restarted)
		}
	}
	return r, nil
}

func (b *bench) compareKubectl(ctx context.Context, o options, small rounds) error {
	if o.kubectl == 0 {
		return nil
	}
	best := 0.0
	for _, way := range [][]string{nil, {"--server-side"}} {
		m, err := runKubectl(ctx, b, o.kubectl, way...)
		if err != nil {
			return err
		}
		report.Say("%d ShopSets, kubectl apply %s: %s", o.kubectl, strings.Join(way, " "), m)
		best = max(best, m.rate())
	}
	report.Result("operator.vs_kubectl", small.figure(func(m operatorRun) float64 { return m.rate() })/best, "x")
	return nil
}

func (r requests) String() string {
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(r)) {
		parts = append(parts, fmt.Sprintf("%s %d", name, r[name]))
	}
	if len(parts) == 0 {
		return "no request"
	}
	return strings.Join(parts, ", ")
}
