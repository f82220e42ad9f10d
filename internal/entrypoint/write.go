package entrypoint

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// staged is a file that lies beside its place, or beside whose place what was there before lies.
type staged struct {
	root      *os.Root
	file      *file
	temporary string
	// before is what was there, under another name; empty when there was nothing.
	before string
	placed bool
}

// replacement are files that were put in their places, and can be taken back.
type replacement struct {
	roots map[string]*os.Root
	stage []*staged
}

// keep ends a replacement: what was there before is gone.
func (r *replacement) keep() {
	for _, s := range r.stage {
		if s.before != "" {
			_ = s.root.Remove(s.before) // What is left of it harms nobody.
		}
	}
	r.close()
}

// undo puts everything back as it was.
func (r *replacement) undo() {
	for _, s := range slices.Backward(r.stage) {
		switch {
		case !s.placed:
			_ = s.root.Remove(s.temporary)
			if s.before != "" {
				_ = s.root.Remove(s.before)
			}
		case s.before != "":
			_ = s.root.Rename(s.before, s.file.name)
		default:
			_ = s.root.Remove(s.file.name)
		}
	}
	r.close()
}

func (r *replacement) close() {
	for _, root := range r.roots {
		_ = root.Close()
	}
}

// writeAll writes all files beside their places and then puts them there. If one cannot be written or put, all is
// as it was before.
func writeAll(files []*file) (*replacement, error) {
	r := &replacement{roots: map[string]*os.Root{}}
	err := r.write(files)
	if err == nil {
		err = r.put()
	}
	if err != nil {
		r.undo()
		return nil, err
	}
	return r, nil
}

// write writes all files beside their places. It goes on after a problem, to tell them all.
func (r *replacement) write(files []*file) error {
	var problems []error
	told := map[string]bool{}
	for _, f := range files {
		if err := r.writeOne(f); err != nil && !told[err.Error()] {
			told[err.Error()] = true
			problems = append(problems, err)
		}
	}
	return errors.Join(problems...)
}

func (r *replacement) writeOne(f *file) error {
	root, err := openOut(r.roots, f.out)
	if err != nil {
		return err
	}
	if f.folder {
		if err := makeFolder(root, f); err != nil {
			return fmt.Errorf("make the folder %s: %w", f.path(), why(err))
		}
		return nil
	}
	info, err := root.Lstat(f.name)
	if err == nil && info.IsDir() {
		return fmt.Errorf("write %s: %w", f.path(), why(syscall.EISDIR))
	}
	if err == nil && same(root, info, f) {
		return nil
	}
	temporary, err := writeBeside(root, f)
	if temporary != "" {
		r.stage = append(r.stage, &staged{root: root, file: f, temporary: temporary})
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", f.path(), why(err))
	}
	return nil
}

// put puts the files in their places.
func (r *replacement) put() error {
	for _, s := range r.stage {
		// A second name for what is there keeps it, without a moment in which there is nothing.
		before := s.temporary + ".before"
		err := s.root.Link(s.file.name, before)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			err = s.root.Rename(s.file.name, before) // Where there are no second names.
		}
		if err == nil {
			s.before = before
		}
		if err := s.root.Rename(s.temporary, s.file.name); err != nil {
			return fmt.Errorf("write %s: %w", s.file.path(), why(err))
		}
		s.placed = true
	}
	return nil
}

// makeFolder makes a folder with its mode and owner; one that is there stays as it is, as it may be a mount.
func makeFolder(root *os.Root, f *file) error {
	if err := root.MkdirAll(filepath.Dir(f.name), 0o755); err != nil {
		return err
	}
	if err := root.Mkdir(f.name, 0o700); err != nil {
		if info, errStat := root.Stat(f.name); errStat == nil && info.IsDir() {
			return nil
		}
		return err
	}
	if err := root.Chown(f.name, f.uid, f.gid); err != nil && !errors.Is(err, fs.ErrPermission) && !errors.Is(err, syscall.EINVAL) {
		return err
	}
	return root.Chmod(f.name, f.mode|0o300) // Its owner must be able to put files into it.
}

func openOut(roots map[string]*os.Root, folder string) (*os.Root, error) {
	if root := roots[folder]; root != nil {
		return root, nil
	}
	_, missing := os.Stat(folder)
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return nil, fmt.Errorf("make the folder %s: %w", folder, why(err))
	}
	if errors.Is(missing, fs.ErrNotExist) {
		// Whatever the umask: the program may run as somebody else.
		if err := os.Chmod(folder, 0o755); err != nil { //nolint:gosec // Others read what is in it, as far as each file lets them.
			return nil, fmt.Errorf("make the folder %s: %w", folder, why(err))
		}
	}
	root, err := os.OpenRoot(folder)
	if err != nil {
		return nil, fmt.Errorf("open the folder %s: %w", folder, why(err))
	}
	roots[folder] = root
	return root, nil
}

// same says whether the file is there already as it shall be: then a read-only folder does no harm.
func same(root *os.Root, info fs.FileInfo, f *file) bool {
	if !info.Mode().IsRegular() || info.Mode().Perm() != f.mode || info.Size() != int64(len(f.content)) {
		return false
	}
	if owner, ok := info.Sys().(*syscall.Stat_t); ok && os.Geteuid() == 0 && (int(owner.Uid) != f.uid || int(owner.Gid) != f.gid) {
		return false // Only root can mend that.
	}
	opened, err := root.Open(f.name)
	if err != nil {
		return false
	}
	defer opened.Close()
	content, err := io.ReadAll(opened)
	return err == nil && bytes.Equal(content, f.content)
}

func writeBeside(root *os.Root, f *file) (temporary string, err error) {
	if folder := filepath.Dir(f.name); folder != "." {
		if err := root.MkdirAll(folder, 0o755); err != nil {
			return "", err
		}
	}
	name := filepath.Join(filepath.Dir(f.name), "."+filepath.Base(f.name)+"."+rand.Text()[:8])
	out, err := root.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return "", err
	}
	_, err = out.Write(f.content)
	if chown := out.Chown(f.uid, f.gid); chown != nil && !errors.Is(chown, fs.ErrPermission) && !errors.Is(chown, syscall.EINVAL) {
		err = errors.Join(err, chown) // Only root may give files away, and not to users outside of its namespace.
	}
	return name, errors.Join(err, out.Chmod(f.mode), out.Close())
}

// why adds what to do to the errors that people meet.
func why(err error) error {
	switch {
	case errors.Is(err, syscall.EROFS):
		return errors.New("the file system is read-only; mount a writable volume there (an emptyDir will do)")
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return errors.New("no space left; nothing was replaced")
	case errors.Is(err, syscall.EBUSY):
		return errors.New("it is a mount of its own and cannot be replaced; mount its folder instead")
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("permission denied for user %d; let the folder belong to it", os.Getuid())
	case errors.Is(err, syscall.EISDIR), errors.Is(err, syscall.EEXIST):
		return errors.New("there is a folder of that name")
	case strings.Contains(err.Error(), "escapes"):
		return errors.New("leads out of its folder")
	}
	return told(err)
}
