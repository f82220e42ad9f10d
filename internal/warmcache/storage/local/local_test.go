package local_test

import (
	"errors"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/shopset/shopset/internal/warmcache/storage"
	"github.com/shopset/shopset/internal/warmcache/storage/local"
	"github.com/shopset/shopset/internal/warmcache/storage/storagetest"
)

func TestStorage(t *testing.T) {
	storagetest.Run(t, func(t *testing.T) storage.Storage {
		s, err := local.Open(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = s.Close() })
		return s
	})
}

// TestReadOnly: a folder that may only be read can be restored from, and says so to those who want to change it.
func TestReadOnly(t *testing.T) {
	folder := t.TempDir()
	s, err := local.Open(folder)
	if err == nil {
		_, err = s.Put(t.Context(), "v1/x", []byte("x"), storage.Condition{})
	}
	if err = errors.Join(err, s.Close()); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount(folder, folder, "", unix.MS_BIND, ""); err != nil {
		t.Fatalf("to mount wants root: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(folder, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	if err := unix.Mount("", folder, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	if s, err = local.Open(folder); err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	body, _, err := s.Get(t.Context(), "v1/x", 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	if err := body.Close(); err != nil {
		t.Error(err)
	}
	_, put := s.Put(t.Context(), "v1/y", []byte("y"), storage.Condition{IfAbsent: true})
	if deleted := s.Delete(t.Context(), "v1/x"); !errors.Is(put, storage.ErrRefused) || !errors.Is(deleted, storage.ErrRefused) {
		t.Errorf("%v, %v", put, deleted)
	}
}
