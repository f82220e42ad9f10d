package warmcache

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/shopset/shopset/internal/warmcache/storage"
)

// Compatibilities lists the compatibility keys that have something in the storage. It lists all that there is: to start behind a key
// that is not there is what not every S3 does right.
func Compatibilities(ctx context.Context, from storage.Storage) (found []string, err error) {
	for after := ""; ; {
		page, err := nextPage(ctx, from, "v1/", after)
		if err != nil || len(page) == 0 {
			return found, err
		}
		for _, info := range page {
			after = info.Key
			compat, _, _ := strings.Cut(strings.TrimPrefix(info.Key, "v1/"), "/")
			if CheckCompatibility(compat) == nil && (len(found) == 0 || found[len(found)-1] != compat) {
				found = append(found, compat)
			}
		}
	}
}

// nextPage lists what comes behind a key. A storage that begins anew in place of ending would be listed for ever.
func nextPage(ctx context.Context, from storage.Storage, prefix, after string) ([]storage.Info, error) {
	page, err := from.List(ctx, prefix, after, 1000)
	if err == nil && len(page) > 0 && page[0].Key <= after {
		err = fmt.Errorf("the storage lists %s when it is asked for what comes behind %s", page[0].Key, after)
	}
	return page, err
}

// Forgotten is what Forget dropped, or would.
type Forgotten struct{ Shops, Snapshots, Busy int }

// Forget drops the snapshots of shops of a compatibility key that nobody has saved anew for a time: those of releases that do not
// run any more, and of shops that are gone. GC then removes their packs. A shop that is served still, and has not changed for so long,
// is sent again by the next saver. The head stays, without snapshots, so that a saver who has just read it loses nothing.
func Forget(ctx context.Context, s storage.Storage, compat string, unused time.Duration, now time.Time, dryRun bool) (*Forgotten, error) {
	forgotten := &Forgotten{}
	if unused < smallerAfter {
		return forgotten, fmt.Errorf("to forget what is unused for %s: want %s or more", unused, smallerAfter)
	}
	var failures []error
	err := eachName(ctx, s, compat, func(shop string) error {
		if err := forgotten.shop(ctx, s, compat, shop, now.Add(-unused), dryRun); err != nil {
			failures = append(failures, fmt.Errorf("%s: %w", shop, err))
		}
		return ctx.Err()
	})
	return forgotten, errors.Join(append(failures, err)...)
}

func (f *Forgotten) shop(ctx context.Context, s storage.Storage, compat, shop string, before time.Time, dryRun bool) error {
	var dropped int
	var busy bool
	drop := func(h *head) error {
		dropped, busy = 0, false
		young := slices.ContainsFunc(h.Generations, func(g Generation) bool { return g.Taken.After(before) })
		if len(h.Generations) == 0 || young {
			return errNothing
		}
		if busy = h.held("", time.Now()); busy {
			return errNothing
		}
		dropped = len(h.Generations)
		h.Generations, h.Lease = nil, nil
		return nil
	}
	var err error
	if dryRun {
		var h *head
		if h, _, err = loadHead(ctx, s, compat, shop); err == nil {
			_ = drop(h) // In memory alone.
		}
	} else {
		err = changeHead(ctx, s, compat, shop, drop)
	}
	switch {
	case err != nil:
		return err
	case busy:
		f.Busy++
	case dropped > 0:
		f.Shops++
		f.Snapshots += dropped
	}
	return nil
}
