package router

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"github.com/shopset/shopset/internal/routetable"
)

// watcher begins to probe an endpoint, until the context ends.
type watcher func(context.Context, *endpoint)

// apply makes a table the one that new connections are routed by. What is known of endpoints that stay is kept; those that come
// count as well. Connections to cells that are drained or gone are cut after the time drain, 0 is never.
func (c *chooser) apply(t *routetable.Table, drain time.Duration, watch watcher) error {
	place, err := t.Function()
	if err != nil {
		return fmt.Errorf("routing table: %w", err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	gone := map[string]*cell{}
	if old := c.view.Load(); old != nil {
		for _, ce := range old.cells {
			gone[ce.name] = ce
		}
	}
	v := &view{table: t, place: place, maxFailover: t.MaxFailover}
	at := c.clock()
	var leaving []*cell
	for i := range t.Cells {
		from := &t.Cells[i]
		ce := gone[from.Name]
		delete(gone, from.Name)
		if ce == nil {
			ce = c.newCell(from.Name)
		}
		ce.pools[kindTLS].set(from.Endpoints.HTTPS, from.Probe, at, watch)
		ce.pools[kindHTTP].set(from.Endpoints.HTTP, from.Probe, at, watch)
		weight := from.Weight
		if from.State != routetable.Active {
			weight = 0
		}
		if ce.leave(weight == 0, at, drain) {
			leaving = append(leaving, ce)
		}
		v.cells = append(v.cells, ce)
		v.weights = append(v.weights, weight)
	}
	leaving = append(leaving, c.remove(gone, v, at, drain, watch)...)
	for k := range kinds {
		v.weigh(k)
	}
	c.leaving.Store(&leaving)
	c.view.Store(v)
	c.changed()
	if len(leaving) > 0 && drain > 0 {
		time.AfterFunc(drain, c.changed)
	}
	return nil
}

// remove takes cells out that the table does not have any more. Those that were taken out before, and may still have connections,
// stay on the list of those that are left.
func (c *chooser) remove(gone map[string]*cell, v *view, at int64, drain time.Duration, watch watcher) (leaving []*cell) {
	if old := c.leaving.Load(); old != nil {
		for _, ce := range *old {
			if until := ce.leaving.Load(); ce.removed && until > at-int64(time.Minute) {
				leaving = append(leaving, ce)
			}
		}
	}
	for _, ce := range gone {
		for k := range kinds {
			ce.pools[k].set(nil, nil, at, watch)
		}
		ce.removed = true
		if ce.leave(true, at, drain) {
			leaving = append(leaving, ce)
		}
		c.meters.forget(ce.name)
		for _, other := range v.cells {
			delete(other.moves, ce)
		}
	}
	return leaving
}

func (c *chooser) newCell(name string) *cell {
	ce := &cell{name: name, moves: map[*cell]*move{}, meters: c.meters.cell(name)}
	for k := range kinds {
		ce.pools[k] = &pool{cell: ce, kind: k}
		ce.pools[k].endpoints.Store(&[]*endpoint{})
		ce.pools[k].downSince.Store(c.clock())
	}
	return ce
}

// leave sets the time at which connections to a cell without traffic are cut, and says whether there is one.
func (ce *cell) leave(leaving bool, at int64, drain time.Duration) bool {
	if !leaving || drain == 0 {
		ce.leaving.Store(0)
		return false
	}
	if ce.leaving.Load() == 0 {
		ce.leaving.Store(at + int64(drain))
	}
	return true
}

// set changes the endpoints of a pool.
func (p *pool) set(addresses []netip.AddrPort, probe *routetable.Probe, at int64, watch watcher) {
	before := map[netip.AddrPort]*endpoint{}
	for _, e := range *p.endpoints.Load() {
		before[e.address] = e
	}
	endpoints := make([]*endpoint, 0, len(addresses))
	up := int32(0)
	for _, address := range addresses {
		e := before[address]
		if e != nil && !sameProbe(e.probe, probe) {
			e = nil // Its probes go on at another place, and what they found so far does not count.
		} else {
			delete(before, address)
		}
		if e == nil {
			e = &endpoint{address: address, pool: p, probe: probe}
			var ctx context.Context
			ctx, e.gone = context.WithCancel(context.Background())
			watch(ctx, e)
		}
		if !e.down.Load() {
			up++
		}
		endpoints = append(endpoints, e)
	}
	for _, e := range before {
		e.gone()
	}
	p.endpoints.Store(&endpoints)
	switch was := p.up.Swap(up); {
	case was == 0 && up > 0 && p.begun:
		p.upSince.Store(at)
	case was > 0 && up == 0:
		p.downSince.Store(at)
	}
	p.begun = p.begun || up > 0
}

func sameProbe(a, b *routetable.Probe) bool { return a == b || (a != nil && b != nil && *a == *b) }
