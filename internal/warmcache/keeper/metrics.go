package keeper

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/shopset/shopset/internal/warmcache"
)

// Metrics are shopset_cache_…; a nil *Metrics counts nothing.
type Metrics struct {
	share, seconds, files, bytes, expired, age, restoredGeneration prometheus.Gauge
	shops                                                          *prometheus.GaugeVec

	saves                                          *prometheus.CounterVec
	savedBytes, savedFiles                         prometheus.Counter
	roundSeconds, lastRound, failed, newGeneration prometheus.Gauge
}

// NewMetrics registers them.
func NewMetrics(registry prometheus.Registerer) *Metrics {
	gauge := func(name, help string) prometheus.Gauge {
		g := prometheus.NewGauge(prometheus.GaugeOpts{Name: "shopset_cache_" + name, Help: help})
		registry.MustRegister(g)
		return g
	}
	counter := func(name, help string) prometheus.Counter {
		c := prometheus.NewCounter(prometheus.CounterOpts{Name: "shopset_cache_" + name, Help: help})
		registry.MustRegister(c)
		return c
	}
	m := &Metrics{
		share:              gauge("restored_share", "Hit mass restored: the share of all requests that the restored shops have, 0 to 1."),
		seconds:            gauge("restore_seconds", "How long the restore took."),
		files:              gauge("restored_files", "Files that were restored."),
		bytes:              gauge("restored_bytes", "Bytes of the files that were restored."),
		expired:            gauge("restore_expired", "1 if the time was over before all was restored."),
		age:                gauge("restored_age_seconds", "How old the restored snapshots were, on average."),
		restoredGeneration: gauge("restored_generation", "The highest generation of a restored snapshot."),
		shops:              prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "shopset_cache_restore_shops", Help: "Shops by what came of them (restored, absent, over_budget, failed)."}, []string{"result"}),
		saves:              prometheus.NewCounterVec(prometheus.CounterOpts{Name: "shopset_cache_saves_total", Help: "Saves of a shop by result (saved, unchanged, busy, smaller, recent, failed)."}, []string{"result"}),
		savedBytes:         counter("saved_bytes_total", "Bytes that were sent for snapshots, compressed."),
		savedFiles:         counter("saved_files_total", "Files that were sent."),
		roundSeconds:       gauge("save_round_seconds", "How long the last round of saving took."),
		lastRound:          gauge("save_round_timestamp_seconds", "When a round of saving was done last without a failure."),
		failed:             gauge("save_round_failed", "1 if something failed in the last round of saving."),
		newGeneration:      gauge("saved_generation", "The highest generation that was saved."),
	}
	registry.MustRegister(m.shops, m.saves)
	return m
}

// Restored sets the metrics of a restore.
func (m *Metrics) Restored(r *warmcache.Report) {
	if m == nil {
		return
	}
	m.share.Set(r.Share)
	m.seconds.Set(r.Took.Seconds())
	m.files.Set(float64(r.Files))
	m.bytes.Set(float64(r.Bytes))
	m.expired.Set(0)
	if r.Expired {
		m.expired.Set(1)
	}
	for result, n := range map[string]int{"restored": r.Shops, "absent": r.Absent, "over_budget": r.OverBudget, "failed": r.Failed} {
		m.shops.WithLabelValues(result).Set(float64(n))
	}
	age, generation := 0.0, int64(0)
	for _, shop := range r.Restored {
		age += r.At.Sub(shop.Taken).Seconds()
		generation = max(generation, shop.Generation)
	}
	m.age.Set(age / float64(max(1, len(r.Restored))))
	m.restoredGeneration.Set(float64(generation))
}

func (m *Metrics) saved(what string, result *warmcache.SaveResult) {
	if m == nil {
		return
	}
	m.saves.WithLabelValues(what).Inc()
	if result != nil {
		m.savedBytes.Add(float64(result.SentBytes))
	}
	if what == "saved" {
		m.savedFiles.Add(float64(result.New))
		m.newGeneration.Set(float64(result.Generation))
	}
}

func (m *Metrics) round(took time.Duration, err error) {
	if m == nil {
		return
	}
	m.roundSeconds.Set(took.Seconds())
	if err != nil {
		m.failed.Set(1)
		return
	}
	m.failed.Set(0)
	m.lastRound.SetToCurrentTime()
}
