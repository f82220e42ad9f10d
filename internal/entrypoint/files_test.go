package entrypoint_test

import (
	"bytes"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/shopset/shopset/internal/entrypoint"
)

// run renders in to out, in the current folder, and returns what was said.
func run(t *testing.T, environment ...string) (code int, said string) {
	t.Helper()
	var stderr bytes.Buffer
	code = entrypoint.Run(t.Context(), &entrypoint.Options{
		Sources:     entrypoint.Sources{In: "in", Out: "out"},
		Environment: environment, Stderr: &stderr,
	})
	return code, stderr.String()
}

func write(t *testing.T, name, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestModesAndOwners: a rendered file has its template's.
func TestModesAndOwners(t *testing.T) {
	t.Chdir(t.TempDir())
	write(t, "in/script.sh.tmpl", "#!/bin/sh\n")
	must(t, os.Chmod("in/script.sh.tmpl", 0o750))
	write(t, "in/key", "x")
	must(t, os.Chmod("in/key", 0o400))
	root := os.Getuid() == 0
	if root {
		must(t, os.Chown("in/key", 1234, 4321))
	}
	write(t, "out/key", "an earlier one")
	for range 2 { // Twice: an entrypoint runs again when its container does.
		if code, said := run(t); code != 0 {
			t.Fatal(said)
		}
	}
	for name, want := range map[string]fs.FileMode{"out/script.sh": 0o750, "out/key": 0o400} {
		info, err := os.Stat(name)
		must(t, err)
		if info.Mode() != want {
			t.Errorf("%s has mode %s, want %s", name, info.Mode(), want)
		}
		if stat := info.Sys().(*syscall.Stat_t); root && name == "out/key" && (stat.Uid != 1234 || stat.Gid != 4321) {
			t.Errorf("%s belongs to %d:%d", name, stat.Uid, stat.Gid)
		}
	}
	if left, _ := filepath.Glob("out/.*"); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

// TestConfigMapLayout: Kubernetes mounts files as links into a folder that it swaps.
func TestConfigMapLayout(t *testing.T) {
	t.Chdir(t.TempDir())
	write(t, "in/..2026_01_02/a.conf.tmpl", "a {{ .A }}")
	must(t, os.Symlink("..2026_01_02", "in/..data"))
	must(t, os.Symlink("..data/a.conf.tmpl", "in/a.conf.tmpl"))
	if code, said := run(t, "A=1"); code != 0 {
		t.Fatal(said)
	}
	content, err := os.ReadFile("out/a.conf")
	if err != nil || string(content) != "a 1" {
		t.Fatalf("%q %v", content, err)
	}
	entries, err := os.ReadDir("out")
	if err != nil || len(entries) != 1 {
		t.Fatalf("%v %v", entries, err)
	}
}

// TestBadInput: each is told with its name, and nothing is written.
func TestBadInput(t *testing.T) {
	for name, test := range map[string]struct {
		prepare func(*testing.T)
		want    string
	}{
		"link out of the folder": {func(t *testing.T) {
			write(t, "secret", "x")
			must(t, os.Symlink("../secret", "in/a.conf"))
		}, "in/a.conf: leads out of its folder"},
		"absolute link": {func(t *testing.T) {
			must(t, os.Symlink("/etc/hostname", "in/a.conf"))
		}, "in/a.conf: leads out of its folder"},
		"link in a circle": {func(t *testing.T) {
			must(t, os.Symlink("a.conf", "in/a.conf"))
		}, "in/a.conf: "},
		"pipe": {func(t *testing.T) {
			must(t, syscall.Mkfifo("in/a.tmpl", 0o600))
		}, "in/a.tmpl is not a file"},
		"binary template": {func(t *testing.T) {
			write(t, "in/a.tmpl", "\x00\xff\xfe")
		}, "in/a.tmpl: is not a text in UTF-8"},
		"binary envsubst": {func(t *testing.T) {
			write(t, "in/a.template", "\xff${A}")
		}, "in/a.template: is not a text in UTF-8"},
		"huge template": {func(t *testing.T) {
			write(t, "in/a.tmpl", strings.Repeat("x", 600<<10))
		}, "in/a.tmpl is larger than 512 KiB"},
		"huge result": {func(t *testing.T) {
			write(t, "in/a.tmpl", "{{ range 60000 }}0123456789{{ end }}")
		}, "in/a.tmpl: the rendered file is larger than 512 KiB"},
		"huge file": {func(t *testing.T) {
			write(t, "in/a", "")
			must(t, os.Truncate("in/a", 65<<20))
		}, "in/a is larger than 65536 KiB"},
		"two of one name": {func(t *testing.T) {
			write(t, "in/a", "")
			write(t, "in/a.tmpl", "")
		}, "out/a would be made twice"},
		"folder in the way": {func(t *testing.T) {
			write(t, "in/a", "")
			write(t, "out/a/b", "")
		}, "write out/a: there is a folder of that name"},
		"file in the way": {func(t *testing.T) {
			write(t, "in/a/b", "")
			write(t, "out/a", "")
		}, "write out/a/b: "},
		"out leads away": {func(t *testing.T) {
			write(t, "in/sub/b", "")
			must(t, os.MkdirAll("out", 0o755))
			must(t, os.MkdirAll("elsewhere", 0o755))
			must(t, os.Symlink("../elsewhere", "out/sub"))
		}, "write out/sub/b: leads out of its folder"},
		"value not in UTF-8": {func(t *testing.T) {
			write(t, "in/a.tmpl", "{{ .BINARY }}")
		}, "in/a.tmpl line 1: variable BINARY is set, but not a text in UTF-8"},
		"no folder": {func(t *testing.T) {
			must(t, os.Remove("in"))
		}, "in: no such file or directory"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Chdir(t.TempDir())
			must(t, os.Mkdir("in", 0o755))
			test.prepare(t)
			write(t, "in-place", "")
			if code, said := run(t, "BINARY=\xff"); code != 78 || !strings.Contains(said, test.want) {
				t.Fatalf("exit code %d, said %q, want %q", code, said, test.want)
			}
			for _, name := range []string{"out/a.conf", "elsewhere/b"} {
				if _, err := os.Lstat(name); err == nil {
					t.Fatalf("%s was written", name)
				}
			}
		})
	}
}

// TestOutputs: file systems that take nothing, or not all. It mounts them in a mount namespace of its own.
func TestOutputs(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("mounting needs root")
	}
	if os.Getenv("SHOPSET_TEST_MOUNT") == "" {
		command := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestOutputs$", "-test.v")
		command.Env = append(os.Environ(), "SHOPSET_TEST_MOUNT=1")
		command.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
		if output, err := command.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, output)
		}
		return
	}
	t.Chdir(t.TempDir())
	must(t, os.Mkdir("out", 0o755))
	must(t, syscall.Mount("tmpfs", "out", "tmpfs", 0, "size=64k"))
	defer func() { must(t, syscall.Unmount("out", syscall.MNT_DETACH)) }()
	write(t, "in/a", "new")
	write(t, "out/a", "old")
	write(t, "in/b", strings.Repeat("x", 256<<10))
	if code, said := run(t); code != 78 || !strings.Contains(said, "write out/b: no space left; nothing was replaced") {
		t.Errorf("full: %d %q", code, said)
	}
	if content, err := os.ReadFile("out/a"); err != nil || string(content) != "old" {
		t.Errorf("full: a is %q %v, want the old one: not one file is replaced unless all are written", content, err)
	}
	if left, _ := filepath.Glob("out/.*"); len(left) > 0 {
		t.Errorf("full: left behind: %v", left)
	}
	must(t, os.Remove("in/b"))
	must(t, syscall.Mount("", "out", "", syscall.MS_REMOUNT|syscall.MS_RDONLY, ""))
	if code, said := run(t); code != 78 || !strings.Contains(said, "write out/a: the file system is read-only; mount a writable volume there") {
		t.Errorf("read-only: %d %q", code, said)
	}
	write(t, "in/a", "old")
	if info, err := os.Stat("out/a"); err != nil || os.Chmod("in/a", info.Mode()) != nil {
		t.Fatal(err)
	}
	if code, said := run(t); code != 0 {
		t.Errorf("read-only, and all is as it shall be: %d %q", code, said)
	}
}

