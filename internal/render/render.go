package render

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"text/template"
	"text/template/parse"
	"unicode/utf8"
)

// MaxBytes bounds a rendered file. All files of a component share one ConfigMap of at most 1 MiB.
const MaxBytes = 512 << 10

// MaxSteps bounds what all renderings of one Budget do: one step is one node of a template that is
// executed in a loop or in a template called by another.
const MaxSteps = 1_000_000

// maxDepth bounds how deep templates call each other.
const maxDepth = 1000

// ErrTooLong says that rendering takes more than MaxSteps steps.
var ErrTooLong = fmt.Errorf("rendering takes more than %d steps: a loop or a template that calls itself does not end", MaxSteps)

// ErrTooDeep says that templates call each other more than maxDepth deep.
var ErrTooDeep = fmt.Errorf("templates call each other more than %d deep", maxDepth)

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
type Budget struct{ steps, bytes, depth int }

func (b *Budget) step(weight int) (string, error) {
	if b.steps += weight; b.steps > MaxSteps {
		return "", ErrTooLong
	}
	return "", nil
}

func (b *Budget) enter(weight int) (string, error) {
	if b.depth++; b.depth > maxDepth {
		return "", ErrTooDeep
	}
	return b.step(weight)
}

func (b *Budget) leave() string {
	b.depth--
	return ""
}

// spend takes a value that a function made; it is asked before text/template can make it twice as long.
func (b *Budget) spend(text string) (string, error) {
	return text, b.take(len(text))
}

func (b *Budget) take(bytes int) error {
	if b.bytes += bytes; b.bytes > MaxBytes {
		return ErrTooMuch
	}
	return nil
}

// Syntax is the language of a template.
type Syntax int

// The languages; see the package documentation.
const (
	Go Syntax = iota
	Envsubst
)

// Template is a file to be.
type Template struct {
	// Name stands for the template in errors: the path of the file.
	Name   string
	Text   string
	Syntax Syntax
	// Partials are templates that this one can name in {{ template }} and include; Go only.
	Partials map[string]string
}

// Text renders a Go template over the environment. name stands for the template in errors, which
// are of type *Error. budget may be nil for a whole one.
func Text(name, text string, environment map[string]string, budget *Budget) (string, error) {
	values := make(map[string]any, len(environment))
	for key, value := range environment {
		values[key] = value
	}
	return (&Template{Name: name, Text: text}).render(values, budget)
}

// maxMissing bounds how many variables that are not set are looked for in one file.
const maxMissing = 100

// File renders a template over an environment whose values are strings, numbers, booleans and lists of
// strings; nil for a variable that is known and not set, which only ${NAME} can tell from an empty one. All variables that are not set are told at once. The errors are of type *Error.
func (t *Template) File(environment map[string]any) (string, []error) {
	if t.Syntax == Envsubst && utf8.ValidString(t.Text) {
		return t.substitute(environment, &Budget{})
	}
	// A template may set what is in it, and sort lists; the next file must not see that.
	completed := make(map[string]any, len(environment))
	for name, value := range environment {
		if list, ok := value.([]string); ok {
			value = slices.Clone(list)
		}
		completed[name] = value
	}
	budget := &Budget{}
	content, err := t.render(completed, budget)
	if err == nil {
		return content, nil
	}
	failures := []error{err}
	for len(failures) < maxMissing {
		missing, ok := errors.AsType[*Error](err)
		if !ok || missing.Variable == "" {
			break
		}
		if _, known := completed[missing.Variable]; known {
			break // It is the key of another map, told once.
		}
		completed[missing.Variable] = ""
		// All of them together may take as many steps as one.
		budget.bytes, budget.depth = 0, 0
		if _, err = t.render(completed, budget); err == nil {
			break
		}
		// With a made-up value, only what else is missing is worth telling.
		if next, ok := errors.AsType[*Error](err); ok && next.Variable != "" {
			failures = append(failures, err)
		}
	}
	return "", failures
}

func (t *Template) render(environment map[string]any, budget *Budget) (string, error) {
	if budget == nil {
		budget = &Budget{}
	}
	if !utf8.ValidString(t.Text) {
		return "", &Error{Name: t.Name, Problem: "is not a text in UTF-8"}
	}
	if t.Syntax == Envsubst {
		text, failures := t.substitute(environment, budget)
		return text, errors.Join(failures...)
	}
	r := &run{template: t, environment: environment, budget: budget}
	parsed, err := t.parse(r.functions())
	if err != nil {
		return "", err
	}
	r.parsed = parsed
	countSteps(parsed)
	out := &boundedBuffer{}
	defer func(depth int) { budget.depth = depth }(budget.depth) // An error leaves it where it was.
	if err := parsed.Execute(out, environment); err != nil {
		return "", explain(t.Name, err)
	}
	if before, _, found := strings.Cut(out.String(), noValue); found && !t.says(noValue) {
		return "", &Error{Name: t.Name, Problem: fmt.Sprintf("line %d of the result would hold %s: something that is not there was looked up, perhaps by index or get",
			1+strings.Count(before, "\n"), noValue)}
	}
	return out.String(), nil
}

// noValue is what text/template writes for nil.
const noValue = "<no value>"

