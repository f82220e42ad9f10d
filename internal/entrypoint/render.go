package entrypoint

import (
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/shopset/shopset/internal/envschema"
	"github.com/shopset/shopset/internal/render"
)

// renderAll fills in the content of all files.
func renderAll(files []*file, environment *envschema.Result) (problems []error) {
	failures := make([][]error, len(files))
	var group errgroup.Group
	group.SetLimit(runtime.GOMAXPROCS(0))
	for i, f := range files {
		if f.template == nil {
			continue
		}
		group.Go(func() error {
			values := environment.Values
			if f.template.Syntax == render.Envsubst {
				values = environment.Texts
			}
			content, failed := f.template.File(values)
			f.content, failures[i] = []byte(content), failed
			return nil
		})
	}
	_ = group.Wait() // What failed is in failures, in the order of the files.
	for _, failure := range slices.Concat(failures...) {
		problems = append(problems, hint(failure, environment))
	}
	return problems
}

// parseAll only reads the templates, and tells what is no template.
func parseAll(files []*file) (problems []error) {
	for _, f := range files {
		if f.template != nil {
			if _, err := f.template.Variables(); err != nil {
				problems = append(problems, err)
			}
		}
	}
	return problems
}

// printable keeps what templates say from writing lines of its own into a log, or moving a terminal's cursor.
func printable(text string) string {
	return strings.Map(func(c rune) rune {
		if c < ' ' && c != '\t' || c == 0x7f {
			return ' '
		}
		return c
	}, text)
}

// hint adds the nearest known name to a variable that is not set, and hides secrets.
func hint(failure error, environment *envschema.Result) error {
	text := printable(environment.Redact(failure.Error()))
	if missing, ok := errors.AsType[*render.Error](failure); ok && missing.Variable != "" {
		if err := environment.Unread(missing.Variable); err != nil {
			return fmt.Errorf("%s; %s_FILE: %w", text, missing.Variable, err)
		}
		if environment.Unreadable(missing.Variable) {
			return errors.New(strings.Replace(text, "is not set", "is set, but not a text in UTF-8", 1))
		}
		if _, set := environment.Values[missing.Variable]; !set {
			if near := envschema.Nearest(missing.Variable, keys(environment.Values)); near != "" {
				text += fmt.Sprintf("; did you mean %s?", near)
			}
		}
	}
	return errors.New(text)
}
