package router

import (
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// meters are the router's metrics. Labels are bounded: at most 256 cells, and reasons are few; no host or client is ever one.
type meters struct {
	refused, dials, failovers, attempts, bytes, probes, tables *prometheus.CounterVec
	accept                                                     [kinds]prometheus.Counter
	dial                                                       *prometheus.HistogramVec
	moves, held, pauses                                        prometheus.Counter

	mu    sync.Mutex
	cells map[string]bool
}

// cellMeters are those of one cell, looked up once.
type cellMeters struct {
	connections, failover prometheus.Counter
	failed                [failures]prometheus.Counter
	toCell, toClient      prometheus.Counter
	dial                  prometheus.Observer
	good, bad, unmade     prometheus.Counter
}

func newMeters(registry prometheus.Registerer) *meters {
	counters := func(name, help string, labels ...string) *prometheus.CounterVec {
		v := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "shopset_router_" + name, Help: help}, labels)
		registry.MustRegister(v)
		return v
	}
	counter := func(name, help string) prometheus.Counter { return counters(name, help).WithLabelValues() }
	m := &meters{
		cells:     map[string]bool{},
		refused:   counters("refused_total", "Connections that got no endpoint, by port and reason.", "port", "reason"),
		dials:     counters("connections_total", "Connections that a cell answered.", "cell"),
		failovers: counters("failovers_total", "Connections that another cell answered than the first of their host, by the first.", "cell"),
		attempts:  counters("endpoint_failures_total", "Endpoints that failed a connection, which then went to another one: refused, timeout, closed or silent after the hello, found down meanwhile, or local (this machine had no port or memory left).", "cell", "reason"),
		bytes:     counters("bytes_total", "Bytes by direction: to the cell, or to the client. Those of a connection are counted when it ends.", "cell", "direction"),
		probes:    counters("probes_total", "Probes of endpoints, by what they found: good, bad, or unmade (this machine had no port or descriptor left).", "cell", "result"),
		tables:    counters("table_updates_total", "Routing tables that arrived: used, old (not newer than the one in use), refused, or kept (written to disk), unkept.", "result"),
		dial: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "shopset_router_dial_seconds",
			Help:    "Time until an endpoint took a connection.",
			Buckets: []float64{.0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1},
		}, []string{"cell"}),
		moves:  counter("moves_total", "Times that hosts of a cell began to be served by another one."),
		held:   counter("held_total", "Connections whose hosts were not moved a second time."),
		pauses: counter("accept_pauses_total", "Times that no connection was accepted because there were too many, or no file descriptor was left."),
	}
	registry.MustRegister(m.dial)
	accepted := counters("accepted_total", "Connections of clients, by port.", "port")
	for k := range kinds {
		m.accept[k] = accepted.WithLabelValues(k.String())
	}
	// What alerts go by is there from the start: the first time would be no increase otherwise.
	for _, result := range tableResults {
		m.tables.WithLabelValues(result)
	}
	for _, why := range []error{errNoTable, errNoCell, errNoEndpoint} {
		for k := range kinds {
			m.refused.WithLabelValues(k.String(), refusals[why])
		}
	}
	return m
}

// tableResults are the labels of table_updates_total.
var tableResults = []string{"used", "old", "refused", "kept", "unkept"}

// refuse counts a connection that got no endpoint.
func (m *meters) refuse(k kind, why error) {
	reason, ok := refusals[why]
	if !ok {
		reason = "other"
	}
	m.refused.WithLabelValues(k.String(), reason).Inc()
}

// refusals are the labels of why a connection got no endpoint.
var refusals = map[error]string{
	errNotTLS: "not_tls", errSSLv2: "sslv2", errHelloSize: "hello_size", errHelloBroken: "hello_broken", errNotHello: "not_hello",
	errNameTwice: "name_twice", errNameInvalid: "name_invalid", errNoServerName: "no_name",
	errHeadSize: "head_size", errHeadBroken: "head_broken", errHTTP2: "http2", errConnect: "connect", errHostTwice: "host_twice", errNoHost: "no_host",
	errProxyMissing: "proxy_missing", errProxyBroken: "proxy_broken", errSlow: "slow", errGone: "left", errSource: "source", errFull: "full",
	errNoTable: "no_table", errNoCell: "no_cell", errNoEndpoint: "no_endpoint",
}

