package main

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// TestSources: an image's suite comes from the machine's mirror, whatever release the machine itself is of.
func TestSources(t *testing.T) {
	for name, test := range map[string]struct {
		files map[string]string
		want  []string
	}{
		"the same release, old form": {map[string]string{"sources.list": "deb http://mirror.example/debian bookworm main\n"}, []string{"etc/apt/sources.list"}},
		"the same release, new form and a security mirror": {map[string]string{
			"sources.list.d/debian.sources":   "Types: deb\nURIs: http://mirror.example/debian\nSuites: bookworm bookworm-updates\n",
			"sources.list.d/security.sources": "Types: deb\nURIs: http://mirror.example/security\nSuites: bookworm-security\n",
		}, []string{"etc/apt/sources.list.d/debian.sources"}},
		"a later release": {map[string]string{
			"sources.list":                  "# moved\n",
			"sources.list.d/debian.sources": "Types: deb\nURIs: http://mirror.example/debian\nSuites: trixie\n",
		}, []string{"deb http://mirror.example/debian bookworm main"}},
		"a later release, old form with options": {map[string]string{
			"sources.list.d/a.list": "deb [arch=amd64 trusted=yes] https://mirror.example/debian/ trixie main\n",
		}, []string{"deb https://mirror.example/debian/ bookworm main"}},
		"no Debian": {nil, nil},
	} {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			for file, content := range test.files {
				path := filepath.Join(root, "etc/apt", file)
				if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			got, err := sources(root, "bookworm")
			if (err == nil) != (test.want != nil) {
				t.Fatal(err)
			}
			for i := range got {
				if relative, err := filepath.Rel(root, got[i]); err == nil && filepath.IsAbs(got[i]) {
					got[i] = relative
				}
			}
			if !slices.Equal(got, test.want) {
				t.Fatalf("got %q, want %q", got, test.want)
			}
		})
	}
}