// TestNothingIsForgotten: links to folders are followed, names with dots are names, and nothing at all is a mistake.
func TestNothingIsForgotten(t *testing.T) {
	t.Chdir(t.TempDir())
	write(t, "in/..2026_01_01/a/x.conf.tmpl", "x")
	must(t, os.Symlink("..2026_01_01", "in/..data"))
	must(t, os.Symlink("..data/a", "in/a")) // As Kubernetes lays out a volume of keys with folders.
	write(t, "in/..important.conf", "y")
	write(t, "in/real/z", "z")
	must(t, os.Symlink("real", "in/link"))
	if code, said := run(t); code != 0 {
		t.Fatal(said)
	}
	for name, want := range map[string]string{"out/a/x.conf": "x", "out/..important.conf": "y", "out/real/z": "z", "out/link/z": "z"} {
		if content, err := os.ReadFile(name); err != nil || string(content) != want {
			t.Errorf("%s: %q %v", name, content, err)
		}
	}
	must(t, os.Symlink(".", "in/again"))
	if code, said := run(t); code == 0 || !strings.Contains(said, "links to folders lead into each other") && !strings.Contains(said, "too many levels of symbolic links") {
		t.Errorf("links in a circle: %d %s", code, said)
	}
	must(t, os.RemoveAll("in"))
	must(t, os.Mkdir("in", 0o755))
	if code, said := run(t); code == 0 || !strings.Contains(said, "in: there is no file in it") {
		t.Errorf("nothing: %d %s", code, said)
	}
}

