package warmcache

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/shopset/shopset/internal/warmcache/storage"
)

// hooked does something before a Put.
type hooked struct {
	storage.Storage
	before func(key string)
}

func (h hooked) Put(ctx context.Context, key string, content []byte, c storage.Condition) (string, error) {
	h.before(key)
	return h.Storage.Put(ctx, key, content, c)
}

// generationsOf lists the Pods of a shop's snapshots, the newest first.
func generationsOf(t testing.TB, s storage.Storage, shop string) (found []Generation) {
	t.Helper()
	h, _, err := loadHead(t.Context(), s, "v1", shop)
	if err != nil {
		t.Fatal(err)
	}
	if h.Lease != nil {
		t.Errorf("%s has the lease still", h.Lease.Holder)
	}
	return h.Generations
}

// TestTwoSavers: of many at once one saves, the others leave it alone, and nothing is lost.
func TestTwoSavers(t *testing.T) {
	s := newStorage(t)
	var group sync.WaitGroup
	results := make([]*SaveResult, 5)
	for i := range results {
		here := t.TempDir()
		fill(t, filepath.Join(here, "a"), map[string]string{"x": fmt.Sprint("from ", i)})
		group.Go(func() {
			results[i] = save(t, s, here, "a", func(c *SaveConfig) { c.Source = fmt.Sprint("pod-", i) })
		})
	}
	group.Wait()
	var want []int64
	for _, result := range results {
		if !result.Busy {
			want = append(want, result.Generation)
		}
	}
	slices.Sort(want)
	found := generationsOf(t, s, "a")
	// Of five that are younger than an hour four are kept: the newest three and the oldest.
	if len(want) == 0 || int64(len(want)) != found[0].Number || len(found) != min(len(want), 4) {
		t.Errorf("%v were saved, and %+v are there", want, found)
	}
	for i := range want {
		if want[i] != int64(i+1) {
			t.Errorf("the generations are %v", want)
		}
	}
}

// TestOneAtATime: while one saves another does not begin; when it is not heard of any more, the other takes over, and the first
// cannot commit any more, whatever it had sent already.
func TestOneAtATime(t *testing.T) {
	s, here, there := newStorage(t), t.TempDir(), t.TempDir()
	fill(t, filepath.Join(here, "a"), map[string]string{"x": "slow"})
	fill(t, filepath.Join(there, "a"), map[string]string{"x": "other"})
	for _, moment := range []string{"/packs/", "/manifests/", "/heads/"} {
		began := false
		interrupted := hooked{s, nil}
		heads := 0
		interrupted.before = func(key string) {
			if strings.Contains(key, "/heads/") {
				heads++
			}
			// The first head takes the lease, the second commits.
			if began || !strings.Contains(key, moment) || moment == "/heads/" && heads < 2 {
				return
			}
			began = true
			if result := save(t, s, there, "a"); !result.Busy {
				t.Errorf("%s: two at once: %+v", moment, result)
			}
			later := func(c *SaveConfig) {
				c.Source, c.Now = "pod-2", func() time.Time { return time.Now().Add(2 * LeaseTime) }
			}
			if result := save(t, s, there, "a", later); result.Busy || result.New != 1 {
				t.Errorf("%s: the lease was not taken over: %+v", moment, result)
			}
		}
		_, err := Save(t.Context(), SaveConfig{Storage: interrupted, Folder: here, Shop: "a", Compatibility: "v1", Source: "pod-1"})
		if !errors.Is(err, ErrLeaseLost) || !began {
			t.Errorf("%s: who lost the lease says %v", moment, err)
		}
		for _, g := range generationsOf(t, s, "a") {
			if g.Source != "pod-2" {
				t.Errorf("%s: %s committed", moment, g.Source)
			}
		}
		fill(t, filepath.Join(there, "a"), map[string]string{"x": "another than before " + moment})
	}
}

// TestRenewed: a save that takes long keeps its lease.
func TestRenewed(t *testing.T) {
	s, here := newStorage(t), t.TempDir()
	files := map[string]string{}
	for i := range 4 {
		files[fmt.Sprint(i)] = strings.Repeat("x", 40<<20)
	}
	fill(t, filepath.Join(here, "a"), files)
	now := time.Now()
	slow := hooked{s, func(key string) {
		if strings.Contains(key, "/packs/") {
			now = now.Add(LeaseTime * 3 / 4)
		}
	}}
	result, err := Save(t.Context(), SaveConfig{Storage: slow, Folder: here, Shop: "a", Compatibility: "v1", Now: func() time.Time { return now }})
	if err != nil || result.Generation != 1 {
		t.Errorf("%+v %v", result, err)
	}
	generationsOf(t, s, "a")
}

// TestGivenBack: a save that fails does not hold up the next.
func TestGivenBack(t *testing.T) {
	s, here := newStorage(t), t.TempDir()
	fill(t, filepath.Join(here, "a"), map[string]string{"x": "x"})
	ctx, cancel := context.WithCancel(t.Context())
	broken := hooked{s, func(key string) {
		if strings.Contains(key, "/packs/") {
			cancel()
		}
	}}
	if _, err := Save(ctx, SaveConfig{Storage: broken, Folder: here, Shop: "a", Compatibility: "v1"}); err == nil {
		t.Error("no error")
	}
	if result := save(t, s, here, "a"); result.Busy || result.Generation != 1 {
		t.Errorf("%+v", result)
	}
}

// TestRetain: what is kept, whoever saves however often.
func TestRetain(t *testing.T) {
	at := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	h := &head{}
	for i := range 600 { // Every ten minutes for four days; then a bad Pod, which is revoked.
		at = at.Add(10 * time.Minute)
		g := Generation{Number: int64(i + 1), Taken: at, Revoked: i >= 590}
		h.Generations = append([]Generation{g}, h.Generations...)
		h.retain(at)
	}
	var ages []string
	revoked := 0
	for _, g := range h.Generations {
		if g.Revoked {
			revoked++
		} else {
			ages = append(ages, at.Sub(g.Taken).String())
		}
	}
	if revoked != keptRevoked || len(ages) < 3 || ages[0] != "1h40m0s" {
		t.Errorf("%d revoked, %v", revoked, ages)
	}
	// Without any that is revoked there are the last ones, and older ones to go back to.
	h = &head{}
	for i := range 600 {
		at = at.Add(10 * time.Minute)
		h.Generations = append([]Generation{{Number: int64(i + 1), Taken: at}}, h.Generations...)
		h.retain(at)
	}
	hour, day := false, false
	for _, g := range h.Generations {
		hour = hour || at.Sub(g.Taken) >= time.Hour
		day = day || at.Sub(g.Taken) >= 24*time.Hour
	}
	if !hour || !day || len(h.Generations) > keptNewest+2*len(keptAges) {
		t.Errorf("an hour %v, a day %v, %d kept", hour, day, len(h.Generations))
	}
}
