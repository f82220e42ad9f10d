package routetable_test

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/shopset/shopset/internal/routetable"
)

func b64(b []byte) string { return base64.StdEncoding.EncodeToString(b) }

// bomb is a small signed text that says it is gzip and has 17 MiB.
func bomb(t *testing.T) []byte {
	t.Helper()
	text := bytes.NewBufferString("shopset-routes 1 gzip\n")
	writer := gzip.NewWriter(text)
	if _, err := writer.Write(bytes.Repeat([]byte{' '}, 17<<20)); err != nil {
		t.Fatal(err)
	}
	if err := writer.Close(); err != nil {
		t.Fatal(err)
	}
	return text.Bytes()
}

// signed is the table of that epoch and version.
func signed(t *testing.T, epoch, version uint64) []byte {
	t.Helper()
	table := table(2, 1, 1)
	table.Epoch, table.Version = epoch, version
	return sign(t, table, key(1))
}

func version(t *testing.T, path string) uint64 {
	t.Helper()
	table, err := routetable.LoadFile(path, public(key(1)))
	if err != nil {
		t.Fatal(err)
	}
	return table.Version
}

func TestFileGoesForward(t *testing.T) {
	path := filepath.Join(t.TempDir(), "routes")
	if _, err := routetable.LoadFile(path, public(key(1))); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("nothing was saved: %v", err)
	}
	for _, step := range []struct {
		epoch, version uint64
		refused        bool
	}{{1, 5, false}, {1, 6, false}, {1, 6, false}, {1, 5, true}, {2, 1, false}, {1, 7, true}, {2, 2, false}} {
		err := routetable.SaveFile(path, signed(t, step.epoch, step.version), public(key(1)))
		if errors.Is(err, routetable.ErrOlder) != step.refused || !step.refused && err != nil {
			t.Fatalf("%+v: %v", step, err)
		}
		if !step.refused && version(t, path) != step.version {
			t.Fatalf("%+v: kept is version %d", step, version(t, path))
		}
	}
	// The same version with another content is nothing that an operator makes.
	other := table(3, 1, 1)
	other.Epoch, other.Version = 2, 2
	if err := routetable.SaveFile(path, sign(t, other, key(1)), public(key(1))); !errors.Is(err, routetable.ErrOlder) {
		t.Errorf("another table of the same version: %v", err)
	}
	other.Fleet, other.Version = "shops/other", 9
	if err := routetable.SaveFile(path, sign(t, other, key(1)), public(key(1))); err == nil || !strings.Contains(err.Error(), "use a file for each") {
		t.Errorf("another fleet: %v", err)
	}
	if err := routetable.SaveFile(path, signed(t, 2, 3), public(key(2))); !errors.Is(err, routetable.ErrSignature) {
		t.Errorf("a table that nobody trusts: %v", err)
	}
	if got := version(t, path); got != 2 {
		t.Errorf("after what was refused, version %d is kept", got)
	}
}

// TestTornFile: wherever the file on disk is cut or changed, the one before is loaded, and the next one can be saved.
func TestTornFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "routes")
	for _, v := range []uint64{1, 2} {
		if err := routetable.SaveFile(path, signed(t, 1, v), public(key(1))); err != nil {
			t.Fatal(err)
		}
	}
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	former, err := os.ReadFile(path + ".former")
	if err != nil {
		t.Fatal(err)
	}
	for cut := range whole {
		if err := os.WriteFile(path, whole[:cut], 0o600); err != nil {
			t.Fatal(err)
		}
		if got := version(t, path); got != 1 {
			t.Fatalf("cut at %d: version %d", cut, got)
		}
	}
	if err := routetable.SaveFile(path, former, public(key(1))); err != nil {
		t.Fatalf("the former one cannot stand in for a torn one: %v", err)
	}
	if err := os.WriteFile(path, whole[:100], 0o600); err != nil {
		t.Fatal(err)
	}
	if err := routetable.SaveFile(path, signed(t, 1, 3), public(key(1))); err != nil {
		t.Fatal(err)
	}
	if got := version(t, path); got != 3 {
		t.Errorf("version %d", got)
	}
	// The torn file has not become the former one.
	if kept, err := os.ReadFile(path + ".former"); err != nil || !bytes.Equal(kept, former) {
		t.Errorf("the former one is no longer good: %v", err)
	}
}

// TestKilledWhileSaving leaves what a crash between any two steps leaves, and goes on from there.
func TestKilledWhileSaving(t *testing.T) {
	next := signed(t, 1, 3)
	for name, leave := range map[string]func(path string) error{
		"half written": func(path string) error { return os.WriteFile(path+".new", next[:50], 0o600) },
		"written":      func(path string) error { return os.WriteFile(path+".new", next, 0o600) },
		"former gone": func(path string) error {
			return errors.Join(os.WriteFile(path+".new", next, 0o600), os.Remove(path+".former"))
		},
		"linked": func(path string) error {
			return errors.Join(os.WriteFile(path+".new", next, 0o600), os.Remove(path+".former"), os.Link(path, path+".former"))
		},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "routes")
			for _, v := range []uint64{1, 2} {
				if err := routetable.SaveFile(path, signed(t, 1, v), public(key(1))); err != nil {
					t.Fatal(err)
				}
			}
			if err := leave(path); err != nil {
				t.Fatal(err)
			}
			if got := version(t, path); got != 2 {
				t.Errorf("after the crash: version %d", got)
			}
			if err := routetable.SaveFile(path, next, public(key(1))); err != nil {
				t.Fatal(err)
			}
			if got := version(t, path); got != 3 {
				t.Errorf("after the restart: version %d", got)
			}
			if left, err := filepath.Glob(path + "*"); err != nil || len(left) != 2 {
				t.Errorf("left behind: %v %v", left, err)
			}
		})
	}
}

// TestRetiredKey: a table on disk whose key is trusted no more is not used, and does not stand in the way.
func TestRetiredKey(t *testing.T) {
	path := filepath.Join(t.TempDir(), "routes")
	if err := routetable.SaveFile(path, signed(t, 1, 9), public(key(1))); err != nil {
		t.Fatal(err)
	}
	if _, err := routetable.LoadFile(path, public(key(2))); !errors.Is(err, routetable.ErrSignature) {
		t.Errorf("loaded: %v", err)
	}
	table := table(1, 1, 0)
	if err := routetable.SaveFile(path, sign(t, table, key(2)), public(key(2))); err != nil {
		t.Error(err)
	}
	if err := routetable.SaveFile(filepath.Join(t.TempDir(), "no", "folder"), signed(t, 1, 9), public(key(1))); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no folder: %v", err)
	}
}
