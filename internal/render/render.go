// Package render turns a config template and an environment into a file.
//
// It promises that the same template and environment give the same bytes everywhere: in the
// operator, in tests and in the container. It is strict: a variable that is not set is an error
// that names the template, the line and the variable, never an empty string.
//
// Templates are Go's text/template; {{ .NAME }} is the variable NAME. A rendered file may not be
// larger than MaxBytes, and all loops of a template together may not take more than MaxSteps steps,
// so that no template can keep the operator busy.
package render

import (
	"bytes"
	"errors"
	"fmt"
	"regexp"
	"text/template"
	"text/template/parse"
)

// MaxBytes bounds a rendered file. All files of a component share one ConfigMap of at most 1 MiB.
const MaxBytes = 512 << 10

// MaxSteps bounds the steps that all range loops of one rendering take together.
const MaxSteps = 100_000

// ErrTooLong says that a template takes more than MaxSteps steps.
var ErrTooLong = fmt.Errorf("the template's loops take more than %d steps", MaxSteps)

// ErrTooLarge says that a rendered file is larger than MaxBytes.
var ErrTooLarge = fmt.Errorf("the rendered file is larger than %d KiB", MaxBytes>>10)

// Error says which template failed, where and why.
type Error struct {
	// Name of the template: the path of the file that it makes.
	Name string
	// Line in the template, from 1; 0 when unknown.
	Line string
	// Variable that is not set, when that is the problem.
	Variable string
	// Problem in words.
	Problem string
}

func (e *Error) Error() string {
	if e.Line == "" {
		return e.Name + ": " + e.Problem
	}
	return e.Name + " line " + e.Line + ": " + e.Problem
}

// Text renders the template over the environment. name stands for the template in errors, which
// are of type *Error.
func Text(name, text string, environment map[string]string) (string, error) {
	steps := 0
	parsed, err := template.New("config").Option("missingkey=error").Funcs(template.FuncMap{
		stepFunction: func() (string, error) {
			if steps++; steps > MaxSteps {
				return "", ErrTooLong
			}
			return "", nil
		},
	}).Parse(text)
	if err != nil {
		return "", explain(name, err)
	}
	countSteps(parsed)
	out := &boundedBuffer{}
	if err := parsed.Execute(out, environment); err != nil {
		return "", explain(name, err)
	}
	return out.String(), nil
}

// The forms of text/template's errors: "template: config:LINE:COLUMN: executing … at <…>: PROBLEM",
// where the column and the part about execution may be absent.
var (
	position = regexp.MustCompile(`(?s)^template: config:(\d+)(?::\d+)?: (?:executing "[^"]*" at <.*?>: )?(.*)$`)
	noEntry  = regexp.MustCompile(`map has no entry for key "([^"]*)"`)
)

func explain(name string, err error) error {
	for _, limit := range []error{ErrTooLarge, ErrTooLong} {
		if errors.Is(err, limit) {
			return &Error{Name: name, Problem: limit.Error()}
		}
	}
	result := &Error{Name: name, Problem: err.Error()}
	if match := position.FindStringSubmatch(err.Error()); match != nil {
		result.Line, result.Problem = match[1], match[2]
	}
	if match := noEntry.FindStringSubmatch(err.Error()); match != nil {
		result.Variable = match[1]
		result.Problem = "variable " + match[1] + " is not set"
	}
	return result
}

// stepFunction is called at every step of every loop. The name cannot be written by accident.
const stepFunction = "render_step__"

// countSteps puts a call of stepFunction at the start of every loop's body. text/template has no
// limit of its own, and a goroutine that runs one cannot be stopped from outside.
func countSteps(t *template.Template) {
	for _, defined := range t.Templates() {
		step := template.Must(template.New("").Funcs(template.FuncMap{
			stepFunction: func() string { return "" },
		}).Parse("{{" + stepFunction + "}}")).Root.Nodes[0]
		if defined.Tree != nil {
			addStep(defined.Root, step)
		}
	}
}

func addStep(node parse.Node, step parse.Node) {
	var branch *parse.BranchNode
	switch n := node.(type) {
	case *parse.ListNode:
		if n == nil {
			return
		}
		for _, child := range n.Nodes {
			addStep(child, step)
		}
		return
	case *parse.RangeNode:
		n.List.Nodes = append([]parse.Node{step}, n.List.Nodes...)
		branch = &n.BranchNode
	case *parse.IfNode:
		branch = &n.BranchNode
	case *parse.WithNode:
		branch = &n.BranchNode
	default:
		return
	}
	addStep(branch.List, step)
	addStep(branch.ElseList, step)
}

type boundedBuffer struct{ bytes.Buffer }

func (b *boundedBuffer) Write(p []byte) (int, error) {
	if b.Len()+len(p) > MaxBytes {
		return 0, ErrTooLarge
	}
	return b.Buffer.Write(p)
}
