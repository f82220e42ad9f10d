package entrypoint

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strings"

	"github.com/shopset/shopset/internal/envschema"
)

// Exit codes, as shells and sysexits.h have them.
const (
	exitUsage         = 64
	exitConfig        = 78
	exitNotExecutable = 126
	exitNotFound      = 127
)

// Options of Run.
type Options struct {
	Sources
	// Schema is the path of the schema; empty for none.
	Schema string
	// Check is a command line, split as Words does, that must succeed on the rendered files.
	Check string
	// Program and its arguments; empty to end after rendering.
	Program []string
	// Environment as of os.Environ.
	Environment []string
	// Stderr takes problems and warnings.
	Stderr io.Writer
	// Exec becomes another program; syscall.Exec.
	Exec func(path string, args, environment []string) error
}

// Run does everything and returns the exit code, if it returns at all.
func Run(ctx context.Context, o *Options) int {
	schema, err := loadSchema(o.Schema)
	if err != nil {
		return o.report(exitConfig, err)
	}
	environment := schema.Check(split(o.Environment), nil)
	for _, warning := range environment.Warnings {
		fmt.Fprintln(o.Stderr, "shopset-entrypoint: warning:", warning)
	}
	var problems []error
	for _, problem := range environment.Problems {
		problems = append(problems, errors.New(problem))
	}
	files, failures := o.gather()
	problems = append(problems, failures...)
	if len(environment.Problems) == 0 {
		problems = append(problems, renderAll(files, environment)...)
	} else {
		problems = append(problems, parseAll(files)...) // Without values only their language can be checked.
	}
	words, err := Words(o.Check)
	if err != nil {
		problems = append(problems, fmt.Errorf("check %q: %w", o.Check, err))
	}
	if len(words) > 0 {
		if _, err := exec.LookPath(words[0]); err != nil {
			problems = append(problems, fmt.Errorf("check %q: %s is not there, or not in PATH", o.Check, words[0]))
		}
	}
	path, code, err := findProgram(o.Program)
	if err != nil {
		problems = append(problems, err)
	}
	if len(problems) > 0 {
		if len(problems) > 1 || code == 0 {
			code = exitConfig
		}
		return o.report(code, problems...)
	}
	written, err := writeAll(files)
	if err != nil {
		return o.report(exitConfig, err)
	}
	check := &check{line: o.Check, words: words, environment: o.Environment, redact: environment.Redact, stderr: o.Stderr}
	if code, err := check.run(ctx); err != nil {
		written.undo()
		return o.report(code, err)
	}
	written.keep()
	if path == "" {
		return 0
	}
	if err := o.Exec(path, o.Program, o.Environment); err != nil {
		return o.report(exitNotExecutable, fmt.Errorf("start %s: %w", path, err))
	}
	return 0
}

func (o *Options) report(code int, problems ...error) int {
	Tell(o.Stderr, errors.Join(problems...))
	return code
}

// Tell prints an error; each of its lines says whose it is, among the lines of other programs.
func Tell(out io.Writer, err error) {
	for line := range strings.SplitSeq(err.Error(), "\n") {
		fmt.Fprintln(out, "shopset-entrypoint:", line)
	}
}

func loadSchema(path string) (*envschema.Schema, error) {
	if path == "" {
		return nil, nil
	}
	content, err := envschema.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read the schema: %w", err)
	}
	return envschema.Parse(path, []byte(content))
}

// findProgram looks the program up before anything is written.
func findProgram(program []string) (path string, code int, err error) {
	if len(program) == 0 {
		return "", 0, nil
	}
	path, err = exec.LookPath(program[0])
	switch info, _ := os.Stat(program[0]); {
	case program[0] == "":
		return "", exitNotFound, errors.New("the program's name is empty")
	case strings.Contains(program[0], "/") && info != nil && info.IsDir():
		return "", exitNotExecutable, fmt.Errorf("program %s is a folder", program[0])
	case errors.Is(err, exec.ErrDot):
		return "", exitNotFound, fmt.Errorf("program %s is found in a folder that PATH names by no absolute path; name it by its whole path", program[0])
	case err == nil:
		return path, 0, nil
	case errors.Is(err, os.ErrPermission):
		return "", exitNotExecutable, fmt.Errorf("program %s is not executable", program[0])
	default:
		return "", exitNotFound, fmt.Errorf("program %s is not there, or not in PATH", program[0])
	}
}

// split makes a map of NAME=VALUE lines; the last of several counts.
func split(environment []string) map[string]string {
	result := make(map[string]string, len(environment))
	for _, line := range environment {
		if name, value, ok := strings.Cut(line, "="); ok && name != "" {
			result[name] = value
		}
	}
	return result
}

func keys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
