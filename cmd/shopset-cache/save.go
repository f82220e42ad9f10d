package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/shopset/shopset/internal/admin"
	"github.com/shopset/shopset/internal/warmcache"
	"github.com/shopset/shopset/internal/warmcache/keeper"
	"github.com/shopset/shopset/internal/warmcache/storage"
	"github.com/shopset/shopset/internal/warmcache/storage/decorate"
)

// saveFlags are those of save, and of keep.
type saveFlags struct {
	folder, ranking, source, validate *string
	settle, recent, every, collect    *time.Duration
	least                             *float64
	caps                              caps
	admin                             *string
}

func (c *command) saveFlags(every time.Duration) *saveFlags {
	return &saveFlags{
		folder:   c.flags.String("folder", "", "`folder` of the shops' caches"),
		ranking:  c.flags.String("ranking", "", "`file` of shops, or @NAME in the storage; @default if it is there, when empty, else all shops of the folder"),
		source:   c.flags.String("source", hostname(), "name of this Pod"),
		settle:   c.flags.Duration("settle", 2*time.Second, "how long a file must have been left alone to be saved"),
		least:    c.flags.Float64("least", 0.5, "part of the last snapshot's files that there must be, within a day: a Pod that is cold does not save"),
		recent:   c.flags.Duration("recent", time.Hour, "with a period, how long another Pod's snapshot is good enough, unless this one has a tenth more files; 0 for no time"),
		every:    c.flags.Duration("every", every, "save again and again, in this period; 0 for once"),
		collect:  c.flags.Duration("gc-every", 0, "remove what no snapshot needs in this period, too; wants the right to list and to delete"),
		validate: c.flags.String("validate", "", "`command` that is given each shop's folder, and fails when it must not be saved or published"),
		caps:     c.caps(),
		admin:    c.flags.String("admin", admin.DefaultAddress, "`address` of health and metrics when there is a period"),
	}
}

// hostname is the Pod's, also where nobody exports it; empty when it is not known.
func hostname() string {
	if name := os.Getenv("HOSTNAME"); name != "" {
		return name
	}
	name, _ := os.Hostname()
	return name
}

// saver makes one of the flags.
func (f *saveFlags) saver(c *command, s storage.Storage, pace *warmcache.Pace, metrics *keeper.Metrics) *keeper.Saver {
	saver := &keeper.Saver{Named: c.flags.NArg() > 0, Every: *f.every, CollectEvery: *f.collect, Metrics: metrics,
		Shops: func(ctx context.Context) ([]warmcache.Shop, error) {
			return toSave(ctx, s, c.flags.Args(), *f.ranking, *f.folder)
		},
		Config: warmcache.SaveConfig{Storage: s, Folder: *f.folder, Compatibility: *c.compat, Source: *f.source, Settle: *f.settle, Least: *f.least, Recent: *f.recent,
			Pace: pace, Reads: decorate.BytesPerSecond(int(*f.caps.reads)), Validate: validator(*f.validate), DryRun: *c.dryRun}}
	if *f.collect > 0 {
		saver.Collect = func(ctx context.Context) error {
			_, err := warmcache.GC(ctx, s, *c.compat, 24*time.Hour, time.Now(), *c.dryRun)
			return err
		}
	}
	return saver
}

func (f *saveFlags) check() error {
	var problems []error
	if *f.folder == "" {
		problems = append(problems, errors.New("want --folder"))
	}
	if *f.every < 0 || *f.every > 0 && *f.every < time.Second || *f.collect < 0 || *f.recent < 0 {
		problems = append(problems, errors.New("--every and --gc-every: want a second or more, or 0; --recent: want 0 or more"))
	}
	if !(*f.least >= 0 && *f.least <= 1) || *f.caps.cpus < 0 {
		problems = append(problems, errors.New("--least: want 0 to 1; --cpus: want 0 or more"))
	}
	return errors.Join(problems...)
}

func saveCommand(c *command) runner {
	f := c.saveFlags(0)
	return func(ctx context.Context, s storage.Storage) error {
		if err := f.check(); err != nil {
			return fmt.Errorf("save: %w", err)
		}
		bounded, pace := f.caps.apply(s)
		if *f.every == 0 {
			*f.recent = 0 // Who saves once means it.
			return f.saver(c, bounded, pace, nil).Round(ctx)
		}
		saver := f.saver(c, bounded, pace, keeper.NewMetrics(c.registry))
		return c.serve(ctx, *f.admin, func(ctx context.Context) error {
			saver.Loop(ctx, true)
			return nil
		})
	}
}

// serve answers on the admin port while something is done, until that ends.
func (c *command) serve(ctx context.Context, address string, do func(context.Context) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	j := &job{do: do, end: cancel, done: make(chan struct{})}
	j.ctx, j.cancel = context.WithCancel(context.WithoutCancel(ctx))
	defer j.cancel()
	err := c.admin.Run(ctx, admin.Options{Address: address}, j)
	return errors.Join(err, j.err)
}

// job makes an admin.Service of something that is done.
type job struct {
	do     func(context.Context) error
	ctx    context.Context
	cancel context.CancelFunc
	end    context.CancelFunc // of the whole program, when it is done
	done   chan struct{}
	err    error
}

// Serve implements admin.Service.
func (j *job) Serve() error {
	defer j.end()
	defer close(j.done)
	j.err = j.do(j.ctx)
	return nil
}

// Shutdown implements admin.Service.
func (j *job) Shutdown(ctx context.Context) error {
	j.cancel()
	select {
	case <-j.done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
