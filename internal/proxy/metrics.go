package proxy

import (
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics are the proxy's own. Labels are bounded: roles come from the configuration, status codes
// and reasons are few, and no host, path or client is ever one.
type metrics struct {
	requests  *prometheus.CounterVec
	duration  *prometheus.HistogramVec
	failures  *prometheus.CounterVec
	retries   *prometheus.CounterVec
	reloads   prometheus.Counter
	configs   *prometheus.CounterVec
	fallbacks *prometheus.CounterVec
	joined    *prometheus.CounterVec
	limited   *prometheus.CounterVec
	refused   *prometheus.CounterVec
	dropped   prometheus.Counter
	// withoutRecord counts what was decided when nobody could say what a host's record is.
	withoutRecord *prometheus.CounterVec
	shops         *topShops
}

// noRole is the label of requests that no role has served.
const noRole = "none"

func newMetrics(registry prometheus.Registerer, connections *connections, top int) *metrics {
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "shopset_proxy_requests_total",
			Help: "Requests by role and by the status code that the client got; 499 is a client that left.",
		}, []string{"role", "code"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "shopset_proxy_request_seconds",
			Help:    "Time from the headers of a request to the end of its answer, by role.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30},
		}, []string{"role"}),
		failures: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "shopset_proxy_role_failures_total",
			Help: "Requests that a role failed: connect (no connection), timeout, broken (connection lost), certificate, full, open (left alone), or the status that counts as a failure.",
		}, []string{"role", "reason"}),
		retries: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "shopset_proxy_retries_total",
			Help: "Requests that were sent to a role a second time.",
		}, []string{"role"}),
		configs:       counters("shopset_proxy_config_reloads_total", "Changed configuration files: used, or failed.", "result"),
		fallbacks:     counters("shopset_proxy_fallbacks_total", "Requests that got another answer than their role's: from another role, stored, or a page; and why.", "role", "answer", "reason"),
		joined:        counters("shopset_proxy_joined_total", "Requests that were answered by the answer of another one for the same page.", "role"),
		limited:       counters("shopset_proxy_limited_total", "Requests over a rate limit.", "limit"),
		refused:       counters("shopset_proxy_refused_total", "Requests that were refused: by an access rule, by their domain's record, for maintenance, or for an unknown host.", "rule"),
		shops:         newTopShops(top),
		withoutRecord: counters("shopset_proxy_without_record_total", "Requests whose host's record was not in memory while neither Redis nor the certificate API could be asked: serve (without its allow-list and maintenance), or refuse.", "then"),
		dropped: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "shopset_proxy_access_log_dropped_total",
			Help: "Lines of the access log that could not be written, or not in time.",
		}),
		reloads: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "shopset_proxy_certificate_failures_total",
			Help: "Changed certificate files that could not be used.",
		}),
	}
	gauge := func(state string, value func() int64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name:        "shopset_proxy_connections",
			Help:        "Connections of clients: open ones, and active ones with a request under way.",
			ConstLabels: prometheus.Labels{"state": state},
		}, func() float64 { return float64(value()) })
	}
	registry.MustRegister(m.requests, m.duration, m.failures, m.retries, m.reloads, m.configs, m.fallbacks, m.joined, m.limited, m.refused, m.dropped, m.withoutRecord, m.shops,
		gauge("open", connections.open.Load), gauge("active", connections.active.Load))
	return m
}

func counters(name, help string, labels ...string) *prometheus.CounterVec {
	return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
}

func (m *metrics) observe(e *exchange, elapsed time.Duration) {
	role := noRole
	if e.role != nil {
		role = e.role.name
	}
	m.requests.WithLabelValues(role, strconv.Itoa(e.status)).Inc()
	m.duration.WithLabelValues(role).Observe(elapsed.Seconds())
	if e.refused != "" && e.status != 429 {
		m.refused.WithLabelValues(e.refused).Inc()
	}
	if shop := e.shop(); shop != "" {
		m.shops.observe(shop, e.status >= 500)
	}
	if e.failure != "" {
		m.failures.WithLabelValues(role, e.failure).Inc()
	}
}
