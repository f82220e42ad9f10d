package proxy

import (
	"cmp"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
)

// topShops counts requests by shop and tells those of the busiest ones; the rest is one sum. However many shops there are,
// there are no more than that many time series.
type topShops struct {
	top             int
	requests, fails *prometheus.Desc

	shops sync.Map // of *shopCount by shop
	size  atomic.Int64
	// other counts the shops that are not counted apart.
	other shopCount
}

type shopCount struct {
	requests, fails atomic.Uint64
}

// maxCountedShops bounds the shops that are counted, told or not.
const maxCountedShops = 200000

// otherShops is the label of all the others; no shop can have it.
const otherShops = "*"

func newTopShops(top int) *topShops {
	return &topShops{top: top,
		requests: prometheus.NewDesc("shopset_proxy_shop_requests_total", "Requests of the shops that have most of them; * is all others.", []string{"shop"}, nil),
		fails:    prometheus.NewDesc("shopset_proxy_shop_failures_total", "Those answered with 5xx.", []string{"shop"}, nil),
	}
}

func (t *topShops) observe(shop string, failed bool) {
	count := &t.other
	if known, ok := t.shops.Load(shop); ok {
		count = known.(*shopCount)
	} else if t.size.Load() < maxCountedShops {
		made, loaded := t.shops.LoadOrStore(shop, &shopCount{})
		if count = made.(*shopCount); !loaded {
			t.size.Add(1)
		}
	}
	count.requests.Add(1)
	if failed {
		count.fails.Add(1)
	}
}

// Describe implements prometheus.Collector.
func (t *topShops) Describe(descriptions chan<- *prometheus.Desc) {
	descriptions <- t.requests
	descriptions <- t.fails
}

// Collect implements prometheus.Collector. The sum of others falls when a shop comes to the top: Prometheus takes that for a
// restart, which is what it is for that series.
func (t *topShops) Collect(metrics chan<- prometheus.Metric) {
	type line struct {
		shop            string
		requests, fails uint64
	}
	var all []line
	t.shops.Range(func(shop, count any) bool {
		c := count.(*shopCount)
		all = append(all, line{shop.(string), c.requests.Load(), c.fails.Load()})
		return true
	})
	slices.SortFunc(all, func(a, b line) int {
		return cmp.Or(cmp.Compare(b.requests, a.requests), cmp.Compare(a.shop, b.shop))
	})
	rest := line{otherShops, t.other.requests.Load(), t.other.fails.Load()}
	for i, l := range all {
		if i >= t.top {
			rest.requests += l.requests
			rest.fails += l.fails
			continue
		}
		metrics <- prometheus.MustNewConstMetric(t.requests, prometheus.CounterValue, float64(l.requests), l.shop)
		metrics <- prometheus.MustNewConstMetric(t.fails, prometheus.CounterValue, float64(l.fails), l.shop)
	}
	metrics <- prometheus.MustNewConstMetric(t.requests, prometheus.CounterValue, float64(rest.requests), rest.shop)
	metrics <- prometheus.MustNewConstMetric(t.fails, prometheus.CounterValue, float64(rest.fails), rest.shop)
}
