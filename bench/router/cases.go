package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/shopset/shopset/bench/internal/layer4"
	"github.com/shopset/shopset/bench/internal/process"
)

// figure is what a case finds out.
type figure struct {
	name, unit   string
	lessIsBetter bool
	absolute     bool // no ratio makes sense of it
}

type benchCase struct {
	name        string
	figures     []figure
	routersOnly bool
	once        bool
	measure     func(context.Context, *world, *running) (map[string]float64, error)
}

var cases = []benchCase{
	{"bulk", []figure{{"bulk", "MB/s", false, false}, {"cpu_per_gb", "s", true, false}}, false, false, bulk},
	{"conns", []figure{{"conns", "1/s", false, false}, {"cpu_per_conn", "us", true, false}}, false, false, conns},
	{"small", []figure{{"small", "1/s", false, false}}, false, false, small},
	{"latency", []figure{{"latency_p50", "us", true, false}, {"latency_p99", "us", true, false}, {"latency_added_p99", "us", false, true}}, false, false, latency},
	{"idle", []figure{{"idle_bytes", "B", true, false}}, true, true, idle},
}

const dialTimeout = 5 * time.Second

// clients is the number of connections at once.
const clients = 32

// bulkBytes is what one request of the case bulk asks for.
const bulkBytes = 64 << 20

// bulk asks for much on a few connections.
func bulk(ctx context.Context, w *world, r *running) (map[string]float64, error) {
	var moved atomic.Int64
	before := r.cpu()
	begin := time.Now()
	end := begin.Add(w.settings.duration)
	group, _ := errgroup.WithContext(ctx)
	for i := range 8 {
		group.Go(func() error {
			c, err := layer4.Dial(r.address, w.hellos[i*7%len(w.hellos)], dialTimeout)
			if err != nil {
				return err
			}
			defer c.Conn.Close()
			for time.Now().Before(end) && ctx.Err() == nil {
				if err := c.Get(bulkBytes); err != nil {
					return err
				}
				moved.Add(bulkBytes)
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	elapsed := time.Since(begin)
	figures := map[string]float64{"bulk": float64(moved.Load()) / 1e6 / elapsed.Seconds()}
	if r.command != nil {
		figures["cpu_per_gb"] = (r.cpu() - before).Seconds() / (float64(moved.Load()) / 1e9)
	}
	return figures, nil
}

// conns opens connections, reads the answer to the hello, and closes.
func conns(ctx context.Context, w *world, r *running) (map[string]float64, error) {
	var made atomic.Int64
	before := r.cpu()
	begin := time.Now()
	end := begin.Add(w.settings.duration)
	group, _ := errgroup.WithContext(ctx)
	for range clients {
		group.Go(func() error {
			for time.Now().Before(end) && ctx.Err() == nil {
				c, err := layer4.Dial(r.address, w.hellos[rand.IntN(len(w.hellos))], dialTimeout)
				if err != nil {
					return err
				}
				c.Conn.Close()
				made.Add(1)
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	n := float64(made.Load())
	figures := map[string]float64{"conns": n / time.Since(begin).Seconds()}
	if r.command != nil {
		figures["cpu_per_conn"] = float64((r.cpu() - before).Microseconds()) / n
	}
	return figures, nil
}

// smallBytes is the answer to a request of the cases small and latency.
const smallBytes = 1024

// small asks for little on connections that stay.
func small(ctx context.Context, w *world, r *running) (map[string]float64, error) {
	list, err := w.open(r.address, clients)
	if err != nil {
		return nil, err
	}
	defer closeAll(list)
	var asked atomic.Int64
	begin := time.Now()
	end := begin.Add(w.settings.duration)
	group, _ := errgroup.WithContext(ctx)
	for _, c := range list {
		group.Go(func() error {
			n := int64(0)
			for ; n%64 != 0 || time.Now().Before(end); n++ {
				if err := c.Get(smallBytes); err != nil {
					return err
				}
			}
			asked.Add(n)
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	rate := float64(asked.Load()) / time.Since(begin).Seconds()
	w.mu.Lock()
	defer w.mu.Unlock()
	if r.command != nil && (w.slowest == 0 || rate < w.slowest) {
		w.slowest = rate
	}
	return map[string]float64{"small": rate}, nil
}

// latency asks at half the pace that the slowest contender can serve, and takes the time of each answer.
func latency(ctx context.Context, w *world, r *running) (map[string]float64, error) {
	pace := w.slowest / 2
	if pace == 0 {
		pace = 10000
	}
	const connections = 16
	list, err := w.open(r.address, connections)
	if err != nil {
		return nil, err
	}
	defer closeAll(list)
	var mu sync.Mutex
	var times []float64
	interval := time.Duration(float64(time.Second) * connections / pace)
	end := time.Now().Add(w.settings.duration)
	group, _ := errgroup.WithContext(ctx)
	for _, c := range list {
		group.Go(func() error {
			var own []float64
			due := time.Now().Add(rand.N(interval))
			for due.Before(end) && ctx.Err() == nil {
				time.Sleep(time.Until(due))
				begin := time.Now()
				if err := c.Get(smallBytes); err != nil {
					return err
				}
				own = append(own, float64(time.Since(begin).Nanoseconds())/1000)
				// Who is late does not catch up: what is measured is a service that is not overloaded.
				for due = due.Add(interval); due.Before(time.Now()); due = due.Add(interval) {
				}
			}
			mu.Lock()
			defer mu.Unlock()
			times = append(times, own...)
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	slices.Sort(times)
	p99 := times[len(times)*99/100]
	figures := map[string]float64{"latency_p50": times[len(times)/2], "latency_p99": p99}
	if r.command == nil {
		w.directP99 = p99
	} else if w.directP99 > 0 {
		figures["latency_added_p99"] = p99 - w.directP99
	}
	return figures, nil
}

// idle opens many connections that do nothing, and sees by how much the process has grown.
func idle(ctx context.Context, w *world, r *running) (map[string]float64, error) {
	before, err := r.rss()
	if err != nil {
		return nil, err
	}
	list, err := w.open(r.address, w.settings.idle)
	defer closeAll(list)
	if err != nil {
		return nil, err
	}
	runtime.GC() // Ours, not the router's: what follows shall not be disturbed.
	if err := process.Until(ctx, time.Second, settled(r)); err != nil {
		return nil, err
	}
	after, err := r.rss()
	if err != nil {
		return nil, err
	}
	return map[string]float64{"idle_bytes": max(1, float64(after-before)) / float64(len(list))}, nil
}

// settled says yes when the memory of a process has stayed the same for a second.
func settled(r *running) func() (bool, error) {
	last := int64(-1)
	return func() (bool, error) {
		now, err := r.rss()
		same := now == last
		last = now
		return same, err
	}
}

// open makes connections, a few at once.
func (w *world) open(address string, n int) ([]*layer4.Client, error) {
	list := make([]*layer4.Client, 0, n)
	var mu sync.Mutex
	var group errgroup.Group
	group.SetLimit(16)
	for i := range n {
		group.Go(func() error {
			c, err := layer4.Dial(address, w.hellos[i%len(w.hellos)], dialTimeout)
			if err != nil {
				return fmt.Errorf("connection %d: %w", i, err)
			}
			mu.Lock()
			defer mu.Unlock()
			list = append(list, c)
			return nil
		})
	}
	return list, group.Wait()
}

func closeAll(list []*layer4.Client) {
	for _, c := range list {
		c.Conn.Close()
	}
}
