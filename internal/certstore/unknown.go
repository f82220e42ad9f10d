package certstore

import (
	"hash/maphash"
	"net/netip"
	"sync"
	"sync/atomic"
)

// unknown is a table of names that nobody has, of fixed size: each name has one place, which another may take.
// A place holds 40 bits of the name's hash and when it ends, so that reading and writing need no lock; the other
// table beside it has the hash of the name's parent, for when a wildcard comes.
type unknown struct {
	seed    maphash.Seed
	places  []atomic.Uint64
	parents []atomic.Uint32
}

// unknownBits is the size of the end in a place: 2^24 seconds are more than half a year, after which they wrap.
const unknownBits = 24

func newUnknown(size int) *unknown {
	places := 1
	for places < size {
		places *= 2
	}
	return &unknown{seed: maphash.MakeSeed(), places: make([]atomic.Uint64, places), parents: make([]atomic.Uint32, places)}
}

func (u *unknown) place(name string) (at int, mark uint64) {
	hash := maphash.String(u.seed, name)
	return int(hash % uint64(len(u.places))), hash >> unknownBits << unknownBits
}

const endMask = 1<<unknownBits - 1

// has says whether a name is known to be nobody's at a time, in seconds.
func (u *unknown) has(name string, now uint32) bool {
	at, mark := u.place(name)
	value := u.places[at].Load()
	// The end is at most a few minutes ahead: more is behind, wrapped.
	left := (value - uint64(now)) & endMask
	return value != 0 && value&^endMask == mark && left > 0 && left < 1<<(unknownBits-1)
}

func (u *unknown) add(name, parent string, until uint32) {
	at, mark := u.place(name)
	u.parents[at].Store(uint32(maphash.String(u.seed, parent)))
	u.places[at].Store(mark | uint64(until)&endMask)
}

// remove forgets a name, or with a wildcard all names that it covers.
func (u *unknown) remove(name string) {
	if name != "" && name[0] == '*' {
		parent := uint32(maphash.String(u.seed, name))
		for at := range u.parents {
			if u.parents[at].Load() == parent {
				u.places[at].Store(0)
			}
		}
		return
	}
	at, mark := u.place(name)
	if value := u.places[at].Load(); value&^endMask == mark {
		u.places[at].CompareAndSwap(value, 0)
	}
}

// clear forgets all.
func (u *unknown) clear() {
	for at := range u.places {
		u.places[at].Store(0)
	}
}

// scanners holds how many unknown names each client network has asked for, in buckets of fixed number. A bucket
// empties by itself; while it is full its networks are refused without a call.
type scanners struct {
	seed    maphash.Seed
	perHour uint32
	burst   uint32
	buckets [scannerBuckets]bucket
}

const scannerBuckets = 4096

type bucket struct {
	mu    sync.Mutex
	level float64
	at    uint32
}

func (s *scanners) of(client netip.Addr) *bucket {
	// Networks, not addresses: who has IPv6 has a /64 at least.
	bits := 24
	if client = client.Unmap(); client.Is6() {
		bits = 64
	}
	network, err := client.Prefix(bits)
	if err != nil {
		return nil // No address, as in tests.
	}
	return &s.buckets[maphash.Comparable(s.seed, network)%scannerBuckets]
}

// refused says whether a client's network has asked for too many.
func (s *scanners) refused(client netip.Addr, now uint32) bool {
	b := s.of(client)
	if b == nil {
		return false
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.drained(s, now) >= float64(s.burst)
}

// charge counts an unknown name.
func (s *scanners) charge(client netip.Addr, now uint32) {
	if b := s.of(client); b != nil {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.level = b.drained(s, now) + 1
	}
}

func (b *bucket) drained(s *scanners, now uint32) float64 {
	b.level = max(0, b.level-float64(now-b.at)*float64(s.perHour)/3600)
	b.at = now
	return b.level
}
