package entrypoint

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/shopset/shopset/internal/render"
)

const (
	maxFiles      = 10_000
	maxCopyBytes  = 64 << 20
	maxInputBytes = render.MaxBytes
	// maxTotalBytes of files that are copied are held in memory at once.
	maxTotalBytes = 256 << 20
)

// Sources say where templates are.
type Sources struct {
	// In is a folder of templates, Out where the files go; both or none.
	In, Out string
	// Pairs are single files.
	Pairs []Pair
}

// Pair is one template and the file that it becomes.
type Pair struct{ In, Out string }

// file is one that is to be.
type file struct {
	// out is the folder, which is not left, and name the path in it.
	out, name string
	// template is nil for a file that is copied: content is what it holds.
	template *render.Template
	content  []byte
	mode     fs.FileMode
	uid, gid int
	// folder is one that has the mode and owner of that in --in; content is nothing.
	folder bool
}

// path for people.
func (f *file) path() string { return filepath.Join(f.out, f.name) }

// suffixes tell the language of a template.
var suffixes = []struct {
	suffix string
	syntax render.Syntax
}{{".tmpl", render.Go}, {".template", render.Envsubst}, {".envsubst", render.Envsubst}}

// syntaxOf takes a template's suffix off its name.
func syntaxOf(name string) (without string, syntax render.Syntax, isTemplate bool) {
	for _, s := range suffixes {
		if base, ok := strings.CutSuffix(name, s.suffix); ok && path.Base(base) != "." && base != "" {
			return base, s.syntax, true
		}
	}
	return name, render.Go, false
}

// gather finds all files that are to be. It goes on after a problem, to tell them all.
func (s *Sources) gather() (files []*file, problems []error) {
	if s.In != "" {
		if in, out := realFolder(s.In), realFolder(s.Out); out == in || strings.HasPrefix(out, in+"/") {
			return nil, []error{fmt.Errorf("--out %s is in --in %s: what was rendered would be taken for templates the next time", s.Out, s.In)}
		}
		files, problems = gatherFolder(s.In, s.Out)
	}
	for _, pair := range s.Pairs {
		f, err := gatherPair(pair)
		if err != nil {
			problems = append(problems, err)
			continue
		}
		files = append(files, f)
	}
	from := map[string]bool{}
	for _, f := range files {
		place := filepath.Join(realFolder(f.out), f.name)
		if from[place] {
			problems = append(problems, fmt.Errorf("%s would be made twice; rename one of its templates", f.path()))
		}
		from[place] = true
	}
	for _, pair := range s.Pairs {
		if filepath.Join(realFolder(filepath.Dir(pair.In)), filepath.Base(pair.In)) == filepath.Join(realFolder(filepath.Dir(pair.Out)), filepath.Base(pair.Out)) {
			problems = append(problems, fmt.Errorf("%s would replace its own template", pair.Out))
		}
	}
	return files, problems
}

// realFolder is a folder without links, however it is written. One that is not there yet is taken as it is written.
func realFolder(folder string) string {
	if resolved, err := filepath.EvalSymlinks(folder); err == nil {
		folder = resolved
	}
	if absolute, err := filepath.Abs(folder); err == nil {
		folder = absolute
	}
	return folder
}

func gatherPair(pair Pair) (*file, error) {
	root, err := os.OpenRoot(filepath.Dir(pair.In))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", pair.In, told(err))
	}
	defer root.Close()
	f, err := load(root, filepath.Dir(pair.In), filepath.Base(pair.In), false)
	if err != nil {
		return nil, err
	}
	if f == nil {
		return nil, fmt.Errorf("%s is a folder; --in takes folders", pair.In)
	}
	f.out, f.name = filepath.Dir(pair.Out), filepath.Base(pair.Out)
	if f.template == nil {
		if len(f.content) > maxInputBytes {
			return nil, fmt.Errorf("%s is larger than %d KiB", pair.In, maxInputBytes>>10)
		}
		f.template = &render.Template{Name: pair.In, Text: string(f.content)}
	}
	return f, nil
}

func gatherFolder(in, out string) (files []*file, problems []error) {
	root, err := os.OpenRoot(in)
	if err != nil {
		return nil, []error{fmt.Errorf("%s: %w", in, told(err))}
	}
	defer root.Close()
	w := &walk{root: root, in: in, out: out, partials: map[string]string{}}
	if err := w.folder(".", 0); err != nil {
		w.problems = append(w.problems, err)
	}
	files, problems = w.files, w.problems
	if len(problems) == 0 && !slices.ContainsFunc(files, func(f *file) bool { return !f.folder }) {
		problems = []error{fmt.Errorf("%s: there is no file in it", in)}
	}
	partials := w.partials
	for _, f := range files {
		if f.template != nil && f.template.Syntax == render.Go {
			f.template.Partials = partials
		}
	}
	return files, problems
}

