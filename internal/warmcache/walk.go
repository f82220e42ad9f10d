package warmcache

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
)

func sizeOf(files []file) (total int64) {
	for i := range files {
		total += files[i].Size
	}
	return total
}

// walk lists the files, by path.
func (s *saving) walk(ctx context.Context) ([]file, error) {
	w := &walker{saving: s, ctx: ctx}
	err := w.folder(s.root, "", 0)
	slices.SortFunc(w.files, func(a, b file) int { return strings.Compare(a.Path, b.Path) })
	return w.files, err
}

type walker struct {
	*saving
	ctx   context.Context
	files []file
	total int64
}

// folder lists one and those in it. Each is opened in the one above: a path is never walked twice, and a link that somebody puts in
// the place of a folder meanwhile leads nowhere.
func (w *walker) folder(root *os.Root, name string, depth int) error {
	opened, err := root.Open(".")
	if err != nil {
		return err
	}
	defer opened.Close()
	for {
		entries, err := opened.ReadDir(256)
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		if err := w.Pace.Wait(w.ctx); err != nil {
			return err
		}
		for _, entry := range entries {
			if err := w.entry(root, path.Join(name, entry.Name()), entry, depth); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err // What is not there any more went meanwhile.
			}
		}
		if err != nil || len(entries) == 0 {
			return nil //nolint:nilerr // It is the end.
		}
	}
}

func (w *walker) entry(root *os.Root, name string, entry fs.DirEntry, depth int) error {
	switch {
	case w.skipped(entry.Name()):
		return nil
	case entry.IsDir():
		if depth == maxDepth {
			w.result.LeftOut++
			return nil
		}
		inside, err := openFolder(root, entry.Name())
		if errors.Is(err, errNoFolder) || errors.Is(err, fs.ErrPermission) {
			w.result.LeftOut++
			return nil
		}
		if err != nil {
			return err
		}
		defer inside.Close()
		return w.folder(inside, name, depth+1)
	case !entry.Type().IsRegular() || checkPath(name) != nil:
		w.result.LeftOut++
		return nil
	}
	info, err := entry.Info()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() || info.Size() > maxFile || w.taken.Sub(info.ModTime()) < w.Settle {
		w.result.LeftOut++
		return nil
	}
	w.files = append(w.files, file{Path: name, Mode: uint32(info.Mode().Perm()), Modified: info.ModTime().UnixNano(), Size: info.Size(), Pack: -1})
	if w.total += info.Size(); len(w.files) > maxFiles || w.total > maxBytes {
		return fmt.Errorf("it has more than %d files or %d bytes", maxFiles, int64(maxBytes))
	}
	return nil
}

func (s *saving) skipped(name string) bool {
	return strings.HasPrefix(name, stagingPrefix) ||
		slices.ContainsFunc(s.Skip, func(pattern string) bool { ok, err := path.Match(pattern, name); return ok && err == nil })
}

// errNoFolder is for a link, or something else, in the place of a folder.
var errNoFolder = errors.New("it is no folder")

// openFolder opens a folder that is one, and no link to one.
func openFolder(root *os.Root, name string) (*os.Root, error) {
	before, err := root.Lstat(name)
	if err != nil {
		return nil, err
	}
	if !before.IsDir() {
		return nil, fmt.Errorf("%s: %w", name, errNoFolder)
	}
	opened, err := root.OpenRoot(name)
	if err != nil {
		return nil, err
	}
	after, err := opened.Stat(".")
	if err == nil && !os.SameFile(before, after) {
		err = fmt.Errorf("%s: %w", name, errNoFolder)
	}
	if err != nil {
		return nil, errors.Join(err, opened.Close())
	}
	return opened, nil
}

// maxSmallPacks is how many packs a shop may have on top of those that its size alone needs: each save that finds a little changed
// adds a small one, and each costs a restore a request.
const maxSmallPacks = 32

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
	inherit := func() {
		for i := range last.Packs {
			if used[i] {
				s.sources = merge(s.sources, last.Packs[i].Sources...)
			}
		}
	}
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
	// Too much of what would be read is of no use, or it is in far more packs than it needs.
	if live*2 < raw || len(used) > min(maxSmallPacks+int(raw/packBytes), maxPacks/2) {
		inherit() // They may be the very files that came from there.
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
