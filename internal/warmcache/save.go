package warmcache

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/time/rate"

	"github.com/shopset/shopset/internal/warmcache/storage"
)

// SaveConfig says what to save.
type SaveConfig struct {
	Storage storage.Storage
	// Folder of all shops; the shop's is below it.
	Folder string
	Shop   string
	// Compatibility key: only programs with the same read the snapshot.
	Compatibility string
	// Source names the Pod, for people and for Revoke.
	Source string
	// Settle is how long a file must have been left alone; 2 s when zero, and leastSettle at least.
	Settle time.Duration
	// Skip are patterns (path.Match) of names that are not saved; [".*"] when nil.
	Skip []string
	// BytesPerSecond bounds what is sent; zero is no bound.
	BytesPerSecond int
	// Validate is asked before anything is sent; an error keeps the shop from being saved.
	Validate func(ctx context.Context, folder string) error
	// DryRun looks and sends nothing.
	DryRun bool
	// Now is the clock; time.Now when nil.
	Now func() time.Time
}

// SaveResult is what came of it.
type SaveResult struct {
	Generation int64
	Files      int
	Bytes      int64
	// New are the files that were read and sent, in SentBytes, compressed, with the manifest.
	New       int
	SentBytes int64
	// Left out are files that were written meanwhile, or are none.
	LeftOut int
	// Unchanged says that there was nothing to save.
	Unchanged bool
}

// leastSettle is several ticks of the clock that file systems take their times from: two writes within one leave the same time,
// and the second could not be told.
const leastSettle = 20 * time.Millisecond

// conflictTries is how often a head is read again that somebody else has replaced.
const conflictTries = 5

// Save takes a snapshot of a shop's folder.
func Save(ctx context.Context, c SaveConfig) (*SaveResult, error) {
	if err := errors.Join(CheckShop(c.Shop), CheckCompatibility(c.Compatibility)); err != nil {
		return nil, err
	}
	if c.Settle == 0 {
		c.Settle = 2 * time.Second
	}
	c.Settle = max(c.Settle, leastSettle)
	if c.Skip == nil {
		c.Skip = []string{".*"}
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	s := &saving{SaveConfig: c, result: &SaveResult{}, taken: c.Now()}
	if c.BytesPerSecond > 0 {
		s.limit = rate.NewLimiter(rate.Limit(c.BytesPerSecond), max(c.BytesPerSecond, 1<<20))
	}
	if err := s.run(ctx); err != nil {
		return s.result, fmt.Errorf("save %s: %w", c.Shop, err)
	}
	return s.result, nil
}

type saving struct {
	SaveConfig
	result *SaveResult
	taken  time.Time
	root   *os.Root
	limit  *rate.Limiter
	// next is the manifest to be.
	next manifest

	encoder *zstd.Encoder
	raw     []byte       // of the frame that has begun
	packed  bytes.Buffer // the pack that has begun
	current pack
}

func (s *saving) run(ctx context.Context) error {
	shops, err := os.OpenRoot(s.Folder)
	if err != nil {
		return err
	}
	defer shops.Close()
	if s.root, err = shops.OpenRoot(s.Shop); err != nil {
		return err
	}
	defer s.root.Close()
	if s.Validate != nil {
		if err := s.Validate(ctx, s.root.Name()); err != nil {
			return fmt.Errorf("it is not valid: %w", err)
		}
	}
	files, err := s.walk(ctx)
	if err != nil {
		return err
	}
	known, _, err := s.readHead(ctx)
	if err != nil {
		return err
	}
	var last *manifest
	if newest := known.good(time.Time{}, s.taken); newest != nil {
		// One that cannot be read is no reason not to save: everything is sent anew.
		if last, err = readManifest(ctx, s.Storage, s.Compatibility, s.Shop, newest); err != nil && ctx.Err() != nil {
			return err
		}
	}
	fresh := s.reuse(files, last)
	if last != nil && len(fresh) == 0 && len(files) == len(last.Files) {
		s.result.Unchanged, s.result.Files, s.result.Bytes = true, len(files), sizeOf(files)
		return nil
	}
	if s.DryRun {
		s.result.New, s.result.Files, s.result.Bytes = len(fresh), len(files), sizeOf(files)
		return nil
	}
	if err := s.pack(ctx, files, fresh); err != nil {
		return err
	}
	return s.publish(ctx)
}

func sizeOf(files []file) (total int64) {
	for i := range files {
		total += files[i].Size
	}
	return total
}

// walk lists the files, by path.
func (s *saving) walk(ctx context.Context) ([]file, error) {
	var files []file
	total := int64(0)
	err := fs.WalkDir(s.root.FS(), ".", func(name string, entry fs.DirEntry, err error) error {
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, fs.ErrNotExist):
			return nil // It went meanwhile.
		case err != nil:
			return err
		case name == ".":
			return nil
		case s.skipped(entry.Name()):
			if entry.IsDir() {
				return fs.SkipDir
			}
			return nil
		case entry.IsDir():
			return nil
		case !entry.Type().IsRegular() || checkPath(name) != nil:
			s.result.LeftOut++
			return nil //nolint:nilerr // Nothing that can be saved.
		}
		info, err := entry.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		if info.Size() > maxFile || s.taken.Sub(info.ModTime()) < s.Settle {
			s.result.LeftOut++
			return nil
		}
		files = append(files, file{Path: name, Mode: uint32(info.Mode().Perm()), Modified: info.ModTime().UnixNano(), Size: info.Size(), Pack: -1})
		if total += info.Size(); len(files) > maxFiles || total > maxBytes {
			return fmt.Errorf("it has more than %d files or %d bytes", maxFiles, int64(maxBytes))
		}
		return nil
	})
	slices.SortFunc(files, func(a, b file) int { return strings.Compare(a.Path, b.Path) })
	return files, err
}

