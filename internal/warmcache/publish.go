package warmcache

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// staged is a folder beside those of the shops in which one is restored. It is locked: what nobody holds was left by somebody who
// was killed, and goes; what another restore is at stays.
type staged struct {
	name   string
	root   *os.Root
	locked *os.File
}

// stage makes one. Another process that cleans up may see it before it is locked; then there is another one.
func (r *restoring) stage() (s *staged, err error) {
	for range 3 {
		if s, err = r.tryStage(stagingPrefix + rand.Text()); err == nil || r.noticeFull(err) {
			break
		}
	}
	return s, err
}

func (r *restoring) tryStage(name string) (s *staged, err error) {
	if err := r.root.Mkdir(name, 0o700); err != nil {
		return nil, err
	}
	s = &staged{name: name}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.close(r.root))
		}
	}()
	if s.root, err = r.root.OpenRoot(name); err != nil {
		return nil, err
	}
	if s.locked, err = r.root.Open(name); err != nil {
		return nil, err
	}
	return s, syscall.Flock(int(s.locked.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) //nolint:gosec // It is a file descriptor.
}

// close removes it, if it was not published.
func (s *staged) close(root *os.Root) error {
	err := root.RemoveAll(s.name)
	if s.root != nil {
		s.root.Close()
	}
	if s.locked != nil {
		s.locked.Close()
	}
	return err
}

// clean removes what somebody who was killed has left.
func (r *restoring) clean() {
	entries, err := fs.ReadDir(r.root.FS(), ".")
	if err != nil {
		return
	}
	for _, entry := range entries {
		if !strings.HasPrefix(entry.Name(), stagingPrefix) || !entry.IsDir() {
			continue
		}
		opened, err := r.root.Open(entry.Name())
		if err != nil {
			continue
		}
		if syscall.Flock(int(opened.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) == nil { //nolint:gosec // It is a file descriptor.
			_ = r.root.RemoveAll(entry.Name()) // The next one tries again.
		}
		opened.Close()
	}
}

// publish puts a shop's folder in its place, by one rename. If there is one already, which is in use, what is in it stays, and the
// other files are added, each whole.
func (r *restoring) publish(s *staged, shop string) error {
	if err := r.root.Chmod(s.name, r.FolderMode); err != nil {
		return err
	}
	err := r.root.Rename(s.name, shop)
	if err == nil || !errors.Is(err, fs.ErrExist) && !errors.Is(err, syscall.ENOTEMPTY) {
		return err
	}
	live, err := openFolder(r.root, shop)
	if err != nil {
		return err
	}
	defer live.Close()
	return r.add(s.root, live, shop)
}

// add links the files of one folder into another, and does so in those below. A link in the place of a folder is never followed,
// because each is opened and looked at.
func (r *restoring) add(from, to *os.Root, where string) error {
	source, err := from.Open(".")
	if err != nil {
		return err
	}
	defer source.Close()
	target, err := to.Open(".")
	if err != nil {
		return err
	}
	defer target.Close()
	entries, err := source.ReadDir(-1)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		name, err := entry.Name(), error(nil)
		if entry.IsDir() {
			err = r.addFolder(from, to, name, path.Join(where, name))
		} else {
			err = unix.Linkat(int(source.Fd()), name, int(target.Fd()), name, 0) //nolint:gosec // They are file descriptors.
		}
		if err != nil && !errors.Is(err, fs.ErrExist) { // The live one wins.
			return fmt.Errorf("add %s: %w", path.Join(where, name), err)
		}
	}
	return nil
}

func (r *restoring) addFolder(from, to *os.Root, name, where string) error {
	err := to.Mkdir(name, r.FolderMode)
	if err == nil {
		err = to.Chmod(name, r.FolderMode)
	}
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	below, err := openFolder(to, name)
	if errors.Is(err, errNoFolder) || errors.Is(err, fs.ErrNotExist) {
		return nil // Something else is there, or it went meanwhile: the live one wins.
	}
	if err != nil {
		return err
	}
	defer below.Close()
	source, err := from.OpenRoot(name)
	if err != nil {
		return err
	}
	defer source.Close()
	return r.add(source, below, where)
}
