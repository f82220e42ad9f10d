// Package build makes the cluster's programs from the Go modules that go.mod names.
//
// A target is built when its stamp differs: a hash over go.mod, go.sum, the Go version, the
// target's own sources and definition. Anything else cannot change the result. Programs are
// renamed into place, so that a running cluster keeps the files it has started from.
package build

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/mod/modfile"

	"github.com/shopset/shopset/hack/localcluster/internal/flock"
	"github.com/shopset/shopset/hack/localcluster/internal/layout"
)

// Builder builds into the bin folder of a layout.
type Builder struct {
	bin    string
	module string // folder of this module
	say    *Progress
	goVer  string
	gomod  []byte
	gosum  []byte
}

// New returns a builder, or says why nothing can be built here.
func New(l layout.Layout, say *Progress) (*Builder, error) {
	root, err := layout.RepoRoot()
	if err != nil {
		return nil, err
	}
	b := &Builder{bin: l.Bin, module: filepath.Join(root, "hack", "localcluster"), say: say}
	if b.gomod, err = os.ReadFile(filepath.Join(b.module, "go.mod")); err != nil {
		return nil, err
	}
	if b.gosum, err = os.ReadFile(filepath.Join(b.module, "go.sum")); err != nil {
		return nil, err
	}
	out, err := b.command(context.Background(), "env", "GOVERSION").Output()
	if err != nil {
		return nil, fmt.Errorf("the go command does not run (%w); install Go from https://go.dev/dl and put it on the PATH", err)
	}
	b.goVer = strings.TrimSpace(string(out))
	return b, nil
}

// Node builds all that a node needs.
func (b *Builder) Node(ctx context.Context) error { return b.all(ctx, node) }

// NodeMissing returns the titles of the targets that Node would build.
func (b *Builder) NodeMissing() []string {
	var titles []string
	for _, target := range node {
		if !b.fresh(target) {
			titles = append(titles, target.Title)
		}
	}
	return titles
}

// Assets builds what tests against a bare API server need. When the whole of Kubernetes has been
// built anyway, its API server serves.
func (b *Builder) Assets(ctx context.Context) error {
	if !b.fresh(kube) {
		return b.all(ctx, []Target{etcd, envtest})
	}
	if err := b.all(ctx, []Target{etcd}); err != nil {
		return err
	}
	return b.link(envtestLinks("../kube"))
}

func (b *Builder) all(ctx context.Context, targets []Target) error {
	if !slices.ContainsFunc(targets, func(t Target) bool { return !b.fresh(t) }) {
		return nil
	}
	if err := os.MkdirAll(b.bin, 0o755); err != nil {
		return err
	}
	unlock, err := flock.Lock(ctx, filepath.Join(b.bin, ".lock"), func() {
		b.say.Line("waiting: another build into %s is under way", b.bin)
	})
	if err != nil {
		return err
	}
	defer unlock()
	for _, target := range targets {
		if b.fresh(target) { // perhaps by the build that was waited for
			continue
		}
		if err := b.build(ctx, target); err != nil {
			return err
		}
	}
	return nil
}

func (b *Builder) build(ctx context.Context, t Target) error {
	stamp, err := b.stamp(t)
	if err != nil {
		return err
	}
	done := b.say.Start(t.Title)
	var packages []string
	for pkg := range t.Packages {
		packages = append(packages, pkg)
	}
	slices.Sort(packages)
	for _, pkg := range packages {
		output := filepath.Join(b.bin, t.Packages[pkg])
		if err := os.MkdirAll(filepath.Dir(output), 0o755); err != nil {
			return err
		}
		temporary := filepath.Join(filepath.Dir(output), ".new-"+filepath.Base(output))
		cmd := b.command(ctx, "build", "-v", "-ldflags", b.ldflags(), "-o", temporary, pkg)
		var failure tail
		cmd.Stderr = b.say.Packages(&failure)
		if err := cmd.Run(); err != nil {
			done(false)
			_ = os.Remove(temporary)
			return fmt.Errorf("building %s: go build %s: %w\n%s", t.Title, pkg, err, failure.String())
		}
		if err := os.Rename(temporary, output); err != nil {
			return err
		}
	}
	if err := b.link(t.Links); err != nil {
		return err
	}
	done(true)
	return os.WriteFile(b.stampFile(t), []byte(stamp), 0o644)
}

