package sqlite_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/shopset/shopset/internal/certs/storage"
	"github.com/shopset/shopset/internal/certs/storage/sqlite"
	"github.com/shopset/shopset/internal/certs/storage/storagetest"
)

func TestConformance(t *testing.T) {
	storagetest.Run(t, func(t *testing.T) func() storage.Storage {
		path := filepath.Join(t.TempDir(), "with space?", "certs.db")
		return func() storage.Storage {
			s, err := sqlite.Open(t.Context(), path)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = s.Close() }) // Some are closed already.
			if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
				t.Errorf("the file: %v %v", info, err)
			}
			return s
		}
	})
}

func TestOpenFails(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x")
	if err := os.WriteFile(path, []byte("this is no database, whatever its name says"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{path, filepath.Join(path, "below a file")} {
		if s, err := sqlite.Open(t.Context(), path); err == nil {
			t.Errorf("%s opened", path)
			_ = s.Close()
		}
	}
}
