package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// result of a measurement. requests are all that were sent, 0 where nobody knows: h2load does not count those of its warm-up.
type result struct{ rps, p99, requests float64 }

var (
	wrkRPS  = regexp.MustCompile(`Requests/sec:\s+([\d.]+)`)
	wrkAll  = regexp.MustCompile(`(\d+) requests in`)
	wrkP99  = regexp.MustCompile(`99%\s+([\d.]+)(us|ms|s)`)
	wrkBad  = regexp.MustCompile(`Non-2xx or 3xx responses: (\d+)|Socket errors:.*`)
	h2RPS   = regexp.MustCompile(`finished in [^,]+, ([\d.]+) req/s`)
	h2Bad   = regexp.MustCompile(`(\d+) failed, (\d+) errored, (\d+) timeout`)
	h2Codes = regexp.MustCompile(`status codes: (\d+) 2xx, (\d+) 3xx, (\d+) 4xx, (\d+) 5xx`)
	h2Paces = 8
)

// measure asks for as long as was said: with wrk over HTTP/1.1, with h2load over HTTP/2.
func measure(ctx context.Context, s settings, l load, address string) (result, error) {
	if l.h2 {
		return measureH2(ctx, s, address)
	}
	output, err := exec.CommandContext(ctx, "wrk", "-t2", fmt.Sprintf("-c%d", s.connections), fmt.Sprintf("-d%.0fs", s.duration.Seconds()), "--latency", address).CombinedOutput() //nolint:gosec // Its arguments are ours.
	if err != nil {
		return result{}, fmt.Errorf("wrk: %w: %s", err, output)
	}
	if bad := wrkBad.Find(output); bad != nil {
		return result{}, fmt.Errorf("wrk: not all answers are good: %s", bad)
	}
	var r result
	if match := wrkRPS.FindSubmatch(output); match != nil {
		r.rps, _ = strconv.ParseFloat(string(match[1]), 64)
	}
	if match := wrkAll.FindSubmatch(output); match != nil {
		r.requests, _ = strconv.ParseFloat(string(match[1]), 64)
	}
	if match := wrkP99.FindSubmatch(output); match != nil {
		r.p99, _ = strconv.ParseFloat(string(match[1]), 64)
		r.p99 *= map[string]float64{"us": 0.001, "ms": 1, "s": 1000}[string(match[2])]
	}
	if r.rps == 0 {
		return r, fmt.Errorf("wrk says nothing of requests: %s", output)
	}
	return r, nil
}

func measureH2(ctx context.Context, s settings, address string) (r result, err error) {
	r.rps, r.p99, err = h2load(ctx, s, address, fmt.Sprintf("-c%d", s.connections), fmt.Sprintf("-m%d", h2Paces), "-t2")
	return r, err
}

// onlyGood says what h2load met besides answers of 2xx: figures with such in them say nothing.
func onlyGood(output []byte) error {
	bad, codes := h2Bad.FindStringSubmatch(string(output)), h2Codes.FindStringSubmatch(string(output))
	if bad == nil || codes == nil {
		return fmt.Errorf("h2load says nothing of its requests: %s", output)
	}
	if codes[1] == "0" || slices.ContainsFunc(slices.Concat(bad[1:], codes[2:]), func(count string) bool { return count != "0" }) {
		return fmt.Errorf("h2load: not all answers are good: %s; %s", bad[0], codes[0])
	}
	return nil
}

// h2load returns requests per second, and milliseconds.
func h2load(ctx context.Context, s settings, address string, arguments ...string) (rps, p99 float64, err error) {
	log, err := os.CreateTemp("", "bench-proxy-h2-")
	if err != nil {
		return 0, 0, err
	}
	defer os.Remove(log.Name())
	_ = log.Close()
	arguments = append(arguments, fmt.Sprintf("-D%.0f", s.duration.Seconds()), "--warm-up-time=1s", "--log-file="+log.Name(), address)
	output, err := exec.CommandContext(ctx, "h2load", arguments...).CombinedOutput() //nolint:gosec // Its arguments are ours.
	if err != nil {
		return 0, 0, fmt.Errorf("h2load: %w: %s", err, output)
	}
	if err := onlyGood(output); err != nil {
		return 0, 0, err
	}
	match := h2RPS.FindSubmatch(output)
	if match == nil {
		return 0, 0, fmt.Errorf("h2load says nothing of requests: %s", output)
	}
	if rps, err = strconv.ParseFloat(string(match[1]), 64); err != nil {
		return 0, 0, err
	}
	content, err := os.ReadFile(log.Name())
	if err != nil {
		return 0, 0, err
	}
	var times []int
	for line := range strings.Lines(string(content)) { // Start, status, microseconds.
		fields := strings.Fields(line)
		if len(fields) == 3 && fields[1] == "200" {
			if n, err := strconv.Atoi(fields[2]); err == nil {
				times = append(times, n)
			}
		}
	}
	if len(times) == 0 {
		return 0, 0, errors.New("h2load: no request succeeded")
	}
	slices.Sort(times)
	return rps, float64(times[len(times)*99/100]) / 1000, nil
}
