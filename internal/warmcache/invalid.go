package warmcache

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/shopset/shopset/internal/warmcache/storage"
)

// invalidation says how often a shop was invalidated. Snapshots carry the number that was there when they were begun: the order of
// the two is not left to clocks.
type invalidation struct {
	Format int       `json:"format"`
	Number int64     `json:"number"`
	At     time.Time `json:"at"`
}

// Invalidate says that nothing of a shop that was saved before now may be restored: something was deleted or changed that must not
// come back. It holds for all compatibility keys. What must not come back has to be gone from running Pods before: a snapshot that
// begins later is trusted.
func Invalidate(ctx context.Context, to storage.Storage, shop string, now time.Time) error {
	if err := CheckShop(shop); err != nil {
		return err
	}
	for try := 1; ; try++ {
		last, tag, err := loadInvalidation(ctx, to, shop)
		if err != nil {
			return err
		}
		content, err := json.Marshal(invalidation{formatNumber, last.Number + 1, now.UTC()})
		if err != nil {
			return err
		}
		_, err = to.Put(ctx, invalidKey(shop), content, storage.Condition{IfAbsent: tag == "", IfTag: tag})
		if !errors.Is(err, storage.ErrConflict) || try == conflictTries {
			return err
		}
	}
}

// invalidations returns how often a shop was invalidated.
func invalidations(ctx context.Context, from storage.Storage, shop string) (int64, error) {
	last, _, err := loadInvalidation(ctx, from, shop)
	return last.Number, err
}

func loadInvalidation(ctx context.Context, from storage.Storage, shop string) (last invalidation, tag string, err error) {
	content, info, err := readAll(ctx, from, invalidKey(shop), 1024)
	if errors.Is(err, storage.ErrNotFound) {
		return invalidation{}, "", nil
	}
	if err == nil {
		err = json.Unmarshal(content, &last)
	}
	if err == nil && (last.Format != formatNumber || last.Number < 1 || last.Number >= 1<<53) {
		err = fmt.Errorf("it is of format %d, and has the number %d", last.Format, last.Number)
	}
	if err != nil {
		return invalidation{}, "", fmt.Errorf("how often %s was invalidated: %w", shop, err)
	}
	return last, info.Tag, nil
}
