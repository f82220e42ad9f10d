package build

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// testBuilder is a builder over a made-up module with one source file.
func testBuilder(t *testing.T) (*Builder, Target) {
	t.Helper()
	b := &Builder{
		bin: t.TempDir(), module: t.TempDir(), goVer: "go1.26.8", gosum: []byte("sum"),
		gomod: []byte("module m\n\nrequire k8s.io/kubernetes v1.37.2\n"),
	}
	target := Target{
		Name: "kube", Packages: map[string]string{"./cmd/kube": "kube"},
		Links: map[string]string{"kubectl": "kube"}, Sources: []string{"cmd/kube"},
	}
	writeFile(t, filepath.Join(b.module, "cmd/kube/main.go"), "package main")
	writeFile(t, filepath.Join(b.bin, "kube"), "program")
	if err := b.link(target.Links); err != nil {
		t.Fatal(err)
	}
	stamp, err := b.stamp(target)
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, b.stampFile(target), stamp)
	return b, target
}

func writeFile(t *testing.T, file, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestFresh(t *testing.T) {
	for _, test := range []struct {
		name   string
		change func(*testing.T, *Builder, *Target)
		want   bool
	}{
		{"nothing changed", func(*testing.T, *Builder, *Target) {}, true},
		{"a test changed", func(t *testing.T, b *Builder, _ *Target) {
			writeFile(t, filepath.Join(b.module, "cmd/kube/main_test.go"), "package main")
		}, true},
		{"a source changed", func(t *testing.T, b *Builder, _ *Target) {
			writeFile(t, filepath.Join(b.module, "cmd/kube/main.go"), "package main // new")
		}, false},
		{"go.mod", func(_ *testing.T, b *Builder, _ *Target) { b.gomod = append(b.gomod, "// new"...) }, false},
		{"go.sum", func(_ *testing.T, b *Builder, _ *Target) { b.gosum = []byte("new") }, false},
		{"the Go version", func(_ *testing.T, b *Builder, _ *Target) { b.goVer = "go1.27" }, false},
		{"the definition", func(_ *testing.T, _ *Builder, target *Target) { target.Links["kubelet"] = "kube" }, false},
		{"the program is gone", func(t *testing.T, b *Builder, _ *Target) { remove(t, b, "kube") }, false},
		{"a link is gone", func(t *testing.T, b *Builder, _ *Target) { remove(t, b, "kubectl") }, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			b, target := testBuilder(t)
			test.change(t, b, &target)
			if have := b.fresh(target); have != test.want {
				t.Errorf("fresh: %v, want %v", have, test.want)
			}
		})
	}
}

func remove(t *testing.T, b *Builder, name string) {
	t.Helper()
	if err := os.Remove(filepath.Join(b.bin, name)); err != nil {
		t.Fatal(err)
	}
}

func TestVersionFlags(t *testing.T) {
	b, _ := testBuilder(t)
	flags := b.ldflags()
	for _, want := range []string{"version.gitVersion=v1.37.2", "version.gitMajor=1", "version.gitMinor=37", "-s -w"} {
		if !strings.Contains(flags, want) {
			t.Errorf("no %s in %s", want, flags)
		}
	}
}

func TestPackagesCounts(t *testing.T) {
	var p Progress
	var failure tail
	w := p.Packages(&failure)
	fmt.Fprint(w, "go: downloading k8s.io/api v0.37.2\nk8s.io/api/core/v1\nk8s.io/", "api/apps/v1\n# m/cmd\ncmd/x.go:1:2: undefined: y\n")
	if p.packages != 2 || p.downloads != 1 {
		t.Errorf("%d packages, %d downloads; want 2 and 1", p.packages, p.downloads)
	}
	if want := []string{"# m/cmd", "cmd/x.go:1:2: undefined: y"}; !slices.Equal(failure.lines, want) {
		t.Errorf("kept %q, want %q", failure.lines, want)
	}
}
