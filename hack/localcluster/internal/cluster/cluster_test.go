package cluster

import (
	"archive/tar"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestNormalize(t *testing.T) {
	for name, want := range map[string]string{
		"nginx":                   "docker.io/library/nginx:latest",
		"nginx:1":                 "docker.io/library/nginx:1",
		"acme/shop":               "docker.io/acme/shop:latest",
		"localhost/shop:dev":      "localhost/shop:dev",
		"localhost/shop":          "localhost/shop:latest",
		"registry:5000/shop":      "registry:5000/shop:latest",
		"ghcr.io/a/b@sha256:0123": "ghcr.io/a/b@sha256:0123",
	} {
		if have := normalize(name); have != want {
			t.Errorf("%s: %s, want %s", name, have, want)
		}
	}
}

func TestRefsOf(t *testing.T) {
	const docker = `[{"Config":"c","RepoTags":["localhost/a:1","b"]}]`
	const oci = `{"manifests":[{"annotations":{"io.containerd.image.name":"localhost/a:1"}},
		{"annotations":{"org.opencontainers.image.ref.name":"latest"}}]}`
	for _, test := range []struct {
		name  string
		files map[string]string
		want  []string
		fails string
	}{
		{name: "docker-archive", files: map[string]string{"manifest.json": docker},
			want: []string{"docker.io/library/b:latest", "localhost/a:1"}},
		{name: "OCI layout", files: map[string]string{"./index.json": oci}, want: []string{"localhost/a:1"}},
		{name: "both", files: map[string]string{"manifest.json": docker, "index.json": oci},
			want: []string{"docker.io/library/b:latest", "localhost/a:1"}},
		{name: "no name", files: map[string]string{"manifest.json": `[{"RepoTags":null}]`}, fails: "names no image"},
		{name: "another archive", files: map[string]string{"readme": "hello"}, fails: "names no image"},
		{name: "broken", files: map[string]string{"manifest.json": `[{`}, fails: "manifest.json: unexpected EOF"},
	} {
		t.Run(test.name, func(t *testing.T) {
			refs, err := refsOf(archive(t, test.files))
			slices.Sort(refs)
			if test.fails != "" {
				if err == nil || !strings.Contains(err.Error(), test.fails) {
					t.Fatalf("error %v, want %q in it", err, test.fails)
				}
				return
			}
			if err != nil || !slices.Equal(refs, test.want) {
				t.Fatalf("%v, %v; want %v", refs, err, test.want)
			}
		})
	}
}

func archive(t *testing.T, files map[string]string) string {
	t.Helper()
	file, err := os.Create(filepath.Join(t.TempDir(), "image.tar"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	w := tar.NewWriter(file)
	for name, text := range files {
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o600, Size: int64(len(text))}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return file.Name()
}

func TestNameservers(t *testing.T) {
	const conf = "# by hand\nsearch example.com\nnameserver 192.0.2.1\nnameserver nonsense\nnameserver fd00::1\nnameserver\n"
	have := fmt.Sprint(nameservers(conf))
	if want := "[192.0.2.1:53 [fd00::1]:53]"; have != want {
		t.Errorf("%s, want %s", have, want)
	}
}

func TestLastLines(t *testing.T) {
	file := filepath.Join(t.TempDir(), "log")
	if err := os.WriteFile(file, []byte("1\n2\n3\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if have := lastLines(file, 2); have != "  2\n  3" {
		t.Errorf("%q", have)
	}
	if have := lastLines(file+".none", 2); !strings.Contains(have, "no such file") {
		t.Errorf("%q", have)
	}
}
