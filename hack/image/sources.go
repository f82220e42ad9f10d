package main

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// hostSource is a source of packages as apt of this machine has it.
type hostSource struct {
	options    string // what stands in brackets in a one-line source
	uris       []string
	suites     []string
	components []string
}

// mirrors are the sources of an image's suite, as mmdebstrap takes them. Where Debian is reachable is
// taken from this machine, because that is known to work; the suite is the image's own, so that an
// image is the same on every release of Debian. Without any, mmdebstrap uses Debian's own mirrors.
func mirrors(etc, suite string) ([]string, error) {
	sources, err := hostSources(etc)
	if err != nil {
		return nil, err
	}
	release, err := os.ReadFile(filepath.Join(etc, "os-release"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	own := []string{"stable", "oldstable", "testing", "unstable", "sid"}
	for line := range strings.Lines(string(release)) {
		if name, ok := strings.CutPrefix(strings.TrimSpace(line), "VERSION_CODENAME="); ok {
			own = append(own, strings.Trim(name, `"`))
		}
	}
	var lines []string
	for _, source := range sources {
		if !source.ofDebian() {
			continue
		}
		for _, hostSuite := range source.suites {
			name, pocket, _ := strings.Cut(hostSuite, "-")
			if !slices.Contains(own, name) || !slices.Contains([]string{"", "updates", "security"}, pocket) {
				continue
			}
			if pocket != "" {
				pocket = "-" + pocket
			}
			for _, uri := range source.uris {
				line := strings.Join(strings.Fields("deb "+source.options+" "+uri+" "+suite+pocket+" main"), " ")
				if !slices.Contains(lines, line) {
					lines = append(lines, line)
				}
			}
		}
	}
	return lines, nil
}

// ofDebian says whether a source is Debian itself: others may use its names of suites, but sign with
// keys of their own.
func (s hostSource) ofDebian() bool {
	return slices.Contains(s.components, "main") &&
		(!strings.Contains(s.options, "signed-by=") || strings.Contains(s.options, "debian-archive-"))
}

// hostSources reads all sources of apt, in both of their formats.
func hostSources(etc string) ([]hostSource, error) {
	files := []string{filepath.Join(etc, "apt/sources.list")}
	for _, pattern := range []string{"*.list", "*.sources"} {
		more, err := filepath.Glob(filepath.Join(etc, "apt/sources.list.d", pattern))
		if err != nil {
			return nil, err
		}
		files = append(files, more...)
	}
	var sources []hostSource
	for _, file := range files {
		content, err := os.ReadFile(file)
		switch {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			return nil, err
		case strings.HasSuffix(file, ".sources"):
			sources = append(sources, stanzas(string(content))...)
		default:
			sources = append(sources, oneLiners(string(content))...)
		}
	}
	return sources, nil
}

// oneLiners reads lines like: deb [options] URI suite component…
func oneLiners(text string) []hostSource {
	var found []hostSource
	for line := range strings.Lines(text) {
		line, _, _ = strings.Cut(line, "#")
		rest, ok := strings.CutPrefix(strings.TrimSpace(line), "deb ")
		if !ok {
			continue
		}
		var s hostSource
		rest = strings.TrimSpace(rest)
		if strings.HasPrefix(rest, "[") {
			options, after, closed := strings.Cut(rest, "]")
			if !closed {
				continue
			}
			s.options, rest = options+"]", after
		}
		if fields := strings.Fields(rest); len(fields) >= 3 {
			s.uris, s.suites, s.components = fields[:1], fields[1:2], fields[2:]
			found = append(found, s)
		}
	}
	return found
}

// stanzas reads sources in the format of deb822. One with its key written into it is left out: a line
// has no place for that.
func stanzas(text string) []hostSource {
	var found []hostSource
	for stanza := range strings.SplitSeq(uncommented(text), "\n\n") {
		fields := map[string]string{}
		var name string
		for line := range strings.Lines(stanza) {
			if strings.HasPrefix(line, " ") || strings.HasPrefix(line, "\t") {
				fields[name] += " " + strings.TrimSpace(line)
			} else if key, value, ok := strings.Cut(line, ":"); ok {
				name = strings.ToLower(key)
				fields[name] = strings.TrimSpace(value)
			}
		}
		if !slices.Contains(strings.Fields(fields["types"]), "deb") || strings.EqualFold(fields["enabled"], "no") ||
			strings.Contains(fields["signed-by"], "BEGIN PGP") {
			continue
		}
		var options []string
		for _, option := range []string{"signed-by", "trusted"} {
			if value := fields[option]; value != "" {
				options = append(options, option+"="+strings.Join(strings.Fields(value), ","))
			}
		}
		s := hostSource{
			uris: strings.Fields(fields["uris"]), suites: strings.Fields(fields["suites"]),
			components: strings.Fields(fields["components"]),
		}
		if len(options) > 0 {
			s.options = "[" + strings.Join(options, " ") + "]"
		}
		found = append(found, s)
	}
	return found
}

func uncommented(text string) string {
	var kept strings.Builder
	for line := range strings.Lines(text) {
		switch {
		case strings.HasPrefix(line, "#"):
		case strings.TrimSpace(line) == "":
			kept.WriteString("\n")
		default:
			kept.WriteString(line)
		}
	}
	return kept.String()
}