// command runs go in this module, apart from any workspace: the module's own go.mod is the truth.
func (b *Builder) command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = b.module
	cmd.Env = append(os.Environ(), "GOWORK=off", "CGO_ENABLED=0", "GOFLAGS=-buildvcs=false")
	return cmd
}

func (b *Builder) ldflags() string {
	flags := "-s -w"
	version := b.version(kubernetes)
	parts := strings.SplitN(strings.TrimPrefix(version, "v"), ".", 3)
	if len(parts) == 3 {
		const pkg = " -X k8s.io/component-base/version."
		flags += pkg + "gitVersion=" + version + pkg + "gitMajor=" + parts[0] + pkg + "gitMinor=" + parts[1]
	}
	return flags + " -X " + containerdModule + "/version.Version=" + b.version(containerdModule)
}

// version returns the version of a required module.
func (b *Builder) version(module string) string {
	file, err := modfile.ParseLax("go.mod", b.gomod, nil)
	if err != nil {
		return ""
	}
	for _, require := range file.Require {
		if require.Mod.Path == module {
			return require.Mod.Version
		}
	}
	return ""
}

func (b *Builder) link(links map[string]string) error {
	for name, target := range links {
		file := filepath.Join(b.bin, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			return err
		}
		if have, err := os.Readlink(file); err == nil && have == target {
			continue
		}
		temporary := filepath.Join(filepath.Dir(file), ".new-"+path.Base(name))
		_ = os.Remove(temporary)
		if err := os.Symlink(target, temporary); err != nil {
			return err
		}
		if err := os.Rename(temporary, file); err != nil {
			return err
		}
	}
	return nil
}

func (b *Builder) stampFile(t Target) string { return filepath.Join(b.bin, ".stamp-"+t.Name) }

// fresh says whether a target is there and as its inputs say.
func (b *Builder) fresh(t Target) bool {
	want, err := b.stamp(t)
	if err != nil {
		return false
	}
	have, err := os.ReadFile(b.stampFile(t))
	if err != nil || string(have) != want {
		return false
	}
	for _, output := range t.Packages {
		if _, err := os.Stat(filepath.Join(b.bin, output)); err != nil {
			return false
		}
	}
	for link, target := range t.Links {
		if have, err := os.Readlink(filepath.Join(b.bin, link)); err != nil || have != target {
			return false
		}
	}
	return true
}

func (b *Builder) stamp(t Target) (string, error) {
	hash := sha256.New()
	definition, err := json.Marshal(t) // maps come out sorted
	if err != nil {
		return "", err
	}
	for _, part := range [][]byte{definition, b.gomod, b.gosum, []byte(b.goVer), []byte(b.ldflags())} {
		fmt.Fprintf(hash, "%d:", len(part))
		hash.Write(part)
	}
	for _, dir := range t.Sources {
		err := filepath.WalkDir(filepath.Join(b.module, dir), func(file string, entry fs.DirEntry, err error) error {
			if err != nil || entry.IsDir() || strings.HasSuffix(file, "_test.go") {
				return err
			}
			content, err := os.ReadFile(file)
			fmt.Fprintf(hash, "%s:%d:", entry.Name(), len(content))
			hash.Write(content)
			return err
		})
		if err != nil {
			return "", err
		}
	}
	return hex.EncodeToString(hash.Sum(nil)), nil
}

// tail keeps the last lines of what a failing command said.
type tail struct{ lines []string }

func (t *tail) add(line string) {
	t.lines = append(t.lines, line)
	if len(t.lines) > 30 {
		t.lines = t.lines[1:]
	}
}

func (t *tail) String() string { return strings.Join(t.lines, "\n") }

// Has says whether a bin folder holds everything a node needs, fresh or not.
func Has(bin string) error {
	var missing []error
	for _, target := range node {
		for _, output := range target.Packages {
			if _, err := os.Stat(filepath.Join(bin, output)); err != nil {
				missing = append(missing, err)
			}
		}
	}
	return errors.Join(missing...)
}

// lineWriter calls a function with every whole line that is written to it.
type lineWriter struct {
	rest []byte
	line func(string)
}

func (w *lineWriter) Write(data []byte) (int, error) {
	w.rest = append(w.rest, data...)
	for {
		i := bytes.IndexByte(w.rest, '\n')
		if i < 0 {
			return len(data), nil
		}
		w.line(string(w.rest[:i]))
		w.rest = w.rest[i+1:]
	}
}