func (s *saving) skipped(name string) bool {
	return slices.ContainsFunc(s.Skip, func(pattern string) bool { ok, err := path.Match(pattern, name); return ok && err == nil })
}

// reuse gives unchanged files their places in earlier packs, and returns the indexes of the others.
func (s *saving) reuse(files []file, last *manifest) (fresh []int) {
	all := func() []int {
		for i := range files {
			files[i].Pack = -1
		}
		fresh = make([]int, len(files))
		for i := range fresh {
			fresh[i] = i
		}
		s.next.Packs = nil
		return fresh
	}
	if last == nil {
		return all()
	}
	byPath := make(map[string]*file, len(last.Files))
	for i := range last.Files {
		byPath[last.Files[i].Path] = &last.Files[i]
	}
	used, live := map[int]bool{}, int64(0)
	for i := range files {
		f, before := &files[i], byPath[files[i].Path]
		if before == nil || before.Size != f.Size || before.Modified != f.Modified || before.Mode != f.Mode {
			fresh = append(fresh, i)
			continue
		}
		f.Pack, f.Offset = before.Pack, before.Offset
		if f.Size > 0 {
			used[f.Pack] = true
			live += f.Size
		}
	}
	raw := int64(0)
	for i := range used {
		raw += last.Packs[i].Raw
	}
	if live*2 < raw || len(used) > maxPacks/2 { // Too much of what would be read is of no use.
		return all()
	}
	// Packs that nobody uses any more are left out, and the others numbered anew.
	numbers := map[int]int{}
	for i := range last.Packs {
		if used[i] {
			numbers[i] = len(s.next.Packs)
			s.next.Packs = append(s.next.Packs, last.Packs[i])
		}
	}
	for i := range files {
		if files[i].Pack >= 0 && files[i].Size > 0 {
			files[i].Pack = numbers[files[i].Pack]
		}
	}
	return fresh
}

// pack reads the files that are new, and sends them.
func (s *saving) pack(ctx context.Context, files []file, fresh []int) (err error) {
	if s.encoder, err = zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstd.SpeedFastest)); err != nil {
		return err
	}
	defer s.encoder.Close()
	torn := map[int]bool{}
	for _, i := range fresh {
		f := &files[i]
		if f.Size == 0 {
			f.Pack = 0
			continue
		}
		content, err := s.read(f)
		if err != nil {
			return err
		}
		if content == nil {
			torn[i] = true
			s.result.LeftOut++
			continue
		}
		f.Pack, f.Offset = len(s.next.Packs), s.current.Raw
		if err := s.append(content); err != nil {
			return err
		}
		s.result.New++
		if s.packed.Len() >= packBytes || s.current.Raw >= packRaw {
			if err := s.endPack(ctx); err != nil {
				return err
			}
		}
	}
	if err := s.endPack(ctx); err != nil {
		return err
	}
	for i := range files {
		if !torn[i] {
			s.next.Files = append(s.next.Files, files[i])
		}
	}
	s.next.Shop = s.Shop
	return nil
}

