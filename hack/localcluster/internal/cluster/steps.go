package cluster

import (
	"context"
	"fmt"
	"strings"
	"time"
)

// steps measures the parts of up.
type steps struct {
	began time.Time
	last  time.Time
	lines []string
}

func newSteps() *steps { now := time.Now(); return &steps{began: now, last: now} }

// done ends a step; the next one begins now.
func (s *steps) done(name string) {
	now := time.Now()
	s.lines = append(s.lines, fmt.Sprintf("  %-38s %6.2f s", name, now.Sub(s.last).Seconds()))
	s.last = now
}

func (s *steps) String() string {
	total := fmt.Sprintf("  %-38s %6.2f s", "total", time.Since(s.began).Seconds())
	return strings.Join(append(s.lines, total), "\n")
}

// poll asks until the answer is yes, the context ends, or an answer is final.
func poll(ctx context.Context, every time.Duration, what string, ask func() (bool, error)) error {
	tick := time.NewTicker(every)
	defer tick.Stop()
	var last error
	for {
		ok, err := ask()
		if ok {
			return err
		}
		if err != nil {
			last = err
		}
		select {
		case <-ctx.Done():
			if last != nil {
				return fmt.Errorf("waiting for %s: %w; last answer: %w", what, context.Cause(ctx), last)
			}
			return fmt.Errorf("waiting for %s: %w", what, context.Cause(ctx))
		case <-tick.C:
		}
	}
}