// says whether a text is in the template or its partials as such.
func (t *Template) says(text string) bool {
	for _, partial := range t.Partials {
		if strings.Contains(partial, text) {
			return true
		}
	}
	return strings.Contains(t.Text, text)
}

// parse reads a Go template and its partials.
func (t *Template) parse(functions template.FuncMap) (*template.Template, error) {
	parsed, err := template.New(rootName).Option("missingkey=error").Funcs(functions).Parse(t.Text)
	if err != nil {
		return nil, explain(t.Name, err)
	}
	for _, name := range slices.Sorted(maps.Keys(t.Partials)) {
		if _, err := parsed.New(name).Parse(t.Partials[name]); err != nil {
			return nil, explain(t.Name, err)
		}
	}
	return parsed, nil
}

// run is one rendering.
type run struct {
	template    *Template
	environment map[string]any
	budget      *Budget
	parsed      *template.Template
	including   []string
}

// rootName stands for the file itself in text/template's errors. No partial can have this name: theirs are
// relative paths.
const rootName = "/"

// The forms of text/template's errors: "template: config:LINE:COLUMN: executing … at <…>: PROBLEM",
// where the column and the part about execution may be absent.
var (
	position = regexp.MustCompile(`(?s)^template: (.*?):(\d+)(?::\d+)?: (?:executing "[^"]*" at <.*?>: )?(.*)$`)
	noEntry  = regexp.MustCompile(`map has no entry for key "([^"]*)"`)
)

func explain(name string, err error) error {
	for _, limit := range []error{ErrTooLarge, ErrTooLong, ErrTooMuch, ErrTooDeep} {
		if errors.Is(err, limit) {
			return &Error{Name: name, Problem: limit.Error()}
		}
	}
	result := &Error{Name: name, Problem: err.Error()}
	if match := position.FindStringSubmatch(err.Error()); match != nil {
		result.Line, result.Problem = match[2], match[3]
		if match[1] != rootName {
			result.Name += ", partial " + match[1] + ","
		}
		// Inside of an include the position comes once more, and the innermost counts.
		if inner, at := errors.AsType[*Error](err); at {
			return inner
		}
	}
	if match := noEntry.FindStringSubmatch(err.Error()); match != nil {
		result.Variable = match[1]
		result.Problem = "variable " + match[1] + " is not set"
	}
	return result
}

// These are called in every round of every loop, and at the start and the end of every template. The names
// cannot be written by accident.
const (
	stepFunction  = "render_step__"
	enterFunction = "render_enter__"
	leaveFunction = "render_leave__"
)

// countSteps puts a call of stepFunction at the start of every loop's body, and of the other two around
// every template, with the number of nodes that they stand for. text/template has no limit of its own, and
// a goroutine that runs one cannot be stopped from outside.
func countSteps(t *template.Template) {
	all := t.Templates()
	if !slices.Contains(all, t) { // A template that is defined under its name took its place.
		all = append(all, t)
	}
	for _, defined := range all {
		if defined.Tree == nil {
			continue
		}
		weight := addSteps(defined.Root)
		around := []parse.Node{call(fmt.Sprintf("%s %d", enterFunction, weight))}
		defined.Root.Nodes = append(append(around, defined.Root.Nodes...), call(leaveFunction))
	}
}

// call is the node of {{ action }}.
func call(action string) parse.Node {
	return template.Must(template.New("").Funcs(template.FuncMap{
		stepFunction:  func(int) string { return "" },
		enterFunction: func(int) string { return "" },
		leaveFunction: func() string { return "" },
	}).Parse("{{" + action + "}}")).Root.Nodes[0]
}

// addSteps goes through a tree and returns how many nodes it has outside of loops.
func addSteps(node parse.Node) (weight int) {
	var branch *parse.BranchNode
	switch n := node.(type) {
	case *parse.ListNode:
		if n == nil {
			return 0
		}
		for _, child := range n.Nodes {
			weight += addSteps(child)
		}
		return weight
	case *parse.RangeNode:
		rounds := addSteps(n.List) + 1
		n.List.Nodes = append([]parse.Node{call(fmt.Sprintf("%s %d", stepFunction, rounds))}, n.List.Nodes...)
		return 1 + len(n.Pipe.Cmds) + addSteps(n.ElseList)
	case *parse.ActionNode:
		return words(n.Pipe)
	case *parse.IfNode:
		branch = &n.BranchNode
	case *parse.WithNode:
		branch = &n.BranchNode
	default:
		return 1
	}
	return words(branch.Pipe) + addSteps(branch.List) + addSteps(branch.ElseList)
}

// words counts what a pipeline evaluates.
func words(node parse.Node) (n int) {
	switch v := node.(type) {
	case *parse.PipeNode:
		for _, command := range v.Cmds {
			n += words(command)
		}
		return n
	case *parse.CommandNode:
		for _, arg := range v.Args {
			n += words(arg)
		}
		return n
	default:
		return 1
	}
}

type boundedBuffer struct{ bytes.Buffer }

func (b *boundedBuffer) WriteString(s string) (int, error) {
	if b.Len()+len(s) > MaxBytes {
		return 0, ErrTooLarge
	}
	return b.Buffer.WriteString(s)
}

func (b *boundedBuffer) Write(p []byte) (int, error) {
	if b.Len()+len(p) > MaxBytes {
		return 0, ErrTooLarge
	}
	return b.Buffer.Write(p)
}
