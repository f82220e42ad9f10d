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
	unused := c.flags.Duration("unused", 0, "drop the snapshots of shops that nobody has saved anew for so long, such as 720h, too; 0 for none")
	c.flags.BoolVar(&c.allKeys, "all-keys", false, "do so for all compatibility keys, and so for those of releases that do not run any more")
	return func(ctx context.Context, s storage.Storage) error {
		if *unused < 0 || *grace < 0 {
			return errors.New("--grace and --unused: want 0 or more")
		}
		keys := []string{*c.compat}
		if c.allKeys {
			found, err := warmcache.Compatibilities(ctx, s)
			if err != nil {
				return err
			}
			keys = found
		}
		var failures []error
		for _, key := range keys {
			if err := c.collect(ctx, s, key, *grace, *unused); err != nil {
				failures = append(failures, fmt.Errorf("%s: %w", key, err)) // The others are cleared.
			}
		}
		return errors.Join(failures...)
	}
}

// collect clears one compatibility key, and says what it did.
func (c *command) collect(ctx context.Context, s storage.Storage, key string, grace, unused time.Duration) error {
	if !*c.dryRun {
		if err := warmcache.CheckConditions(ctx, s, key); err != nil {
			return err
		}
	}
	verb := map[bool]string{false: "were", true: "would be"}[*c.dryRun]
	var forgetting error
	if unused > 0 {
		forgotten, err := warmcache.Forget(ctx, s, key, unused, time.Now(), *c.dryRun)
		fmt.Printf("%s: %d snapshots of %d shops %s dropped\n", key, forgotten.Snapshots, forgotten.Shops, verb)
		forgetting = err
	}
	removed, err := warmcache.GC(ctx, s, key, grace, time.Now(), *c.dryRun)
	if removed != nil {
		fmt.Printf("%s: %d objects of %d KiB %s removed, %d shops are being saved and were left alone\n", key, removed.Objects, removed.Bytes>>10, verb, removed.Busy)
	}
	return errors.Join(forgetting, err)
}
