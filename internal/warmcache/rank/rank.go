// Package rank finds the shops that are worth warming.
//
// A shop's worth is what a second of restoring it saves: its requests, times the part of a request that is lost while the cache is
// cold, divided by the time that its bytes need. Requests count less the older they are, by half in a half-life.
//
// Where the requests are known from is a Source: access logs on the disk or in a bucket (Logs), or BigQuery (the package below this
// one, because its client is large). All weigh a request alike, so that a ranking does not depend on where it was made from.
//
// Counting takes the same memory however many shops there are (Space-Saving, Metwally et al., ICDT 2005): what is told of a shop
// is too high by no more than all requests divided by the number of counters.
package rank

import (
	"cmp"
	"container/heap"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"time"
)

// Shop is one in the order of its worth.
type Shop struct {
	Name string `json:"name"`
	// Requests, weighed by their age.
	Requests float64 `json:"requests"`
	// Share of all requests, 0 to 1.
	Share float64 `json:"share"`
	// Bytes of its snapshot; zero when there is none.
	Bytes int64 `json:"bytes,omitempty"`
	// Penalty is the part of a request that is lost while the shop is cold.
	Penalty float64 `json:"penalty,omitempty"`
	// Score is how many requests a second of restoring saves.
	Score float64 `json:"score"`
}

// Ranking is a list of shops, the most valuable first.
type Ranking struct {
	Made  time.Time `json:"made"`
	Total float64   `json:"total"`
	// Average size of a snapshot, in bytes; shops without one are taken to be as large.
	Average int64  `json:"average,omitempty"`
	Shops   []Shop `json:"shops"`
}

// Worth is what is known of restoring, to weigh requests with.
type Worth struct {
	// Bytes of the shops' snapshots. A shop without one is taken to be as large as the others on average.
	Bytes map[string]int64
	// Penalty is the part of a request that is lost while a cache is cold, as it was measured: 0.25 when a cold shop is a quarter
	// slower. DefaultPenalty when zero. Penalties are those of single shops.
	Penalty   float64
	Penalties map[string]float64
	// BytesPerSecond is how fast a restore was measured to be; DefaultSpeed when zero.
	BytesPerSecond float64
}

// Defaults of Worth. A cold instance was measured to be 20 to 30 % slower.
const (
	DefaultPenalty = 0.25
	DefaultSpeed   = 100e6
)

// leastBytes are what a shop costs however small it is: its objects are four round trips away.
const leastBytes = 64 << 10

// Counter counts requests by shop.
type Counter struct {
	now      time.Time
	halfLife time.Duration
	window   time.Duration
	limit    int
	total    float64
	byName   map[string]*count
	least    counts
}

type count struct {
	name   string
	weight float64
	at     int
}

// NewCounter makes one that remembers limit shops at most. A half-life of zero weighs all requests alike.
func NewCounter(now time.Time, halfLife time.Duration, limit int) *Counter {
	return &Counter{now: now, halfLife: halfLife, limit: max(limit, 1), byName: map[string]*count{}}
}

// Window leaves out what is older, when it is not zero.
func (c *Counter) Window(window time.Duration) { c.window = window }

// Times returns what the weight of a request depends on: the time from which its age is counted, the half-life, and how old it may
// be.
func (c *Counter) Times() (now time.Time, halfLife, window time.Duration) {
	return c.now, c.halfLife, c.window
}

// Limit is how many shops are remembered.
func (c *Counter) Limit() int { return c.limit }

func (c *Counter) tooOld(at time.Time) bool { return c.window > 0 && c.now.Sub(at) > c.window }

// AddOthers counts requests, weighed already, of shops that are not told apart.
func (c *Counter) AddOthers(weight float64) {
	if weight > 0 && !math.IsInf(weight, 0) {
		c.total += weight
	}
}

