package decorate_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"sync/atomic"
	"testing"
	"testing/iotest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"golang.org/x/time/rate"

	"github.com/shopset/shopset/internal/warmcache/storage"
	"github.com/shopset/shopset/internal/warmcache/storage/decorate"
	"github.com/shopset/shopset/internal/warmcache/storage/local"
	"github.com/shopset/shopset/internal/warmcache/storage/storagetest"
)

func open(t *testing.T) storage.Storage {
	t.Helper()
	s, err := local.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// flaky fails at every other call; every other failure has happened all the same. What it reads breaks off after some bytes.
type flaky struct {
	storage.Storage
	calls atomic.Int64
	bytes int64
}

var errFlaky = errors.New("the connection is gone")

func (f *flaky) fails() (before, after bool) {
	switch n := f.calls.Add(1); n % 4 {
	case 1:
		return true, false
	case 3:
		return false, true
	}
	return false, false
}

func (f *flaky) Get(ctx context.Context, key string, offset, length int64) (io.ReadCloser, storage.Info, error) {
	if before, after := f.fails(); before || after {
		return nil, storage.Info{}, errFlaky
	}
	body, info, err := f.Storage.Get(ctx, key, offset, length)
	if err != nil || f.bytes == 0 {
		return body, info, err
	}
	return struct {
		io.Reader
		io.Closer
	}{io.MultiReader(io.LimitReader(body, f.bytes), iotest.ErrReader(errFlaky)), body}, info, nil
}

func (f *flaky) Put(ctx context.Context, key string, content []byte, c storage.Condition) (string, error) {
	before, after := f.fails()
	if before {
		return "", errFlaky
	}
	tag, err := f.Storage.Put(ctx, key, content, c)
	if after && err == nil {
		return "", errFlaky
	}
	return tag, err
}

func (f *flaky) List(ctx context.Context, prefix, after string, limit int) ([]storage.Info, error) {
	if before, after := f.fails(); before || after {
		return nil, errFlaky
	}
	return f.Storage.List(ctx, prefix, after, limit)
}

func (f *flaky) Delete(ctx context.Context, key string) error {
	if before, _ := f.fails(); before {
		return errFlaky
	}
	return f.Storage.Delete(ctx, key)
}

// TestConformance: a wrapped storage is one, each wrapper alone and all over one that fails half of the time.
func TestConformance(t *testing.T) {
	fast := func() *rate.Limiter { return rate.NewLimiter(1<<30, 4096) }
	for name, wrap := range map[string]func(s storage.Storage) storage.Storage{
		"retry": func(s storage.Storage) storage.Storage { return decorate.Retry{Storage: s} },
		"limit": func(s storage.Storage) storage.Storage {
			return decorate.Limit{Storage: s, Sent: fast(), Received: fast()}
		},
		"measure": func(s storage.Storage) storage.Storage { return decorate.NewMeasure(s, prometheus.NewRegistry()) },
		"retry over what is flaky": func(s storage.Storage) storage.Storage {
			return decorate.Retry{Storage: &flaky{Storage: s, bytes: 1 << 20}, Pause: time.Microsecond, Tries: 40}
		},
		"all": func(s storage.Storage) storage.Storage {
			return decorate.NewMeasure(decorate.Limit{Storage: decorate.Retry{Storage: &flaky{Storage: s, bytes: 1 << 20}, Pause: time.Microsecond, Tries: 40}, Sent: fast(), Received: fast()}, prometheus.NewRegistry())
		},
	} {
		t.Run(name, func(t *testing.T) {
			storagetest.Run(t, func(t *testing.T) storage.Storage { return wrap(open(t)) })
		})
	}
}

// TestReplacedMeanwhile: what is read is one object, not the beginning of one and the end of another.
func TestReplacedMeanwhile(t *testing.T) {
	s := open(t)
	put := func(letter string) {
		t.Helper()
		if _, err := s.Put(t.Context(), "x", bytes.Repeat([]byte(letter), 3000), storage.Condition{}); err != nil {
			t.Fatal(err)
		}
	}
	put("a")
	body, _, err := decorate.Retry{Storage: &flaky{Storage: s, bytes: 1000}, Pause: time.Microsecond}.Get(t.Context(), "x", 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	defer body.Close()
	if _, err := io.ReadFull(body, make([]byte, 500)); err != nil {
		t.Fatal(err)
	}
	put("b")
	if rest, err := io.ReadAll(body); !errors.Is(err, storage.ErrConflict) || bytes.ContainsRune(rest, 'b') {
		t.Errorf("%d bytes, %v", len(rest), err)
	}
}

// stalled never answers, or never goes on.
type stalled struct {
	storage.Storage
	late  bool
	calls atomic.Int64
}

func (s *stalled) Get(ctx context.Context, key string, offset, length int64) (io.ReadCloser, storage.Info, error) {
	s.calls.Add(1)
	if !s.late {
		<-ctx.Done()
		return nil, storage.Info{}, ctx.Err()
	}
	body, info, err := s.Storage.Get(ctx, key, offset, length)
	if err != nil {
		return body, info, err
	}
	return struct {
		io.Reader
		io.Closer
	}{io.MultiReader(io.LimitReader(body, 2), waits{ctx}), body}, info, nil
}

func (s *stalled) Put(ctx context.Context, _ string, _ []byte, _ storage.Condition) (string, error) {
	s.calls.Add(1)
	<-ctx.Done()
	return "", ctx.Err()
}

type waits struct{ ctx context.Context }

func (w waits) Read([]byte) (int, error) { <-w.ctx.Done(); return 0, w.ctx.Err() }

// TestStalled: what makes no progress is tried again, from where it was, and given up; nobody waits for ever.
func TestStalled(t *testing.T) {
	s := open(t)
	if _, err := s.Put(t.Context(), "x", []byte("hello"), storage.Condition{}); err != nil {
		t.Fatal(err)
	}
	silent := &stalled{Storage: s}
	r := decorate.Retry{Storage: silent, Tries: 3, Pause: time.Microsecond, Stall: 200 * time.Millisecond}
	if _, _, err := r.Get(t.Context(), "x", 0, -1); err == nil || silent.calls.Load() != 3 {
		t.Errorf("%v after %d calls", err, silent.calls.Load())
	}
	if _, err := r.Put(t.Context(), "x", []byte("y"), storage.Condition{}); err == nil || silent.calls.Load() != 6 {
		t.Errorf("%v after %d calls", err, silent.calls.Load())
	}
	late := &stalled{Storage: s, late: true}
	r.Storage = late
	body, _, err := r.Get(t.Context(), "x", 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	defer body.Close()
	if content, err := io.ReadAll(body); err != nil || string(content) != "hello" || late.calls.Load() != 3 {
		t.Errorf("%q %v after %d calls", content, err, late.calls.Load())
	}
}

// TestFinal: what will not be otherwise later is asked once.
func TestFinal(t *testing.T) {
	for _, final := range []error{storage.ErrNotFound, storage.ErrRefused, storage.ErrConflict} {
		calls := 0
		err := decorate.Retry{Pause: time.Hour}.Do(t.Context(), func(context.Context) error { calls++; return final })
		if !errors.Is(err, final) || calls != 1 {
			t.Errorf("%v after %d calls", err, calls)
		}
	}
}

// TestLimit: the limiter is asked for every byte, of all objects together.
func TestLimit(t *testing.T) {
	sent, received := rate.NewLimiter(0, 10000), rate.NewLimiter(0, 10000) // There are 10,000 bytes, and never more.
	s := decorate.Limit{Storage: open(t), Sent: sent, Received: received}
	for _, key := range []string{"a", "b"} {
		if _, err := s.Put(t.Context(), key, make([]byte, 4000), storage.Condition{}); err != nil {
			t.Fatal(err)
		}
		body, _, err := s.Get(t.Context(), key, 0, -1)
		if err != nil {
			t.Fatal(err)
		}
		if n, err := io.Copy(io.Discard, body); err != nil || n != 4000 {
			t.Fatal(n, err)
		}
		body.Close()
	}
	if sent.Tokens() != 2000 || received.Tokens() != 2000 {
		t.Errorf("%v and %v bytes are left, want 2000", sent.Tokens(), received.Tokens())
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if _, err := s.Put(ctx, "c", make([]byte, 4000), storage.Condition{}); err == nil {
		t.Error("more was sent than there is")
	}
	if decorate.BytesPerSecond(0) != nil || decorate.BytesPerSecond(1<<20).Burst() != 1<<18 {
		t.Error("a limiter of bytes")
	}
}

func TestMetrics(t *testing.T) {
	registry := prometheus.NewRegistry()
	s := decorate.NewMeasure(open(t), registry)
	_, _ = s.Put(t.Context(), "a", []byte("hello"), storage.Condition{})
	_, _ = s.Put(t.Context(), "a", []byte("hello"), storage.Condition{IfAbsent: true})
	_, _, _ = s.Get(t.Context(), "none", 0, -1)
	if err := testutil.GatherAndCompare(registry, bytes.NewReader([]byte(`# HELP shopset_cache_storage_bytes_total Bytes of objects, by direction (sent, received).
# TYPE shopset_cache_storage_bytes_total counter
shopset_cache_storage_bytes_total{direction="sent"} 5
# HELP shopset_cache_storage_requests_total Requests to the storage by operation (get, put, list, delete) and result (ok, absent, conflict, refused, error).
# TYPE shopset_cache_storage_requests_total counter
shopset_cache_storage_requests_total{operation="get",result="absent"} 1
shopset_cache_storage_requests_total{operation="put",result="conflict"} 1
shopset_cache_storage_requests_total{operation="put",result="ok"} 1
`)), "shopset_cache_storage_requests_total", "shopset_cache_storage_bytes_total"); err != nil {
		t.Error(err)
	}
}
