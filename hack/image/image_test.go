package main

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// repository makes a small repository with two programs and one recipe file.
func repository(t *testing.T) (root string, recipes *Recipes) {
	t.Helper()
	root = t.TempDir()
	for path, content := range map[string]string{
		"go.mod":            "module example.org/small\n\ngo 1.26\n",
		"cmd/one/main.go":   "package main\n\nfunc main() { println(\"one\") }\n",
		"other/one/main.go": "package main\n\nfunc main() { println(\"other\") }\n",
		"extra.txt":         "extra",
	} {
		write(t, filepath.Join(root, path), content)
	}
	recipes, err := parseRecipes("images.yaml", []byte(`
go:
- {name: one, package: cmd/one, ports: [8080/tcp], title: The first}
- name: other-one
  package: other/one
  user: "1000:1001"
  files: [{path: /etc/extra.txt, from: extra.txt, mode: 0600, owner: "1000:1001"}, {path: /data/, owner: "1000:1001", mode: 0700}]
- {name: missing, package: cmd/missing}
`))
	if err != nil {
		t.Fatal(err)
	}
	return root, recipes
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

func build(t *testing.T, root, out string, recipes *Recipes, names ...string) (log string) {
	t.Helper()
	var output bytes.Buffer
	if err := (&builder{root: root, out: out, log: &output}).build(t.Context(), recipes, names); err != nil {
		t.Fatal(err)
	}
	return output.String()
}

func readJSON(t *testing.T, out string) map[string]Built {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(out, "images.json"))
	if err != nil {
		t.Fatal(err)
	}
	built := map[string]Built{}
	if err := json.Unmarshal(content, &built); err != nil {
		t.Fatal(err)
	}
	return built
}

// open reads an image by both of its names, as a runtime would import it.
func open(t *testing.T, out, imageName string) v1.Image {
	t.Helper()
	built := readJSON(t, out)[imageName]
	var image v1.Image
	for _, ref := range []string{built.Ref, "localhost/" + imageName + ":dev"} {
		tag, err := name.NewTag(ref)
		if err != nil {
			t.Fatal(err)
		}
		if image, err = tarball.ImageFromPath(filepath.Join(out, built.Tar), &tag); err != nil {
			t.Fatalf("%s: %v", ref, err)
		}
	}
	id, err := image.ConfigName()
	if err != nil || id.String() != built.Digest || !strings.HasSuffix(built.Ref, ":dev-"+id.Hex[:12]) {
		t.Fatalf("id %s, images.json has %+v, %v", id, built, err)
	}
	return image
}

// list describes all files of an image, a line for each.
func list(t *testing.T, image v1.Image) map[string]string {
	t.Helper()
	content := mutate.Extract(image)
	defer content.Close()
	files := map[string]string{}
	for reader := tar.NewReader(content); ; {
		header, err := reader.Next()
		if err == io.EOF {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		if !header.ModTime.Equal(epoch) {
			t.Errorf("%s has the time %s", header.Name, header.ModTime)
		}
		files[strings.Trim(header.Name, "/")] = fmt.Sprintf("%c %o %d:%d", header.Typeflag, header.Mode, header.Uid, header.Gid)
	}
}

func TestGoImages(t *testing.T) {
	root, recipes := repository(t)
	out := t.TempDir()
	build(t, root, out, recipes, "one", "other-one")

	image := open(t, out, "other-one")
	got := list(t, image)
	for path, want := range map[string]string{
		"usr/bin/other-one": "0 755 0:0", "etc/extra.txt": "0 600 1000:1001", "data": "5 700 1000:1001",
		"tmp": "5 1777 0:0", "etc/passwd": "0 644 0:0", "etc/group": "0 644 0:0", "usr": "5 755 0:0",
		"etc/ssl/certs/ca-certificates.crt": "0 644 0:0",
	} {
		if got[path] != want {
			t.Errorf("%s: got %q, want %q", path, got[path], want)
		}
	}
	if got["bin/sh"] != "" || got["usr/bin/sh"] != "" {
		t.Error("there is a shell")
	}
	config, err := image.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	if config.Config.User != "1000:1001" || config.Config.Entrypoint[0] != "/usr/bin/other-one" || config.OS != "linux" {
		t.Errorf("config: %+v", config.Config)
	}
	first, err := open(t, out, "one").ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := first.Config.ExposedPorts["8080/tcp"]; !ok || first.Config.User != "65532:65532" ||
		first.Config.Labels["org.opencontainers.image.description"] != "The first" {
		t.Errorf("config: %+v", first.Config)
	}
	if first.RootFS.DiffIDs[0] != config.RootFS.DiffIDs[0] {
		t.Error("the images do not share the layer below the program")
	}
}

func TestSameInputSameImage(t *testing.T) {
	root, recipes := repository(t)
	again, _ := repository(t) // the same in another folder
	first, second := t.TempDir(), t.TempDir()
	build(t, root, first, recipes, "one")
	build(t, again, second, recipes, "one")
	if a, b := readJSON(t, first)["one"], readJSON(t, second)["one"]; a != b {
		t.Fatalf("got %+v and %+v", a, b)
	}
}

func TestOnlyWhatChangedIsBuilt(t *testing.T) {
	root, recipes := repository(t)
	out := t.TempDir()
	build(t, root, out, recipes, "one", "other-one")
	before := readJSON(t, out)
	past := time.Now().Add(-time.Hour).Truncate(time.Second)
	touched := func() (names []string) {
		for _, image := range []string{"one", "other-one"} {
			file := filepath.Join(out, image+".tar")
			if info, err := os.Stat(file); err != nil || !info.ModTime().Equal(past) {
				names = append(names, image)
			}
			os.Chtimes(file, past, past)
		}
		return names
	}
	touched()
	for _, step := range []struct {
		name   string
		change func()
		want   []string
	}{
		{"nothing", func() {}, nil},
		{"a program", func() {
			write(t, filepath.Join(root, "cmd/one/main.go"), "package main\n\nfunc main() { println(\"two\") }\n")
		}, []string{"one"}},
		{"an extra file", func() { write(t, filepath.Join(root, "extra.txt"), "other") }, []string{"other-one"}},
		{"the recipe", func() { recipes.Go[0].Env = []string{"A=b"} }, []string{"one"}},
		{"a lost tar", func() { os.Remove(filepath.Join(out, "one.tar")) }, []string{"one"}},
	} {
		step.change()
		log := build(t, root, out, recipes, "one", "other-one")
		if got := touched(); fmt.Sprint(got) != fmt.Sprint(step.want) {
			t.Errorf("after a change of %s: built %v, want %v\n%s", step.name, got, step.want, log)
		}
	}
	if after := readJSON(t, out); after["one"].Ref == before["one"].Ref {
		t.Error("another program has the same immutable name")
	}
}

func TestErrors(t *testing.T) {
	root, recipes := repository(t)
	write(t, filepath.Join(root, "cmd/one/broken.go"), "package main\n\nfunc broken() { return 1 }\n")
	for _, test := range []struct {
		names []string
		want  string
	}{
		{[]string{"two", "one"}, `there is no image "two": want one of one, other-one, missing`},
		{nil, "image missing: there is no Go package in cmd/missing; name the images to build to leave this one out"},
		{[]string{"one"}, "broken.go:3:24: too many return values"},
	} {
		out := t.TempDir()
		err := (&builder{root: root, out: out, log: io.Discard}).build(t.Context(), recipes, test.names)
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("got %v, want %s", err, test.want)
		}
		if tars, _ := filepath.Glob(filepath.Join(out, "*.tar*")); len(tars) > 0 {
			t.Errorf("left behind: %v", tars)
		}
	}
}

