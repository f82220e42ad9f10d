package router

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/shopset/shopset/internal/routetable"
)

// now counts nanoseconds on the monotonic clock since the program began; 0 never happens later.
func now() int64 { return int64(time.Since(began)) }

var began = time.Now().Add(-time.Second)

// endpoint is one address of a cell. It stays the same over routing tables, with all that is known of its health.
type endpoint struct {
	address netip.AddrPort
	pool    *pool
	probe   *routetable.Probe // nil if the table tells none
	// open are the connections to it.
	open atomic.Int64
	down atomic.Bool
	// downSince and upSince are when it last went down, and came back; 0 is never.
	downSince, upSince atomic.Int64
	// failures are those in a row: of connections, and of probes; successes those of probes while it is down.
	failures, probeFailures, probeSuccesses atomic.Int32
	// flaps is how often in a row it went down soon after it had come back.
	flaps atomic.Int32
	// gone ends its probes, when no table has it any more.
	gone context.CancelFunc
}

// count counts connections that begin (1) or end (-1).
func (e *endpoint) count(n int64) {
	e.open.Add(n)
	e.pool.cell.open.Add(n)
}

// pool is what a cell has for one port: TLS or not. It is down when none of its endpoints is up, or when it has none.
type pool struct {
	cell      *cell
	kind      kind
	endpoints atomic.Pointer[[]*endpoint]
	up        atomic.Int32
	downSince atomic.Int64
	upSince   atomic.Int64
	begun     bool // it has had an endpoint that was up
}

func (p *pool) isDown() bool { return p.up.Load() == 0 }

// cell is a ShopSet as the router sees it, the same over routing tables.
type cell struct {
	name    string
	removed bool // no table has it any more
	pools   [kinds]*pool
	meters  cellMeters
	// open are the connections to all endpoints that it has or had: those of a Pod that ends are no longer in the table.
	open atomic.Int64
	// leaving is when connections to it are to be cut, because it is drained or gone; 0 is never.
	leaving atomic.Int64
	// moves tell where hosts of this cell went while it was down, by the cell that got them. Guarded by the chooser.
	moves map[*cell]*move
}

// move is when hosts of one cell began to be served by another, and when that was last so. This pair is all that is
// remembered of hosts.
type move struct{ first, last, outage int64 }

// The reasons for which an endpoint failed a connection.
type failure uint8

const (
	failedRefused failure = iota // refused, unreachable
	failedTimeout                // no answer to the SYN
	failedClosed                 // closed or reset after it got the hello
	failedSilent                 // said nothing for too long after it got the hello
	failedDown                   // a probe found it down meanwhile
	failedLocal                  // this machine has no port or no memory left for the connection
	failures
)

func (f failure) String() string {
	return [...]string{"refused", "timeout", "closed", "silent", "down", "local"}[f]
}

// localFault says that a connection was not made for want of something on this machine: ports, descriptors, memory. It tells nothing
// about the other side.
func localFault(err error) bool {
	for _, fault := range []error{syscall.EADDRNOTAVAIL, syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM} {
		if errors.Is(err, fault) {
			return true
		}
	}
	return false
}

// falls is how many failures in a row take an endpoint down. A refused connection is proof: nobody listens.
func (f failure) falls() int32 {
	switch f {
	case failedRefused:
		return 1
	case failedTimeout:
		return 2
	default:
		return 3
	}
}

// failed notes that an endpoint failed a connection.
func (c *chooser) failed(e *endpoint, why failure) {
	e.pool.cell.meters.failed[why].Inc()
	if why != failedDown && why != failedLocal && e.failures.Add(1) >= why.falls() {
		c.mark(e, true)
	}
}

// answered notes that an endpoint answered a connection whose host has its first place at cell from.
func (c *chooser) answered(e *endpoint, from *cell) {
	if e.failures.Load() != 0 {
		e.failures.Store(0)
	}
	if from != e.pool.cell && from.pools[e.pool.kind].isDown() {
		c.moved(from, e.pool, c.clock())
	}
}

// probed notes what a probe found.
func (c *chooser) probed(e *endpoint, ok bool) {
	if !ok {
		e.probeSuccesses.Store(0)
		if e.probeFailures.Add(1) >= int32(c.health.Fall) {
			c.mark(e, true)
		}
		return
	}
	e.probeFailures.Store(0)
	// Who goes down again and again, though its probes pass, must pass more of them each time.
	if e.down.Load() && e.probeSuccesses.Add(1) >= int32(c.health.Rise)<<e.flaps.Load() {
		c.mark(e, false)
	}
}

// mostFlaps bounds the probes that must pass: 16 times as many as usual, which are 8 s.
const mostFlaps = 4

// mark takes an endpoint down or up.
func (c *chooser) mark(e *endpoint, down bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	p := e.pool
	if e.down.Load() == down || !slices.Contains(*p.endpoints.Load(), e) {
		return
	}
	at := c.clock()
	e.failures.Store(0)
	e.probeSuccesses.Store(0)
	if down {
		if since := e.upSince.Load(); since != 0 && at-since < int64(c.failover.Window) {
			e.flaps.Store(min(e.flaps.Load()+1, mostFlaps))
		} else {
			e.flaps.Store(0)
		}
		e.downSince.Store(at)
		if p.up.Add(-1) == 0 {
			p.downSince.Store(at)
		}
		e.down.Store(true)
	} else {
		e.upSince.Store(at)
		e.down.Store(false)
		if p.up.Add(1) == 1 {
			p.upSince.Store(at)
		}
	}
	c.log.Info("endpoint", "cell", p.cell.name, "port", p.kind.String(), "address", e.address.String(), "down", down, "left", p.up.Load())
	if v := c.view.Load(); v != nil {
		v.weigh(p.kind)
	}
	c.changed()
}

// moved notes that hosts of a cell that is down are served by another one.
func (c *chooser) moved(from *cell, to *pool, at int64) {
	outage := from.pools[to.kind].downSince.Load()
	c.mu.Lock()
	defer c.mu.Unlock()
	m := from.moves[to.cell]
	if m == nil {
		m = &move{}
		from.moves[to.cell] = m
	}
	// A new outage begins a new move, unless it follows the last one so closely that it may have the same cause.
	if m.first == 0 || (m.outage != outage && at-m.last > int64(c.failover.Window)) {
		m.first = at
		c.meters.moves.Inc()
		c.log.Warn("hosts moved", "from", from.name, "to", to.cell.name)
	}
	m.last, m.outage = at, outage
}

// held says whether hosts of a cell may not go on to yet another one: the cell that took them over went down soon after,
// maybe for what one of these hosts is sent.
func (c *chooser) held(from *cell, over *pool, at int64) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	m := from.moves[over.cell]
	if m == nil || m.first == 0 {
		return false
	}
	down := over.downSince.Load()
	return down >= m.first && down-m.first <= int64(c.failover.Window) && at-down < int64(c.failover.Hold)
}
