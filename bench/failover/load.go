package main

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/shopset/shopset/bench/internal/layer4"
)

// sample is one connection.
type sample struct {
	begin    time.Time
	took     time.Duration
	failed   bool
	affected bool // its host belongs to the first cell
	first    bool // the first cell served it
}

type samples []sample

// clientTimeout is when a client gives up.
const clientTimeout = 10 * time.Second

// load opens connections at a steady rate, whatever becomes of those before.
type load struct {
	mu   sync.Mutex
	list samples
	done chan struct{}
}

func startLoad(ctx context.Context, s settings, w *world) *load {
	l := &load{done: make(chan struct{})}
	go func() {
		defer close(l.done)
		var open sync.WaitGroup
		begin := time.Now()
		total := int((s.before + s.after).Seconds() * float64(s.rate))
		for i := 0; i < total && ctx.Err() == nil; i++ {
			time.Sleep(time.Until(begin.Add(time.Duration(i) * time.Second / time.Duration(s.rate))))
			open.Go(func() { l.add(w.ask(i)) })
		}
		open.Wait()
	}()
	return l
}

func (l *load) add(s sample) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.list = append(l.list, s)
}

func (l *load) wait() samples {
	<-l.done
	return l.list
}

// ask is one connection: hello, answer, end.
func (w *world) ask(i int) sample {
	host := i % len(w.hellos)
	s := sample{begin: time.Now(), affected: w.first[host]}
	c, err := layer4.Dial(w.address, w.hellos[host], clientTimeout)
	s.took = time.Since(s.begin)
	if err != nil {
		s.failed = true
		return s
	}
	s.first = c.Server == cellNames[0]
	c.Conn.Close()
	return s
}

func (list samples) failedBefore(at time.Time) (n int) {
	for _, s := range list {
		if s.failed && s.begin.Add(s.took).Before(at) {
			n++
		}
	}
	return n
}

// slow is when a client notices.
const slow = 250 * time.Millisecond

// figures are about the hosts of the cell to which the fault happened, from then on, those included that were under way.
func (list samples) figures(at time.Time, f fault) map[string]float64 {
	ms := func(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
	if f.oursOnly { // How long the drained cell still got connections.
		last := time.Duration(0)
		for _, s := range list {
			if s.first {
				last = max(last, s.begin.Sub(at))
			}
		}
		return map[string]float64{"applied_ms": ms(last)}
	}
	var times []time.Duration
	failed, noticed := 0, time.Duration(0)
	for _, s := range list {
		if !s.affected || s.begin.Add(s.took).Before(at) {
			continue
		}
		times = append(times, s.took)
		if s.failed {
			failed++
		}
		if s.failed || s.took > slow {
			noticed = max(noticed, s.begin.Add(s.took).Sub(at))
		}
	}
	slices.Sort(times)
	return map[string]float64{
		"failed": float64(failed), "failed_share": 100 * float64(failed) / float64(len(times)),
		"p99_ms": ms(times[len(times)*99/100]), "longest_ms": ms(times[len(times)-1]), "noticed_ms": ms(noticed),
	}
}
