package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"runtime/debug"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/shopset/shopset/internal/admin"
	"github.com/shopset/shopset/internal/warmcache"
	"github.com/shopset/shopset/internal/warmcache/keeper"
	"github.com/shopset/shopset/internal/warmcache/storage"
)

// restoreFlags are those of restore, and of keep.
type restoreFlags struct {
	bytes               *size
	files               *int64
	time, quarantine    *time.Duration
	workers             *int
	mode                *string
	report, metricsFile *string
	message             *string
	strict              *bool
}

func (c *command) restoreFlags() *restoreFlags {
	return &restoreFlags{
		bytes:       c.bytes("budget-bytes", 0, "how many bytes are restored; 0 for no bound"),
		files:       c.flags.Int64("budget-files", 0, "how many files are restored; 0 for no bound"),
		time:        c.flags.Duration("budget-time", 20*time.Second, "how long it may take; 0 for no bound"),
		workers:     c.flags.Int("workers", 8, "how many shops at the same time"),
		quarantine:  c.flags.Duration("quarantine", 0, "how old a snapshot must be"),
		mode:        c.flags.String("folder-mode", "0755", "mode of folders that are made"),
		report:      c.flags.String("report", "", "JSON `file` for what was restored"),
		metricsFile: c.flags.String("metrics-file", "", "`file` for the metrics, as a textfile collector reads it"),
		message:     c.flags.String("termination-message", "", "`file` for one line of JSON about what was restored, which Kubernetes shows in the Pod's status"),
		strict:      c.flags.Bool("strict", false, "fail when anything does; else the Pod starts cold where it has to"),
	}
}

// lenient says whether an error must not keep a Pod from starting.
func (c *command) lenient() bool {
	strict := c.flags.Lookup("strict")
	return strict != nil && strict.Value.String() == "false"
}

// startCold tells an error, and that is all.
func (c *command) startCold(err error) error {
	slog.Error("starting cold", "error", err)
	if name := c.flags.Lookup("termination-message"); name != nil {
		terminationMessage(name.Value.String(), message{Error: err.Error()})
	}
	return nil
}

// message is what the operator shows of a restore. It is small: Kubernetes keeps 4 KiB.
type message struct {
	Shops   int     `json:"shops"`
	Failed  int     `json:"failed,omitempty"`
	Share   float64 `json:"share"`
	Seconds float64 `json:"seconds"`
	Error   string  `json:"error,omitempty"`
}

func terminationMessage(name string, m message) {
	if name == "" {
		return
	}
	m.Error = m.Error[:min(len(m.Error), 1000)]
	content, err := json.Marshal(m)
	if err == nil {
		err = os.WriteFile(name, content, 0o644) //nolint:gosec // The kubelet made it, and reads it.
	}
	if err != nil {
		slog.Warn("the termination message could not be written", "error", err)
	}
}

func restoreCommand(c *command) runner {
	f := c.restoreFlags()
	folder := c.flags.String("folder", "", "`folder` for the shops' caches")
	ranking := c.flags.String("ranking", "", "`file` of shops, the most valuable first, or @NAME in the storage; @default if it is there, when empty")
	validate := c.flags.String("validate", "", "`command` that is given each shop's folder before it is published, and fails when it must not be")
	goOn := c.flags.Bool("continue", false, "when the time is over go on with the rest, with low priority: for a sidecar, which is ready then")
	cpus := c.flags.Float64("cpus", 0.25, "with --continue, how many cores may be used on average when the time is over; 0 for no bound")
	address := c.flags.String("admin", admin.DefaultAddress, "`address` of health and metrics with --continue")
	return func(ctx context.Context, s storage.Storage) error {
		metrics := keeper.NewMetrics(c.registry)
		do := func(ctx context.Context) error {
			shops, err := toRestore(ctx, s, c.flags.Args(), *ranking, *c.compat)
			if err == nil {
				r := &restoring{command: c, flags: f, metrics: metrics, folder: *folder, validate: *validate, pace: warmcache.NewPace(*cpus)}
				err = r.run(ctx, s, shops, *goOn)
			}
			if err != nil && !*f.strict {
				// A warm start is an optimisation: nothing of it keeps a Pod from starting.
				return c.startCold(err)
			}
			return err
		}
		if !*goOn {
			return do(ctx)
		}
		return c.serve(ctx, *address, do)
	}
}

