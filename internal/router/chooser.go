package router

import (
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"

	"github.com/shopset/shopset/internal/routetable"
)

// placer is the placement function: host in its normal form → indexes of cells, best first.
type placer interface {
	Place(host string, into []int) []int
}

// view is what connections are routed by: an immutable table, and the health of what is in it.
type view struct {
	table       *routetable.Table
	place       placer
	cells       []*cell  // in the order of the table
	weights     []uint32 // 0 is drained
	maxFailover int      // percent
	// static is set, by port, while so many cells look dead that the fault is more likely here: then nothing is moved.
	static [kinds]atomic.Bool
}

// weigh decides about static.
func (v *view) weigh(k kind) {
	dead, all := 0, 0
	for i, c := range v.cells {
		if v.weights[i] == 0 {
			continue
		}
		all++
		if c.pools[k].isDown() {
			dead++
		}
	}
	v.static[k].Store(dead*100 > v.maxFailover*all)
}

// maxOrder is how many cells of a host's list are considered.
const maxOrder = 8

// maxTries bounds the endpoints that one connection is offered to.
const maxTries = 8

var (
	errNoTable    = errors.New("no routing table yet")
	errNoCell     = errors.New("no cell takes traffic")
	errNoEndpoint = errors.New("no endpoint took the connection")
)

// chooser decides which endpoint a connection goes to.
type chooser struct {
	view     atomic.Pointer[view]
	health   Health
	failover Failover
	log      *slog.Logger
	meters   *meters
	clock    func() int64
	mu       sync.Mutex // guards changes of health, and moves
	// epoch counts changes of health and tables; wake tells who waits.
	epoch atomic.Uint64
	wake  func()
	// leaving are the cells without traffic, whose connections are cut some time.
	leaving atomic.Pointer[[]*cell]
	// replays are the hellos that may still be sent a second time because of silence, in thousandths.
	replays atomic.Int64
}

func (c *chooser) changed() {
	c.epoch.Add(1)
	if c.wake != nil {
		c.wake()
	}
}

// attempt is the way of one connection through the endpoints.
type attempt struct {
	view  *view
	kind  kind
	hash  uint32 // of the host
	order [maxOrder]uint16
	cells uint8 // in order
	tries uint8
	tried [maxTries]*endpoint
	// replayed counts how often the hello was sent again.
	replayed uint8
	held     bool
}

// start places a host. scratch is used for the list.
func (c *chooser) start(a *attempt, k kind, host string, scratch []int) ([]int, error) {
	v := c.view.Load()
	if v == nil {
		return scratch, errNoTable
	}
	*a = attempt{view: v, kind: k, hash: fraction(host)}
	scratch = v.place.Place(host, scratch[:0])
	for _, index := range scratch[:min(len(scratch), maxOrder)] {
		a.order[a.cells] = uint16(index)
		a.cells++
	}
	if a.cells == 0 {
		return scratch, errNoCell
	}
	// A tenth of all connections may be repeated for silence, and some more.
	if budget := c.replays.Load(); budget < maxReplayBudget {
		c.replays.Add(100)
	}
	return scratch, nil
}

const (
	replayCost      = 1000
	maxReplayBudget = 100 * replayCost
)

// mayReplay takes one from the budget of hellos that are sent again although nobody knows that the endpoint is down. Without
// a budget, all routers would double the load of cells that are merely slow.
func (c *chooser) mayReplay() bool {
	if c.replays.Load() < replayCost {
		return false
	}
	c.replays.Add(-replayCost)
	return true
}

func fraction(host string) uint32 { // FNV-1a
	h := uint32(2166136261)
	for i := range len(host) {
		h = (h ^ uint32(host[i])) * 16777619
	}
	return h
}

// first is the cell that the host belongs to.
func (a *attempt) first() *cell { return a.view.cells[a.order[0]] }

func (a *attempt) pool(i int) *pool { return a.view.cells[a.order[i]].pools[a.kind] }

// next returns the endpoint to try now, nil if there is none left.
func (c *chooser) next(a *attempt, random uint32) *endpoint {
	e := c.choose(a, random)
	if e != nil {
		a.tried[a.tries] = e
		a.tries++
	}
	return e
}

