// Package storage is where snapshots are kept: objects by key. Implementations pass the suite in storagetest.
package storage

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"time"
)

// Errors of all implementations.
var (
	// ErrNotFound says that there is no such object.
	ErrNotFound = errors.New("there is no such object")
	// ErrRefused says that the storage will not do it, however often it is asked: rights, a bad request, no such bucket.
	ErrRefused = errors.New("the storage refuses")
	// ErrConflict says that an object is not the one that was expected.
	ErrConflict = errors.New("the object was changed by somebody else")
)

// Info is what is known of an object without reading it.
type Info struct {
	Key string
	// Size of the whole object, also when a part of it is read.
	Size int64
	// Tag changes with the content.
	Tag      string
	Modified time.Time
}

// Condition bounds a Put.
type Condition struct {
	// IfAbsent wants that there is no such object.
	IfAbsent bool
	// IfTag wants the object to have this tag; empty for none.
	IfTag string
}

// CheckKey says whether a text can be a key.
func CheckKey(key string) error {
	if len(key) > 512 || !fs.ValidPath(key) || key == "." || strings.HasPrefix(key, ".") || strings.Contains(key, "/.") || strings.ContainsFunc(key, func(c rune) bool {
		return (c|0x20 < 'a' || c|0x20 > 'z') && (c < '0' || c > '9') && !strings.ContainsRune("-_./", c)
	}) {
		return fmt.Errorf("%.80q is no key: %w", key, ErrRefused)
	}
	return nil
}

// Storage keeps objects. Keys are of letters, digits and -_./ ; a Put is whole or has not happened.
type Storage interface {
	// Get reads length bytes from an offset, or all to the end when length is negative. The reader must be closed.
	Get(ctx context.Context, key string, offset, length int64) (io.ReadCloser, Info, error)
	// Put stores an object and returns its tag. It does not keep the content. ErrConflict if the condition does not hold.
	Put(ctx context.Context, key string, content []byte, condition Condition) (tag string, err error)
	// List returns objects whose keys begin with a prefix, behind a key, sorted by key; at most limit of them.
	List(ctx context.Context, prefix, after string, limit int) ([]Info, error)
	// Delete removes an object; that there is none is no error.
	Delete(ctx context.Context, key string) error
}
