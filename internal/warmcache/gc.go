package warmcache

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/shopset/shopset/internal/warmcache/storage"
)

// Removed is what GC removed, or would.
type Removed struct {
	Objects int
	Bytes   int64
	// Busy are shops that are left alone because they are being saved.
	Busy int
}

// GC removes packs and manifests of a compatibility key that no snapshot needs. It takes each shop's turn to save meanwhile, so that
// no saver can begin to use what is about to go; what is younger than grace stays all the same, because a saver that lost its turn
// may still be sending. What cannot be read keeps all of its shop, and the other shops are cleared.
func GC(ctx context.Context, s storage.Storage, compat string, grace time.Duration, now time.Time, dryRun bool) (*Removed, error) {
	if err := CheckCompatibility(compat); err != nil {
		return nil, err
	}
	removed := &Removed{}
	shops, old, err := oldObjects(ctx, s, compat, now.Add(-grace))
	if err != nil {
		return removed, err
	}
	var failures []error
	for _, shop := range shops {
		g := &collecting{storage: s, compat: compat, shop: shop, dryRun: dryRun, removed: removed}
		if err := g.run(ctx, old[shop]); err != nil {
			failures = append(failures, fmt.Errorf("%s: %w", shop, err))
		}
		if ctx.Err() != nil {
			break
		}
	}
	return removed, errors.Join(failures...)
}

// oldObjects lists packs and manifests that are old enough, by shop, and the shops in order.
func oldObjects(ctx context.Context, s storage.Storage, compat string, before time.Time) (shops []string, old map[string][]storage.Info, err error) {
	old = map[string][]storage.Info{}
	for _, prefix := range []string{"v1/" + compat + "/packs/", "v1/" + compat + "/manifests/"} {
		for after := ""; ; {
			page, err := s.List(ctx, prefix, after, 1000)
			if err != nil {
				return nil, nil, err
			}
			if len(page) == 0 {
				break
			}
			for _, info := range page {
				after = info.Key
				shop, hash, found := strings.Cut(strings.TrimPrefix(info.Key, prefix), "/")
				if !found || CheckShop(shop) != nil || !hashPattern.MatchString(hash) || info.Modified.After(before) {
					continue // Nobody's, or too young.
				}
				old[shop] = append(old[shop], info)
			}
		}
	}
	return slices.Sorted(maps.Keys(old)), old, nil
}

type collecting struct {
	storage      storage.Storage
	compat, shop string
	dryRun       bool
	removed      *Removed
}

func (g *collecting) run(ctx context.Context, found []storage.Info) error {
	if !g.dryRun {
		// The clock of the lease is the real one, whatever the age of objects is counted from.
		s := &saving{SaveConfig: SaveConfig{Storage: g.storage, Compatibility: g.compat, Shop: g.shop, Source: "gc", Now: time.Now}}
		h, _, err := loadHead(ctx, g.storage, g.compat, g.shop)
		if err != nil {
			return err
		}
		turn, err := s.begin(ctx, h.newest())
		if errors.Is(err, errBusy) {
			g.removed.Busy++
			return nil
		}
		if err != nil {
			return err
		}
		defer turn.giveUp(ctx)
		return g.remove(ctx, found, turn.renew)
	}
	return g.remove(ctx, found, func(context.Context) error { return nil })
}

func (g *collecting) remove(ctx context.Context, found []storage.Info, renew func(context.Context) error) error {
	// Read now that nobody else changes it.
	h, _, err := loadHead(ctx, g.storage, g.compat, g.shop)
	if err != nil {
		return err
	}
	needed := map[string]bool{}
	for i := range h.Generations {
		m, err := readManifest(ctx, g.storage, g.compat, g.shop, &h.Generations[i])
		if err != nil {
			return fmt.Errorf("generation %d: %w; nothing is removed while it cannot be read", h.Generations[i].Number, err)
		}
		needed[manifestKey(g.compat, g.shop, h.Generations[i].Manifest)] = true
		for j := range m.Packs {
			needed[packKey(g.compat, g.shop, m.Packs[j].Hash)] = true
		}
	}
	for _, info := range found {
		if needed[info.Key] {
			continue
		}
		if !g.dryRun {
			if err := renew(ctx); err != nil {
				return err
			}
			if err := g.storage.Delete(ctx, info.Key); err != nil {
				return err
			}
		}
		g.removed.Objects++
		g.removed.Bytes += info.Size
	}
	return nil
}
