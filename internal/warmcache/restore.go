package warmcache

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/shopset/shopset/internal/warmcache/storage"
)

// stagingPrefix begins the names of folders in which shops are restored before they are published.
const stagingPrefix = ".warm-"

// Shop is one to be restored, with its share of the traffic.
type Shop struct {
	Name string
	// Share of all requests, 0 to 1; for the report.
	Share float64
}

// RestoreConfig says what to restore.
type RestoreConfig struct {
	Storage       storage.Storage
	Folder        string
	Compatibility string
	// Shops, the most valuable first.
	Shops []Shop
	// Budgets; zero is none.
	Bytes int64
	Files int64
	Time  time.Duration
	// Began is when Time began to count; now when zero. What was done before, such as reading a ranking, is part of it then.
	Began time.Time
	// Workers restore a shop each at the same time; 8 when zero.
	Workers int
	// Quarantine is how old a snapshot must be; a bad one can be revoked until then.
	Quarantine time.Duration
	// Validate is asked before a shop is published.
	Validate func(ctx context.Context, shop, folder string) error
	// FolderMode is that of folders that are made; 0755 when zero.
	FolderMode fs.FileMode
	// Continue goes on when the time is over, with Pace; AtDeadline is told what is there then. Without it, what is under way is given
	// up.
	Continue   bool
	AtDeadline func(Report)
	Pace       *Pace
	// DryRun looks, and restores nothing.
	DryRun bool
	// Progress is told when a shop is done; nil for nobody.
	Progress func(*Report)
	// Now is the clock; time.Now when nil.
	Now func() time.Time
}

// Restore restores shops, one after the other as their worth says, several at a time. The error is for what keeps it from
// beginning; what goes wrong with a shop is in the report, and the shop starts cold.
func Restore(ctx context.Context, c RestoreConfig) (*Report, error) {
	report := &Report{}
	if err := CheckCompatibility(c.Compatibility); err != nil {
		return report, err
	}
	if c.Workers <= 0 {
		c.Workers = 8
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.FolderMode == 0 {
		c.FolderMode = 0o755
	}
	if c.Began.IsZero() {
		c.Began = time.Now()
	}
	report.At, report.Compatibility = c.Now().UTC(), c.Compatibility
	r := &restoring{RestoreConfig: c, report: report, umask: umask(), memory: semaphore.NewWeighted(maxFiles), began: c.Began}
	if !c.DryRun {
		root, err := os.OpenRoot(c.Folder)
		if err != nil {
			return report, err
		}
		defer root.Close()
		r.root = root
		r.clean()
	}
	if c.Time > 0 && !c.Continue {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, c.Began.Add(c.Time))
		defer cancel()
	}
	if c.Time > 0 && c.Continue {
		told := make(chan struct{})
		timer := time.AfterFunc(time.Until(c.Began.Add(c.Time)), func() {
			defer close(told)
			r.deadline()
		})
		defer func() {
			if !timer.Stop() {
				<-told // What is told at the deadline is told before what is told at the end.
			}
		}()
	}
	r.all(ctx)
	r.mu.Lock()
	defer r.mu.Unlock()
	report.Took = time.Since(r.began)
	return report, nil
}

type restoring struct {
	RestoreConfig
	root   *os.Root
	umask  uint32
	began  time.Time
	memory *semaphore.Weighted // in files of manifests
	late   atomic.Bool         // the time is over, and it goes on
	full   atomic.Bool         // the disk is

	mu     sync.Mutex
	report *Report
}

// deadline tells what is there when the time is over.
func (r *restoring) deadline() {
	r.late.Store(true)
	r.mu.Lock()
	r.report.Expired = true
	now := *r.report
	now.Took = time.Since(r.began)
	now.Restored, now.Errors = slices.Clone(now.Restored), slices.Clone(now.Errors)
	r.mu.Unlock()
	if r.AtDeadline != nil {
		r.AtDeadline(now)
	}
}

// plan is what is known of a shop before it is restored.
type plan struct {
	shop Shop
	// good snapshots, the newest first; it is restored from the first that can be read.
	good  []*Generation
	found time.Time
	err   error
	known chan struct{}
}

// Bounds of looking ahead: how many shops, and after how many in a row that do not fit into the budget it ends.
const (
	lookAhead = 64
	misses    = 200
)

// all restores the shops. No more than lookAhead plans are there at any time, however many shops there are.
func (r *restoring) all(ctx context.Context) {
	var over atomic.Bool
	var group sync.WaitGroup
	inOrder, unknown := make(chan *plan, lookAhead), make(chan *plan)
	group.Go(func() {
		for _, shop := range r.Shops {
			p := &plan{shop: shop, known: make(chan struct{})}
			inOrder <- p
			unknown <- p
		}
		close(inOrder)
		close(unknown)
	})
	for range min(2*r.Workers, len(r.Shops)) { // Heads are small and far away.
		group.Go(func() {
			for p := range unknown {
				if !over.Load() {
					p.good, p.err = r.find(ctx, p.shop.Name)
					p.found = time.Now()
				}
				close(p.known)
			}
		})
	}
	work := make(chan *plan)
	for range r.Workers {
		group.Go(func() { r.work(ctx, work) })
	}
	r.dispatch(ctx, inOrder, work, &over)
	close(work)
	group.Wait()
}

