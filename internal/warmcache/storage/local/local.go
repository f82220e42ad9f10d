// Package local keeps objects as files in a folder: the embedded storage, for one machine and for tests.
//
// An object is a file with its key as path. Put writes into a folder of its own and renames, and both the file and the folder are on
// the disk when it returns: what a head says is there stays there when the power goes. Conditions hold among the processes of a
// machine by a lock on the folder's own file. What was being written when a process was killed goes at the next Open, after an hour.
package local

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/shopset/shopset/internal/warmcache/storage"
)

// Store is a folder.
type Store struct {
	root *os.Root
	mu   sync.Mutex
	lock *os.File // nil when the folder may only be read
}

const (
	lockName = ".lock"
	// writing is where objects are before they are whole.
	writing = ".writing"
	// abandoned is how old something there is that nobody writes any more.
	abandoned = time.Hour
)

// Open opens a folder, and makes it if it is not there. One that may not be written to, because it is mounted so or belongs to
// somebody else, can be read: who restores needs no more.
func Open(folder string) (*Store, error) {
	if err := os.MkdirAll(folder, 0o750); err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(folder)
	if err != nil {
		return nil, err
	}
	lock, err := root.OpenFile(lockName, os.O_CREATE|os.O_RDWR, 0o600)
	if errors.Is(err, syscall.EROFS) || errors.Is(err, fs.ErrPermission) {
		return &Store{root: root}, nil
	}
	if err != nil {
		return nil, errors.Join(err, root.Close())
	}
	s := &Store{root: root, lock: lock}
	if err := s.sweep(); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

func (s *Store) sweep() error {
	if err := s.root.Mkdir(writing, 0o750); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	entries, err := fs.ReadDir(s.root.FS(), writing)
	for _, entry := range entries {
		if info, failure := entry.Info(); failure == nil && time.Since(info.ModTime()) > abandoned {
			err = errors.Join(err, s.root.Remove(filepath.Join(writing, entry.Name())))
		}
	}
	return err
}

// Close closes the folder.
func (s *Store) Close() error {
	if s.lock == nil {
		return s.root.Close()
	}
	return errors.Join(s.lock.Close(), s.root.Close())
}

// writable says so, or that the folder may only be read.
func (s *Store) writable() error {
	if s.lock == nil {
		return fmt.Errorf("the folder %s may only be read: %w", s.root.Name(), storage.ErrRefused)
	}
	return nil
}

// Get implements storage.Storage.
func (s *Store) Get(ctx context.Context, key string, offset, length int64) (io.ReadCloser, storage.Info, error) {
	if err := errors.Join(ctx.Err(), storage.CheckKey(key)); err != nil {
		return nil, storage.Info{}, err
	}
	file, err := s.root.Open(filepath.FromSlash(key))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, storage.Info{}, fmt.Errorf("%s: %w", key, storage.ErrNotFound)
	}
	if err != nil {
		return nil, storage.Info{}, err
	}
	info, err := file.Stat()
	if err == nil && info.IsDir() {
		err = fmt.Errorf("%s: %w", key, storage.ErrNotFound)
	}
	var result storage.Info
	if err == nil {
		result = storage.Info{Key: key, Size: info.Size(), Modified: info.ModTime()}
		if result.Tag, err = tagOf(file); err == nil {
			_, err = file.Seek(offset, io.SeekStart)
		}
	}
	if err != nil {
		return nil, storage.Info{}, errors.Join(err, file.Close())
	}
	if length < 0 {
		return file, result, nil
	}
	return struct {
		io.Reader
		io.Closer
	}{io.LimitReader(file, length), file}, result, nil
}

// tagOf is the hash of small objects, which are those with conditions, and size and time of large ones.
func tagOf(file *os.File) (string, error) {
	info, err := file.Stat()
	if err != nil {
		return "", err
	}
	if info.Size() > 1<<20 {
		return fmt.Sprintf("%d-%d", info.Size(), info.ModTime().UnixNano()), nil
	}
	hash := sha256.New()
	if _, err := io.Copy(hash, file); err != nil {
		return "", err
	}
	return hex.EncodeToString(hash.Sum(nil)), nil
}

