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
	"sync"
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
		r := &restoring{command: c, flags: f, metrics: keeper.NewMetrics(c.registry), folder: *folder, validate: *validate, ranking: *ranking, pace: warmcache.NewPace(*cpus)}
		do := func(ctx context.Context) error { return r.run(ctx, s, *goOn) }
		if *goOn {
			r.warm = c.readyAfter("restore")
			return c.serve(ctx, *address, func(ctx context.Context) error { return c.mayFail(do(ctx)) })
		}
		limit := *f.time
		if limit > 0 {
			limit += overrun
		}
		return c.mayFail(endsIn(ctx, limit, do))
	}
}

// mayFail tells an error; with --strict it is one, else the Pod starts cold: a warm start is an optimisation, and nothing of it
// keeps a Pod from starting.
func (c *command) mayFail(err error) error {
	if err != nil && c.lenient() {
		return c.startCold(err)
	}
	return err
}

// overrun is how long after its deadline a restore may take to notice that. It ends at the deadline by itself, unless something
// does not answer that nobody can interrupt: a disk, or a folder on a server that is away.
const overrun = 5 * time.Second

// endsIn does something, and does not wait for it any longer than a time; zero is no bound.
func endsIn(ctx context.Context, limit time.Duration, do func(context.Context) error) error {
	if limit <= 0 {
		return do(ctx)
	}
	done := make(chan error, 1)
	go func() { done <- do(ctx) }()
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case err := <-done:
		return err
	case <-timer.C:
		return fmt.Errorf("the storage or the disk does not answer: it is left behind after %s; what was restored before is there", limit)
	}
}

// restoring is one restore, by an init container or a sidecar.
type restoring struct {
	*command
	flags            *restoreFlags
	metrics          *keeper.Metrics
	folder, validate string
	ranking          string
	// before is what an init container restored; nil for nothing.
	before *warmcache.Report
	// warm is called when the Pod may start, or has to; nil for nobody who waits.
	warm func()
	pace *warmcache.Pace
}

// run finds the shops and restores them. With goOn it does so until all are restored, and calls warm when the time is over.
func (r *restoring) run(ctx context.Context, s storage.Storage, goOn bool) error {
	f, began := r.flags, time.Now()
	mode, err := strconv.ParseUint(*f.mode, 8, 32)
	if err != nil || mode&^0o777 != 0 || mode&0o700 != 0o700 {
		return fmt.Errorf("--folder-mode %q: want one like 0755", *f.mode)
	}
	if r.folder == "" || *f.workers < 1 || *f.time < 0 || *f.files < 0 || *f.quarantine < 0 {
		return errors.New("want --folder, at least one of --workers, and no budget below 0")
	}
	if r.warm == nil {
		r.warm = func() {}
	}
	if goOn && *f.time > 0 {
		// Whatever holds it up, the ranking included.
		defer time.AfterFunc(*f.time, r.warm).Stop()
	}
	shops, err := r.shops(ctx, s, goOn)
	if err != nil {
		return err
	}
	// Short and with little that lives: rare collections, within a bound.
	debug.SetGCPercent(400)
	debug.SetMemoryLimit(160 << 20)
	bytes, files := r.left()
	if bytes < 0 || files < 0 { // It is used up already.
		return r.end(r.before.Rest(), false)
	}
	if !*r.dryRun {
		if err := os.MkdirAll(r.folder, fs.FileMode(mode)); err != nil {
			return err
		}
	}
	config := warmcache.RestoreConfig{Storage: s, Folder: r.folder, Compatibility: *r.compat, Shops: shops, Bytes: bytes, Files: files,
		Time: *f.time, Began: began, Workers: *f.workers, Quarantine: *f.quarantine, FolderMode: fs.FileMode(mode), DryRun: *r.dryRun,
		Continue: goOn, Pace: r.pace, Progress: progress(len(shops)), AtDeadline: func(now warmcache.Report) {
			slog.Info("the time is over, the rest follows", "left", len(shops)-now.Shops-now.Absent-now.OverBudget-now.Failed)
			if err := r.tell(&now); err != nil {
				slog.Warn("the report so far cannot be written", "error", err)
			}
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
	return r.end(report, report.Failed > 0 || report.Expired && !goOn)
}

// end tells what came of it. With --strict it fails when not everything was restored, or nobody could be told.
func (r *restoring) end(report *warmcache.Report, lacking bool) error {
	failure := r.tell(report)
	r.warm()
	if !*r.flags.strict {
		return nil // What is restored is there.
	}
	if lacking {
		failure = errors.Join(errors.New("not everything was restored"), failure)
	}
	return failure
}

// shops are those to restore, without those that an init container has restored. To find them is part of the time there is: a
// storage that does not answer holds up nobody for longer.
func (r *restoring) shops(ctx context.Context, s storage.Storage, goOn bool) ([]warmcache.Shop, error) {
	if limit := *r.flags.time; limit > 0 && !goOn {
		bounded, cancel := context.WithTimeout(ctx, limit)
		defer cancel()
		ctx = bounded
	}
	shops, err := toRestore(ctx, s, r.command.flags.Args(), r.ranking, *r.compat)
	if err == nil && r.before != nil {
		shops = r.before.Without(shops)
	}
	return shops, err
}

// left is what an init container has left of the budgets: 0 for no bound, below 0 for nothing.
func (r *restoring) left() (bytes, files int64) {
	bytes, files = int64(*r.flags.bytes), *r.flags.files
	if r.before == nil {
		return bytes, files
	}
	less := func(budget, used int64) int64 {
		if budget == 0 || budget > used {
			return max(0, budget-used)
		}
		return -1
	}
	return less(bytes, r.before.Bytes), less(files, r.before.Files)
}

// readyAfter makes the program unready until what it returns is called, which may be more than once, and at the same time.
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
	return sync.OnceFunc(func() { close(done) })
}

// tell says what was restored, to people, in the report, and in metrics.
func (r *restoring) tell(report *warmcache.Report) error {
	all := *report
	if r.before != nil {
		all = *r.before
		all.Restored = all.Restored[:len(all.Restored):len(all.Restored)]
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
