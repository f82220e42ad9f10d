package envschema

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

const (
	maxSchemaBytes = 1 << 20
	maxVariables   = 1000
	// maxValueBytes bounds one value, also of a file.
	maxValueBytes = 1 << 20
)

// Schema is what an image takes.
type Schema struct {
	// Prefix of the image's own variables. One that begins so and is not declared is an error; empty
	// switches that off.
	Prefix      string       `yaml:"prefix"`
	Variables   []Variable   `yaml:"variables"`
	Constraints []Constraint `yaml:"constraints"`
}

// Variable is one that the image takes.
type Variable struct {
	Name string `yaml:"name"`
	// Type of the value; string when empty. See Types.
	Type string `yaml:"type"`
	// Required variables must be set, and not empty.
	Required bool `yaml:"required"`
	// Default counts when the variable is not set.
	Default *string `yaml:"default"`
	// Secret values are never printed.
	Secret bool `yaml:"secret"`
	// DeprecatedBy names the variable that took this one's place and takes its value.
	DeprecatedBy string `yaml:"deprecatedBy"`
	Description  string `yaml:"description"`
	// Values of an enum.
	Values []string `yaml:"values"`
	// Pattern is a regular expression (RE2) that the whole value must match.
	Pattern string `yaml:"pattern"`
	// Min and Max bound int, float, duration, bytes, and the number of elements of a list. They are
	// written as values of the type.
	Min string `yaml:"min"`
	Max string `yaml:"max"`
	// Of is the type of a list's elements; string when empty.
	Of string `yaml:"of"`
	// Separator of a list's elements; a comma when empty.
	Separator string `yaml:"separator"`

	pattern *regexp.Regexp
}

// Constraint is between several variables; exactly one kind of it is set.
type Constraint struct {
	// Together are set all or none.
	Together []string `yaml:"together"`
	// ExactlyOne of these is set.
	ExactlyOne []string `yaml:"exactlyOne"`
	// AtMostOne of these is set.
	AtMostOne []string `yaml:"atMostOne"`
	// Ascending values: none is less than the one before it.
	Ascending []string `yaml:"ascending"`
	// If this variable is set (and has the value Is, if that is not empty), Requires must be set.
	If       string   `yaml:"if"`
	Is       string   `yaml:"is"`
	Requires []string `yaml:"requires"`
}

// Parse reads a schema. name stands for it in errors, which say all that is wrong.
func Parse(name string, content []byte) (*Schema, error) {
	if len(content) > maxSchemaBytes {
		return nil, fmt.Errorf("%s: a schema has 1 MiB at most", name)
	}
	schema := &Schema{}
	decoder := yaml.NewDecoder(bytes.NewReader(content))
	decoder.KnownFields(true)
	if err := decoder.Decode(schema); err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%s: %s", name, readable(err))
	}
	if err := decoder.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%s: a schema is one YAML document; what follows the --- counts for nothing", name)
	}
	if len(schema.Variables) == 0 {
		return nil, fmt.Errorf("%s: no variables are declared", name)
	}
	if problems := schema.prepare(); len(problems) > 0 {
		return nil, fmt.Errorf("%s: %s", name, strings.Join(problems, "\n"+name+": "))
	}
	return schema, nil
}

var unknownField = regexp.MustCompile(`field (\S+) not found in type \S+`)

// readable takes the names of Go types out of the YAML library's errors.
func readable(err error) string {
	text := strings.TrimPrefix(strings.TrimPrefix(err.Error(), "yaml: "), "unmarshal errors:\n  ")
	return unknownField.ReplaceAllString(text, "there is no field $1")
}

// Find returns the declaration of a variable, or nil.
func (s *Schema) Find(name string) *Variable {
	if i := slices.IndexFunc(s.Variables, func(v Variable) bool { return v.Name == name }); i >= 0 {
		return &s.Variables[i]
	}
	return nil
}

var variableName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

