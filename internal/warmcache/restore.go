package warmcache

import (
	"bufio"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/klauspost/compress/zstd"

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
	// Workers restore a shop each at the same time; 8 when zero.
	Workers int
	// Quarantine is how old a snapshot must be; a bad one can be revoked until then.
	Quarantine time.Duration
	// Validate is asked before a shop is published.
	Validate func(ctx context.Context, shop, folder string) error
	// DryRun looks, and restores nothing.
	DryRun bool
	// Progress is told when a shop is done; nil for nobody.
	Progress func(*Report)
	// Now is the clock; time.Now when nil.
	Now func() time.Time
}

// Report is what was restored.
type Report struct {
	// Shops that were restored, those without a snapshot, over the budget, and failed.
	Shops, Absent, OverBudget, Failed int
	Files                             int64
	Bytes                             int64
	// Share of the traffic that the restored shops have.
	Share float64
	Took  time.Duration
	// Expired says that the time was over.
	Expired bool
	// Errors of the shops that failed.
	Errors []error
}

func (r *Report) String() string {
	text := fmt.Sprintf("warm: %d shops, %.0f %% of traffic, %d files, %d MiB, %.1f s", r.Shops, 100*r.Share, r.Files, r.Bytes>>20, r.Took.Seconds())
	for _, more := range []struct {
		n    int
		what string
	}{{r.Absent, "without a snapshot"}, {r.OverBudget, "over the budget"}, {r.Failed, "failed"}} {
		if more.n > 0 {
			text += fmt.Sprintf(", %d %s", more.n, more.what)
		}
	}
	return text
}

// Restore restores shops, one after the other as their worth says, several at a time. The error is for what keeps it from
// beginning; what goes wrong with a shop is in the report, and the shop starts cold.
func Restore(ctx context.Context, c RestoreConfig) (*Report, error) {
	report := &Report{}
	if err := CheckCompatibility(c.Compatibility); err != nil {
		return report, err
	}
	if c.Workers == 0 {
		c.Workers = 8
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	root, err := os.OpenRoot(c.Folder)
	if err != nil {
		return report, err
	}
	defer root.Close()
	began := time.Now()
	if c.Time > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, c.Time)
		defer cancel()
	}
	r := &restoring{RestoreConfig: c, root: root, report: report, umask: umask()}
	r.clean()
	r.all(ctx)
	report.Took = time.Since(began)
	report.Expired = errors.Is(ctx.Err(), context.DeadlineExceeded)
	return report, nil
}

type restoring struct {
	RestoreConfig
	root  *os.Root
	umask uint32

	mu     sync.Mutex
	report *Report
}

// umask reads the process' own; there is no way but to set it.
func umask() uint32 {
	mask := syscall.Umask(0o022)
	syscall.Umask(mask)
	return uint32(mask) //nolint:gosec // Nine bits.
}

// clean removes what somebody who was killed has left.
func (r *restoring) clean() {
	entries, err := fs.ReadDir(r.root.FS(), ".")
	if err != nil {
		return
	}
	for _, entry := range entries {
		if strings.HasPrefix(entry.Name(), stagingPrefix) {
			_ = r.root.RemoveAll(entry.Name()) // The next one tries again.
		}
	}
}

// plan is what is known of a shop before it is restored.
type plan struct {
	shop       Shop
	generation *Generation
	err        error
	known      chan struct{}
}

