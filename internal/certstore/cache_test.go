package certstore

import (
	"bytes"
	"crypto"
	rand2 "crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"testing"

	"github.com/shopset/shopset/internal/certrecord"
	"github.com/shopset/shopset/internal/certs/certstest"
)

func small(name string, cost int) *entry {
	return &entry{domain: &Domain{Name: name}, cost: int32(cost)} //nolint:gosec // A small number.
}

// check wants the books of all shards to be right.
func (c *cache) check(t *testing.T) {
	t.Helper()
	for i := range c.shards {
		s := &c.shards[i]
		queued := map[string]bool{}
		for _, q := range []*queue{&s.small, &s.main} {
			bytes, gone := 0, 0
			for n := range q.count {
				e := q.ring[(q.head+n)%len(q.ring)]
				if e.dropped {
					gone++
					continue
				}
				bytes += int(e.cost)
				if s.entries[e.name()] != e || queued[e.name()] || e.inMain != (q == &s.main) {
					t.Fatalf("%s is in a queue where it does not belong", e.name())
				}
				queued[e.name()] = true
			}
			if bytes != q.bytes || gone != q.gone {
				t.Fatalf("a queue counts %d bytes and %d gone, has %d and %d", q.bytes, q.gone, bytes, gone)
			}
		}
		if len(queued) != len(s.entries) || s.small.bytes+s.main.bytes > s.limit || len(s.ghost.known) > len(s.ghost.ring) {
			t.Fatalf("%d entries, %d queued, %d of %d bytes", len(s.entries), len(queued), s.small.bytes+s.main.bytes, s.limit)
		}
	}
}

// TestCacheBooks: whatever is done in whatever order, the books are right and the limit holds.
func TestCacheBooks(t *testing.T) {
	t.Parallel()
	random := rand.New(rand.NewPCG(1, 2)) //nolint:gosec // The same each time.
	c := newCache(cacheShards * 2000)
	for range 200_000 {
		name := fmt.Sprintf("n%d", random.IntN(3000))
		switch random.IntN(10) {
		case 0:
			c.remove(name)
		case 1, 2, 3:
			c.put(small(name, 20+random.IntN(400)))
		default:
			if e := c.get(name); e != nil && e.name() != name {
				t.Fatalf("%s instead of %s", e.name(), name)
			}
		}
		if random.IntN(1000) == 0 {
			c.check(t)
		}
	}
	c.check(t)
	if c.put(small("huge", 3000)); c.peek("huge") != nil {
		t.Error("one that is larger than its shard is kept")
	}
}

// TestScanResistance: names that are asked for once do not push out those that are in use, which browsers ask for
// by several connections at once. The least recently used of all would be each of these.
func TestScanResistance(t *testing.T) {
	t.Parallel()
	const inUse = 500
	c := newCache(1000 * 100)
	ask := func(name string) (hit bool) {
		if c.get(name) != nil {
			return true
		}
		c.put(small(name, 100))
		return false
	}
	hits := 0
	for round := range 40 {
		for i := range inUse {
			if ask(fmt.Sprintf("used%d", i)) && round > 0 {
				hits++
			}
			ask(fmt.Sprintf("used%d", i))
		}
		for i := range 5000 {
			ask(fmt.Sprintf("scan%d-%d", round, i))
		}
	}
	if share := float64(hits) / (39 * inUse); share < 0.9 {
		t.Errorf("%.2f of the questions for what is in use are answered from memory while others scan", share)
	}
}

func TestCacheRaces(t *testing.T) {
	t.Parallel()
	c := newCache(cacheShards * 1000)
	var group sync.WaitGroup
	for g := range 8 {
		group.Go(func() {
			random := rand.New(rand.NewPCG(uint64(g), 0)) //nolint:gosec // The same each time.
			for range 5000 {
				name := fmt.Sprintf("n%d", random.IntN(500))
				if c.get(name) == nil {
					c.put(small(name, 100))
				} else if random.IntN(20) == 0 {
					c.remove(name)
				}
			}
		})
	}
	group.Wait()
	c.check(t)
}

func TestUnknownTable(t *testing.T) {
	t.Parallel()
	u := newUnknown(1000)
	u.add("a.example", "", 100)
	if !u.has("a.example", 40) || u.has("a.example", 100) || u.has("a.example", 200) || u.has("b.example", 40) {
		t.Error("a name is remembered for another time, or another name")
	}
	u.remove("b.example")
	if !u.has("a.example", 40) {
		t.Error("to forget one name forgets another")
	}
	u.remove("a.example")
	if u.has("a.example", 40) {
		t.Error("it is not forgotten")
	}
	u.add("x.shop.example", "*.shop.example", 100)
	u.add("x.other.example", "*.other.example", 100)
	u.remove("*.shop.example")
	if u.has("x.shop.example", 40) || !u.has("x.other.example", 40) {
		t.Error("a wildcard makes other names known than those below it")
	}
	for i := range 100_000 {
		u.add(fmt.Sprintf("n%d.example", i), "*.example", 100)
	}
	if len(u.places) != 1024 {
		t.Errorf("%d places", len(u.places))
	}
	u.clear()
	for i := range 100_000 {
		if u.has(fmt.Sprintf("n%d.example", i), 40) {
			t.Fatal("something is left")
		}
	}
}

// TestMemory: what entries are said to cost is what they take, and an ECDSA certificate takes 2 KB at most.
func TestMemory(t *testing.T) {
	const entries = 2000
	ca := certstest.New(t)
	records := make([]*certrecord.Record, entries)
	for i := range records {
		name := fmt.Sprintf("www.shop-%05d.example", i)
		chain, key := ca.Pair(t, name, "shop.example")
		leaf, rest := pem.Decode(chain)
		intermediate, _ := pem.Decode(rest)
		der, _ := pem.Decode(key)
		certificate, err := x509.ParseCertificate(leaf.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		records[i] = &certrecord.Record{Name: name, Shop: fmt.Sprintf("shop-%05d", i), Certificates: []certrecord.Certificate{{
			Kind: certrecord.ECDSA, Chain: [][]byte{leaf.Bytes, bytes.Clone(intermediate.Bytes)}, Key: der.Bytes, NotAfter: certificate.NotAfter.Unix()}}}
	}
	heap := func() int {
		var m runtime.MemStats
		runtime.GC()
		runtime.GC()
		runtime.ReadMemStats(&m)
		return int(m.HeapAlloc) //nolint:gosec // A heap of a test.
	}
	c, interner := newCache(1<<30), newInterner()
	before, leaves := heap(), 0
	for _, record := range records {
		e, err := interner.load(record)
		if err != nil {
			t.Fatal(err)
		}
		leaves += len(record.Certificates[0].Chain[0])
		// The first signature makes what later ones use again.
		if _, err := e.ecdsa.PrivateKey.(crypto.Signer).Sign(rand2.Reader, make([]byte, 32), crypto.SHA256); err != nil {
			t.Fatal(err)
		}
		c.put(e)
	}
	took := (heap() - before) / entries
	_, cost := c.size()
	cost /= entries
	t.Logf("%d bytes on the heap for each, %d in the books; the leaf has %d", took, cost, leaves/entries)
	// Leaves of public authorities have about 1,000 bytes, with their signed timestamps.
	if took-leaves/entries+1000 > 2048 {
		t.Errorf("with a leaf of 1,000 bytes a certificate takes %d bytes, more than 2,048", took-leaves/entries+1000)
	}
	if cost < took*9/10 || cost > took*13/10 {
		t.Errorf("the books say %d bytes, the heap %d", cost, took)
	}
	runtime.KeepAlive(records)
}
