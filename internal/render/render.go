// Package render turns a config template and an environment into a file.
//
// It promises that the same template and environment give the same bytes everywhere: in the
// operator, in tests and in the container. It is strict: a variable that is not set is an error
// that names the template, the line and the variable, never an empty string.
//
// Templates are Go's text/template; {{ .NAME }} is the variable NAME. A rendered file may not be
// larger than MaxBytes, and rendering it may not take more than MaxSteps steps nor make values of more
// than MaxBytes in all, so that no template can keep the operator busy or fill its memory. A step is one
// round of a loop or one call of a defined template. A Budget lets several renderings share the limit.
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

// MaxSteps bounds the rounds of loops and calls of templates of all renderings of one Budget.
const MaxSteps = 100_000

// ErrTooLong says that rendering takes more than MaxSteps steps.
var ErrTooLong = fmt.Errorf("rendering takes more than %d loop rounds and template calls", MaxSteps)

// ErrTooMuch says that the values made on the way are larger than MaxBytes together.
var ErrTooMuch = fmt.Errorf("rendering makes values of more than %d KiB on the way", MaxBytes>>10)

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

// Budget is what several renderings may take together. The zero value is a whole one.
type Budget struct{ steps, bytes int }

func (b *Budget) step() (string, error) {
	if b.steps++; b.steps > MaxSteps {
		return "", ErrTooLong
	}
	return "", nil
}

// spend takes a value that a function made; it is asked before text/template can make it twice as long.
func (b *Budget) spend(text string) (string, error) {
	if b.bytes += len(text); b.bytes > MaxBytes {
		return "", ErrTooMuch
	}
	return text, nil
}

// functions replaces those of text/template that make new strings by ones that count their bytes. They
// add up the arguments first, so that nothing larger than the budget is ever made.
func (b *Budget) functions() template.FuncMap {
	counted := func(make func(...any) string) func(...any) (string, error) {
		return func(args ...any) (string, error) {
			size := 0
			for _, arg := range args {
				if text, ok := arg.(string); ok {
					size += len(text)
				}
			}
			if b.bytes+size > MaxBytes {
				return "", ErrTooMuch
			}
			return b.spend(make(args...))
		}
	}
	return template.FuncMap{
		stepFunction: b.step,
		"print":      counted(fmt.Sprint),
		"println":    counted(fmt.Sprintln),
		"html":       counted(template.HTMLEscaper),
		"js":         counted(template.JSEscaper),
		"urlquery":   counted(template.URLQueryEscaper),
		"printf": func(format string, args ...any) (string, error) {
			if width.MatchString(format) {
				return "", fmt.Errorf("printf: a width or precision has three digits at most, and there are no * and [n]")
			}
			return counted(func(all ...any) string { return fmt.Sprintf(format, all[1:]...) })(append([]any{format}, args...)...)
		},
	}
}

// width finds what makes printf write much more than it was given.
var width = regexp.MustCompile(`%[^a-zA-Z%]*(\*|\[|[0-9]{4,})`)

// Text renders the template over the environment. name stands for the template in errors, which
// are of type *Error. budget may be nil for a whole one.
func Text(name, text string, environment map[string]string, budget *Budget) (string, error) {
	if budget == nil {
		budget = &Budget{}
	}
	parsed, err := template.New("config").Option("missingkey=error").Funcs(budget.functions()).Parse(text)
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
	for _, limit := range []error{ErrTooLarge, ErrTooLong, ErrTooMuch} {
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

// stepFunction is called in every round of every loop and at the start of every template. The name cannot be written by accident.
const stepFunction = "render_step__"

// countSteps puts a call of stepFunction at the start of every loop's body and of every template.
// text/template has no
// limit of its own, and a goroutine that runs one cannot be stopped from outside.
func countSteps(t *template.Template) {
	for _, defined := range t.Templates() {
		step := template.Must(template.New("").Funcs(template.FuncMap{
			stepFunction: func() string { return "" },
		}).Parse("{{" + stepFunction + "}}")).Root.Nodes[0]
		if defined.Tree != nil {
			addStep(defined.Root, step)
			defined.Root.Nodes = append([]parse.Node{step}, defined.Root.Nodes...)
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
