package certstore

import (
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// What became of a question for a domain.
const (
	resultMemory  = "memory"
	resultAsked   = "asked"
	resultStale   = "stale"
	resultUnknown = "unknown"
	resultRefused = "refused"
	resultFailed  = "failed"
	resultNoName  = "no_name"
)

type metrics struct {
	answers             map[string]prometheus.Counter
	calls               *prometheus.HistogramVec
	failures            *prometheus.CounterVec
	evictions           prometheus.Counter
	changes, distrusted prometheus.Counter
	collectors          []prometheus.Collector
}

const namespace = "shopset_proxy_certificates"

func newMetrics(s *Store) *metrics {
	answers := prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: namespace, Name: "lookups_total",
		Help: "Questions for a domain by what became of them."}, []string{"result"})
	m := &metrics{answers: map[string]prometheus.Counter{},
		calls: prometheus.NewHistogramVec(prometheus.HistogramOpts{Namespace: namespace, Name: "source_seconds",
			Help: "Time of calls by source.", Buckets: prometheus.ExponentialBuckets(0.0001, 4, 8)}, []string{"source"}),
		failures: prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: namespace, Name: "source_failures_total",
			Help: "Calls that brought no usable answer, by source and kind."}, []string{"source", "kind"}),
		evictions:  prometheus.NewCounter(prometheus.CounterOpts{Namespace: namespace, Name: "evictions_total", Help: "Domains that went out of memory for others."}),
		changes:    prometheus.NewCounter(prometheus.CounterOpts{Namespace: namespace, Name: "changes_total", Help: "Changes that memory was told of."}),
		distrusted: prometheus.NewCounter(prometheus.CounterOpts{Namespace: namespace, Name: "distrusts_total", Help: "How often everything in memory was to be asked for anew."}),
	}
	for _, result := range []string{resultMemory, resultAsked, resultStale, resultUnknown, resultRefused, resultFailed, resultNoName} {
		m.answers[result] = answers.WithLabelValues(result)
	}
	gauge := func(name, help string, value func() float64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Namespace: namespace, Name: name, Help: help}, value)
	}
	m.collectors = []prometheus.Collector{answers, m.calls, m.failures, m.evictions, m.changes, m.distrusted,
		gauge("domains", "Domains in memory.", func() float64 { entries, _ := s.cache.size(); return float64(entries) }),
		gauge("bytes", "Memory of the domains in memory.", func() float64 { _, bytes := s.cache.size(); return float64(bytes) }),
		gauge("followed", "Whether changes reach memory: 1 or 0.", func() float64 {
			if s.followed.Load() {
				return 1
			}
			return 0
		})}
	return m
}

func (m *metrics) answer(result string) { m.answers[result].Inc() }
func (m *metrics) evicted(n int)        { m.evictions.Add(float64(n)) }

func (m *metrics) call(source string, took time.Duration, err error) {
	m.calls.WithLabelValues(source).Observe(took.Seconds())
	var broken *brokenRecord
	switch {
	case err == nil || errors.Is(err, errNone) || errors.Is(err, errAbsent):
	case errors.As(err, &broken):
		m.failures.WithLabelValues(source, "broken record").Inc()
	default:
		m.failures.WithLabelValues(source, "no answer").Inc()
	}
}

// Collectors are the store's metrics, to be registered.
func (s *Store) Collectors() []prometheus.Collector { return s.metrics.collectors }
