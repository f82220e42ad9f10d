package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// load does handshakes, full ones: nothing is resumed, and all have the same key exchange.
type load struct {
	*world
	settings
	address string
}

// handshake does one, and says how long it took. The certificate is verified once for each domain, in cold.
func (l *load) handshake(ctx context.Context, name string, verify bool) (time.Duration, error) {
	began := time.Now()
	conn, err := (&net.Dialer{Timeout: 10 * time.Second}).DialContext(ctx, "tcp", l.address)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	_ = conn.(*net.TCPConn).SetLinger(0) // Ports are not kept waiting.
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	client := tls.Client(conn, &tls.Config{ServerName: name, RootCAs: l.roots, InsecureSkipVerify: !verify, SessionTicketsDisabled: true, //nolint:gosec // The client is not what is measured.
		CurvePreferences: []tls.CurveID{tls.X25519}, MinVersion: tls.VersionTLS13})
	err = client.HandshakeContext(ctx)
	return time.Since(began), err
}

// await waits for the first handshake.
func (l *load) await(ctx context.Context, limit time.Duration) error {
	deadline := time.Now().Add(limit)
	for {
		_, err := l.handshake(ctx, domain(0), true)
		if err == nil {
			return nil
		}
		if time.Now().After(deadline) || ctx.Err() != nil {
			return fmt.Errorf("no handshake: %w", err)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// measured are handshakes.
type measured struct {
	done  int
	took  time.Duration
	times []time.Duration
}

func (m *measured) perSecond() float64 { return float64(m.done) / m.took.Seconds() }

func (m *measured) quantile(q float64) float64 {
	if len(m.times) == 0 {
		return 0
	}
	return float64(m.times[int(q*float64(len(m.times)-1))]) / float64(time.Millisecond)
}

// do runs handshakes in parallel; next names the domain of each, or says that there is none left.
func (l *load) do(ctx context.Context, verify bool, next func() (string, bool)) (*measured, error) {
	var mu sync.Mutex
	var all []time.Duration
	var failures []error
	began := time.Now()
	var group sync.WaitGroup
	for range l.connections {
		group.Go(func() {
			var times []time.Duration
			defer func() { mu.Lock(); defer mu.Unlock(); all = append(all, times...) }()
			for ctx.Err() == nil {
				name, ok := next()
				if !ok {
					return
				}
				took, err := l.handshake(ctx, name, verify)
				if err != nil {
					mu.Lock()
					failures = append(failures, fmt.Errorf("%s: %w", name, err))
					mu.Unlock()
					return
				}
				times = append(times, took)
			}
		})
	}
	group.Wait()
	took := time.Since(began)
	slices.Sort(all)
	if len(failures) > 3 {
		failures = failures[:3]
	}
	return &measured{len(all), took, all}, errors.Join(failures...)
}

// coldLimit is how long domains are asked for the first time, at most.
const coldLimit = 60 * time.Second

// cold asks for each domain once, until all are done or the time is over.
func (l *load) cold(ctx context.Context) (*measured, error) {
	var at atomic.Int64
	deadline := time.Now().Add(coldLimit)
	return l.do(ctx, true, func() (string, bool) {
		i := int(at.Add(1)) - 1
		return domain(i), i < l.domains && time.Now().Before(deadline)
	})
}

// warm asks for domains that were asked for before, in any order.
func (l *load) warm(ctx context.Context, known int) (*measured, error) {
	deadline := time.Now().Add(l.duration)
	return l.do(ctx, false, func() (string, bool) { return domain(rand.IntN(known)), time.Now().Before(deadline) }) //nolint:gosec // Any will do.
}

// flooded is which share of the rate of good handshakes is left while as many more ask for unknown names, each
// for another, compared with as many more that ask for good ones: so that what is compared is not the processor
// that the second half of the clients takes.
func (l *load) flooded(ctx context.Context, known int) (float64, error) {
	rate := func(flood func() string) (float64, error) {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		var group sync.WaitGroup
		for range l.connections {
			group.Go(func() {
				for ctx.Err() == nil {
					_, _ = l.handshake(ctx, flood(), false) // Refused, which is right.
				}
			})
		}
		good, err := l.warm(ctx, known)
		cancel()
		group.Wait()
		return good.perSecond(), err
	}
	quiet, err := rate(func() string { return domain(rand.IntN(known)) }) //nolint:gosec // Any will do.
	if err != nil {
		return 0, err
	}
	var at atomic.Int64
	flooded, err := rate(func() string { return fmt.Sprintf("unknown-%d.example", at.Add(1)) })
	return flooded / quiet, err
}

// startLimit is how long a contender may take to its first handshake.
const startLimit = 3 * time.Minute
