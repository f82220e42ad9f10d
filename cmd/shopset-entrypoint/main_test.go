package main

import (
	"bytes"
	"flag"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/tools/txtar"
)

var update = flag.Bool("update", false, "write what the cases print into them; read the difference")

// TestCases runs each testdata/*.txtar: the first line of its comment are the arguments, the file "env" is
// the environment, "stdout", "stderr" and "exit" are what comes out, files under want/ are what is
// written, and all others are there before. A file under want/ that is not written, or written and not
// wanted, fails.
func TestCases(t *testing.T) {
	cases, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(cases) < 20 {
		t.Fatalf("%d cases: %v", len(cases), err)
	}
	for _, path := range cases {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".txtar"), func(t *testing.T) {
			path, err := filepath.Abs(path)
			if err != nil {
				t.Fatal(err)
			}
			archive, err := txtar.ParseFile(path)
			if err != nil {
				t.Fatal(err)
			}
			got := runCase(t, archive)
			if *update {
				if err := os.WriteFile(path, txtar.Format(got), 0o600); err != nil {
					t.Fatal(err)
				}
				return
			}
			if want, have := string(txtar.Format(archive)), string(txtar.Format(got)); want != have {
				t.Fatalf("got:\n%s\nwant:\n%s", have, want)
			}
		})
	}
}

// runCase returns the case as it should have been.
func runCase(t *testing.T, archive *txtar.Archive) *txtar.Archive {
	t.Helper()
	t.Chdir(t.TempDir())
	line, _, _ := strings.Cut(string(archive.Comment), "\n")
	var environment []string
	result := &txtar.Archive{Comment: archive.Comment}
	for _, file := range archive.Files {
		switch {
		case file.Name == "env":
			environment = strings.Split(strings.TrimSuffix(string(file.Data), "\n"), "\n")
		case file.Name == "stdout" || file.Name == "stderr" || file.Name == "exit" || strings.HasPrefix(file.Name, "want/"):
			continue
		default:
			if err := os.MkdirAll(filepath.Dir(file.Name), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(file.Name, file.Data, 0o640); err != nil {
				t.Fatal(err)
			}
		}
		result.Files = append(result.Files, file)
	}
	var stdout, stderr bytes.Buffer
	code := run(strings.Fields(line), environment, &stdout, &stderr)
	for _, stream := range []txtar.File{{Name: "stdout", Data: stdout.Bytes()}, {Name: "stderr", Data: stderr.Bytes()}} {
		if len(stream.Data) > 0 {
			result.Files = append(result.Files, stream)
		}
	}
	if code != 0 {
		result.Files = append(result.Files, txtar.File{Name: "exit", Data: []byte(strconv.Itoa(code) + "\n")})
	}
	if _, err := os.Stat("out"); err == nil {
		err := fs.WalkDir(os.DirFS("out"), ".", func(name string, entry fs.DirEntry, err error) error {
			if err != nil || entry.IsDir() {
				return err
			}
			content, err := os.ReadFile(filepath.Join("out", name))
			result.Files = append(result.Files, txtar.File{Name: "want/" + name, Data: content})
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return result
}