// Put implements storage.Storage.
func (s *Store) Put(ctx context.Context, key string, content []byte, condition storage.Condition) (tag string, err error) {
	if err := errors.Join(ctx.Err(), storage.CheckKey(key), s.writable()); err != nil {
		return "", err
	}
	if condition != (storage.Condition{}) {
		s.mu.Lock()
		defer s.mu.Unlock()
		if err := syscall.Flock(int(s.lock.Fd()), syscall.LOCK_EX); err != nil { //nolint:gosec // It is a file descriptor.
			return "", err
		}
		defer func() { err = errors.Join(err, syscall.Flock(int(s.lock.Fd()), syscall.LOCK_UN)) }() //nolint:gosec // As above.
		if err := s.holds(key, condition); err != nil {
			return "", err
		}
	}
	folder := path.Dir(key)
	if folder != "." {
		if err := s.root.MkdirAll(filepath.FromSlash(folder), 0o750); err != nil {
			return "", err
		}
	}
	temporary := filepath.Join(writing, rand.Text())
	file, err := s.root.OpenFile(temporary, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o640)
	if err != nil {
		return "", err
	}
	_, err = file.Write(content)
	if err = errors.Join(err, file.Sync(), file.Close()); err == nil {
		err = s.root.Rename(temporary, filepath.FromSlash(key))
	}
	if err == nil {
		err = s.syncFolders(folder)
	}
	if err != nil {
		return "", errors.Join(err, gone(s.root.Remove(temporary)))
	}
	written, err := s.root.Open(filepath.FromSlash(key))
	if err != nil {
		return "", err
	}
	defer written.Close()
	return tagOf(written)
}

func gone(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// syncFolders makes a name last: that of the object in its folder, and that of each folder, which may be new, in the one above.
func (s *Store) syncFolders(folder string) error {
	for {
		opened, err := s.root.Open(filepath.FromSlash(folder))
		if err != nil {
			return err
		}
		if err := errors.Join(opened.Sync(), opened.Close()); err != nil || folder == "." {
			return err
		}
		folder = path.Dir(folder)
	}
}

func (s *Store) holds(key string, condition storage.Condition) error {
	file, err := s.root.Open(filepath.FromSlash(key))
	if errors.Is(err, fs.ErrNotExist) {
		if condition.IfTag != "" {
			return fmt.Errorf("%s: %w", key, storage.ErrConflict)
		}
		return nil
	}
	if err != nil {
		return err
	}
	defer file.Close()
	tag, err := tagOf(file)
	if err == nil && (condition.IfAbsent || tag != condition.IfTag) {
		err = fmt.Errorf("%s: %w", key, storage.ErrConflict)
	}
	return err
}

// List implements storage.Storage. It reads the folders that can have keys behind after, and no others, and ends at the limit.
func (s *Store) List(ctx context.Context, prefix, after string, limit int) (found []storage.Info, err error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	start := "."
	if i := strings.LastIndexByte(prefix, '/'); i > 0 {
		start = prefix[:i]
	}
	err = s.list(start, prefix, after, limit, &found)
	return found, err
}

func (s *Store) list(folder, prefix, after string, limit int, found *[]storage.Info) error {
	entries, err := fs.ReadDir(s.root.FS(), folder)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // It went meanwhile, or was never there.
	}
	if err != nil {
		return err
	}
	// In the order of the keys, in which a folder's name ends with a slash.
	sorting := func(entry fs.DirEntry) string {
		if entry.IsDir() {
			return entry.Name() + "/"
		}
		return entry.Name()
	}
	slices.SortFunc(entries, func(a, b fs.DirEntry) int { return strings.Compare(sorting(a), sorting(b)) })
	for _, entry := range entries {
		name := path.Join(folder, entry.Name())
		switch {
		case len(*found) >= limit:
			return nil
		case strings.HasPrefix(entry.Name(), "."):
		case entry.IsDir():
			inside := name + "/"
			if !strings.HasPrefix(inside, prefix) && !strings.HasPrefix(prefix, inside) || inside < after && !strings.HasPrefix(after, inside) {
				continue
			}
			if err := s.list(name, prefix, after, limit, found); err != nil {
				return err
			}
		case strings.HasPrefix(name, prefix) && name > after:
			info, err := entry.Info()
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err != nil {
				return err
			}
			*found = append(*found, storage.Info{Key: name, Size: info.Size(), Modified: info.ModTime()})
		}
	}
	return nil
}

// Delete implements storage.Storage.
func (s *Store) Delete(ctx context.Context, key string) error {
	if err := errors.Join(ctx.Err(), storage.CheckKey(key), s.writable()); err != nil {
		return err
	}
	return gone(s.root.Remove(filepath.FromSlash(key)))
}
