package warmcache

import (
	"context"
	"errors"
	"fmt"
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
	if grace < 0 {
		return removed, fmt.Errorf("a grace of %s: want 0 or more", grace)
	}
	var failures []error
	err := eachOld(ctx, s, compat, now.Add(-grace), func(shop string, old []storage.Info) {
		g := &collecting{storage: s, compat: compat, shop: shop, dryRun: dryRun, removed: removed}
		if err := g.run(ctx, old); err != nil {
			failures = append(failures, fmt.Errorf("%s: %w", shop, err))
		}
	})
	return removed, errors.Join(append(failures, err)...)
}

// eachOld visits the shops with their packs and manifests that are old enough. No more than one shop's are held at a time: both are
// listed in the order of the keys, side by side.
func eachOld(ctx context.Context, s storage.Storage, compat string, before time.Time, visit func(shop string, old []storage.Info)) error {
	lists := []*listing{{storage: s, prefix: "v1/" + compat + "/packs/"}, {storage: s, prefix: "v1/" + compat + "/manifests/"}}
	for {
		first := ""
		for _, list := range lists {
			shop, err := list.peek(ctx)
			if err != nil {
				return err
			}
			// With the slash, as in the keys: "a-b/" comes before "a/".
			if shop != "" && (first == "" || shop+"/" < first+"/") {
				first = shop
			}
		}
		if first == "" {
			return nil
		}
		var old []storage.Info
		for _, list := range lists {
			for shop, err := list.peek(ctx); shop == first || err != nil; shop, err = list.peek(ctx) {
				if err != nil {
					return err
				}
				if info := list.next(); !info.Modified.After(before) {
					old = append(old, info)
				}
			}
		}
		if len(old) > 0 {
			visit(first, old)
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
}

// listing lists the objects of shops below a prefix, page by page.
type listing struct {
	storage       storage.Storage
	prefix, after string
	page          []storage.Info
	end           bool
}

// peek is the shop of the next object; empty at the end. What is nobody's is left out.
func (l *listing) peek(ctx context.Context) (string, error) {
	for {
		for len(l.page) > 0 {
			shop, hash, found := strings.Cut(strings.TrimPrefix(l.page[0].Key, l.prefix), "/")
			if found && CheckShop(shop) == nil && hashPattern.MatchString(hash) {
				return shop, nil
			}
			l.next()
		}
		if l.end {
			return "", nil
		}
		page, err := nextPage(ctx, l.storage, l.prefix, l.after)
		if err != nil {
			return "", err
		}
		l.page, l.end = page, len(page) == 0
	}
}

func (l *listing) next() storage.Info {
	info := l.page[0]
	l.page, l.after = l.page[1:], info.Key
	return info
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
		return g.remove(ctx, found, turn)
	}
	return g.remove(ctx, found, nil)
}

func (g *collecting) remove(ctx context.Context, found []storage.Info, turn *turn) error {
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
			if err := g.delete(ctx, turn, info.Key); err != nil {
				return err
			}
		}
		g.removed.Objects++
		g.removed.Bytes += info.Size
	}
	return nil
}

// delete removes an object, as long as nobody else may have the turn: a saver could send the same content again, and need it.
func (g *collecting) delete(ctx context.Context, turn *turn, key string) error {
	if err := turn.renew(ctx); err != nil {
		return err
	}
	ctx, cancel := context.WithDeadline(ctx, turn.until)
	defer cancel()
	return g.storage.Delete(ctx, key)
}