// dispatch gives out the shops that fit into the budgets, in their order.
func (r *restoring) dispatch(ctx context.Context, inOrder <-chan *plan, work chan<- *plan, over *atomic.Bool) {
	var files, bytes int64
	missed := 0
	for p := range inOrder {
		<-p.known
		switch {
		case over.Load() || ctx.Err() != nil || r.full.Load():
			over.Store(true) // Nobody need be asked about the others.
			r.done(p, nil, errOverBudget)
			continue
		case p.err != nil || len(p.good) == 0:
			r.done(p, nil, p.err)
			continue
		}
		newest := p.good[0]
		if r.Bytes > 0 && bytes+newest.Bytes > r.Bytes || r.Files > 0 && files+int64(newest.Files) > r.Files {
			r.done(p, nil, errOverBudget)
			missed++
			over.Store(missed == misses)
			continue
		}
		missed = 0
		files += int64(newest.Files)
		bytes += newest.Bytes
		work <- p
	}
}

func (r *restoring) work(ctx context.Context, work <-chan *plan) {
	k, err := newKit()
	if err == nil {
		defer k.decoder.Close()
	}
	for p := range work {
		if err != nil {
			r.done(p, nil, err)
			continue
		}
		used, failure := r.shop(ctx, p, k)
		r.done(p, used, failure)
	}
}

// find looks for snapshots of a shop that are good.
func (r *restoring) find(ctx context.Context, shop string) ([]*Generation, error) {
	if err := CheckShop(shop); err != nil {
		return nil, err
	}
	h, _, err := loadHead(ctx, r.Storage, r.Compatibility, shop)
	if err != nil || len(h.Generations) == 0 {
		return nil, err
	}
	invalid, err := invalidations(ctx, r.Storage, shop)
	if err != nil {
		return nil, err // Better cold than wrong.
	}
	return h.good(invalid, r.Now().Add(-r.Quarantine)), nil
}

// knownFor is how long what find said is believed.
const knownFor = 2 * time.Second

// stillGood asks again before a shop is published that took long: it may have been revoked or invalidated meanwhile.
func (r *restoring) stillGood(ctx context.Context, p *plan, g *Generation) error {
	if time.Since(p.found) < knownFor {
		return nil
	}
	good, err := r.find(ctx, p.shop.Name)
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(good, func(other *Generation) bool { return other.Number == g.Number && other.Manifest == g.Manifest }) {
		return fmt.Errorf("generation %d was revoked or invalidated while it was restored", g.Number)
	}
	return nil
}

// shop restores one, from its newest snapshot, or, if that cannot be read, from one before that is no larger.
func (r *restoring) shop(ctx context.Context, p *plan, k *kit) (used *Generation, err error) {
	var failures []error
	for _, g := range p.good {
		if g.Bytes > p.good[0].Bytes || g.Files > p.good[0].Files {
			continue
		}
		err := r.generation(ctx, p, g, k)
		if err == nil {
			if len(failures) > 0 {
				slog.Warn("an older snapshot is restored", "shop", p.shop.Name, "generation", g.Number, "error", errors.Join(failures...))
			}
			return g, nil
		}
		failures = append(failures, fmt.Errorf("generation %d: %w", g.Number, err))
		if ctx.Err() != nil || r.noticeFull(err) {
			break
		}
	}
	return nil, errors.Join(failures...)
}

// noticeFull ends all of it when the disk is full: the next shop would fail as well.
func (r *restoring) noticeFull(err error) bool {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		r.full.Store(true)
		return true
	}
	return false
}

func (r *restoring) generation(ctx context.Context, p *plan, g *Generation, k *kit) (err error) {
	// Large manifests wait for each other, so that memory is bounded by about the largest one.
	weight := int64(max(1, g.Files))
	if err := r.memory.Acquire(ctx, weight); err != nil {
		return err
	}
	defer r.memory.Release(weight)
	m, err := readManifest(ctx, r.Storage, r.Compatibility, p.shop.Name, g)
	if err != nil || r.DryRun {
		return err
	}
	folder, err := r.stage()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, folder.close(r.root)) }()
	if err := r.files(ctx, p.shop.Name, m, folder.root, k); err != nil {
		return err
	}
	if r.Validate != nil {
		if err := r.Validate(ctx, p.shop.Name, path.Join(r.Folder, folder.name)); err != nil {
			return fmt.Errorf("it is not valid: %w", err)
		}
	}
	if err := r.stillGood(ctx, p, g); err != nil {
		return err
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return r.publish(folder, p.shop.Name)
}

// files writes all files of a manifest into a folder.
func (r *restoring) files(ctx context.Context, shop string, m *manifest, folder *os.Root, k *kit) error {
	w := &writer{root: folder, umask: r.umask, mode: r.FolderMode}
	defer w.close()
	byPack := make([][]*file, len(m.Packs))
	for i := range m.Files {
		f := &m.Files[i]
		if f.Size == 0 {
			if err := w.write(f, nil); err != nil {
				return err
			}
			continue
		}
		byPack[f.Pack] = append(byPack[f.Pack], f)
	}
	for i, files := range byPack {
		if err := r.unpack(ctx, shop, &m.Packs[i], files, k, w); err != nil {
			return err
		}
	}
	return nil
}
