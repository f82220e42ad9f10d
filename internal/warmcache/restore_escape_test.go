package warmcache

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// TestEscape: whatever stands in the place of a folder or a file, nothing is written behind it.
func TestEscape(t *testing.T) {
	s, here := newStorage(t), t.TempDir()
	fill(t, filepath.Join(here, "a"), map[string]string{"x": "saved", "sub/y": "saved", "sub/deep/z": "saved"})
	save(t, s, here, "a")
	for name, prepare := range map[string]func(shops, outside string) error{
		"the shop is a link":              func(shops, outside string) error { return os.Symlink(outside, filepath.Join(shops, "a")) },
		"the shop is a link to another":   func(shops, _ string) error { return os.Symlink("b", filepath.Join(shops, "a")) },
		"the shop is a file":              func(shops, _ string) error { return os.WriteFile(filepath.Join(shops, "a"), []byte("live"), 0o600) },
		"a folder is a link":              func(shops, outside string) error { return link(shops, outside, "a/sub") },
		"a folder is a link to another's": func(shops, _ string) error { return link(shops, "../b", "a/sub") },
		"a folder is a link in the shop":  func(shops, _ string) error { return link(shops, "own", "a/sub") },
		"a deep folder is a link":         func(shops, outside string) error { return link(shops, outside, "a/sub/deep") },
		"a file is a link":                func(shops, outside string) error { return link(shops, filepath.Join(outside, "x"), "a/x") },
		"a link to nothing":               func(shops, _ string) error { return link(shops, "nowhere", "a/sub") },
	} {
		t.Run(name, func(t *testing.T) {
			shops, outside := t.TempDir(), t.TempDir()
			fill(t, filepath.Join(shops, "b"), map[string]string{"own": "b"})
			fill(t, filepath.Join(shops, "a-own"), map[string]string{"own": "b"})
			if err := prepare(shops, outside); err != nil {
				t.Fatal(err)
			}
			restore(t, s, shops, []string{"a"})
			same(t, tree(t, outside), map[string]string{})
			same(t, tree(t, filepath.Join(shops, "b")), map[string]string{"own": "b"})
			if own, err := os.ReadDir(filepath.Join(shops, "a", "own")); err == nil && len(own) > 0 {
				t.Errorf("%d files behind a link in the shop", len(own))
			}
		})
	}
}

func link(shops, target, name string) error {
	path := filepath.Join(shops, name)
	if err := os.MkdirAll(filepath.Join(shops, "a", "own"), 0o755); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.Symlink(target, path)
}

// TestSaveEscape: no link leads a saver out of a shop, no device or pipe holds it up, and set-uid bits stay behind.
func TestSaveEscape(t *testing.T) {
	s, here, outside, there := newStorage(t), t.TempDir(), t.TempDir(), t.TempDir()
	fill(t, outside, map[string]string{"secret": "x"})
	fill(t, filepath.Join(here, "b"), map[string]string{"secret": "of b"})
	fill(t, filepath.Join(here, "a"), map[string]string{"good": "x", "program": "#!"})
	in := func(name string) string { return filepath.Join(here, "a", name) }
	for _, err := range []error{os.Symlink(outside, in("folder")), os.Symlink(filepath.Join(outside, "secret"), in("file")), os.Symlink("../b", in("other")),
		unix.Mkfifo(in("pipe"), 0o600), os.Chmod(in("program"), 0o755|os.ModeSetuid|os.ModeSetgid|os.ModeSticky)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if result := save(t, s, here, "a"); result.Files != 2 || result.LeftOut != 4 {
		t.Errorf("%+v", result)
	}
	restore(t, s, there, []string{"a"})
	same(t, tree(t, filepath.Join(there, "a")), map[string]string{"good": "x", "program": "#!"})
	if info, err := os.Stat(filepath.Join(there, "a", "program")); err != nil || info.Mode() != 0o755 {
		t.Errorf("%v %v", info.Mode(), err)
	}
	// A shop that is a link is none.
	if err := os.Symlink(outside, filepath.Join(here, "c")); err != nil {
		t.Fatal(err)
	}
	if _, err := Save(t.Context(), SaveConfig{Storage: s, Folder: here, Shop: "c", Compatibility: "v1"}); err == nil {
		t.Error("a link was saved as a shop")
	}
}

// TestSwappedWhileRead: a file that is replaced by a link or a pipe after it was listed is left out.
func TestSwappedWhileRead(t *testing.T) {
	s, here, outside := newStorage(t), t.TempDir(), t.TempDir()
	fill(t, outside, map[string]string{"secret": "secret"})
	for name, swap := range map[string]func(path string) error{
		"link": func(path string) error { return os.Symlink(filepath.Join(outside, "secret"), path) },
		"pipe": func(path string) error { return unix.Mkfifo(path, 0o600) },
	} {
		fill(t, filepath.Join(here, "a"), map[string]string{"a": "x", "b": "public"})
		swapped := hooked{s, func(key string) {
			if path := filepath.Join(here, "a", "b"); strings.Contains(key, "/heads/") { // The lease: it is listed, and not yet read.
				if info, err := os.Lstat(path); err == nil && info.Mode().IsRegular() {
					if err := os.Remove(path); err != nil {
						t.Error(err)
					}
					if err := swap(path); err != nil {
						t.Error(err)
					}
				}
			}
		}}
		result, err := Save(t.Context(), SaveConfig{Storage: swapped, Folder: here, Shop: "a", Compatibility: name})
		if err != nil || result.Files != 1 || result.LeftOut != 1 {
			t.Errorf("%s: %+v %v", name, result, err)
		}
		if err := os.RemoveAll(filepath.Join(here, "a")); err != nil {
			t.Fatal(err)
		}
	}
}

// TestModes: folders and files have the modes that were asked for, whatever the umask is.
func TestModes(t *testing.T) {
	s, here, there := newStorage(t), t.TempDir(), t.TempDir()
	fill(t, filepath.Join(here, "a"), map[string]string{"sub/x": "x"})
	if err := os.Chmod(filepath.Join(here, "a/sub/x"), 0o666); err != nil {
		t.Fatal(err)
	}
	save(t, s, here, "a")
	before := syscall.Umask(0o077)
	restore(t, s, there, []string{"a"}, func(c *RestoreConfig) { c.FolderMode = 0o775 })
	syscall.Umask(before)
	for name, want := range map[string]os.FileMode{"a": 0o775 | os.ModeDir, "a/sub": 0o775 | os.ModeDir, "a/sub/x": 0o666} {
		if info, err := os.Stat(filepath.Join(there, name)); err != nil || info.Mode() != want {
			t.Errorf("%s: %v %v", name, info.Mode(), err)
		}
	}
}
