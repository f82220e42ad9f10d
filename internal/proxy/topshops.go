package proxy

import (
	"cmp"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
)

// topShops counts requests by shop and tells those of the busiest ones; the rest is one sum. However many shops there are,
// there are no more than that many time series. A request is counted once, where its shop belongs at that moment: in the
// shop's own series, which begins when the shop comes to the top, or in that of the others. So none of them ever falls.
type topShops struct {
	top             int
	requests, fails *prometheus.Desc

	shops sync.Map // of *shopCount by shop
	size  atomic.Int64
	// other is the series of those that are not at the top.
	other shopSeries
}

type shopCount struct {
	requests atomic.Uint64 // all of them, for the order
	atTop    atomic.Bool
	own      shopSeries
}

// shopSeries is what is told.
type shopSeries struct {
	requests, fails atomic.Uint64
}

// maxCountedShops bounds the shops that are counted, told or not.
const maxCountedShops = 200000

// otherShops is the label of all the others; no shop can have it.
const otherShops = "*"

func newTopShops(top int) *topShops {
	return &topShops{top: top,
		requests: prometheus.NewDesc("shopset_proxy_shop_requests_total", "Requests of the shops that have most of them, since they have; * is all others.", []string{"shop"}, nil),
		fails:    prometheus.NewDesc("shopset_proxy_shop_failures_total", "Those answered with 5xx.", []string{"shop"}, nil),
	}
}

func (t *topShops) observe(shop string, failed bool) {
	series := &t.other
	if count := t.count(shop); count != nil {
		count.requests.Add(1)
		if count.atTop.Load() {
			series = &count.own
		}
	}
	series.requests.Add(1)
	if failed {
		series.fails.Add(1)
	}
}

// count is that of a shop, nil when there are too many.
func (t *topShops) count(shop string) *shopCount {
	if known, ok := t.shops.Load(shop); ok {
		return known.(*shopCount)
	}
	if t.size.Load() >= maxCountedShops {
		return nil
	}
	made, loaded := t.shops.LoadOrStore(shop, &shopCount{})
	count := made.(*shopCount)
	if !loaded && t.size.Add(1) <= int64(t.top) {
		count.atTop.Store(true) // There is room.
	}
	return count
}

// Describe implements prometheus.Collector.
func (t *topShops) Describe(descriptions chan<- *prometheus.Desc) {
	descriptions <- t.requests
	descriptions <- t.fails
}

// Collect implements prometheus.Collector, and says who is at the top from now on.
func (t *topShops) Collect(metrics chan<- prometheus.Metric) {
	type line struct {
		shop     string
		count    *shopCount
		requests uint64
	}
	var all []line
	t.shops.Range(func(shop, count any) bool {
		c := count.(*shopCount)
		all = append(all, line{shop.(string), c, c.requests.Load()})
		return true
	})
	slices.SortFunc(all, func(a, b line) int {
		return cmp.Or(cmp.Compare(b.requests, a.requests), cmp.Compare(a.shop, b.shop))
	})
	tell := func(shop string, series *shopSeries) {
		metrics <- prometheus.MustNewConstMetric(t.requests, prometheus.CounterValue, float64(series.requests.Load()), shop)
		metrics <- prometheus.MustNewConstMetric(t.fails, prometheus.CounterValue, float64(series.fails.Load()), shop)
	}
	for i, l := range all {
		l.count.atTop.Store(i < t.top)
		if i < t.top {
			tell(l.shop, &l.count.own)
		}
	}
	tell(otherShops, &t.other)
}
