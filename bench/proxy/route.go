package main

import (
	"context"
	"fmt"
	"os/exec"
	"regexp"
	"strconv"

	"github.com/shopset/shopset/bench/internal/report"
)

var routeTime = regexp.MustCompile(`(?m)^BenchmarkFind/(\d+)(?:-\d+)?\s+\d+\s+([\d.]+) ns/op`)

// routeCost measures how long it takes to find the route of a request, where ten hosts have routes of their own and where
// 100,000 have: the proxy's own benchmark, the best of some rounds.
func routeCost(ctx context.Context) error {
	const few, many = "10", "100000"
	command := exec.CommandContext(ctx, "go", "test", "-run=^$", "-bench=^BenchmarkFind$/^("+few+"|"+many+")$", "-count=5", "-timeout=5m", "./internal/proxy") //nolint:gosec // Its arguments are ours.
	command.Dir = ".."                                                                                                                                         // The module of the repository.
	output, err := command.CombinedOutput()
	if err != nil {
		return fmt.Errorf("the cost of routing: %w\n%s", err, output)
	}
	best := map[string]float64{}
	for _, match := range routeTime.FindAllStringSubmatch(string(output), -1) {
		value, err := strconv.ParseFloat(match[2], 64)
		if err != nil {
			return err
		}
		if before, ok := best[match[1]]; !ok || value < before {
			best[match[1]] = value
		}
	}
	if best[few] == 0 || best[many] == 0 {
		return fmt.Errorf("the cost of routing: go test says nothing of it:\n%s", output)
	}
	report.Result("proxy.route_"+few+"_ns", best[few], "ns")
	report.Result("proxy.route_"+many+"_ns", best[many], "ns")
	report.Result("proxy.route_ratio", best[many]/best[few], "")
	return nil
}
