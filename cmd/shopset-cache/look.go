package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/shopset/shopset/internal/warmcache"
	"github.com/shopset/shopset/internal/warmcache/storage"
)

func listCommand(c *command) func(context.Context, storage.Storage) error {
	return func(ctx context.Context, s storage.Storage) error {
		return warmcache.Shops(ctx, s, *c.compat, func(shop string, generations []warmcache.Generation) error {
			for _, g := range generations {
				state := ""
				if g.Revoked {
					state = "  revoked"
				}
				fmt.Printf("%-40s %4d  %s  %7d files  %9d KiB  %s%s\n", shop, g.Number, g.Taken.Format(time.RFC3339), g.Files, g.Bytes>>10, g.Source, state)
			}
			return nil
		})
	}
}

// named are the shops of the arguments, or all that have snapshots.
func named(ctx context.Context, c *command, s storage.Storage) ([]string, error) {
	if c.flags.NArg() > 0 {
		return c.flags.Args(), nil
	}
	return warmcache.Names(ctx, s, *c.compat)
}

func verifyCommand(c *command) func(context.Context, storage.Storage) error {
	return func(ctx context.Context, s storage.Storage) error {
		shops, err := named(ctx, c, s)
		if err != nil {
			return err
		}
		var failures []error
		for _, shop := range shops {
			files, bytes, err := warmcache.Verify(ctx, s, *c.compat, shop)
			if err != nil {
				failures = append(failures, fmt.Errorf("%s: %w", shop, err))
				continue
			}
			fmt.Printf("%s: good, %d files, %d bytes of packs\n", shop, files, bytes)
		}
		return errors.Join(failures...)
	}
}