func TestBadRecipes(t *testing.T) {
	for _, test := range []struct{ content, want string }{
		{"go:\n- {name: a, pakage: b}\n", "line 2: field pakage not found"},
		{"go:\n- {name: A_, package: b, user: root}\n- {name: A_}\n", `images.yaml: image "A_": the name must be lower-case letters, digits and dashes` + "\n" +
			`image "A_": user "root": want UID:GID in numbers, so that Kubernetes can see that it is not root`},
		{"go:\n- {name: a, package: b}\n- {name: a, package: b}\n", `image "a": the name is used twice`},
		{"debian:\n- {name: a}\n", `image "a": a Debian image wants suite, packages and entrypoint`},
		{"go:\n- {name: a, package: b, files: [{path: etc, from: x}]}\n", `image "a": file "etc": want an absolute path`},
	} {
		if _, err := parseRecipes("images.yaml", []byte(test.content)); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("got %v\nwant %s", err, test.want)
		}
	}
}

func TestRepositoryRecipesAreGood(t *testing.T) {
	if _, err := readRecipes("images.yaml"); err != nil {
		t.Fatal(err)
	}
}

func TestThin(t *testing.T) {
	var full bytes.Buffer
	w := tar.NewWriter(&full)
	for _, header := range []tar.Header{
		{Name: "./", Typeflag: tar.TypeDir, Mode: 0o755},
		{Name: "./dev/null", Typeflag: tar.TypeChar},
		{Name: "./etc/", Typeflag: tar.TypeDir, Mode: 0o755},
		{Name: "./etc/kept", Mode: 0o640, Uid: 3, Gid: 4, ModTime: time.Now()},
		{Name: "./etc/replaced", Mode: 0o644},
		{Name: "./usr/lib/x86/perl5/deep/file"},
		{Name: "./var/log/", Typeflag: tar.TypeDir, Mode: 0o755},
		{Name: "./var/log/dpkg.log"},
		{Name: "./usr/bin/a", Mode: 0o4755},
		{Name: "./usr/bin/b", Typeflag: tar.TypeLink, Linkname: "./usr/bin/a"},
	} {
		if header.Typeflag == 0 {
			header.Typeflag = tar.TypeReg
		}
		if err := w.WriteHeader(&header); err != nil {
			t.Fatal(err)
		}
	}
	w.Close()
	from, to := filepath.Join(t.TempDir(), "full"), filepath.Join(t.TempDir(), "thin")
	write(t, from, full.String())
	extra := []entry{{"/etc/replaced", 0o600, "1:2", []byte("x")}, {"/opt/new/", 0o700, "1:2", nil}}
	if err := thin(from, to, []string{"/usr/lib/*/perl*", "/var/log/*"}, extra); err != nil {
		t.Fatal(err)
	}
	file, err := os.Open(to)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	var got []string
	for reader := tar.NewReader(file); ; {
		header, err := reader.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, fmt.Sprintf("%s %o %d:%d %d", header.Name, header.Mode, header.Uid, header.Gid, header.ModTime.Unix()))
	}
	want := "etc/ 755 0:0 0,etc/kept 640 3:4 0,var/log/ 755 0:0 0,usr/bin/a 4755 0:0 0,usr/bin/b 0 0:0 0," +
		"etc/replaced 600 1:2 0,opt/ 755 0:0 0,opt/new/ 700 1:2 0"
	if strings.Join(got, ",") != want {
		t.Errorf("got  %s\nwant %s", strings.Join(got, ","), want)
	}
	if err := thin(from, to, []string{"/usr/bin/a"}, nil); err == nil || !strings.Contains(err.Error(), "/usr/bin/b is a hard link to /usr/bin/a") {
		t.Errorf("a lost hard link: %v", err)
	}
}
