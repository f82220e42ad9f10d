package filecache_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/shopset/shopset/examples/platform/internal/filecache"
)

func open(dir string) (*filecache.Cache, *prometheus.Registry) {
	registry := prometheus.NewRegistry()
	return filecache.Open(dir, "test_cache", registry), registry
}

func metrics(t *testing.T, registry *prometheus.Registry, want string) {
	t.Helper()
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var got bytes.Buffer
	for _, family := range families {
		for _, metric := range family.Metric {
			labels := ""
			for _, label := range metric.Label {
				labels += fmt.Sprintf("%s=%s,", label.GetName(), label.GetValue())
			}
			fmt.Fprintf(&got, "%s{%s} %v\n", family.GetName(), strings.TrimSuffix(labels, ","),
				metric.GetCounter().GetValue()+metric.GetGauge().GetValue())
		}
	}
	for _, line := range strings.Split(want, "\n") {
		if !strings.Contains(got.String(), line+"\n") {
			t.Errorf("%s is missing in\n%s", line, got.String())
		}
	}
	if problems, err := testutil.GatherAndLint(registry); err != nil || len(problems) > 0 {
		t.Error(problems, err)
	}
}

func TestOnlyWhatWasPutComesBack(t *testing.T) {
	dir := t.TempDir()
	c, registry := open(dir)
	key := filecache.Key("v1", "data")
	if _, ok := c.Get("page", "shop-01/frag/a.html", key); ok {
		t.Fatal("found what nobody put")
	}
	content := []byte(strings.Repeat("content\n", 100))
	c.Put("shop-01/frag/a.html", key, content)
	if got, ok := c.Get("page", "shop-01/frag/a.html", key); !ok || !bytes.Equal(got, content) {
		t.Fatal("did not find it")
	}
	if _, ok := c.Get("page", "shop-01/frag/a.html", filecache.Key("v2", "data")); ok {
		t.Fatal("found it for another key")
	}
	// A copy of the folder elsewhere is as good.
	moved := filepath.Join(t.TempDir(), "elsewhere")
	if err := os.Rename(dir, moved); err != nil {
		t.Fatal(err)
	}
	other, _ := open(moved)
	if _, ok := other.Get("page", "shop-01/frag/a.html", key); !ok {
		t.Fatal("a moved folder is not used")
	}
	metrics(t, registry, `test_cache_hits_total{kind=page} 1
test_cache_misses_total{kind=page,reason=absent} 1
test_cache_misses_total{kind=page,reason=stale} 1
test_cache_writable{} 1`)
}

func TestTornFilesAreNotUsed(t *testing.T) {
	dir := t.TempDir()
	c, _ := open(dir)
	key := filecache.Key("v1")
	c.Put("a", key, []byte("some content"))
	whole, err := os.ReadFile(filepath.Join(dir, "a"))
	if err != nil {
		t.Fatal(err)
	}
	for length := range len(whole) {
		if err := os.WriteFile(filepath.Join(dir, "a"), whole[:length], 0o644); err != nil {
			t.Fatal(err)
		}
		if _, ok := c.Get("page", "a", key); ok {
			t.Fatalf("used a file that ends after %d of %d bytes", length, len(whole))
		}
	}
	for at := range whole {
		flipped := bytes.Clone(whole)
		flipped[at] ^= 0x20
		if err := os.WriteFile(filepath.Join(dir, "a"), flipped, 0o644); err != nil {
			t.Fatal(err)
		}
		if got, ok := c.Get("page", "a", key); ok && !bytes.Equal(got, []byte("some content")) {
			t.Fatalf("used a file with a wrong byte at %d", at)
		}
	}
	c.Put("a", key, []byte("some content"))
	if _, ok := c.Get("page", "a", key); !ok {
		t.Fatal("a torn file cannot be replaced")
	}
	left, _ := filepath.Glob(filepath.Join(dir, ".tmp-*"))
	if len(left) > 0 {
		t.Fatal("temporary files are left:", left)
	}
}

func TestNoPathLeadsOut(t *testing.T) {
	outside := t.TempDir()
	dir := t.TempDir()
	c, _ := open(dir)
	if err := os.Symlink(outside, filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"../a", "link/a", filepath.Join(outside, "a")} {
		c.Put(name, "k", []byte("x"))
		if _, ok := c.Get("page", name, "k"); ok {
			t.Errorf("%s was used", name)
		}
	}
	if entries, _ := os.ReadDir(outside); len(entries) > 0 {
		t.Error("written outside:", entries)
	}
}

// TestAFolderThatCannotBeWritten uses a file where the folder should be, which also stops root.
func TestAFolderThatCannotBeWritten(t *testing.T) {
	place := filepath.Join(t.TempDir(), "cache")
	if err := os.WriteFile(place, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	c, registry := open(place)
	c.Put("a", "k", []byte("x"))
	if _, ok := c.Get("page", "a", "k"); ok {
		t.Fatal("found")
	}
	metrics(t, registry, "test_cache_writable{} 0\ntest_cache_write_errors_total{} 2")
	if err := os.Remove(place); err != nil {
		t.Fatal(err)
	}
	c.Put("a", "k", []byte("x"))
	if _, ok := c.Get("page", "a", "k"); !ok {
		t.Fatal("the folder is there now and is not used")
	}
	metrics(t, registry, "test_cache_writable{} 1")
}

// TestAFullAndAReadOnlyDisk uses a small file system of its own, which needs the right to mount.
func TestAFullAndAReadOnlyDisk(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=64k"); err != nil {
		t.Skip("cannot mount a file system:", err)
	}
	t.Cleanup(func() { syscall.Unmount(dir, syscall.MNT_DETACH) })
	c, registry := open(dir)
	c.Put("small", "k", []byte("content"))
	c.Put("large", "k", make([]byte, 128<<10))
	metrics(t, registry, "test_cache_writable{} 0\ntest_cache_write_errors_total{} 1")
	if _, ok := c.Get("page", "large", "k"); ok {
		t.Error("found what did not fit")
	}
	c.Put("other", "k", []byte("content"))
	metrics(t, registry, "test_cache_writable{} 1")
	if left, _ := filepath.Glob(filepath.Join(dir, ".tmp-*")); len(left) > 0 {
		t.Error("temporary files fill the disk:", left)
	}
	if err := syscall.Mount("", dir, "", syscall.MS_REMOUNT|syscall.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	c.Put("third", "k", []byte("content"))
	metrics(t, registry, "test_cache_writable{} 0\ntest_cache_write_errors_total{} 2")
	if _, ok := c.Get("page", "small", "k"); !ok {
		t.Error("a disk that is read-only can still be read")
	}
}

func TestManyWritersOfOneFile(t *testing.T) {
	c, _ := open(t.TempDir())
	var wait sync.WaitGroup
	for writer := range 8 {
		wait.Go(func() {
			content := bytes.Repeat([]byte{byte('a' + writer)}, 10_000)
			for range 50 {
				c.Put("a", "k", content)
				if got, ok := c.Get("page", "a", "k"); !ok || len(got) != 10_000 || got[0] != got[9_999] {
					t.Error("a mixture or nothing was read")
					return
				}
			}
		})
	}
	wait.Wait()
}
