package decorate

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/shopset/shopset/internal/warmcache/storage"
)

// Measure is a storage that counts what it is asked, in metrics.
type Measure struct {
	storage.Storage
	requests *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
	bytes    *prometheus.CounterVec
}

// NewMeasure registers shopset_cache_storage_….
func NewMeasure(s storage.Storage, registry prometheus.Registerer) *Measure {
	m := &Measure{Storage: s,
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "shopset_cache_storage_requests_total",
			Help: "Requests to the storage by operation (get, put, list, delete) and result (ok, absent, conflict, refused, error)."}, []string{"operation", "result"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "shopset_cache_storage_request_seconds",
			Help: "How long requests took, until the first byte for a get.", Buckets: prometheus.ExponentialBuckets(0.001, 4, 8)}, []string{"operation"}),
		bytes: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "shopset_cache_storage_bytes_total",
			Help: "Bytes of objects, by direction (sent, received)."}, []string{"direction"})}
	registry.MustRegister(m.requests, m.seconds, m.bytes)
	return m
}

func (m *Measure) count(operation string, began time.Time, err error) {
	result := "error"
	switch {
	case err == nil:
		result = "ok"
	case errors.Is(err, storage.ErrNotFound):
		result = "absent"
	case errors.Is(err, storage.ErrConflict):
		result = "conflict"
	case errors.Is(err, storage.ErrRefused):
		result = "refused"
	}
	m.requests.WithLabelValues(operation, result).Inc()
	m.seconds.WithLabelValues(operation).Observe(time.Since(began).Seconds())
}

// Get implements storage.Storage.
func (m *Measure) Get(ctx context.Context, key string, offset, length int64) (io.ReadCloser, storage.Info, error) {
	began := time.Now()
	body, info, err := m.Storage.Get(ctx, key, offset, length)
	m.count("get", began, err)
	if err != nil {
		return body, info, err
	}
	return &measured{body, m.bytes.WithLabelValues("received")}, info, nil
}

type measured struct {
	io.ReadCloser
	bytes prometheus.Counter
}

func (m *measured) Read(p []byte) (int, error) {
	n, err := m.ReadCloser.Read(p)
	m.bytes.Add(float64(n))
	return n, err
}

// Put implements storage.Storage.
func (m *Measure) Put(ctx context.Context, key string, content []byte, condition storage.Condition) (string, error) {
	began := time.Now()
	tag, err := m.Storage.Put(ctx, key, content, condition)
	m.count("put", began, err)
	if err == nil {
		m.bytes.WithLabelValues("sent").Add(float64(len(content)))
	}
	return tag, err
}

// List implements storage.Storage.
func (m *Measure) List(ctx context.Context, prefix, after string, limit int) ([]storage.Info, error) {
	began := time.Now()
	found, err := m.Storage.List(ctx, prefix, after, limit)
	m.count("list", began, err)
	return found, err
}

// Delete implements storage.Storage.
func (m *Measure) Delete(ctx context.Context, key string) error {
	began := time.Now()
	err := m.Storage.Delete(ctx, key)
	m.count("delete", began, err)
	return err
}
