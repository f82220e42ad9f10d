package proxy

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync/atomic"
	"time"
)

// Startup says when a new proxy is ready.
type Startup struct {
	// Wait is how long a proxy that starts may stay unready because an upstream takes no connection. In a new cell names and
	// addresses of Services work a moment after their Pods are ready; until then every answer would be an error. A role that
	// is down must not hold up the others for longer. 0s waits for nobody. Default 15s.
	Wait time.Duration `yaml:"wait"`
}

// greetPause lies between two tries to reach an upstream at the start, and is the shortest time between two looks at its name
// because its endpoints take no connection.
const greetPause = 250 * time.Millisecond

// greeting is the part of readiness that is about the start alone: once it is over, no upstream makes the proxy unready.
type greeting struct {
	until time.Time
	over  atomic.Bool
}

// check names the upstreams that nobody reached so far.
func (g *greeting) check(p *pipeline) error {
	if g.over.Load() {
		return nil
	}
	var waiting []string
	if time.Now().Before(g.until) {
		for name, role := range p.roles {
			for _, u := range role.upstreams {
				if !u.reached.Load() {
					waiting = append(waiting, name+" at "+u.name)
				}
			}
		}
	}
	if len(waiting) == 0 {
		g.over.Store(true)
		return nil
	}
	slices.Sort(waiting)
	return errors.New("these take no connection so far: " + strings.Join(waiting, ", "))
}

// greet connects to an upstream until it takes a connection, or the time is over.
func (u *upstream) greet(ctx context.Context, until time.Time, names bool) {
	ctx, cancel := context.WithDeadline(ctx, until)
	defer cancel()
	pause := time.NewTicker(greetPause)
	defer pause.Stop()
	for ctx.Err() == nil && !u.reached.Load() {
		if names {
			u.resolve(ctx)
		}
		for _, e := range *u.endpoints.Load() {
			if conn, err := u.transport.DialContext(ctx, "tcp", e.address); err == nil {
				_ = conn.Close()
				u.reached.Store(true)
				return
			}
		}
		select {
		case <-ctx.Done():
		case <-pause.C:
		}
	}
}
