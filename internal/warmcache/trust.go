package warmcache

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/shopset/shopset/internal/warmcache/storage"
)

// Invalidate says that nothing of a shop that was saved before now may be restored: something was deleted or changed that
// must not come back. It holds for all compatibility keys.
func Invalidate(ctx context.Context, to storage.Storage, shop string, now time.Time) error {
	if err := CheckShop(shop); err != nil {
		return err
	}
	_, err := to.Put(ctx, invalidKey(shop), []byte(now.UTC().Format(time.RFC3339Nano)), storage.Condition{})
	return err
}

// Invalidated is when a shop was invalidated last, the zero time if never.
func Invalidated(ctx context.Context, from storage.Storage, shop string) (time.Time, error) {
	content, _, err := readAll(ctx, from, invalidKey(shop), 128)
	if errors.Is(err, storage.ErrNotFound) {
		return time.Time{}, nil
	}
	if err != nil {
		return time.Time{}, err
	}
	when, err := time.Parse(time.RFC3339Nano, strings.TrimSpace(string(content)))
	if err != nil {
		return time.Time{}, fmt.Errorf("when %s was invalidated: %w", shop, err)
	}
	return when, nil
}

// Revoke keeps snapshots from being restored: of a shop, those for which bad says so; newest says whether it is the one that is
// restored so far. The one before them is restored then. bad may be asked again when somebody else changes the head.
func Revoke(ctx context.Context, to storage.Storage, compat, shop string, bad func(g Generation, newest bool) bool) (revoked int, err error) {
	if err := errors.Join(CheckShop(shop), CheckCompatibility(compat)); err != nil {
		return 0, err
	}
	err = changeHead(ctx, to, compat, shop, func(h *head) bool {
		revoked = 0
		newest := true
		for i := range h.Generations {
			g := &h.Generations[i]
			if g.Revoked {
				continue
			}
			if bad(*g, newest) {
				g.Revoked = true
				revoked++
			}
			newest = false
		}
		return revoked > 0
	})
	return revoked, err
}

// Shops lists the shops that have snapshots, with these, the newest first.
func Shops(ctx context.Context, from storage.Storage, compat string, visit func(shop string, generations []Generation) error) error {
	if err := CheckCompatibility(compat); err != nil {
		return err
	}
	prefix := headKey(compat, "")
	for after := ""; ; {
		page, err := from.List(ctx, prefix, after, 1000)
		if err != nil || len(page) == 0 {
			return err
		}
		for _, info := range page {
			after = info.Key
			shop := strings.TrimPrefix(info.Key, prefix)
			if CheckShop(shop) != nil {
				continue // Nobody's.
			}
			h, _, err := loadHead(ctx, from, compat, shop)
			if err != nil {
				return err
			}
			if err := visit(shop, h.Generations); err != nil {
				return err
			}
		}
	}
}

// Verify reads everything of a shop's snapshots and checks it, without writing anything.
func Verify(ctx context.Context, from storage.Storage, compat, shop string) (files int, bytes int64, err error) {
	h, _, err := loadHead(ctx, from, compat, shop)
	if err != nil {
		return 0, 0, err
	}
	decoder, err := newDecoder()
	if err != nil {
		return 0, 0, err
	}
	defer decoder.Close()
	seen := map[string]bool{}
	for i := range h.Generations {
		g := &h.Generations[i]
		m, err := readManifest(ctx, from, compat, shop, g)
		if err != nil {
			return files, bytes, fmt.Errorf("generation %d: %w", g.Number, err)
		}
		files += len(m.Files)
		for j := range m.Packs {
			p := &m.Packs[j]
			if seen[p.Hash] {
				continue
			}
			seen[p.Hash] = true
			content, _, err := readAll(ctx, from, packKey(compat, shop, p.Hash), packRaw+maxFile)
			if err == nil && hashOf(content) != p.Hash {
				err = errors.New("its content is not what its name says")
			}
			rest := content
			for k := range p.Frames {
				if err != nil || len(rest) < p.Frames[k].Size {
					break
				}
				_, err = readFrame(strings.NewReader(string(rest[:p.Frames[k].Size])), make([]byte, p.Frames[k].Size), p.Frames[k].Sum, nil, decoder)
				rest = rest[p.Frames[k].Size:]
			}
			if err == nil && len(rest) > 0 {
				err = errors.New("it is longer or shorter than its frames")
			}
			if err != nil {
				return files, bytes, fmt.Errorf("generation %d, pack %.8s: %w", g.Number, p.Hash, err)
			}
			bytes += int64(len(content))
		}
	}
	return files, bytes, nil
}

// GC removes packs and manifests that no snapshot needs, and that are older than grace: those of a save that is under way are
// young. It returns what it removed, or would if dryRun.
func GC(ctx context.Context, s storage.Storage, compat string, grace time.Duration, now time.Time, dryRun bool) (removed int, bytes int64, err error) {
	needed := map[string]bool{}
	if err := Shops(ctx, s, compat, func(shop string, generations []Generation) error {
		for i := range generations {
			g := &generations[i]
			needed[manifestKey(compat, shop, g.Manifest)] = true
			m, err := readManifest(ctx, s, compat, shop, g)
			if err != nil {
				return fmt.Errorf("%s, generation %d: %w; nothing is removed while it cannot be read", shop, g.Number, err)
			}
			for j := range m.Packs {
				needed[packKey(compat, shop, m.Packs[j].Hash)] = true
			}
		}
		return nil
	}); err != nil {
		return 0, 0, err
	}
	for _, prefix := range []string{"v1/" + compat + "/packs/", "v1/" + compat + "/manifests/"} {
		for after := ""; ; {
			page, err := s.List(ctx, prefix, after, 1000)
			if err != nil {
				return removed, bytes, err
			}
			if len(page) == 0 {
				break
			}
			for _, info := range page {
				after = info.Key
				if needed[info.Key] || now.Sub(info.Modified) < grace {
					continue
				}
				if !dryRun {
					if err := s.Delete(ctx, info.Key); err != nil {
						return removed, bytes, err
					}
				}
				removed++
				bytes += info.Size
			}
		}
	}
	return removed, bytes, nil
}
