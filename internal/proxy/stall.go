package proxy

import (
	"errors"
	"io"
	"sync"
	"time"
)

// errStalled ends an answer whose upstream stopped in the middle.
var errStalled = errors.New("the upstream stopped sending in the middle of its answer")

// stallGuard closes an answer's body when a read takes too long, and notes why an answer broke off.
type stallGuard struct {
	io.ReadCloser
	exchange *exchange
	limit    time.Duration
	timer    *time.Timer

	mu      sync.Mutex
	reading bool
	stalled bool
}

func newStallGuard(e *exchange, body io.ReadCloser, limit time.Duration) *stallGuard {
	g := &stallGuard{ReadCloser: body, exchange: e, limit: limit}
	g.timer = time.AfterFunc(limit, g.expire)
	g.timer.Stop()
	return g
}

func (g *stallGuard) expire() {
	g.mu.Lock()
	g.stalled = g.reading
	stalled := g.stalled
	g.mu.Unlock()
	if stalled {
		g.ReadCloser.Close()
	}
}

func (g *stallGuard) set(reading bool) (stalled bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.reading = reading
	return g.stalled
}

func (g *stallGuard) Read(p []byte) (int, error) {
	g.set(true)
	g.timer.Reset(g.limit)
	n, err := g.ReadCloser.Read(p)
	g.timer.Stop()
	stalled := g.set(false)
	if err != nil && err != io.EOF && g.exchange.request.Context().Err() == nil {
		g.exchange.failure, g.exchange.problem = "broken", err
		if stalled {
			err = errStalled
			g.exchange.failure, g.exchange.problem = "timeout", err
		}
	}
	return n, err
}

func (g *stallGuard) Close() error {
	g.timer.Stop()
	return g.ReadCloser.Close()
}
