package cgroup

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
)

func TestV1Roots(t *testing.T) {
	const mountinfo = `22 20 0:20 / /sys/fs/cgroup rw - tmpfs tmpfs rw
23 22 0:21 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct
24 22 0:22 / /sys/fs/cgroup/memory rw,relatime shared:3 - cgroup cgroup rw,memory
24 22 0:22 / /sys/fs/cgroup/memory rw,relatime shared:3 - cgroup cgroup rw,memory
25 22 0:23 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
26 20 0:24 / /elsewhere/cgroup/pids rw,relatime - cgroup cgroup rw,pids
`
	want := []string{"/sys/fs/cgroup/cpu,cpuacct", "/sys/fs/cgroup/memory", "/sys/fs/cgroup/unified"}
	roots := v1Roots(mountinfo)
	if !slices.Equal(roots, want) {
		t.Fatalf("roots %v, want %v", roots, want)
	}
	missing := Hierarchies{Roots: roots}.Missing()
	if want := []string{"cpuset", "pids"}; !slices.Equal(missing, want) {
		t.Errorf("missing %v, want %v", missing, want)
	}
}

// TestV2 runs on plain files: it shows what is written where, not what a kernel makes of it.
func TestV2(t *testing.T) {
	root := t.TempDir()
	write := func(name, text string) {
		if err := os.WriteFile(filepath.Join(root, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("cgroup.controllers", "cpuset cpu memory pids\n")
	write("cgroup.subtree_control", "")
	h := Hierarchies{V2: true, Roots: []string{root}}
	if missing := h.Missing(); len(missing) > 0 {
		t.Errorf("missing %v", missing)
	}
	if err := os.MkdirAll(filepath.Join(root, "shopset-x"), 0o755); err != nil {
		t.Fatal(err)
	}
	write("shopset-x/cgroup.subtree_control", "")
	if err := h.Create(Name("x")); err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{"cgroup.subtree_control", "shopset-x/cgroup.subtree_control"} {
		have, err := os.ReadFile(filepath.Join(root, file))
		if want := "+cpuset +cpu +memory +pids"; err != nil || string(have) != want {
			t.Errorf("%s: %q, %v; want %q", file, have, err, want)
		}
	}
}

func TestVacate(t *testing.T) {
	root := t.TempDir()
	if err := os.WriteFile(filepath.Join(root, "cgroup.procs"), []byte("41\n42\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	leaf := filepath.Join(root, "init")
	if err := os.Mkdir(leaf, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(leaf, "cgroup.procs"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := vacate(root, leaf); err != nil {
		t.Fatal(err)
	}
	last, err := os.ReadFile(filepath.Join(leaf, "cgroup.procs"))
	if err != nil || string(last) != "42" { // one process a write, as the kernel wants it
		t.Errorf("last write %q, %v", last, err)
	}
}

func TestRemoveOfNothing(t *testing.T) {
	h := Hierarchies{Roots: []string{t.TempDir()}}
	if err := h.Remove(Name("x"), 0); err != nil {
		t.Error(err)
	}
}