func TestAFolderIsNoFile(t *testing.T) {
	t.Chdir(t.TempDir())
	must(t, os.Mkdir("d", 0o755))
	var stderr bytes.Buffer
	code := entrypoint.Run(t.Context(), &entrypoint.Options{Sources: entrypoint.Sources{Pairs: []entrypoint.Pair{{In: "d", Out: "o"}}}, Stderr: &stderr})
	if code == 0 || !strings.Contains(stderr.String(), "d is a folder; --in takes folders") {
		t.Errorf("%d %s", code, &stderr)
	}
}

// TestAFailedCheckPutsEverythingBack: what worked before is there again, and what was not is not.
func TestAFailedCheckPutsEverythingBack(t *testing.T) {
	t.Chdir(t.TempDir())
	write(t, "in/a.tmpl", "new")
	write(t, "in/b.tmpl", "new")
	write(t, "out/a", "old")
	try := func(check string) (int, string) {
		t.Helper()
		var stderr bytes.Buffer
		code := entrypoint.Run(t.Context(), &entrypoint.Options{Sources: entrypoint.Sources{In: "in", Out: "out"}, Check: check,
			Environment: os.Environ(), Stderr: &stderr})
		return code, stderr.String()
	}
	list := func() string {
		t.Helper()
		var found []string
		entries, err := os.ReadDir("out")
		must(t, err)
		for _, entry := range entries {
			content, err := os.ReadFile(filepath.Join("out", entry.Name()))
			must(t, err)
			found = append(found, entry.Name()+"="+string(content))
		}
		return strings.Join(found, " ")
	}
	for _, check := range []string{"false", "no-such-program x"} {
		if code, said := try(check); code == 0 || list() != "a=old" {
			t.Errorf("%s: %d %s, in the folder %s", check, code, said, list())
		}
	}
	if code, said := try("true"); code != 0 || list() != "a=new b=new" {
		t.Errorf("%d %s, in the folder %s", code, said, list())
	}
	// One that cannot be put takes back those before it.
	must(t, os.Remove("out/b"))
	write(t, "in/a.tmpl", "newer")
	write(t, "in/c/d.tmpl", "x")
	write(t, "out/c/d/e", "a folder in its place")
	if code, said := try(""); code == 0 || !strings.Contains(said, "there is a folder of that name") {
		t.Errorf("%d %s", code, said)
	}
	must(t, os.RemoveAll("out/c"))
	if list() != "a=new" {
		t.Errorf("in the folder: %s", list())
	}
}

