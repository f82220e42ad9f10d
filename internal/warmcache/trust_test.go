package warmcache

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/shopset/shopset/internal/warmcache/storage"
)

// TestLineage: bad files of a Pod that another restored and saved again are found by the Pod that they come from.
func TestLineage(t *testing.T) {
	s, bad, good := newStorage(t), t.TempDir(), t.TempDir()
	from := func(pod string) func(*SaveConfig) { return func(c *SaveConfig) { c.Source = pod } }
	clean := t.TempDir()
	fill(t, filepath.Join(clean, "a"), map[string]string{"x": "clean"})
	save(t, s, clean, "a", from("pod-0"))
	fill(t, filepath.Join(bad, "a"), map[string]string{"x": "poison", "large": strings.Repeat("p", 5000)})
	save(t, s, bad, "a", from("pod-bad"))
	restore(t, s, good, []string{"a"})
	fill(t, filepath.Join(good, "a"), map[string]string{"y": "its own"})
	save(t, s, good, "a", from("pod-good"))
	// Even when everything is written into packs anew, by another Pod still.
	third := t.TempDir()
	restore(t, s, third, []string{"a"})
	fill(t, filepath.Join(third, "a"), map[string]string{"large": "small now"})
	save(t, s, third, "a", from("pod-3"))
	n, err := Revoke(t.Context(), s, "v1", "a", func(g Generation, _ bool) bool { return g.From("pod-bad") })
	if err != nil || n != 3 {
		t.Errorf("%d revoked, %v: %+v", n, err, generationsOf(t, s, "a"))
	}
	there := t.TempDir()
	restore(t, s, there, []string{"a"})
	same(t, tree(t, filepath.Join(there, "a")), map[string]string{"x": "clean"})
}

// TestInvalidated: clocks that differ bring nothing back, and what is saved after it is there again, changed or not.
func TestInvalidated(t *testing.T) {
	s, here := newStorage(t), t.TempDir()
	fill(t, filepath.Join(here, "a"), map[string]string{"x": "1"})
	fast := func(c *SaveConfig) { c.Now = func() time.Time { return time.Now().Add(24 * time.Hour) } }
	save(t, s, here, "a", fast) // It says that it was taken tomorrow.
	if err := Invalidate(t.Context(), s, "a", time.Now()); err != nil {
		t.Fatal(err)
	}
	later := func(c *RestoreConfig) { c.Now = func() time.Time { return time.Now().Add(48 * time.Hour) } }
	if report := restore(t, s, t.TempDir(), []string{"a"}, later); report.Absent != 1 {
		t.Errorf("an invalidated snapshot came back: %+v", report)
	}
	result := save(t, s, here, "a", fast)
	if result.Unchanged || result.Generation != 2 || result.New != 0 {
		t.Errorf("the same files after it was invalidated: %+v", result)
	}
	if report := restore(t, s, t.TempDir(), []string{"a"}, later); report.Shops != 1 {
		t.Errorf("%+v", report)
	}
	// What is invalidated while a save is under way is not in it.
	fill(t, filepath.Join(here, "a"), map[string]string{"x": "changed"})
	during := hooked{s, func(key string) {
		if strings.Contains(key, "/packs/") {
			if err := Invalidate(t.Context(), s, "a", time.Now()); err != nil {
				t.Error(err)
			}
		}
	}}
	if _, err := Save(t.Context(), SaveConfig{Storage: during, Folder: here, Shop: "a", Compatibility: "v1"}); err != nil {
		t.Fatal(err)
	}
	if report := restore(t, s, t.TempDir(), []string{"a"}, later); report.Absent != 1 {
		t.Errorf("what was being saved then came back: %+v", report)
	}
}

