package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/shopset/shopset/internal/warmcache"
	"github.com/shopset/shopset/internal/warmcache/keeper"
	"github.com/shopset/shopset/internal/warmcache/storage"
)

// keepCommand is the sidecar. It is ready when the Pod is as warm as it can be in the time that is allowed; then it restores the rest
// with low priority, and then it saves.
func keepCommand(c *command) runner {
	save, restore := c.saveFlags(10*time.Minute), c.restoreFlags()
	return func(ctx context.Context, s storage.Storage) error {
		err := save.check()
		if *save.every == 0 {
			err = errors.Join(err, errors.New("want --every"))
		}
		if err != nil {
			return fmt.Errorf("keep: %w", err)
		}
		r := &restoring{command: c, flags: restore, metrics: keeper.NewMetrics(c.registry), folder: *save.folder, validate: *save.validate, ranking: *save.ranking,
			before: reportOfBefore(*restore.report, *c.compat), pace: warmcache.NewPace(*save.caps.cpus)}
		r.warm = c.readyAfter("restore")
		return c.serve(ctx, *save.admin, func(ctx context.Context) error {
			err := r.run(ctx, s, true)
			if err != nil && *restore.strict {
				return err
			}
			if err != nil {
				slog.Error("starting cold", "error", err)
			}
			r.warm()
			if ctx.Err() != nil {
				return nil //nolint:nilerr // It is told to end, and err was told above.
			}
			bounded, pace := save.caps.apply(s)
			save.saver(c, bounded, pace, r.metrics).Loop(ctx, false)
			return nil
		})
	}
}

// reportOfBefore is what an init container has restored already; nil when there is nothing that can be read, or it is of another
// release.
func reportOfBefore(name, compat string) *warmcache.Report {
	if name == "" {
		return nil
	}
	file, err := os.Open(name)
	if err != nil {
		return nil //nolint:nilerr // There was none.
	}
	defer file.Close()
	report, err := warmcache.ReadReport(file)
	if err != nil {
		slog.Warn("all is restored again", "report", name, "error", err)
		return nil
	}
	if report.Compatibility != compat {
		return nil
	}
	return report
}