// prepare checks the schema itself.
func (s *Schema) prepare() (problems []string) {
	if len(s.Variables) > maxVariables {
		return []string{fmt.Sprintf("%d variables are declared; %d are the most", len(s.Variables), maxVariables)}
	}
	seen := map[string]bool{}
	for i := range s.Variables {
		v := &s.Variables[i]
		add := func(format string, args ...any) {
			problems = append(problems, v.Name+": "+fmt.Sprintf(format, args...))
		}
		if !variableName.MatchString(v.Name) {
			add("variable %d has no name of letters, digits and _", i+1)
		}
		if seen[v.Name] {
			add("is declared twice")
		}
		seen[v.Name] = true
		v.prepare(add)
		switch successor := s.Find(v.DeprecatedBy); {
		case v.DeprecatedBy == "":
		case successor == nil:
			add("deprecatedBy names %s, which is not declared", v.DeprecatedBy)
		case successor.DeprecatedBy != "":
			add("deprecatedBy names %s, which is deprecated itself; name the one that is not", v.DeprecatedBy)
		}
	}
	for i, c := range s.Constraints {
		problems = append(problems, c.prepare(s, i+1)...)
	}
	return problems
}

func (v *Variable) prepare(add func(string, ...any)) {
	if v.Type == "" {
		v.Type = "string"
	}
	if v.Type == "list" {
		if v.Of == "" {
			v.Of = "string"
		}
		if v.Separator == "" {
			v.Separator = ","
		}
		if types[v.Of] == nil || v.Of == "list" {
			add("of: there is no type %q for elements; choose one of %s", v.Of, strings.Join(Types(), ", "))
			return
		}
	} else if v.Of != "" || v.Separator != "" {
		add("of and separator are for lists")
	}
	if types[v.Type] == nil {
		add("there is no type %q; choose one of %s", v.Type, strings.Join(Types(), ", "))
		return
	}
	isEnum := v.Type == "enum" || v.Of == "enum"
	if isEnum != (len(v.Values) > 0) {
		add("an enum, and nothing else, needs values")
		return
	}
	if v.Required && v.Default != nil {
		add("a variable with a default cannot be required; remove one")
	}
	if v.Pattern != "" {
		// By itself: its brackets must not close those around it.
		if _, err := regexp.Compile(v.Pattern); err != nil {
			add("pattern: %v", err)
			return
		}
		v.pattern = regexp.MustCompile("^(?:" + v.Pattern + ")$")
	}
	if (v.Min != "" || v.Max != "") && measures[v.Type] == nil {
		add("min and max are for %s", strings.Join(measured(), ", "))
		return
	}
	for kind, bound := range map[string]string{"min": v.Min, "max": v.Max} {
		if bound == "" {
			continue
		}
		if _, err := v.measureBound(bound); err != nil {
			add("%s: %v", kind, err)
			return
		}
	}
	if v.Min != "" && v.Max != "" {
		low, _ := v.measureBound(v.Min)
		if high, _ := v.measureBound(v.Max); low > high {
			add("min is more than max")
		}
	}
	if v.Default != nil {
		if _, err := v.parse(*v.Default); err != nil {
			add("default: %v", err)
		}
	}
}

func (c *Constraint) prepare(s *Schema, number int) (problems []string) {
	kinds := 0
	for _, names := range [][]string{c.Together, c.ExactlyOne, c.AtMostOne, c.Ascending, c.Requires} {
		if len(names) > 0 {
			kinds++
		}
		for _, name := range names {
			if s.Find(name) == nil {
				problems = append(problems, fmt.Sprintf("constraint %d: %s is not declared", number, name))
			}
		}
	}
	if kinds != 1 || (c.If == "") != (len(c.Requires) == 0) || c.Is != "" && c.If == "" {
		problems = append(problems, fmt.Sprintf("constraint %d: takes one of together, exactlyOne, atMostOne, ascending, or if with requires", number))
	}
	if c.If != "" && s.Find(c.If) == nil {
		problems = append(problems, fmt.Sprintf("constraint %d: %s is not declared", number, c.If))
	}
	ordered := func(name string) bool {
		v, first := s.Find(name), s.Find(c.Ascending[0])
		return v == nil || first == nil || v.Type == first.Type && v.Type != "list" && measures[v.Type] != nil
	}
	if slices.ContainsFunc(c.Ascending, func(name string) bool { return !ordered(name) }) {
		problems = append(problems, fmt.Sprintf("constraint %d: ascending needs variables of one type that has an order", number))
	}
	return problems
}
