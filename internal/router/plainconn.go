package router

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// plainConn is a connection of the engine plain.
type plainConn struct {
	p         *plain
	client    *net.TCPConn
	from      netip.Addr
	uncounted bool
	early     []byte // first bytes of the answer
	up, down  int64
	last      atomic.Int64 // when something moved

	mu       sync.Mutex
	server   *net.TCPConn
	endpoint *endpoint // guarded by plain.mu, too
	closed   bool
}

func (c *plainConn) counted() bool { return !c.uncounted }

func (c *plainConn) attach(e *endpoint, server *net.TCPConn) {
	e.count(1)
	c.p.mu.Lock()
	defer c.p.mu.Unlock()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.server, c.endpoint = server, e
	if c.closed {
		server.Close()
	}
}

func (c *plainConn) drop(e *endpoint) {
	c.p.mu.Lock()
	defer c.p.mu.Unlock()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.endpoint == e {
		_ = c.server.SetLinger(0)
		c.server.Close()
		c.server, c.endpoint, c.up = nil, nil, 0
		e.count(-1)
	}
}

// close ends both sides; reset says to do it with RST.
func (c *plainConn) close(reset bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return
	}
	c.closed = true
	for _, side := range []*net.TCPConn{c.client, c.server} {
		if side == nil {
			continue
		}
		if reset {
			_ = side.SetLinger(0)
		}
		side.Close()
	}
}

// relay moves bytes in both directions until both have ended.
func (c *plainConn) relay(a *attempt) {
	e := c.endpoint
	m := &e.pool.cell.meters
	m.connections.Inc()
	if first := a.first(); first != e.pool.cell {
		first.meters.failover.Inc()
	}
	c.last.Store(now())
	done := make(chan struct{})
	go func() {
		defer close(done)
		c.down = c.copy(c.client, c.server, c.early)
	}()
	c.up += c.copy(c.server, c.client, nil)
	<-done
	c.close(false)
	m.toCell.Add(float64(c.up))
	m.toClient.Add(float64(c.down))
	e.count(-1)
}

// copy moves one direction and passes its end on. The kernel moves the bytes (splice).
func (c *plainConn) copy(to, from *net.TCPConn, early []byte) (total int64) {
	if len(early) > 0 {
		n, err := to.Write(early)
		total += int64(n)
		if err != nil {
			c.close(true)
			return total
		}
	}
	idle := c.p.router.config.Limits.IdleTimeout
	for {
		// Each direction looks several times within the idle time, and tells the other by that what it has moved.
		_ = from.SetReadDeadline(time.Now().Add(idle / idleLooks))
		n, err := to.ReadFrom(&io.LimitedReader{R: from, N: copyBytes})
		total += n
		if n > 0 {
			c.last.Store(now())
		}
		switch {
		case err == nil && n < copyBytes:
			_ = to.CloseWrite()
			return total
		case err == nil:
		case errors.Is(err, os.ErrDeadlineExceeded) && now()-c.last.Load() < int64(idle):
		default:
			c.close(true)
			return total
		}
	}
}

// idleLooks is how often a direction looks within the idle time whether it moved something.
const idleLooks = 4

// copyBytes is after how many bytes the deadline is put off.
const copyBytes = 4 << 20