// Add counts requests of a shop at a time; a time of zero is now.
func (c *Counter) Add(shop string, at time.Time, requests float64) {
	if shop == "" || requests <= 0 || math.IsInf(requests, 0) || math.IsNaN(requests) {
		return
	}
	weight := requests
	if !at.IsZero() {
		if c.tooOld(at) {
			return
		}
		if age := c.now.Sub(at); c.halfLife > 0 && age > 0 {
			weight *= math.Exp2(-float64(age) / float64(c.halfLife))
		}
	}
	c.total += weight
	if known := c.byName[shop]; known != nil {
		known.weight += weight
		heap.Fix(&c.least, known.at)
		return
	}
	if len(c.least) < c.limit {
		made := &count{name: strings.Clone(shop), weight: weight}
		c.byName[made.name] = made
		heap.Push(&c.least, made)
		return
	}
	// The one with the fewest gives its place, and its count.
	last := c.least[0]
	delete(c.byName, last.name)
	last.name = strings.Clone(shop)
	last.weight += weight
	c.byName[last.name] = last
	heap.Fix(&c.least, 0)
}

// Rank orders the shops by what a second of restoring them saves.
func (c *Counter) Rank(w Worth) *Ranking {
	if w.Penalty == 0 {
		w.Penalty = DefaultPenalty
	}
	if w.BytesPerSecond == 0 {
		w.BytesPerSecond = DefaultSpeed
	}
	average, n := 0.0, 0
	for _, size := range w.Bytes {
		average += float64(size)
		n++
	}
	average /= float64(max(n, 1))
	ranking := &Ranking{Made: c.now.UTC(), Total: c.total, Average: int64(average)}
	for _, counted := range c.least {
		size, known := float64(w.Bytes[counted.name]), w.Bytes[counted.name]
		if known == 0 {
			size = average
		}
		penalty, measured := w.Penalties[counted.name]
		if !measured {
			penalty = w.Penalty
		}
		share := 0.0
		if c.total > 0 { // All of them may be so old that they count nothing.
			share = counted.weight / c.total
		}
		ranking.Shops = append(ranking.Shops, Shop{Name: counted.name, Requests: counted.weight, Share: share,
			Bytes: known, Penalty: penalty, Score: counted.weight * penalty / (max(size, leastBytes) / w.BytesPerSecond)})
	}
	slices.SortFunc(ranking.Shops, func(a, b Shop) int {
		return cmp.Or(cmp.Compare(b.Score, a.Score), cmp.Compare(b.Requests, a.Requests), strings.Compare(a.Name, b.Name))
	})
	return ranking
}

// Cut keeps the most valuable shops: at most so many, and so many bytes; zero is no bound.
func (r *Ranking) Cut(shops int, bytes int64) {
	kept, total := r.Shops[:0], int64(0)
	for i := range r.Shops {
		size := r.sizeOf(&r.Shops[i])
		if shops > 0 && len(kept) == shops {
			break
		}
		if bytes > 0 && total+size > bytes {
			continue // A smaller one may fit.
		}
		total += size
		kept = append(kept, r.Shops[i])
	}
	r.Shops = kept
}

// String says how much of the traffic the shops have.
func (r *Ranking) String() string { return r.within(0).String() }

// maxRanking and maxShops bound a ranking that is read.
const (
	maxRanking = 64 << 20
	maxShops   = 1_000_000
)

// Read reads a ranking that Write wrote.
func Read(from io.Reader) (*Ranking, error) {
	content, err := io.ReadAll(io.LimitReader(from, maxRanking+1))
	if err == nil && len(content) > maxRanking {
		err = fmt.Errorf("it has more than %d bytes", maxRanking)
	}
	ranking := &Ranking{}
	if err == nil {
		err = json.Unmarshal(content, ranking)
	}
	if err == nil && len(ranking.Shops) > maxShops {
		err = fmt.Errorf("it has more than %d shops", maxShops)
	}
	if err != nil {
		return nil, fmt.Errorf("ranking: %w", err)
	}
	return ranking, nil
}

// Write writes it as JSON.
func (r *Ranking) Write(to io.Writer) error {
	encoder := json.NewEncoder(to)
	encoder.SetIndent("", " ")
	return encoder.Encode(r)
}

// counts is a heap, the least first.
type counts []*count

func (c counts) Len() int           { return len(c) }
func (c counts) Less(i, j int) bool { return c[i].weight < c[j].weight }
func (c counts) Swap(i, j int)      { c[i], c[j] = c[j], c[i]; c[i].at, c[j].at = i, j }
func (c *counts) Push(x any)        { made := x.(*count); made.at = len(*c); *c = append(*c, made) }
func (c *counts) Pop() any          { panic("nothing is taken away") }
