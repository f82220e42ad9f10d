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
	content, _, err := readAll(ctx, from, manifestKey(compat, shop, g.Manifest), manifestLimit(g.Files))
	if err != nil {
		return nil, err
	}
	return decodeManifest(content, shop, g)
}

// conflictTries is how often a head is read again that somebody else has replaced.
const conflictTries = 10

// errNothing is what a change says that has nothing to write.
var errNothing = errors.New("there is nothing to change")

// changeHead replaces a head by what change makes of it, as often as somebody else comes first. Nothing is written when change
// returns an error.
func changeHead(ctx context.Context, to storage.Storage, compat, shop string, change func(*head) error) error {
	for try := 1; ; try++ {
		h, tag, err := loadHead(ctx, to, compat, shop)
		if err != nil {
			return err
		}
		if err := change(h); err != nil {
			if errors.Is(err, errNothing) {
				return nil
			}
			return err
		}
		content, err := json.Marshal(h)
		if err != nil {
			return err
		}
		if len(content) > maxHead {
			return fmt.Errorf("the head of %s would have more than %d bytes", shop, maxHead)
		}
		_, err = to.Put(ctx, headKey(compat, shop), content, storage.Condition{IfAbsent: tag == "", IfTag: tag})
		if !errors.Is(err, storage.ErrConflict) || try == conflictTries {
			return err
		}
	}
}
