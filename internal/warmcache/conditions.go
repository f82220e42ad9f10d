package warmcache

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"

	"github.com/shopset/shopset/internal/warmcache/storage"
)

// ErrUnconditional says that a storage writes whatever the condition of a write is.
var ErrUnconditional = errors.New("the storage ignores the conditions of writes (If-None-Match, If-Match): savers would overwrite each other's snapshots; use one that knows them, as S3 of AWS does")

// CheckConditions tries whether a storage keeps to the conditions of writes, by two or three small ones. Everything rests on them, and
// an S3 that does not know them answers as if it did.
func CheckConditions(ctx context.Context, s storage.Storage, compat string) error {
	if err := CheckCompatibility(compat); err != nil {
		return err
	}
	// It is there from the first time on, so that nobody needs the right to delete.
	refused := func(condition storage.Condition) (bool, error) {
		_, err := s.Put(ctx, conditionsKey(compat), []byte(rand.Text()), condition)
		if errors.Is(err, storage.ErrConflict) {
			return true, nil
		}
		return false, err
	}
	absent := storage.Condition{IfAbsent: true}
	was, err := refused(absent)
	if err == nil && !was {
		was, err = refused(absent)
	}
	if err == nil && was {
		was, err = refused(storage.Condition{IfTag: `"00000000000000000000000000000000"`})
	}
	if err != nil {
		return fmt.Errorf("try conditional writes: %w", err)
	}
	if !was {
		return ErrUnconditional
	}
	return nil
}
