// Package rank finds the shops that are worth warming.
//
// A shop's worth is what a restore of it saves: its requests, each of which is slower while the cache is cold, for each byte that
// has to be restored. Requests count less the older they are, by half in a half-life.
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
	// Score is what a restored byte saves.
	Score float64 `json:"score"`
}

// Ranking is a list of shops, the most valuable first.
type Ranking struct {
	Made  time.Time `json:"made"`
	Total float64   `json:"total"`
	Shops []Shop    `json:"shops"`
}

// Counter counts requests by shop.
type Counter struct {
	now      time.Time
	halfLife time.Duration
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

// Add counts requests of a shop at a time; a time of zero is now.
func (c *Counter) Add(shop string, at time.Time, requests float64) {
	if shop == "" || requests <= 0 || math.IsInf(requests, 0) || math.IsNaN(requests) {
		return
	}
	weight := requests
	if age := c.now.Sub(at); c.halfLife > 0 && !at.IsZero() && age > 0 {
		weight *= math.Exp2(-float64(age) / float64(c.halfLife))
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

// Rank orders the shops. bytes says how large a shop's snapshot is; one without is taken to be as large as the others on average.
func (c *Counter) Rank(bytes map[string]int64) *Ranking {
	average, n := 0.0, 0
	for _, size := range bytes {
		average += float64(size)
		n++
	}
	average = max(1, average/float64(max(n, 1)))
	ranking := &Ranking{Made: c.now.UTC(), Total: c.total}
	for _, counted := range c.least {
		size := float64(bytes[counted.name])
		if size == 0 {
			size = average
		}
		ranking.Shops = append(ranking.Shops, Shop{Name: counted.name, Requests: counted.weight, Share: counted.weight / c.total,
			Bytes: bytes[counted.name], Score: counted.weight / size})
	}
	slices.SortFunc(ranking.Shops, func(a, b Shop) int {
		return cmp.Or(cmp.Compare(b.Score, a.Score), cmp.Compare(b.Requests, a.Requests), strings.Compare(a.Name, b.Name))
	})
	return ranking
}

// Cut keeps the first shops: at most so many, and so many bytes; zero is no bound.
func (r *Ranking) Cut(shops int, bytes int64) {
	total := int64(0)
	for i, shop := range r.Shops {
		if total += shop.Bytes; shops > 0 && i == shops || bytes > 0 && total > bytes {
			r.Shops = r.Shops[:i]
			return
		}
	}
}

// String says how much of the traffic the shops have.
func (r *Ranking) String() string {
	share, bytes := 0.0, int64(0)
	for _, shop := range r.Shops {
		share += shop.Share
		bytes += shop.Bytes
	}
	return fmt.Sprintf("top %d shops = %.0f %% of requests, %.1f GB", len(r.Shops), 100*share, float64(bytes)/1e9)
}

// maxRanking bounds a ranking that is read.
const maxRanking = 64 << 20

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
