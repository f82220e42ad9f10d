package certstore

import (
	"hash/maphash"
	"sync"
)

// cache is S3-FIFO (Yang, Zhang, Qiu, Yue, Vigfusson: FIFO queues are all you need for cache eviction, SOSP 2023),
// in shards, bounded by the cost of its entries:
//
//	new entry         → end of small; of main, if the name is in ghost
//	hit               → uses + 1, up to 3; no lock but for reading
//	small above 10 %  → its oldest: used again? end of main : out, its name into ghost
//	main              → its oldest: used? uses - 1, to the end of main : out
//
// Every entry moves at most four times before it goes, so that to add one costs O(1), averaged.
type cache struct {
	seed   maphash.Seed
	shards [cacheShards]shard
}

const (
	cacheShards = 64
	maxUses     = 3
	// smallShare of the bytes belongs to the small queue, one part in so many.
	smallShare = 10
)

type shard struct {
	mu      sync.RWMutex
	entries map[string]*entry
	small   queue
	main    queue
	ghost   ghost
	limit   int
}

func newCache(limit int) *cache {
	c := &cache{seed: maphash.MakeSeed()}
	for i := range c.shards {
		c.shards[i] = shard{entries: map[string]*entry{}, limit: limit / cacheShards}
	}
	return c
}

func (c *cache) of(name string) (*shard, uint64) {
	hash := maphash.String(c.seed, name)
	return &c.shards[hash%cacheShards], hash
}

// get returns the entry of a name, nil when there is none.
func (c *cache) get(name string) *entry {
	s, _ := c.of(name)
	s.mu.RLock()
	e := s.entries[name]
	s.mu.RUnlock()
	if e != nil && e.uses.Load() < maxUses {
		e.uses.Add(1) // A race makes it one or two too many, which does no harm.
	}
	return e
}

// peek is get, but counts no use.
func (c *cache) peek(name string) *entry {
	s, _ := c.of(name)
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.entries[name]
}

// put adds or replaces the entry of its name, and returns how many others went. One that is larger than its
// shard is not kept.
func (c *cache) put(e *entry) (evicted int) {
	s, hash := c.of(e.name())
	s.mu.Lock()
	defer s.mu.Unlock()
	if old := s.entries[e.name()]; old != nil {
		s.drop(old)
	}
	if int(e.cost) > s.limit {
		return 0
	}
	s.entries[e.name()] = e
	if e.inMain = s.ghost.has(hash); e.inMain {
		s.main.push(e)
	} else {
		s.small.push(e)
	}
	for s.small.bytes+s.main.bytes > s.limit {
		evicted += s.evict(c)
	}
	return evicted
}

// remove takes the entry of a name out.
func (c *cache) remove(name string) {
	s, _ := c.of(name)
	s.mu.Lock()
	defer s.mu.Unlock()
	if e := s.entries[name]; e != nil {
		s.drop(e)
	}
}

// drop takes an entry out of its shard; its place in the queue stays empty until it comes to the front.
func (s *shard) drop(e *entry) {
	delete(s.entries, e.name())
	if e.inMain {
		s.main.forget(e)
	} else {
		s.small.forget(e)
	}
}

// evict takes one step: an entry goes, or moves on.
func (s *shard) evict(c *cache) int {
	if s.small.bytes > s.limit/smallShare || s.main.bytes == 0 {
		e := s.small.pop()
		if e == nil {
			return 0
		}
		if e.uses.Load() > 0 {
			e.uses.Store(0)
			e.inMain = true
			s.main.push(e)
			return 0
		}
		delete(s.entries, e.name())
		s.ghost.add(maphash.String(c.seed, e.name()), len(s.entries))
		return 1
	}
	e := s.main.pop()
	if e == nil {
		return 0
	}
	if uses := e.uses.Load(); uses > 0 {
		e.uses.Store(uses - 1)
		s.main.push(e)
		return 0
	}
	delete(s.entries, e.name())
	return 1
}

// size returns how many entries there are, and their cost.
func (c *cache) size() (entries, bytes int) {
	for i := range c.shards {
		s := &c.shards[i]
		s.mu.RLock()
		entries += len(s.entries)
		bytes += s.small.bytes + s.main.bytes
		s.mu.RUnlock()
	}
	return entries, bytes
}

// queue is a ring of entries, first in, first out.
type queue struct {
	ring        []*entry
	head, count int
	bytes       int
	// gone is how many of them are dropped.
	gone int
}

func (q *queue) push(e *entry) {
	if q.count == len(q.ring) {
		larger := make([]*entry, max(16, len(q.ring)+len(q.ring)/2))
		for i := range q.count {
			larger[i] = q.ring[(q.head+i)%len(q.ring)]
		}
		q.ring, q.head = larger, 0
	}
	q.ring[(q.head+q.count)%len(q.ring)] = e
	q.count++
	q.bytes += int(e.cost)
	e.dropped = false
}

// pop returns the oldest entry that was not forgotten, nil when there is none.
func (q *queue) pop() *entry {
	for q.count > 0 {
		e := q.ring[q.head]
		q.ring[q.head] = nil
		q.head = (q.head + 1) % len(q.ring)
		q.count--
		if !e.dropped {
			q.bytes -= int(e.cost)
			return e
		}
		q.gone--
	}
	return nil
}

// forget marks an entry, which is skipped when it comes to the front, and lets go of what it holds. The marked
// ones are cleared away when they are more than half.
func (q *queue) forget(e *entry) {
	e.dropped = true
	q.bytes -= int(e.cost)
	if q.gone++; q.gone > 16 && q.gone > q.count/2 {
		kept := 0
		for i := range q.count {
			at := q.ring[(q.head+i)%len(q.ring)]
			if !at.dropped {
				q.ring[(q.head+kept)%len(q.ring)] = at
				kept++
			}
		}
		for i := kept; i < q.count; i++ {
			q.ring[(q.head+i)%len(q.ring)] = nil
		}
		q.count, q.gone = kept, 0
	}
}

// ghost remembers the names, by their hashes, that went out of small: as many as there are entries.
type ghost struct {
	ring  []uint64
	next  int
	known map[uint64]struct{}
}

func (g *ghost) has(hash uint64) bool {
	_, ok := g.known[hash]
	return ok
}

func (g *ghost) add(hash uint64, entries int) {
	if g.known == nil {
		g.known = map[uint64]struct{}{}
	}
	if g.has(hash) {
		return
	}
	if limit := max(16, entries); len(g.ring) < limit {
		g.ring = append(g.ring, hash)
	} else {
		g.next %= len(g.ring)
		delete(g.known, g.ring[g.next])
		g.ring[g.next] = hash
		g.next++
	}
	g.known[hash] = struct{}{}
}
