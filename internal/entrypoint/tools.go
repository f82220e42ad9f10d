package entrypoint

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/aymanbagabas/go-udiff"
	"go.yaml.in/yaml/v3"

	"github.com/shopset/shopset/internal/envschema"
)

// Doc writes the Markdown table of a schema's variables.
func Doc(out io.Writer, schemaPath string) error {
	schema, err := loadSchema(schemaPath)
	if err != nil {
		return err
	}
	_, err = io.WriteString(out, schema.Markdown())
	return err
}

// Check validates env files against a schema, or the given environment when there are none. The error
// joins all problems of all files.
func Check(out io.Writer, schemaPath string, files, environment []string) error {
	schema, err := loadSchema(schemaPath)
	if err != nil {
		return err
	}
	if schema == nil {
		return errors.New("check needs --schema")
	}
	var problems []error
	report := func(name string, values map[string]string) {
		result := schema.Check(values, nil)
		for _, problem := range result.Problems {
			problems = append(problems, fmt.Errorf("%s: %s", name, problem))
		}
		for _, warning := range result.Warnings {
			fmt.Fprintf(out, "%s: warning: %s\n", name, warning)
		}
		if len(result.Problems) == 0 {
			fmt.Fprintf(out, "%s: good\n", name)
		}
	}
	if len(files) == 0 {
		report("environment", split(environment))
	}
	for _, name := range files {
		values, failures := readEnvFile(name)
		if problems = append(problems, failures...); len(failures) == 0 {
			report(name, values)
		}
	}
	return errors.Join(problems...)
}

func readEnvFile(name string) (map[string]string, []error) {
	content, err := envschema.ReadFile(name)
	if err != nil {
		return nil, []error{err}
	}
	return envschema.ParseFile(name, content)
}

// Diff shows what differs between the files that two env files lead to, as a unified diff in which secrets
// are hidden.
func Diff(out io.Writer, schemaPath string, sources *Sources, before, after string) (differs bool, err error) {
	old, errOld := checked(schemaPath, before)
	young, errYoung := checked(schemaPath, after)
	if err := errors.Join(errOld, errYoung); err != nil {
		return false, err
	}
	// Both are rendered with *** in the place of secrets, so that nothing that is made of one shows it.
	hidden := map[string]bool{}
	for _, name := range slices.Concat(old.HiddenBeside(young), young.HiddenBeside(old)) {
		hidden[name] = true
	}
	old.Hide()
	young.Hide()
	oldFiles, errOld := renderFor(sources, before, old)
	youngFiles, errYoung := renderFor(sources, after, young)
	if err := errors.Join(errOld, errYoung); err != nil {
		return false, err
	}
	for _, name := range keys(oldFiles) {
		if a, b := oldFiles[name], youngFiles[name]; a != b {
			differs = true
			fmt.Fprint(out, udiff.Unified(name+" ("+before+")", name+" ("+after+")", young.Redact(a), old.Redact(b)))
		}
	}
	for _, name := range keys(hidden) {
		differs = true
		fmt.Fprintf(out, "the secret %s differs\n", name)
	}
	return differs, nil
}

// checked reads an env file by the schema.
func checked(schemaPath, envFile string) (*envschema.Result, error) {
	schema, err := loadSchema(schemaPath)
	if err != nil {
		return nil, err
	}
	values, problems := readEnvFile(envFile)
	if len(problems) > 0 {
		return nil, errors.Join(problems...)
	}
	environment := schema.Check(values, nil)
	for _, problem := range environment.Problems {
		problems = append(problems, fmt.Errorf("%s: %s", envFile, problem))
	}
	return environment, errors.Join(problems...)
}

func renderFor(sources *Sources, envFile string, environment *envschema.Result) (map[string]string, error) {
	files, problems := sources.gather()
	if len(problems) == 0 {
		for _, problem := range renderAll(files, environment) {
			problems = append(problems, fmt.Errorf("%s: %w", envFile, problem))
		}
	}
	if len(problems) > 0 {
		return nil, errors.Join(problems...)
	}
	result := map[string]string{}
	for _, f := range files {
		if !f.folder {
			result[f.path()] = string(f.content)
		}
	}
	return result, nil
}

// use is a variable of one or more templates.
type use struct {
	places   []string
	optional bool
}

