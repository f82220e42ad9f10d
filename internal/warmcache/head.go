package warmcache

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/shopset/shopset/internal/warmcache/storage"
)

// loadHead returns an empty head when there is none.
func loadHead(ctx context.Context, from storage.Storage, compat, shop string) (*head, string, error) {
	content, info, err := readAll(ctx, from, headKey(compat, shop), maxHead)
	if errors.Is(err, storage.ErrNotFound) {
		return &head{Format: formatNumber, Shop: shop}, "", nil
	}
	if err != nil {
		return nil, "", err
	}
	h, err := readHead(content, shop)
	return h, info.Tag, err
}

// readAll reads an object of at most limit bytes.
func readAll(ctx context.Context, from storage.Storage, key string, limit int64) ([]byte, storage.Info, error) {
	reader, info, err := from.Get(ctx, key, 0, -1)
	if err != nil {
		return nil, info, err
	}
	defer reader.Close()
	content, err := io.ReadAll(io.LimitReader(reader, limit+1))
	if err == nil && int64(len(content)) > limit {
		err = fmt.Errorf("%s has more than %d bytes", key, limit)
	}
	return content, info, err
}

func readManifest(ctx context.Context, from storage.Storage, compat, shop string, g *Generation) (*manifest, error) {
	content, _, err := readAll(ctx, from, manifestKey(compat, shop, g.Manifest), maxManifest)
	if err != nil {
		return nil, err
	}
	return decodeManifest(content, shop, g.Manifest)
}

// changeHead replaces a head by what change makes of it, as often as somebody else comes first. Nothing is written when change
// says so.
func changeHead(ctx context.Context, to storage.Storage, compat, shop string, change func(*head) bool) error {
	for try := 1; ; try++ {
		h, tag, err := loadHead(ctx, to, compat, shop)
		if err != nil {
			return err
		}
		if !change(h) {
			return nil
		}
		content, err := json.Marshal(h)
		if err != nil {
			return err
		}
		_, err = to.Put(ctx, headKey(compat, shop), content, storage.Condition{IfAbsent: tag == "", IfTag: tag})
		if !errors.Is(err, storage.ErrConflict) || try == conflictTries {
			return err
		}
	}
}