// TestRevokedMeanwhile: what is revoked while it is restored, if that takes long, is not published.
func TestRevokedMeanwhile(t *testing.T) {
	s, here, there := newStorage(t), t.TempDir(), t.TempDir()
	fill(t, filepath.Join(here, "a"), map[string]string{"x": "1"})
	save(t, s, here, "a")
	report := restore(t, s, there, []string{"a"}, func(c *RestoreConfig) {
		c.Validate = func(ctx context.Context, _, _ string) error {
			if _, err := Revoke(ctx, s, "v1", "a", func(Generation, bool) bool { return true }); err != nil {
				return err
			}
			return sleep(ctx, knownFor)
		}
	})
	if report.Failed != 1 || len(tree(t, there)) > 0 || !strings.Contains(fmt.Sprint(report.Errors), "revoked") {
		t.Errorf("%+v", report)
	}
}

// TestOlderOne: a snapshot that cannot be read is no reason to start cold if there is one before it.
func TestOlderOne(t *testing.T) {
	s, here, there := newStorage(t), t.TempDir(), t.TempDir()
	fill(t, filepath.Join(here, "a"), map[string]string{"x": strings.Repeat("old", 1000)})
	save(t, s, here, "a")
	fill(t, filepath.Join(here, "a"), map[string]string{"x": strings.Repeat("new", 1000)})
	save(t, s, here, "a")
	m, err := readManifest(t.Context(), s, "v1", "a", &generationsOf(t, s, "a")[0])
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Delete(t.Context(), packKey("v1", "a", m.Packs[0].Hash)); err != nil {
		t.Fatal(err)
	}
	report := restore(t, s, there, []string{"a"})
	if report.Shops != 1 || report.Restored[0].Generation != 1 {
		t.Errorf("%+v", report)
	}
	same(t, tree(t, filepath.Join(there, "a")), map[string]string{"x": strings.Repeat("old", 1000)})
}

// TestColdPod: a Pod whose cache is nearly empty does not put it in the place of a full one, for a day.
func TestColdPod(t *testing.T) {
	s, warm, cold := newStorage(t), t.TempDir(), t.TempDir()
	fill(t, filepath.Join(warm, "a"), map[string]string{"1": "x", "2": "x", "3": "x", "4": "x"})
	fill(t, filepath.Join(cold, "a"), map[string]string{"1": "y"})
	half := func(c *SaveConfig) { c.Least = 0.5 }
	save(t, s, warm, "a", half)
	if result := save(t, s, cold, "a", half); !result.Smaller || len(generationsOf(t, s, "a")) != 1 {
		t.Errorf("%+v", result)
	}
	late := func(c *SaveConfig) { c.Now = func() time.Time { return time.Now().Add(25 * time.Hour) } }
	if result := save(t, s, cold, "a", half, late); result.Smaller || result.Generation != 2 {
		t.Errorf("a day later: %+v", result)
	}
}

// TestSeveralPods: of Pods that serve the same shop one saves it, until it has not for some time, or another has far more, or the
// shop was invalidated. What the one changes it saves at any time.
func TestSeveralPods(t *testing.T) {
	s, one, other := newStorage(t), t.TempDir(), t.TempDir()
	files := func(n int, content string) map[string]string {
		made := map[string]string{}
		for i := range n {
			made[fmt.Sprint("f", i)] = content
		}
		return made
	}
	hour := func(c *SaveConfig) { c.Recent = time.Hour }
	second := func(c *SaveConfig) { c.Recent, c.Source = time.Hour, "pod-2" }
	later := func(c *SaveConfig) { c.Now = func() time.Time { return time.Now().Add(61 * time.Minute) } }
	fill(t, filepath.Join(one, "a"), files(20, "one"))
	fill(t, filepath.Join(other, "a"), files(21, "other"))
	save(t, s, one, "a", hour)
	if result := save(t, s, other, "a", second); !result.Recent || result.SentBytes != 0 || result.Files != 21 {
		t.Errorf("the other: %+v", result)
	}
	fill(t, filepath.Join(one, "a"), map[string]string{"f3": "three"})
	if result := save(t, s, one, "a", hour); result.Recent || result.Generation != 2 || result.New != 1 {
		t.Errorf("the one: %+v", result)
	}
	if result := save(t, s, other, "a", second, func(c *SaveConfig) { c.DryRun = true }); !result.Recent {
		t.Errorf("dry: %+v", result)
	}
	if result := save(t, s, other, "a", second, later); result.Recent || result.Generation != 3 {
		t.Errorf("after an hour: %+v", result)
	}
	fill(t, filepath.Join(one, "a"), files(23, "one again"))
	if result := save(t, s, one, "a", hour, later); !result.Recent {
		t.Errorf("a little more: %+v", result)
	}
	fill(t, filepath.Join(one, "a"), files(24, "one again"))
	if result := save(t, s, one, "a", hour, later); result.Recent || result.Generation != 4 {
		t.Errorf("far more: %+v", result)
	}
	if err := Invalidate(t.Context(), s, "a", time.Now()); err != nil {
		t.Fatal(err)
	}
	if result := save(t, s, other, "a", second, later); result.Recent || result.Generation != 5 {
		t.Errorf("invalidated: %+v", result)
	}
}