// read returns the content of a file, nil if it was written meanwhile.
func (s *saving) read(f *file) ([]byte, error) {
	opened, err := s.root.Open(f.Path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer opened.Close()
	same := func() bool {
		info, err := opened.Stat()
		return err == nil && info.Mode().IsRegular() && info.Size() == f.Size && info.ModTime().UnixNano() == f.Modified
	}
	if !same() {
		return nil, nil
	}
	content := make([]byte, f.Size)
	if _, err := io.ReadFull(opened, content); err != nil || !same() {
		return nil, nil //nolint:nilerr // It was cut while it was read.
	}
	return content, nil
}

// append adds raw content to the pack that has begun.
func (s *saving) append(content []byte) error {
	s.current.Raw += int64(len(content))
	for len(content) > 0 {
		n := min(len(content), frameBytes-len(s.raw))
		s.raw = append(s.raw, content[:n]...)
		content = content[n:]
		if len(s.raw) == frameBytes {
			s.endFrame()
		}
	}
	return nil
}

func (s *saving) endFrame() {
	if len(s.raw) == 0 {
		return
	}
	sum := sha256.Sum256(s.raw)
	compressed := s.encoder.EncodeAll(s.raw, nil)
	s.packed.Write(compressed)
	s.current.Frames = append(s.current.Frames, frame{len(compressed), sum[:]})
	s.raw = s.raw[:0]
}

func (s *saving) endPack(ctx context.Context) error {
	s.endFrame()
	if s.current.Raw == 0 {
		return nil
	}
	s.current.Hash = hashOf(s.packed.Bytes())
	if len(s.next.Packs) == maxPacks {
		return fmt.Errorf("it needs more than %d packs", maxPacks)
	}
	if err := s.put(ctx, packKey(s.Compatibility, s.Shop, s.current.Hash), s.packed.Bytes()); err != nil {
		return err
	}
	s.next.Packs = append(s.next.Packs, s.current)
	s.current = pack{}
	s.packed.Reset()
	return nil
}

// put sends an object that is named by its content.
func (s *saving) put(ctx context.Context, key string, content []byte) error {
	for left := len(content); s.limit != nil && left > 0; {
		n := min(left, s.limit.Burst())
		if err := s.limit.WaitN(ctx, n); err != nil {
			return err
		}
		left -= n
	}
	s.result.SentBytes += int64(len(content))
	_, err := s.Storage.Put(ctx, key, content, storage.Condition{})
	return err
}

func (s *saving) readHead(ctx context.Context) (*head, string, error) {
	return loadHead(ctx, s.Storage, s.Compatibility, s.Shop)
}

// publish puts the manifest, then the head. Somebody else may have replaced it meanwhile; then both snapshots stay.
func (s *saving) publish(ctx context.Context) error {
	content, err := encodeManifest(&s.next)
	if err != nil {
		return err
	}
	if err := s.next.check(s.Shop); err != nil {
		return fmt.Errorf("what was made cannot be read: %w", err)
	}
	hash := hashOf(content)
	if err := s.put(ctx, manifestKey(s.Compatibility, s.Shop, hash), content); err != nil {
		return err
	}
	made := Generation{Manifest: hash, Taken: s.taken.UTC(), Source: s.Source, Files: len(s.next.Files), Bytes: sizeOf(s.next.Files)}
	err = changeHead(ctx, s.Storage, s.Compatibility, s.Shop, func(h *head) bool {
		made.Number = 1
		for _, g := range h.Generations {
			made.Number = max(made.Number, g.Number+1)
		}
		h.Generations = slices.Insert(h.Generations, 0, made)
		slices.SortStableFunc(h.Generations, func(a, b Generation) int { return b.Taken.Compare(a.Taken) })
		h.Generations = h.Generations[:min(len(h.Generations), generations)]
		return true
	})
	s.result.Generation, s.result.Files, s.result.Bytes = made.Number, made.Files, made.Bytes
	return err
}
