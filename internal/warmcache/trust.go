package warmcache

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/klauspost/compress/zstd"

	"github.com/shopset/shopset/internal/warmcache/storage"
)

// Revoke keeps snapshots from being restored: of a shop, those for which bad says so; newest says whether it is the one that is
// restored so far. The one before them is restored then. bad may be asked again when somebody else changes the head.
func Revoke(ctx context.Context, to storage.Storage, compat, shop string, bad func(g Generation, newest bool) bool) (revoked int, err error) {
	if err := errors.Join(CheckShop(shop), CheckCompatibility(compat)); err != nil {
		return 0, err
	}
	err = changeHead(ctx, to, compat, shop, func(h *head) error {
		if revoked = h.revoke(bad); revoked == 0 {
			return errNothing
		}
		return nil
	})
	return revoked, err
}

// WouldRevoke says how many snapshots Revoke would, and changes nothing.
func WouldRevoke(ctx context.Context, from storage.Storage, compat, shop string, bad func(g Generation, newest bool) bool) (int, error) {
	if err := errors.Join(CheckShop(shop), CheckCompatibility(compat)); err != nil {
		return 0, err
	}
	h, _, err := loadHead(ctx, from, compat, shop)
	if err != nil {
		return 0, err
	}
	return h.revoke(bad), nil
}

func (h *head) revoke(bad func(g Generation, newest bool) bool) (revoked int) {
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
	return revoked
}

// From says whether a snapshot has files that come from a Pod.
func (g *Generation) From(source string) bool {
	return g.Source == source || slices.Contains(g.Sources, source)
}

// Names lists the shops that have a head, without reading what is in it.
func Names(ctx context.Context, from storage.Storage, compat string) (shops []string, err error) {
	err = eachName(ctx, from, compat, func(shop string) error {
		shops = append(shops, shop)
		return nil
	})
	return shops, err
}

func eachName(ctx context.Context, from storage.Storage, compat string, visit func(shop string) error) error {
	if err := CheckCompatibility(compat); err != nil {
		return err
	}
	prefix := headKey(compat, "")
	for after := ""; ; {
		page, err := nextPage(ctx, from, prefix, after)
		if err != nil || len(page) == 0 {
			return err
		}
		for _, info := range page {
			after = info.Key
			shop := strings.TrimPrefix(info.Key, prefix)
			if CheckShop(shop) != nil {
				continue // Nobody's.
			}
			if err := visit(shop); err != nil {
				return err
			}
		}
	}
}

// Shops lists the shops that have snapshots, with these, the newest first. A head that cannot be read keeps none of the others from
// being listed, and is told at the end.
func Shops(ctx context.Context, from storage.Storage, compat string, visit func(shop string, generations []Generation) error) error {
	var failures []error
	err := eachName(ctx, from, compat, func(shop string) error {
		h, _, err := loadHead(ctx, from, compat, shop)
		if err != nil {
			failures = append(failures, err)
			if ctx.Err() != nil || len(failures) == maxUnread {
				return errors.New("too much cannot be read")
			}
			return nil
		}
		return visit(shop, h.Generations)
	})
	return errors.Join(append(failures, err)...)
}

// maxUnread is after how many heads that cannot be read nobody looks for more.
const maxUnread = 20

// Verify reads everything of a shop's snapshots and checks it, without writing anything.
func Verify(ctx context.Context, from storage.Storage, compat, shop string) (files int, bytes int64, err error) {
	if err := errors.Join(CheckShop(shop), CheckCompatibility(compat)); err != nil {
		return 0, 0, err
	}
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
			if seen[m.Packs[j].Hash] {
				continue
			}
			seen[m.Packs[j].Hash] = true
			n, err := verifyPack(ctx, from, packKey(compat, shop, m.Packs[j].Hash), &m.Packs[j], decoder)
			if err != nil {
				return files, bytes, fmt.Errorf("generation %d, pack %.8s: %w", g.Number, m.Packs[j].Hash, err)
			}
			bytes += n
		}
	}
	return files, bytes, nil
}

// verifyPack reads a pack, frame by frame, and returns its length.
func verifyPack(ctx context.Context, from storage.Storage, key string, p *pack, decoder *zstd.Decoder) (int64, error) {
	body, _, err := from.Get(ctx, key, 0, -1)
	if err != nil {
		return 0, err
	}
	defer body.Close()
	hash, length := sha256.New(), int64(0)
	stream := bufio.NewReaderSize(io.TeeReader(body, hash), 64<<10)
	raw := make([]byte, 0, frameBytes)
	for i := range p.Frames {
		if raw, err = readFrame(stream, make([]byte, p.Frames[i].Size), p.Frames[i].Sum, raw[:0], decoder); err != nil {
			return length, fmt.Errorf("frame %d: %w", i, err)
		}
		length += int64(p.Frames[i].Size)
	}
	if n, err := io.CopyN(io.Discard, stream, 1); n > 0 || !errors.Is(err, io.EOF) {
		return length, errors.Join(errors.New("it does not end behind its last frame"), err)
	}
	if hex.EncodeToString(hash.Sum(nil)) != p.Hash {
		return length, errors.New("its content is not what its name says")
	}
	return length, nil
}