// restoring is one restore, by an init container or a sidecar.
type restoring struct {
	*command
	flags            *restoreFlags
	metrics          *keeper.Metrics
	folder, validate string
	// before is what an init container restored; nil for nothing.
	before *warmcache.Report
	// warm is called when the Pod may start, or has to.
	warm func()
	pace *warmcache.Pace
}

// run restores shops. With goOn it does so until all are restored, and calls warm when the time is over.
func (r *restoring) run(ctx context.Context, s storage.Storage, shops []warmcache.Shop, goOn bool) error {
	f := r.flags
	mode, err := strconv.ParseUint(*f.mode, 8, 32)
	if err != nil || mode&^0o777 != 0 || mode&0o700 != 0o700 {
		return fmt.Errorf("--folder-mode %q: want one like 0755", *f.mode)
	}
	if r.folder == "" || *f.workers < 1 || *f.time < 0 || *f.files < 0 || *f.quarantine < 0 {
		return errors.New("want --folder, at least one of --workers, and no budget below 0")
	}
	if r.warm == nil {
		r.warm = r.readyAfter("restore")
	}
	// Short and with little that lives: rare collections, within a bound.
	debug.SetGCPercent(400)
	debug.SetMemoryLimit(160 << 20)
	if r.before != nil {
		shops = r.before.Without(shops)
	}
	if err := os.MkdirAll(r.folder, fs.FileMode(mode)); err != nil {
		return err
	}
	config := warmcache.RestoreConfig{Storage: s, Folder: r.folder, Compatibility: *r.compat, Shops: shops, Bytes: int64(*f.bytes), Files: *f.files,
		Time: *f.time, Workers: *f.workers, Quarantine: *f.quarantine, FolderMode: fs.FileMode(mode), DryRun: *r.dryRun,
		Continue: goOn, Pace: r.pace, Progress: progress(len(shops)), AtDeadline: func(now warmcache.Report) {
			slog.Info("the time is over, the rest follows", "left", len(shops)-now.Shops-now.Absent-now.OverBudget-now.Failed)
			r.tell(&now)
			lowPriority()
			r.warm()
		}}
	if check := validator(r.validate); check != nil {
		config.Validate = func(ctx context.Context, _, folder string) error { return check(ctx, folder) }
	}
	report, err := warmcache.Restore(ctx, config)
	if err != nil {
		return err
	}
	failure := r.tell(report)
	r.warm()
	if *f.strict && (report.Failed > 0 || report.Expired && !goOn) {
		return errors.Join(errors.New("not everything was restored"), failure)
	}
	return failure
}

// readyAfter makes the program unready until what it returns is called.
func (c *command) readyAfter(what string) func() {
	done := make(chan struct{})
	c.admin.AddCheck(what, func(context.Context) error {
		select {
		case <-done:
			return nil
		default:
			return errors.New("it is not done yet")
		}
	})
	return func() {
		select {
		case <-done:
		default:
			close(done)
		}
	}
}

// tell says what was restored, to people, in the report, and in metrics.
func (r *restoring) tell(report *warmcache.Report) error {
	all := *report
	if r.before != nil {
		all = *r.before
		all.Restored, all.Errors = all.Restored[:len(all.Restored):len(all.Restored)], all.Errors[:len(all.Errors):len(all.Errors)]
		all.Add(report)
	}
	tell(&all)
	r.metrics.Restored(&all)
	if *r.dryRun {
		return nil
	}
	terminationMessage(*r.flags.message, message{Shops: all.Shops, Failed: all.Failed, Share: all.Share, Seconds: all.Took.Seconds()})
	var failures []error
	if name := *r.flags.report; name != "" {
		failures = append(failures, replaceFile(name, func(to io.Writer) error {
			encoder := json.NewEncoder(to)
			encoder.SetIndent("", " ")
			return encoder.Encode(&all)
		}))
	}
	if name := *r.flags.metricsFile; name != "" {
		failures = append(failures, prometheus.WriteToTextfile(name, r.own))
	}
	err := errors.Join(failures...)
	if err != nil {
		slog.Error("the report could not be written", "error", err)
	}
	return err
}