// TestPlacesThatMeet: a folder that is rendered into itself, and two spellings of one file.
func TestPlacesThatMeet(t *testing.T) {
	t.Chdir(t.TempDir())
	write(t, "in/a.tmpl", "x")
	write(t, "x.tmpl", "x")
	must(t, os.Mkdir("o", 0o755))
	must(t, os.Symlink("o", "p"))
	for _, test := range []struct {
		sources entrypoint.Sources
		want    string
	}{
		{entrypoint.Sources{In: "in", Out: "in"}, "is in --in"}, {entrypoint.Sources{In: "in", Out: "in/out"}, "is in --in"},
		{entrypoint.Sources{Pairs: []entrypoint.Pair{{In: "x.tmpl", Out: "o/f"}, {In: "in/a.tmpl", Out: "p/f"}}}, "would be made twice"},
		{entrypoint.Sources{Pairs: []entrypoint.Pair{{In: "x.tmpl", Out: "./x.tmpl"}}}, "would replace its own template"},
	} {
		var stderr bytes.Buffer
		if code := entrypoint.Run(t.Context(), &entrypoint.Options{Sources: test.sources, Stderr: &stderr}); code == 0 || !strings.Contains(stderr.String(), test.want) {
			t.Errorf("%+v: %d %s, want %q", test.sources, code, &stderr, test.want)
		}
	}
}

// TestEverythingAtOnce: a wrong value does not hide a wrong template.
func TestEverythingAtOnce(t *testing.T) {
	t.Chdir(t.TempDir())
	write(t, "schema.yaml", "variables:\n- {name: N, type: int}\n")
	write(t, "in/a.tmpl", "{{ if }}")
	write(t, "in/b.template", "${")
	var stderr bytes.Buffer
	entrypoint.Run(t.Context(), &entrypoint.Options{Sources: entrypoint.Sources{In: "in", Out: "out"}, Schema: "schema.yaml", Environment: []string{"N=x"}, Stderr: &stderr})
	for _, want := range []string{`N: "x" is not a whole number`, "in/a.tmpl line 1: missing value for if", "in/b.template line 1"} {
		if !strings.Contains(stderr.String(), want) {
			t.Errorf("%q is not in\n%s", want, &stderr)
		}
	}
}

// TestMarksAndControlCharacters: a byte order mark is not copied, and no template writes lines of its own into a log.
func TestMarksAndControlCharacters(t *testing.T) {
	t.Chdir(t.TempDir())
	write(t, "in/a.tmpl", "\ufeffx")
	if code, said := run(t); code != 0 {
		t.Fatal(said)
	}
	if content, err := os.ReadFile("out/a"); err != nil || string(content) != "x" {
		t.Errorf("%q %v", content, err)
	}
	write(t, "in/a.tmpl", `{{ fail "one\nlevel=error two\x1b[2J" }}`)
	if _, said := run(t); strings.Count(strings.TrimSpace(said), "\n") > 0 || strings.Contains(said, "\x1b") {
		t.Errorf("%q", said)
	}
}

