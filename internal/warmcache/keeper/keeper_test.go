package keeper

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/shopset/shopset/internal/warmcache"
	"github.com/shopset/shopset/internal/warmcache/storage"
	"github.com/shopset/shopset/internal/warmcache/storage/local"
)

func saver(t *testing.T, shops ...string) (*Saver, *prometheus.Registry) {
	t.Helper()
	s, err := local.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	folder := t.TempDir()
	old := time.Now().Add(-time.Minute)
	var chosen []warmcache.Shop
	for _, shop := range shops {
		chosen = append(chosen, warmcache.Shop{Name: shop})
		path := filepath.Join(folder, shop, "x")
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte("x"), 0o600), os.Chtimes(path, old, old)); err != nil {
			t.Fatal(err)
		}
	}
	registry := prometheus.NewRegistry()
	return &Saver{Shops: func(context.Context) ([]warmcache.Shop, error) { return chosen, nil }, Every: time.Millisecond, Metrics: NewMetrics(registry),
		Config: warmcache.SaveConfig{Storage: s, Folder: folder, Compatibility: "1", Source: "pod"}}, registry
}

// TestRound: one shop that fails keeps no other from being saved, and one that this Pod has not served is none.
func TestRound(t *testing.T) {
	s, registry := saver(t, "a", "b", "c")
	if err := os.RemoveAll(filepath.Join(s.Config.Folder, "c")); err != nil {
		t.Fatal(err)
	}
	s.Config.Validate = func(_ context.Context, folder string) error {
		if strings.HasSuffix(folder, "/a") {
			return errors.New("it is bad")
		}
		return nil
	}
	if err := s.Round(t.Context()); err == nil || !strings.Contains(err.Error(), "save a: it is not valid: it is bad") || strings.Contains(err.Error(), "save c") {
		t.Error(err)
	}
	s.Config.Validate = nil
	if err := s.Round(t.Context()); err != nil {
		t.Error(err)
	}
	if err := testutil.GatherAndCompare(registry, strings.NewReader(`# HELP shopset_cache_saves_total Saves of a shop by result (saved, unchanged, busy, smaller, recent, failed).
# TYPE shopset_cache_saves_total counter
shopset_cache_saves_total{result="failed"} 1
shopset_cache_saves_total{result="saved"} 2
shopset_cache_saves_total{result="unchanged"} 1
# HELP shopset_cache_save_round_failed 1 if something failed in the last round of saving.
# TYPE shopset_cache_save_round_failed gauge
shopset_cache_save_round_failed 0
`), "shopset_cache_saves_total", "shopset_cache_save_round_failed"); err != nil {
		t.Error(err)
	}
	s.Named = true
	if err := s.Round(t.Context()); err == nil {
		t.Error("a shop that was named is not there, and nobody says so")
	}
}

// careless is a storage that knows no conditions, or one kind of them.
type careless struct {
	storage.Storage
	absent, tag bool
}

func (c careless) Put(ctx context.Context, key string, content []byte, condition storage.Condition) (string, error) {
	if condition.IfAbsent && !c.absent || condition.IfTag != "" && !c.tag {
		condition = storage.Condition{}
	}
	return c.Storage.Put(ctx, key, content, condition)
}

// counted tells of each Put.
type counted struct {
	storage.Storage
	each func()
}

func (c counted) Put(ctx context.Context, key string, content []byte, condition storage.Condition) (string, error) {
	c.each()
	return c.Storage.Put(ctx, key, content, condition)
}

// TestCarelessStorage: what would lose snapshots of others is not written to, in no round.
func TestCarelessStorage(t *testing.T) {
	for _, c := range []careless{{}, {absent: true}, {tag: true}} {
		s, _ := saver(t, "a")
		good := s.Config.Storage
		c.Storage = good
		s.Config.Storage = c
		for range 2 {
			if err := s.Round(t.Context()); !errors.Is(err, warmcache.ErrUnconditional) {
				t.Errorf("%+v: %v", c, err)
			}
		}
		ctx, cancel := context.WithCancel(t.Context())
		rounds := 0
		round := s.Shops
		s.Shops = func(ctx context.Context) ([]warmcache.Shop, error) {
			t.Error("a round goes on")
			return round(ctx)
		}
		s.Config.Storage = counted{c, func() {
			if rounds++; rounds == 10 {
				cancel()
			}
		}}
		s.Collect, s.CollectEvery = func(context.Context) error { t.Error("collected from it"); return nil }, time.Nanosecond
		s.Loop(ctx, true)
		s.Shops, s.Collect = round, nil
		if found, err := good.List(t.Context(), "v1/1/heads/", "", 10); err != nil || len(found) != 0 {
			t.Errorf("saved to it: %v %v", found, err)
		}
		s.Config.Storage = good
		if err := s.Round(t.Context()); err != nil {
			t.Error(err)
		}
	}
}

