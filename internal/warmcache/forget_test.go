package warmcache

import (
	"context"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/shopset/shopset/internal/warmcache/storage"
)

// TestForget: what nobody has saved for a time goes with its packs, whatever release it is of; what is young, or is being saved, stays.
func TestForget(t *testing.T) {
	s, here := newStorage(t), t.TempDir()
	// Files must be older than a snapshot: the old ones are of now, and it is later that they are forgotten.
	later := time.Now().Add(1000 * time.Hour)
	for _, shop := range []string{"old", "both", "busy"} {
		fill(t, filepath.Join(here, shop), map[string]string{"x": "of " + shop})
		for _, compat := range []string{"v1", "v1-b", "v2"} {
			save(t, s, here, shop, func(c *SaveConfig) { c.Compatibility = compat })
		}
	}
	for _, shop := range []string{"both", "young"} {
		fill(t, filepath.Join(here, shop), map[string]string{"x": "newer, of " + shop})
		save(t, s, here, shop, func(c *SaveConfig) { c.Now = func() time.Time { return later } })
	}
	if err := Invalidate(t.Context(), s, "old", time.Now()); err != nil {
		t.Fatal(err)
	}
	if found, err := Compatibilities(t.Context(), s); err != nil || !slices.Equal(slices.Sorted(slices.Values(found)), []string{"v1", "v1-b", "v2"}) {
		t.Errorf("%v %v", found, err)
	}
	held := &saving{SaveConfig: SaveConfig{Storage: s, Compatibility: "v1", Shop: "busy", Now: time.Now}}
	turn, err := held.begin(t.Context(), 1)
	if err != nil {
		t.Fatal(err)
	}
	for _, dry := range []bool{true, false} {
		f, err := Forget(t.Context(), s, "v1", 720*time.Hour, later, dry)
		if err != nil || *f != (Forgotten{Shops: 1, Snapshots: 1, Busy: 1}) {
			t.Errorf("dry %v: %+v %v", dry, f, err)
		}
	}
	turn.giveUp(t.Context())
	if n := len(generationsOf(t, s, "old")); n != 0 {
		t.Errorf("%d are left", n)
	}
	if n := len(generationsOf(t, s, "both")); n != 2 {
		t.Errorf("%d are left of one that is saved still", n)
	}
	if removed, err := GC(t.Context(), s, "v1", 0, time.Now().Add(time.Minute), false); err != nil || removed.Objects != 2 {
		t.Errorf("%+v %v", removed, err)
	}
	// The next saver sends it again.
	if result := save(t, s, here, "old"); result.New != 1 || result.Generation != 1 {
		t.Errorf("%+v", result)
	}
	if _, err := Forget(t.Context(), s, "v1", time.Minute, time.Now(), true); err == nil {
		t.Error("what was saved a minute ago would be forgotten")
	}
}

// TestListedForEver: a storage that begins anew in place of ending holds up nobody.
func TestListedForEver(t *testing.T) {
	s, here := newStorage(t), t.TempDir()
	fill(t, filepath.Join(here, "a"), map[string]string{"x": "x"})
	save(t, s, here, "a")
	round := anew{s}
	_, names := Names(t.Context(), round, "v1")
	_, keys := Compatibilities(t.Context(), round)
	_, removed := GC(t.Context(), round, "v1", 0, time.Now(), true)
	for what, err := range map[string]error{"names": names, "keys": keys, "gc": removed} {
		if err == nil || !strings.Contains(err.Error(), "behind") {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// anew lists from the beginning, always.
type anew struct{ storage.Storage }

func (a anew) List(ctx context.Context, prefix, _ string, limit int) ([]storage.Info, error) {
	return a.Storage.List(ctx, prefix, "", limit)
}

// TestReservedKeys: nobody who may save one release may change what all releases have in common.
func TestReservedKeys(t *testing.T) {
	for _, compat := range reserved {
		if CheckCompatibility(compat) == nil {
			t.Errorf("%s was taken", compat)
		}
	}
}

// TestRevokedWhileSaved: a saver that began before something was revoked may have just that in its folder, and publishes nothing.
func TestRevokedWhileSaved(t *testing.T) {
	s, here := newStorage(t), t.TempDir()
	fill(t, filepath.Join(here, "a"), map[string]string{"x": "bad"})
	save(t, s, here, "a")
	fill(t, filepath.Join(here, "a"), map[string]string{"y": "more"})
	revoking := hooked{s, func(key string) {
		if strings.Contains(key, "/manifests/") {
			if n, err := Revoke(t.Context(), s, "v1", "a", func(Generation, bool) bool { return true }); n != 1 || err != nil {
				t.Error(n, err)
			}
		}
	}}
	if _, err := Save(t.Context(), SaveConfig{Storage: revoking, Folder: here, Shop: "a", Compatibility: "v1"}); err == nil || !strings.Contains(err.Error(), "revoked while it was saved") {
		t.Error(err)
	}
	if found := generationsOf(t, s, "a"); len(found) != 1 || !found[0].Revoked {
		t.Errorf("%+v", found)
	}
}

// TestLeaseForEver: a lease that claims more time than there is does not keep others from saving.
func TestLeaseForEver(t *testing.T) {
	s, here := newStorage(t), t.TempDir()
	fill(t, filepath.Join(here, "a"), map[string]string{"x": "x"})
	for until, busy := range map[time.Duration]bool{LeaseTime: true, LeaseTime + maxSkew + time.Hour: false} {
		err := changeHead(t.Context(), s, "v1", "a", func(h *head) error {
			h.Lease = &lease{Holder: "somebody", Token: "x", Until: time.Now().Add(until)}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if result := save(t, s, here, "a"); result.Busy != busy {
			t.Errorf("%s: %+v", until, result)
		}
	}
}

// TestManyPacks: a shop of 4 GiB that cannot be compressed fits into the packs that a manifest may have.
func TestManyPacks(t *testing.T) {
	m := &manifest{Shop: "a"}
	for range 2 * maxBytes / packBytes {
		m.Packs = append(m.Packs, pack{Hash: strings.Repeat("a", 64)})
	}
	if err := m.check("a"); err != nil {
		t.Error(err)
	}
	if least := 2*maxBytes/packBytes + maxSmallPacks; least > maxPacks {
		t.Errorf("%d packs may be needed, %d may be there", least, maxPacks)
	}
}

// TestTimeBegan: what was done before is part of the time there is; nobody is asked when it is over.
func TestTimeBegan(t *testing.T) {
	s, here, there := newStorage(t), t.TempDir(), t.TempDir()
	fill(t, filepath.Join(here, "a"), map[string]string{"x": "x"})
	save(t, s, here, "a")
	report := restore(t, s, there, []string{"a"}, func(c *RestoreConfig) {
		c.Time, c.Began = time.Hour, time.Now().Add(-2*time.Hour)
	})
	if report.Shops != 0 || report.OverBudget != 1 || !report.Expired || report.Took < 2*time.Hour {
		t.Errorf("%+v", report)
	}
}

// TestDryRestore looks, and neither makes nor removes anything: the folder need not even be there.
func TestDryRestore(t *testing.T) {
	s, here := newStorage(t), t.TempDir()
	fill(t, filepath.Join(here, "a"), map[string]string{"x": "x"})
	save(t, s, here, "a")
	report := restore(t, s, filepath.Join(here, "nowhere"), []string{"a"}, func(c *RestoreConfig) { c.DryRun = true })
	if report.Shops != 1 || len(tree(t, filepath.Join(here, "nowhere"))) > 0 {
		t.Errorf("%+v", report)
	}
}