// uses finds which template uses which variable.
func (s *Sources) uses() (map[string]*use, error) {
	files, problems := s.gather()
	result := map[string]*use{}
	partials := map[string]bool{}
	for _, f := range files {
		if f.template == nil {
			continue
		}
		found, err := f.template.Variables()
		if err != nil {
			problems = append(problems, err)
		}
		for _, u := range found {
			place := fmt.Sprintf("%s:%d", f.template.Name, u.Line)
			if u.Partial != "" {
				place = fmt.Sprintf("%s:%d", u.Partial, u.Line)
				if key := place + u.Variable; partials[key] {
					continue // Of another template with the same partials.
				} else {
					partials[key] = true
				}
			}
			if result[u.Variable] == nil {
				result[u.Variable] = &use{optional: true}
			}
			entry := result[u.Variable]
			entry.optional = entry.optional && u.Optional
			if !slices.Contains(entry.places, place) {
				entry.places = append(entry.places, place)
			}
		}
	}
	return result, errors.Join(problems...)
}

// Vars lists which template uses which variable.
func Vars(out io.Writer, sources *Sources) error {
	uses, err := sources.uses()
	if err != nil {
		return err
	}
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	for _, name := range keys(uses) {
		fmt.Fprintf(table, "%s\t%s\n", name, strings.Join(uses[name].places, " "))
	}
	return table.Flush()
}

// Lint compares the variables that templates use with those that the schema declares. The error joins all
// differences.
func Lint(schemaPath string, sources *Sources) error {
	schema, err := loadSchema(schemaPath)
	if err != nil {
		return err
	}
	if schema == nil {
		return errors.New("lint needs --schema")
	}
	uses, err := sources.uses()
	if err != nil {
		return err
	}
	var problems []error
	var names []string
	for i := range schema.Variables {
		v := &schema.Variables[i]
		names = append(names, v.Name)
		if uses[v.Name] == nil && v.DeprecatedBy == "" {
			problems = append(problems, fmt.Errorf("%s is declared and in no template; if the program itself reads it, that is fine, else remove it", v.Name))
		}
	}
	for _, name := range keys(uses) {
		if schema.Find(name) != nil {
			continue
		}
		text := fmt.Sprintf("%s is used at %s and not declared", name, strings.Join(uses[name].places, " "))
		if near := envschema.Nearest(name, names); near != "" {
			text += "; did you mean " + near + "?"
		}
		problems = append(problems, errors.New(text))
	}
	return errors.Join(problems...)
}

// Init writes a first schema for the variables that templates use, with types guessed from names.
func Init(out io.Writer, sources *Sources) error {
	uses, err := sources.uses()
	if err != nil {
		return err
	}
	type variable struct {
		Name        string `yaml:"name"`
		Type        string `yaml:"type,omitempty"`
		Required    bool   `yaml:"required,omitempty"`
		Secret      bool   `yaml:"secret,omitempty"`
		Description string `yaml:"description"`
	}
	var schema struct {
		Prefix    string     `yaml:"prefix,omitempty"`
		Variables []variable `yaml:"variables"`
	}
	names := keys(uses)
	schema.Prefix = commonPrefix(names)
	for _, name := range names {
		kind, secret := guess(name)
		schema.Variables = append(schema.Variables, variable{
			Name: name, Type: kind, Secret: secret, Required: !uses[name].optional,
			Description: "TODO; used at " + strings.Join(uses[name].places, " "),
		})
	}
	var text bytes.Buffer
	encoder := yaml.NewEncoder(&text)
	encoder.SetIndent(2)
	if err := errors.Join(encoder.Encode(schema), encoder.Close()); err != nil {
		return err
	}
	_, err = out.Write(text.Bytes())
	return err
}

// commonPrefix is what all names begin with, up to a _; empty when it is not most of them.
func commonPrefix(names []string) string {
	if len(names) < 2 {
		return ""
	}
	prefix, _, found := strings.Cut(names[0], "_")
	if !found || slices.ContainsFunc(names, func(n string) bool { return !strings.HasPrefix(n, prefix+"_") }) {
		return ""
	}
	return prefix + "_"
}

// guesses are types by the last word of a name: few, because a wrong one keeps an image from starting that works.
var guesses = map[string]string{"PORT": "port", "URL": "url", "URI": "url", "ENABLED": "bool", "WORKERS": "int"}

func guess(name string) (kind string, secret bool) {
	words := strings.Split(strings.ToUpper(name), "_")
	last := words[len(words)-1]
	if slices.Contains([]string{"SECRET", "PASSWORD", "PASSWD", "TOKEN", "KEY"}, last) {
		return "", true
	}
	return guesses[last], false
}

// InputOf reads IN:OUT.
func InputOf(text string) (Pair, error) {
	in, out, ok := strings.Cut(text, ":")
	if !ok || in == "" || out == "" || strings.HasSuffix(out, string(os.PathSeparator)) {
		return Pair{}, fmt.Errorf("%q is not IN:OUT, a template and the file that it becomes", text)
	}
	return Pair{In: in, Out: out}, nil
}
