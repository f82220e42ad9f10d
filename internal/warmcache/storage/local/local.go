// Package local keeps objects as files in a folder: the embedded storage, for one machine and for tests.
//
// An object is a file with its key as path. Put writes beside and renames; conditions hold among the processes of a machine by a
// lock on the folder's own file.
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

	"github.com/shopset/shopset/internal/warmcache/storage"
)

// Store is a folder.
type Store struct {
	root *os.Root
	mu   sync.Mutex
	lock *os.File
}

const lockName = ".lock"

// Open opens a folder, and makes it if it is not there.
func Open(folder string) (*Store, error) {
	if err := os.MkdirAll(folder, 0o750); err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(folder)
	if err != nil {
		return nil, err
	}
	lock, err := root.OpenFile(lockName, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, errors.Join(err, root.Close())
	}
	return &Store{root: root, lock: lock}, nil
}

// Close closes the folder.
func (s *Store) Close() error { return errors.Join(s.lock.Close(), s.root.Close()) }

// Get implements storage.Storage.
func (s *Store) Get(_ context.Context, key string, offset, length int64) (io.ReadCloser, storage.Info, error) {
	if err := storage.CheckKey(key); err != nil {
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
func (s *Store) Put(_ context.Context, key string, content []byte, condition storage.Condition) (tag string, err error) {
	if err := storage.CheckKey(key); err != nil {
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
	temporary := filepath.FromSlash(path.Join(folder, ".put-"+rand.Text()))
	file, err := s.root.OpenFile(temporary, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o640)
	if err != nil {
		return "", err
	}
	_, err = file.Write(content)
	if err = errors.Join(err, file.Sync(), file.Close()); err == nil {
		err = s.root.Rename(temporary, filepath.FromSlash(key))
	}
	if err != nil {
		return "", errors.Join(err, s.root.Remove(temporary))
	}
	written, err := s.root.Open(filepath.FromSlash(key))
	if err != nil {
		return "", err
	}
	defer written.Close()
	return tagOf(written)
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

// List implements storage.Storage.
func (s *Store) List(_ context.Context, prefix, after string, limit int) ([]storage.Info, error) {
	var found []storage.Info
	start := "."
	if i := strings.LastIndexByte(prefix, '/'); i > 0 {
		start = prefix[:i]
	}
	err := fs.WalkDir(s.root.FS(), start, func(name string, entry fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // It went meanwhile, or was never there.
		}
		if err != nil || entry.IsDir() || strings.HasPrefix(entry.Name(), ".") || !strings.HasPrefix(name, prefix) || name <= after {
			return err
		}
		info, err := entry.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err == nil {
			found = append(found, storage.Info{Key: name, Size: info.Size(), Modified: info.ModTime()})
		}
		return err
	})
	slices.SortFunc(found, func(a, b storage.Info) int { return strings.Compare(a.Key, b.Key) })
	return found[:min(limit, len(found))], err
}

// Delete implements storage.Storage.
func (s *Store) Delete(_ context.Context, key string) error {
	if err := storage.CheckKey(key); err != nil {
		return err
	}
	if err := s.root.Remove(filepath.FromSlash(key)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