func (r *restoring) all(ctx context.Context) {
	plans := make([]*plan, len(r.Shops))
	for i, shop := range r.Shops {
		plans[i] = &plan{shop: shop, known: make(chan struct{})}
	}
	var next atomic.Int64
	var group sync.WaitGroup
	for range 2 * r.Workers { // Heads are small and far away.
		group.Go(func() {
			for i := int(next.Add(1)) - 1; i < len(plans); i = int(next.Add(1)) - 1 {
				plans[i].generation, plans[i].err = r.find(ctx, plans[i].shop.Name)
				close(plans[i].known)
			}
		})
	}
	work := make(chan *plan)
	for range r.Workers {
		group.Go(func() {
			decoder, err := newDecoder()
			if err == nil {
				defer decoder.Close()
			}
			for p := range work {
				if err != nil {
					r.done(p, err)
					continue
				}
				r.done(p, r.shop(ctx, p, decoder))
			}
		})
	}
	var files, bytes int64
	for _, p := range plans {
		<-p.known
		switch {
		case p.err != nil || p.generation == nil:
			r.done(p, p.err)
			continue
		case ctx.Err() != nil,
			r.Bytes > 0 && bytes+p.generation.Bytes > r.Bytes, r.Files > 0 && files+int64(p.generation.Files) > r.Files:
			r.over()
			continue
		}
		files += int64(p.generation.Files)
		bytes += p.generation.Bytes
		work <- p
	}
	close(work)
	group.Wait()
}

func (r *restoring) over() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.report.OverBudget++
}

// done notes what came of a shop.
func (r *restoring) done(p *plan, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		r.report.OverBudget++
	case err != nil:
		r.report.Failed++
		if len(r.report.Errors) < 100 {
			r.report.Errors = append(r.report.Errors, fmt.Errorf("%s: %w", p.shop.Name, err))
		}
	case p.generation == nil:
		r.report.Absent++
	default:
		r.report.Shops++
		r.report.Share += p.shop.Share
		r.report.Files += int64(p.generation.Files)
		r.report.Bytes += p.generation.Bytes
	}
	if r.Progress != nil {
		r.Progress(r.report)
	}
}

// find looks for a snapshot of a shop that is good; nil when there is none.
func (r *restoring) find(ctx context.Context, shop string) (*Generation, error) {
	if err := CheckShop(shop); err != nil {
		return nil, err
	}
	h, _, err := loadHead(ctx, r.Storage, r.Compatibility, shop)
	if err != nil || len(h.Generations) == 0 {
		return nil, err
	}
	invalidated, err := Invalidated(ctx, r.Storage, shop)
	if err != nil {
		return nil, err // Better cold than wrong.
	}
	return h.good(invalidated, r.Now().Add(-r.Quarantine)), nil
}

// shop restores one.
func (r *restoring) shop(ctx context.Context, p *plan, decoder *zstd.Decoder) (err error) {
	m, err := readManifest(ctx, r.Storage, r.Compatibility, p.shop.Name, p.generation)
	if err != nil || r.DryRun {
		return err
	}
	staging := stagingPrefix + rand.Text()
	if err := r.root.Mkdir(staging, 0o755); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.root.RemoveAll(staging)) }()
	folder, err := r.root.OpenRoot(staging)
	if err != nil {
		return err
	}
	defer folder.Close()
	w := &writer{root: folder, umask: r.umask}
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
		if err := r.unpack(ctx, p.shop.Name, &m.Packs[i], files, decoder, w); err != nil {
			return err
		}
	}
	if r.Validate != nil {
		if err := r.Validate(ctx, p.shop.Name, path.Join(r.Folder, staging)); err != nil {
			return fmt.Errorf("it is not valid: %w", err)
		}
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return r.publish(staging, p.shop.Name)
}