// walk goes through a folder.
type walk struct {
	root     *os.Root
	in, out  string
	files    []*file
	partials map[string]string
	problems []error
	total    int
}

// maxLinks bounds how many links to folders lead into each other.
const maxLinks = 8

// folder visits everything below a folder; links says how many links led there.
func (w *walk) folder(from string, links int) error {
	return fs.WalkDir(w.root.FS(), from, func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			w.problems = append(w.problems, fmt.Errorf("%s: %w", filepath.Join(w.in, name), told(err)))
			return nil
		}
		switch {
		case name == from:
			return nil
		// How Kubernetes lays out the files of a ConfigMap: a folder, a link ..data to it, and links through that.
		case strings.HasPrefix(entry.Name(), "..") && entry.IsDir():
			return fs.SkipDir
		case entry.Name() == "..data":
			return nil
		case entry.IsDir():
			if info, err := entry.Info(); err == nil {
				w.files = append(w.files, withOwner(&file{out: w.out, name: name, folder: true}, info))
			}
			return nil
		case len(w.files) == maxFiles:
			return fmt.Errorf("%s holds more than %d files", w.in, maxFiles)
		}
		f, err := load(w.root, w.in, name, entry.Type().IsRegular())
		switch {
		case err != nil:
			w.problems = append(w.problems, err)
			return nil
		case f == nil && links == maxLinks:
			return fmt.Errorf("%s: links to folders lead into each other", filepath.Join(w.in, name))
		case f == nil:
			return w.folder(name, links+1)
		}
		if w.total += len(f.content); w.total > maxTotalBytes {
			return fmt.Errorf("%s holds files of more than %d MiB together", w.in, maxTotalBytes>>20)
		}
		f.out = w.out
		if f.template != nil && f.template.Syntax == render.Go && strings.HasPrefix(path.Base(f.name), "_") {
			w.partials[path.Join(path.Dir(f.name), strings.TrimPrefix(path.Base(f.name), "_"))] = f.template.Text
			return nil
		}
		w.files = append(w.files, f)
		return nil
	})
}

// load reads one file of a folder; nil when it is a folder, by a link. regular says that it is a file for sure.
func load(root *os.Root, folder, name string, regular bool) (*file, error) {
	shown := filepath.Join(folder, name)
	flags := os.O_RDONLY
	if !regular {
		flags |= syscall.O_NONBLOCK // A pipe must not hold it up.
	}
	opened, err := root.OpenFile(name, flags, 0)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", shown, told(err))
	}
	defer opened.Close()
	info, err := opened.Stat()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", shown, told(err))
	}
	if info.IsDir() {
		return nil, nil
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a file", shown)
	}
	f := withOwner(&file{}, info)
	without, syntax, isTemplate := syntaxOf(name)
	limit := int64(maxCopyBytes)
	if isTemplate {
		limit = maxInputBytes
	}
	content, err := io.ReadAll(io.LimitReader(opened, limit+1))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", shown, told(err))
	}
	if int64(len(content)) > limit {
		return nil, fmt.Errorf("%s is larger than %d KiB", shown, limit>>10)
	}
	f.name, f.content = without, content
	if isTemplate {
		content = bytes.TrimPrefix(content, []byte("\ufeff")) // A mark that editors leave; programs stumble over it.
		f.template, f.content = &render.Template{Name: shown, Text: string(content), Syntax: syntax}, nil
	}
	return f, nil
}

func withOwner(f *file, info fs.FileInfo) *file {
	f.mode, f.uid, f.gid = info.Mode().Perm(), -1, -1
	if stat, ok := info.Sys().(*syscall.Stat_t); ok {
		f.uid, f.gid = int(stat.Uid), int(stat.Gid)
	}
	return f
}

// told makes an error of the system shorter where the path is named already, and clearer where a link
// leads out of a folder.
func told(err error) error {
	if pathError, ok := errors.AsType[*fs.PathError](err); ok {
		if strings.Contains(pathError.Err.Error(), "escapes") {
			return errors.New("leads out of its folder")
		}
		if pathError.Op == "open" || strings.HasSuffix(pathError.Op, "at") || slices.Contains([]string{"stat", "mkdir", "write"}, pathError.Op) {
			return pathError.Err
		}
	}
	return err
}