// gauges registers what is read from the router when it is asked.
func (m *meters) gauges(registry prometheus.Registerer, c *chooser, l *limiter) {
	gauge := func(name, help string, labels prometheus.Labels, value func() float64) {
		registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "shopset_router_" + name, Help: help, ConstLabels: labels}, value))
	}
	gauge("clients", "Open connections of clients.", nil, func() float64 { return float64(l.total.Load()) })
	gauge("table_version", "Version of the routing table in use; 0 is none.", nil, func() float64 {
		if v := c.view.Load(); v != nil {
			return float64(v.table.Version)
		}
		return 0
	})
	gauge("table_epoch", "Epoch of the routing table in use.", nil, func() float64 {
		if v := c.view.Load(); v != nil {
			return float64(v.table.Epoch)
		}
		return 0
	})
	gauge("table_age_seconds", "Time since the routing table in use was made.", nil, func() float64 {
		if v := c.view.Load(); v != nil {
			return time.Since(v.table.Created).Seconds()
		}
		return 0
	})
	for k := range kinds {
		gauge("static", "Whether so many cells look dead that no host is moved, by port.", prometheus.Labels{"port": k.String()}, func() float64 {
			if v := c.view.Load(); v != nil && v.static[k].Load() {
				return 1
			}
			return 0
		})
	}
	registry.MustRegister(&cellCollector{c,
		prometheus.NewDesc("shopset_router_table_info", "1, with the fleet (NAMESPACE/NAME) whose routing table is in use.", []string{"fleet"}, nil),
		prometheus.NewDesc("shopset_router_endpoints", "Endpoints of a cell, by port and whether they are up.", []string{"cell", "port", "state"}, nil),
		prometheus.NewDesc("shopset_router_cell_active", "1 for a cell that takes hosts by the routing table in use, 0 for others.", []string{"cell"}, nil),
		prometheus.NewDesc("shopset_router_connections", "Open connections to a cell.", []string{"cell"}, nil)})
}

// cell looks the metrics of a cell up.
func (m *meters) cell(name string) cellMeters {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.cells[name] = true
	c := cellMeters{
		connections: m.dials.WithLabelValues(name), failover: m.failovers.WithLabelValues(name),
		toCell: m.bytes.WithLabelValues(name, "cell"), toClient: m.bytes.WithLabelValues(name, "client"),
		dial: m.dial.WithLabelValues(name),
		good: m.probes.WithLabelValues(name, "good"), bad: m.probes.WithLabelValues(name, "bad"), unmade: m.probes.WithLabelValues(name, "unmade"),
	}
	for f := range failures {
		c.failed[f] = m.attempts.WithLabelValues(name, f.String())
	}
	return c
}

// forget removes the metrics of a cell that is in no table any more, so that names of cells do not pile up.
func (m *meters) forget(name string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.cells[name] {
		return
	}
	delete(m.cells, name)
	for _, v := range []interface {
		DeletePartialMatch(prometheus.Labels) int
	}{m.dials, m.failovers, m.attempts, m.bytes, m.probes, m.dial} {
		v.DeletePartialMatch(prometheus.Labels{"cell": name})
	}
}

// cellCollector reads the state of cells from the table in use.
type cellCollector struct {
	c                                *chooser
	table, endpoints, active, opened *prometheus.Desc
}

func (cc *cellCollector) Describe(ch chan<- *prometheus.Desc) {
	ch <- cc.table
	ch <- cc.endpoints
	ch <- cc.active
	ch <- cc.opened
}

func (cc *cellCollector) Collect(ch chan<- prometheus.Metric) {
	v := cc.c.view.Load()
	if v == nil {
		return
	}
	ch <- prometheus.MustNewConstMetric(cc.table, prometheus.GaugeValue, 1, v.table.Fleet)
	open := map[string]int64{}
	for i, ce := range v.cells {
		open[ce.name] = ce.open.Load()
		active := 0.0
		if v.weights[i] > 0 {
			active = 1
		}
		ch <- prometheus.MustNewConstMetric(cc.active, prometheus.GaugeValue, active, ce.name)
		for k := range kinds {
			up, all := 0, 0
			for _, e := range *ce.pools[k].endpoints.Load() {
				all++
				if !e.down.Load() {
					up++
				}
			}
			ch <- prometheus.MustNewConstMetric(cc.endpoints, prometheus.GaugeValue, float64(up), ce.name, k.String(), "up")
			ch <- prometheus.MustNewConstMetric(cc.endpoints, prometheus.GaugeValue, float64(all-up), ce.name, k.String(), "down")
		}
	}
	// Cells that no table has any more are not forgotten as long as somebody is connected to them.
	if leaving := cc.c.leaving.Load(); leaving != nil {
		for _, ce := range *leaving {
			if n := ce.open.Load(); n > 0 && !slices.Contains(v.cells, ce) {
				open[ce.name] += n
			}
		}
	}
	for name, n := range open {
		ch <- prometheus.MustNewConstMetric(cc.opened, prometheus.GaugeValue, float64(n), name)
	}
}
