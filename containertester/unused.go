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

// Files are searched in pieces, which overlap so that no name is cut in two.
const (
	pieceBytes = 4 << 20
	overlap    = 1 << 10
)

// AssertEnvironmentUsed fails the test if it set a variable whose name is in no file of the image below paths
// (usual places, and the image's start command, when there are none): then the name is misspelt, or
// nothing reads it. It finds names, not reads: a name in a comment counts.
func (c *Container) AssertEnvironmentUsed(t TB, paths ...string) {
	t.Helper()
	if len(paths) == 0 {
		paths = slices.Clone(usualPaths)
		for _, word := range slices.Concat(c.image.Config.Entrypoint, c.image.Config.Cmd, c.config.Entrypoint, c.config.Command) {
			if strings.HasPrefix(word, "/") {
				paths = append(paths, word)
			} else if !strings.ContainsAny(word, "/ ") {
				paths = append(paths, "/usr/sbin/"+word, "/usr/bin/"+word, "/bin/"+word)
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
		switch {
		case err != nil:
			t.Errorf("%s: read %s: %v", c.config.Image, path, err)
		case found == 0:
			t.Errorf("%s: there is no file at %s, or it is in memory (Tmpfs), where the engine does not find it", c.config.Image, path)
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

// pieces reads a file piece by piece; one that is no larger than a piece is read whole.
func pieces(file io.Reader, visit func(content []byte)) error {
	buffer := make([]byte, 0, overlap)
	for {
		start := len(buffer)
		buffer = slices.Grow(buffer, pieceBytes)[:start+pieceBytes]
		n, err := io.ReadFull(file, buffer[start:])
		buffer = buffer[:start+n]
		if n > 0 || start == 0 {
			visit(buffer)
		}
		switch {
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
			return nil
		case err != nil:
			return err
		}
		buffer = append(buffer[:0], buffer[len(buffer)-overlap:]...)
	}
}

// files visits all regular files at or below a path, in pieces; that there is none is no error.
func (c *Container) files(ctx context.Context, path string, visit func(name string, content []byte)) error {
	return c.follow(ctx, path, 5, visit)
}

// follow is files for a path that may be a link, and that one again.
func (c *Container) follow(ctx context.Context, path string, links int, visit func(name string, content []byte)) error {
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
		switch header.Typeflag {
		case tar.TypeSymlink:
			if target := header.Linkname; links > 0 && strings.Count(header.Name, "/") == 0 { // The path itself is one.
				if !strings.HasPrefix(target, "/") {
					target = parent + target
				}
				if err := c.follow(ctx, target, links-1, visit); err != nil {
					return err
				}
			}
		case tar.TypeReg:
			if err := pieces(reader, func(content []byte) { visit(parent+header.Name, content) }); err != nil {
				return err
			}
		}
	}
}
