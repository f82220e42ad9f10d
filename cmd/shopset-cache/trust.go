package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/shopset/shopset/internal/warmcache"
	"github.com/shopset/shopset/internal/warmcache/storage"
)

func revokeCommand(c *command) func(context.Context, storage.Storage) error {
	source := c.flags.String("source", "", "those with files that come from a Pod alone")
	since := c.flags.String("since", "", "those taken at a time (RFC 3339) or later alone")
	return func(ctx context.Context, s storage.Storage) error {
		var after time.Time
		if *since != "" {
			parsed, err := time.Parse(time.RFC3339, *since)
			if err != nil {
				return fmt.Errorf("--since: want a time like 2026-01-02T15:04:05Z: %w", err)
			}
			after = parsed
		}
		if c.flags.NArg() == 0 && *source == "" && *since == "" {
			return errors.New("want shops, --source or --since: nothing is named")
		}
		shops, err := named(ctx, c, s)
		if err != nil {
			return err
		}
		var failures []error
		newestOnly := *source == "" && *since == ""
		for _, shop := range shops {
			bad := func(g warmcache.Generation, newest bool) bool {
				return (newest || !newestOnly) && (*source == "" || g.From(*source)) && !g.Taken.Before(after)
			}
			n, err := 0, error(nil)
			if *c.dryRun {
				n, err = warmcache.WouldRevoke(ctx, s, *c.compat, shop, bad)
			} else {
				n, err = warmcache.Revoke(ctx, s, *c.compat, shop, bad)
			}
			if err != nil {
				failures = append(failures, fmt.Errorf("%s: %w", shop, err)) // The others are as urgent.
				continue
			}
			fmt.Printf("%s: %d snapshots%s revoked\n", shop, n, map[bool]string{true: " would be"}[*c.dryRun])
		}
		return errors.Join(failures...)
	}
}

func invalidateCommand(c *command) func(context.Context, storage.Storage) error {
	return func(ctx context.Context, s storage.Storage) error {
		if c.flags.NArg() == 0 {
			return errors.New("want shops")
		}
		var failures []error
		for _, shop := range c.flags.Args() {
			if *c.dryRun {
				if err := warmcache.CheckShop(shop); err != nil {
					failures = append(failures, err)
					continue
				}
				fmt.Printf("%s would be invalidated\n", shop)
				continue
			}
			if err := warmcache.Invalidate(ctx, s, shop, time.Now()); err != nil {
				failures = append(failures, fmt.Errorf("%s: %w", shop, err))
				continue
			}
			fmt.Printf("%s: what was saved before now is not restored any more\n", shop)
		}
		return errors.Join(failures...)
	}
}

func gcCommand(c *command) func(context.Context, storage.Storage) error {
	grace := c.flags.Duration("grace", 24*time.Hour, "how old something must be to be removed")
	return func(ctx context.Context, s storage.Storage) error {
		removed, err := warmcache.GC(ctx, s, *c.compat, *grace, time.Now(), *c.dryRun)
		if removed != nil {
			verb := "were removed"
			if *c.dryRun {
				verb = "would be removed"
			}
			fmt.Printf("%d objects of %d KiB %s, %d shops are being saved and were left alone\n", removed.Objects, removed.Bytes>>10, verb, removed.Busy)
		}
		return err
	}
}
