package warmcache

import (
	"context"
	"sync"
	"syscall"
	"time"
)

// Pace keeps the process below a number of cores, on average over a tenth of a second: whoever works asks it now and then, and
// sleeps when more was used. A nil Pace does not.
type Pace struct {
	cores float64
	now   func() time.Time
	used  func() time.Duration
	sleep func(context.Context, time.Duration) error

	mu   sync.Mutex
	last time.Time
	cpu  time.Duration
	left time.Duration // CPU time that may be used at once; below zero when too much was
}

const paceBurst = 100 * time.Millisecond

// NewPace makes one for some cores, such as 0.25; nil for zero.
func NewPace(cores float64) *Pace {
	if cores <= 0 {
		return nil
	}
	return newPace(cores, time.Now, cpuTime, sleep)
}

func newPace(cores float64, now func() time.Time, used func() time.Duration, sleep func(context.Context, time.Duration) error) *Pace {
	return &Pace{cores: cores, now: now, used: used, sleep: sleep, last: now(), cpu: used(), left: paceBurst}
}

// cpuTime is what the process has used.
func cpuTime() time.Duration {
	var usage syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &usage) != nil {
		return 0
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Wait sleeps as long as too much was used.
func (p *Pace) Wait(ctx context.Context) error {
	if p == nil {
		return ctx.Err()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	now, cpu := p.now(), p.used()
	p.left = min(paceBurst, p.left+time.Duration(p.cores*float64(now.Sub(p.last))))
	p.left -= cpu - p.cpu
	p.last, p.cpu = now, cpu
	if p.left >= 0 {
		return ctx.Err()
	}
	return p.sleep(ctx, time.Duration(float64(-p.left)/p.cores))
}