// TestHeadLies: budgets are kept by what the head says, so that a manifest that says more is refused.
func TestHeadLies(t *testing.T) {
	s, here, there := newStorage(t), t.TempDir(), t.TempDir()
	fill(t, filepath.Join(here, "a"), map[string]string{"x": strings.Repeat("x", 5000)})
	save(t, s, here, "a")
	if err := changeHead(t.Context(), s, "v1", "a", func(h *head) error { h.Generations[0].Bytes = 1; return nil }); err != nil {
		t.Fatal(err)
	}
	if report := restore(t, s, there, []string{"a"}, func(c *RestoreConfig) { c.Bytes = 100 }); report.Failed != 1 || len(tree(t, there)) > 0 {
		t.Errorf("%+v", report)
	}
}

// TestGC: what is needed stays, also while it is being saved; what cannot be read keeps its shop, and no other.
func TestGC(t *testing.T) {
	s, here := newStorage(t), t.TempDir()
	later := time.Now().Add(time.Hour)
	for _, shop := range []string{"a", "a-b", "b", "broken"} {
		for i := range 6 { // More than are kept.
			fill(t, filepath.Join(here, shop), map[string]string{"x": strings.Repeat(fmt.Sprint(i), 100+i)})
			save(t, s, here, shop)
		}
	}
	orphan := packKey("v1", "gone", strings.Repeat("a", 64))
	if _, err := s.Put(t.Context(), orphan, []byte("x"), storage.Condition{}); err != nil {
		t.Fatal(err)
	}
	if err := s.Delete(t.Context(), manifestKey("v1", "broken", generationsOf(t, s, "broken")[0].Manifest)); err != nil {
		t.Fatal(err)
	}
	held := &saving{SaveConfig: SaveConfig{Storage: s, Compatibility: "v1", Shop: "b", Now: time.Now}}
	turn, err := held.begin(t.Context(), 6)
	if err != nil {
		t.Fatal(err)
	}
	would, err := GC(t.Context(), s, "v1", 0, later, true)
	if err == nil || would.Objects == 0 {
		t.Errorf("%+v %v", would, err)
	}
	removed, err := GC(t.Context(), s, "v1", 0, later, false)
	if err == nil || !strings.Contains(err.Error(), "broken") || removed.Busy != 1 || removed.Objects == 0 || removed.Objects >= would.Objects {
		t.Errorf("%+v %v", removed, err)
	}
	turn.giveUp(t.Context())
	if removed, err = GC(t.Context(), s, "v1", 0, later, false); err == nil || removed.Busy != 0 || removed.Objects == 0 {
		t.Errorf("%+v %v", removed, err)
	}
	for _, shop := range []string{"a", "a-b", "b"} {
		if _, _, err := Verify(t.Context(), s, "v1", shop); err != nil {
			t.Errorf("%s: %v", shop, err)
		}
	}
	if again, err := GC(t.Context(), s, "v1", 0, later, false); err == nil || again.Objects != 0 {
		t.Errorf("there is more: %+v %v", again, err)
	}
	if _, _, err := s.Get(t.Context(), orphan, 0, -1); err == nil {
		t.Error("packs of a shop without a head stay")
	}
}
