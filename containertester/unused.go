package tester

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
)

// usualPaths are where images keep what reads variables: start scripts, templates, configuration.
var usualPaths = []string{"/docker-entrypoint.d", "/docker-entrypoint.sh", "/entrypoint.sh", "/etc", "/templates", "/schema.yaml", "/usr/local/bin", "/usr/local/etc", "/app"}

// maxFile bounds the files that are searched.
const maxFile = 4 << 20

// AssertEnvironmentUsed fails the test if it set a variable whose name is in no file of the image below paths
// (usual places, and the image's start command, when there are none): then the name is misspelt, or
// nothing reads it. It finds names, not reads: a name in a comment counts.
func (c *Container) AssertEnvironmentUsed(t TB, paths ...string) {
	t.Helper()
	if len(paths) == 0 {
		paths = slices.Clone(usualPaths)
		for _, word := range slices.Concat(c.image.Config.Entrypoint, c.image.Config.Cmd) {
			if strings.HasPrefix(word, "/") {
				paths = append(paths, word)
			}
		}
	}
	unused := map[string]bool{}
	for name := range c.config.Environment {
		unused[name] = true
	}
	for _, path := range paths {
		err := c.files(t.Context(), path, func(_ string, content []byte) {
			for name := range unused {
				if containsWord(string(content), strings.TrimSuffix(name, "_FILE")) {
					delete(unused, name)
				}
			}
		})
		if err != nil {
			t.Fatalf("read %s of %s: %v", path, c.config.Image, err)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(unused)) {
		t.Errorf("%s: nothing in the image names the variable %s; it is misspelt, or not read", c.config.Image, name)
	}
}

// leftover is what a template leaves that was not rendered.
var leftover = regexp.MustCompile(`\$\{[A-Z_][A-Z0-9_]*[}:]|\{\{[^}]*\}\}`)

// AssertNoLeftovers fails the test if a file below the paths still has ${NAME} (in capitals) or {{…}} in it.
func (c *Container) AssertNoLeftovers(t TB, paths ...string) {
	t.Helper()
	for _, path := range paths {
		found := 0
		err := c.files(t.Context(), path, func(name string, content []byte) {
			found++
			for i, line := range strings.Split(string(content), "\n") {
				if text := leftover.FindString(line); text != "" {
					t.Errorf("%s: %s line %d was not rendered: %s", c.config.Image, name, i+1, text)
				}
			}
		})
		if err != nil || found == 0 {
			t.Errorf("%s: no file at %s: %v", c.config.Image, path, err)
		}
	}
}

func containsWord(text, word string) bool {
	for at := 0; ; {
		i := strings.Index(text[at:], word)
		if i < 0 {
			return false
		}
		at += i
		end := at + len(word)
		if (at == 0 || !isWord(text[at-1])) && (end == len(text) || !isWord(text[end])) {
			return true
		}
		at = end
	}
}

func isWord(c byte) bool {
	return c == '_' || '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
}

// files visits all regular files at or below a path; that there is none is no error.
func (c *Container) files(ctx context.Context, path string, visit func(name string, content []byte)) error {
	response, err := c.engine.send(ctx, http.MethodGet, "/containers/"+c.id+"/archive", url.Values{"path": {path}}, nil)
	if isNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	defer response.Body.Close()
	parent := path[:strings.LastIndexByte(strings.TrimRight(path, "/"), '/')+1]
	for reader := tar.NewReader(response.Body); ; {
		header, err := reader.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("archive: %w", err)
		}
		if header.Typeflag != tar.TypeReg || header.Size > maxFile {
			continue
		}
		content, err := io.ReadAll(reader)
		if err != nil {
			return err
		}
		visit(parent+header.Name, content)
	}
}