// TestLoop goes on after rounds that fail, collects, and ends with its context.
func TestLoop(t *testing.T) {
	s, _ := saver(t, "a")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var rounds, collected atomic.Int64
	shops := s.Shops
	s.Shops = func(ctx context.Context) ([]warmcache.Shop, error) {
		switch rounds.Add(1) {
		case 1, 2:
			return nil, errors.New("there is no ranking yet")
		case 6:
			cancel()
		}
		return shops(ctx)
	}
	s.CollectEvery = time.Nanosecond
	s.Collect = func(context.Context) error { collected.Add(1); return errors.New("not now") }
	s.Loop(ctx, true)
	if rounds.Load() != 6 || collected.Load() != 5 {
		t.Errorf("%d rounds, collected %d times", rounds.Load(), collected.Load())
	}
}

// TestShopTimeout: a shop that takes too long is given up, says so, and the others are saved. The storage does not answer for the
// first shop until its time is over, and only then is there enough time for the second: nothing depends on how fast the machine is.
func TestShopTimeout(t *testing.T) {
	s, _ := saver(t, "a", "b")
	s.ShopTimeout = time.Millisecond
	s.Config.Storage = silent{s.Config.Storage, "heads/a", func() { s.ShopTimeout = time.Hour }}
	err := s.Round(t.Context())
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "longer than 1ms") {
		t.Error(err)
	}
	if n := testutil.ToFloat64(s.Metrics.saves.WithLabelValues("saved")); n != 1 {
		t.Errorf("%v saved", n)
	}
	if n := testutil.ToFloat64(s.Metrics.saves.WithLabelValues("failed")); n != 1 {
		t.Errorf("%v failed", n)
	}
}

// silent is a storage that never answers for some keys; over is called when nobody waits any more.
type silent struct {
	storage.Storage
	keys string
	over func()
}

func (s silent) Get(ctx context.Context, key string, offset, length int64) (io.ReadCloser, storage.Info, error) {
	if !strings.HasSuffix(key, s.keys) {
		return s.Storage.Get(ctx, key, offset, length)
	}
	<-ctx.Done()
	s.over()
	return nil, storage.Info{}, ctx.Err()
}

// TestRestored: the metrics of a restore, and of what followed it.
func TestRestored(t *testing.T) {
	registry := prometheus.NewRegistry()
	m := NewMetrics(registry)
	at := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	r := &warmcache.Report{At: at, Shops: 1, OverBudget: 2, Absent: 3, Failed: 1, Files: 10, Bytes: 100, Share: 0.5, Took: 3 * time.Second, Expired: true,
		Restored: []warmcache.Restored{{Shop: "a", Generation: 7, Taken: at.Add(-time.Hour)}}}
	// Of those that were not restored all are tried again: none counts twice.
	r.Add(&warmcache.Report{Shops: 2, Share: 0.25, Absent: 3, Restored: []warmcache.Restored{{Shop: "b", Generation: 3, Taken: at}}})
	m.Restored(r)
	(*Metrics)(nil).Restored(r)
	for _, test := range []struct {
		metric prometheus.Gauge
		want   float64
	}{{m.share, 0.75}, {m.age, 1800}, {m.restoredGeneration, 7}, {m.expired, 1}, {m.seconds, 3}, {m.files, 10}, {m.bytes, 100}} {
		if got := testutil.ToFloat64(test.metric); got != test.want {
			t.Errorf("%s: got %v, want %v", test.metric.Desc(), got, test.want)
		}
	}
	for result, want := range map[string]float64{"restored": 3, "absent": 3, "over_budget": 0, "failed": 0} {
		if got := testutil.ToFloat64(m.shops.WithLabelValues(result)); got != want {
			t.Errorf("%s: %v shops, want %v", result, got, want)
		}
	}
	if r.Add(r.Rest()); r.Absent != 3 || r.Shops != 3 {
		t.Errorf("%+v", r)
	}
	left := r.Without([]warmcache.Shop{{Name: "a"}, {Name: "c"}, {Name: "b"}})
	if len(left) != 1 || left[0].Name != "c" {
		t.Errorf("%v is left", left)
	}
}