// unpack streams a pack, from the first frame that is needed to the last, into files.
func (r *restoring) unpack(ctx context.Context, shop string, p *pack, files []*file, decoder *zstd.Decoder, w *writer) error {
	if len(files) == 0 {
		return nil
	}
	slices.SortFunc(files, func(a, b *file) int { return int(a.Offset - b.Offset) })
	last := files[len(files)-1]
	first, end := int(files[0].Offset/frameBytes), int((last.Offset+last.Size-1)/frameBytes)
	offset, length, largest := int64(0), int64(0), 0
	for i, f := range p.Frames[:end+1] {
		if i < first {
			offset += int64(f.Size)
			continue
		}
		length += int64(f.Size)
		largest = max(largest, f.Size)
	}
	body, _, err := r.Storage.Get(ctx, packKey(r.Compatibility, shop, p.Hash), offset, length)
	if err != nil {
		return err
	}
	defer body.Close()
	stream := bufio.NewReaderSize(body, 256<<10)
	compressed, raw := make([]byte, largest), make([]byte, 0, frameBytes)
	var whole []byte // of a file that spans frames
	for i := first; i <= end; i++ {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if raw, err = readFrame(stream, compressed[:p.Frames[i].Size], p.Frames[i].Sum, raw[:0], decoder); err != nil {
			return fmt.Errorf("frame %d of pack %.8s: %w", i, p.Hash, err)
		}
		start := int64(i) * frameBytes
		stop := start + int64(len(raw))
		for len(files) > 0 {
			f := files[0]
			from, to := max(f.Offset, start), min(f.Offset+f.Size, stop)
			if from >= to {
				break // It begins in a later frame.
			}
			part := raw[from-start : to-start]
			if f.Offset >= start && f.Offset+f.Size <= stop {
				if err := w.write(f, part); err != nil {
					return err
				}
			} else {
				whole = append(whole, part...)
				if f.Offset+f.Size > stop {
					break
				}
				if err := w.write(f, whole); err != nil {
					return err
				}
				whole = whole[:0]
			}
			files = files[1:]
		}
	}
	if len(files) > 0 {
		return errors.New("files overlap, or are not where they are said to be")
	}
	return nil
}

// readFrame reads, decompresses and checks one frame.
func readFrame(stream io.Reader, compressed, sum, raw []byte, decoder *zstd.Decoder) ([]byte, error) {
	if _, err := io.ReadFull(stream, compressed); err != nil {
		return raw, fmt.Errorf("it is cut off: %w", err)
	}
	raw, err := decoder.DecodeAll(compressed, raw)
	if err != nil {
		return raw, err
	}
	if got := sha256.Sum256(raw); len(raw) > frameBytes || string(got[:]) != string(sum) {
		return raw, errors.New("its content is not what the manifest says")
	}
	return raw, nil
}

// writer makes files below a folder. It keeps the folder of the last file open: files come in the order of their paths.
type writer struct {
	root  *os.Root
	umask uint32

	name    string // of the open folder
	current *os.Root
}

func (w *writer) close() {
	if w.current != nil {
		w.current.Close()
	}
}

func (w *writer) folder(name string) (*os.Root, error) {
	if name == "." {
		return w.root, nil
	}
	if w.current != nil && w.name == name {
		return w.current, nil
	}
	if err := w.root.MkdirAll(name, 0o755); err != nil {
		return nil, err
	}
	opened, err := w.root.OpenRoot(name)
	if err != nil {
		return nil, err
	}
	w.close()
	w.name, w.current = name, opened
	return opened, nil
}

func (w *writer) write(f *file, content []byte) error {
	folder, err := w.folder(path.Dir(f.Path))
	if err != nil {
		return err
	}
	name := path.Base(f.Path)
	made, err := folder.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, fs.FileMode(f.Mode))
	if err != nil {
		return err
	}
	_, err = made.Write(content)
	if f.Mode&w.umask != 0 {
		err = errors.Join(err, made.Chmod(fs.FileMode(f.Mode)))
	}
	if err = errors.Join(err, made.Close()); err != nil {
		return err
	}
	// The same time as then, so that the next save finds it unchanged.
	modified := time.Unix(0, f.Modified)
	return folder.Chtimes(name, modified, modified)
}

// publish puts a shop's folder in its place. If there is one already, what is in it stays, and the others are added.
func (r *restoring) publish(staging, shop string) error {
	err := r.root.Rename(staging, shop)
	if err == nil || !errors.Is(err, fs.ErrExist) && !errors.Is(err, syscall.ENOTEMPTY) {
		return err
	}
	return fs.WalkDir(r.root.FS(), staging, func(name string, entry fs.DirEntry, err error) error {
		if err != nil || name == staging {
			return err
		}
		target := path.Join(shop, strings.TrimPrefix(name, staging+"/"))
		if entry.IsDir() {
			err = r.root.Mkdir(target, 0o755)
		} else {
			err = r.root.Link(name, target)
		}
		if errors.Is(err, fs.ErrExist) {
			return nil // The live one wins.
		}
		return err
	})
}