// TestFolders: they have the modes and owners of the templates' folders, empty ones as well.
func TestFolders(t *testing.T) {
	t.Chdir(t.TempDir())
	write(t, "in/private/key", "x")
	must(t, os.Mkdir("in/empty", 0o770))
	must(t, os.Chmod("in/empty", 0o770))
	must(t, os.Chmod("in/private", 0o700))
	root := os.Getuid() == 0
	if root {
		must(t, os.Chown("in/private", 1234, 4321))
	}
	before := syscall.Umask(0o077)
	code, said := run(t)
	syscall.Umask(before)
	if code != 0 {
		t.Fatal(said)
	}
	for name, want := range map[string]fs.FileMode{"out": 0o755, "out/private": 0o700, "out/empty": 0o770} {
		info, err := os.Stat(name)
		must(t, err)
		if info.Mode().Perm() != want {
			t.Errorf("%s has mode %o, want %o", name, info.Mode().Perm(), want)
		}
		if stat, ok := info.Sys().(*syscall.Stat_t); root && ok && name == "out/private" && (stat.Uid != 1234 || stat.Gid != 4321) {
			t.Errorf("%s belongs to %d:%d", name, stat.Uid, stat.Gid)
		}
	}
}

// TestWords: quotes, and nothing else of a shell.
func TestWords(t *testing.T) {
	for line, want := range map[string]string{
		"nginx -t": "[nginx][-t]", `sh -c 'nginx -t -q && echo "$A"'`: `[sh][-c][nginx -t -q && echo "$A"]`,
		`a "b  c"d '' e\f`: `[a][b  cd][][e\f]`, " \t a\n": "[a]", "": "",
	} {
		words, err := entrypoint.Words(line)
		got := ""
		for _, word := range words {
			got += "[" + word + "]"
		}
		if err != nil || got != want {
			t.Errorf("%q: %s %v, want %s", line, got, err, want)
		}
	}
	for _, line := range []string{`a "b`, `'`} {
		if words, err := entrypoint.Words(line); err == nil || !strings.Contains(err.Error(), "is not closed") {
			t.Errorf("%q: %q %v", line, words, err)
		}
	}
}

// TestCheckOutput: warnings of a check that succeeds are told, and what it leaves running is not waited for.
func TestCheckOutput(t *testing.T) {
	t.Chdir(t.TempDir())
	write(t, "in/a.tmpl", "x")
	try := func(check string) (int, string) {
		var stderr bytes.Buffer
		code := entrypoint.Run(t.Context(), &entrypoint.Options{Sources: entrypoint.Sources{In: "in", Out: "out"}, Check: check,
			Environment: os.Environ(), Stderr: &stderr})
		return code, stderr.String()
	}
	if code, said := try("sh -c 'echo [warn] old directive >&2'"); code != 0 || said != "[warn] old directive\n" {
		t.Errorf("%d %q", code, said)
	}
	if code, said := try("sh -c 'sleep 20 & echo $! > pid'"); code != 0 || said != "" {
		t.Errorf("%d %q", code, said)
	}
	pid, err := os.ReadFile("pid")
	must(t, err)
	number, err := strconv.Atoi(strings.TrimSpace(string(pid)))
	must(t, err)
	must(t, syscall.Kill(number, syscall.SIGKILL))
	if code, said := try("sh -c 'kill -TERM $PPID; sleep 20'"); code != 143 || !strings.Contains(said, "ended by the signal terminated") {
		t.Errorf("%d %q", code, said)
	}
	if _, err := os.Stat("out/a"); err != nil {
		t.Error("what the checks before had found good is gone:", err)
	}
}

// TestOwner: content that is there already, but belongs to somebody else, is written again by those who can.
func TestOwner(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("only root can give files away")
	}
	t.Chdir(t.TempDir())
	write(t, "in/a.tmpl", "x")
	render := func() int {
		return entrypoint.Run(t.Context(), &entrypoint.Options{Sources: entrypoint.Sources{In: "in", Out: "out"}, Stderr: io.Discard})
	}
	if code := render(); code != 0 {
		t.Fatal(code)
	}
	must(t, os.Chown("in/a.tmpl", 1234, 1234))
	if code := render(); code != 0 {
		t.Fatal(code)
	}
	info, err := os.Stat("out/a")
	must(t, err)
	if owner := info.Sys().(*syscall.Stat_t).Uid; owner != 1234 {
		t.Errorf("belongs to %d", owner)
	}
}