func (c *chooser) choose(a *attempt, random uint32) *endpoint {
	if a.tries >= maxTries {
		return nil
	}
	primary := a.pool(0)
	// The usual case: the first cell of the host is well.
	if !primary.isDown() && !c.rising(a, primary) {
		if e := c.pick(a, primary, random, true); e != nil {
			return e
		}
	}
	at := c.clock()
	// A cell without endpoints is not one that only looks dead: there is nowhere to stay.
	if !a.view.static[a.kind].Load() || len(*primary.endpoints.Load()) == 0 {
		for i := 1; i < int(a.cells); i++ {
			if over := a.pool(i - 1); i > 1 && over.isDown() && c.held(a.first(), over, at) {
				if !a.held {
					a.held = true
					c.meters.held.Inc()
				}
				break
			}
			p := a.pool(i)
			if p.isDown() {
				continue
			}
			if e := c.pick(a, p, random, true); e != nil {
				return e
			}
		}
	}
	// Nothing that looks well is left: maybe it is the look that is wrong.
	if e := c.pick(a, primary, random, true); e != nil {
		return e
	}
	return c.pick(a, primary, random, false)
}

// rising says whether a cell that came back is still to be spared this host. Hosts come back one after the other, each once.
func (c *chooser) rising(a *attempt, p *pool) bool {
	since := p.upSince.Load()
	if since == 0 || a.cells < 2 {
		return false
	}
	passed := c.clock() - since
	slow := int64(c.failover.SlowStart)
	return passed < slow && float64(a.hash)/(1<<32) >= float64(passed)/float64(slow)
}

// pick takes the one with fewer connections of two random endpoints that were not tried; healthy leaves out those that are
// down, or came back a moment ago.
func (c *chooser) pick(a *attempt, p *pool, random uint32, healthy bool) *endpoint {
	endpoints := *p.endpoints.Load()
	n := uint32(len(endpoints))
	if n == 0 {
		return nil
	}
	one := random & 0xffff * n >> 16
	x, y := endpoints[one], endpoints[one]
	if n > 1 {
		y = endpoints[(one+1+random>>16*(n-1)>>16)%n]
	}
	fresh := func(e *endpoint) bool { return (!healthy || !e.down.Load()) && !a.has(e) }
	good := func(e *endpoint) bool { return fresh(e) && (!healthy || !c.spared(e, random)) }
	switch {
	case good(x) && (x == y || !good(y) || x.open.Load() <= y.open.Load()):
		return x
	case good(y):
		return y
	}
	for _, ok := range []func(*endpoint) bool{good, fresh} {
		for i := range n {
			if e := endpoints[(one+i)%n]; ok(e) {
				return e
			}
		}
	}
	return nil
}

// spared says whether an endpoint that came back is left out this time.
func (c *chooser) spared(e *endpoint, random uint32) bool {
	since := e.upSince.Load()
	if since == 0 {
		return false
	}
	passed, slow := c.clock()-since, int64(c.failover.SlowStart)
	return passed < slow && int64(random>>16)*slow >= passed<<16
}

func (a *attempt) has(e *endpoint) bool {
	for _, tried := range a.tried[:a.tries] {
		if tried == e {
			return true
		}
	}
	return false
}

// other says whether there is yet another endpoint for an attempt that looks well.
func (c *chooser) other(a *attempt, random uint32) bool {
	trial := *a
	trial.held = true // It counts when it is done.
	e := c.choose(&trial, random)
	return e != nil && !e.down.Load()
}

// cutting says whether it is time to cut connections to cells without traffic.
func (c *chooser) cutting(at int64) bool {
	if list := c.leaving.Load(); list != nil {
		for _, ce := range *list {
			if leaving := ce.leaving.Load(); leaving > 0 && at >= leaving {
				return true
			}
		}
	}
	return false
}

// close ends all probes.
func (c *chooser) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if v := c.view.Load(); v != nil {
		for _, ce := range v.cells {
			for k := range kinds {
				for _, e := range *ce.pools[k].endpoints.Load() {
					e.gone()
				}
			}
		}
	}
}
