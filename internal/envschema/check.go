package envschema

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/shopset/shopset/internal/render"
)

// fileSuffix marks a variable that names a file with the value.
const fileSuffix = "_FILE"

// Result is a checked environment.
type Result struct {
	// Values are what templates see.
	Values map[string]any
	// Problems are all violations; Values are of no use if there are any.
	Problems []string
	// Warnings, of deprecated variables.
	Warnings []string
	// unreadable are variables that are no text.
	unreadable map[string]bool
	// secrets are values that must not be printed.
	secrets []string
}

// Redact puts *** in the place of every secret value.
func (r *Result) Redact(text string) string {
	for _, secret := range r.secrets {
		text = strings.ReplaceAll(text, secret, "***")
	}
	return text
}

// Unreadable says whether a variable is set to something that is no text in UTF-8, and so is not there.
func (r *Result) Unreadable(name string) bool { return r.unreadable[name] }

func (r *Result) problem(format string, args ...any) {
	r.Problems = append(r.Problems, fmt.Sprintf(format, args...))
}

// Check reads an environment by the schema. A nil schema takes everything as it is. readFile reads the
// files that NAME_FILE variables name; nil is the file system.
func (s *Schema) Check(environment map[string]string, readFile func(string) (string, error)) *Result {
	if readFile == nil {
		readFile = ReadFile
	}
	c := &check{Schema: s, Result: &Result{Values: map[string]any{}, unreadable: map[string]bool{}}, environment: environment, readFile: readFile}
	if s == nil {
		c.takeAll()
		return c.Result
	}
	set := map[string]string{}
	for i := range s.Variables {
		v := &s.Variables[i]
		if text, ok := c.lookup(v.Name, v.Secret); ok {
			set[v.Name] = text
		}
	}
	c.moveDeprecated(set)
	for i := range s.Variables {
		c.variable(&s.Variables[i], set)
	}
	c.unknown()
	for i := range s.Constraints {
		c.constraint(&s.Constraints[i], set)
	}
	// Others of the environment are there as they are: PATH, HOSTNAME, KUBERNETES_….
	for name, text := range environment {
		if _, declared := c.Values[name]; !declared {
			c.take(name, text)
		}
	}
	c.sortSecrets()
	return c.Result
}

type check struct {
	*Schema
	*Result
	environment map[string]string
	readFile    func(string) (string, error)
}

// sortSecrets puts the longest first, so that one that holds another is hidden whole. A secret of one or
// two letters would only make every output unreadable.
func (c *check) sortSecrets() {
	c.secrets = slices.DeleteFunc(c.secrets, func(s string) bool { return len(s) < 3 })
	slices.SortFunc(c.secrets, func(a, b string) int { return len(b) - len(a) })
}

func (c *check) take(name, text string) {
	if utf8.ValidString(text) {
		c.Values[name] = text
	} else {
		c.unreadable[name] = true
	}
}

// takeAll is for images without a schema.
func (c *check) takeAll() {
	for name, text := range c.environment {
		c.take(name, text)
	}
	for _, name := range slices.Sorted(maps.Keys(c.environment)) {
		base, ok := strings.CutSuffix(name, fileSuffix)
		if _, set := c.environment[base]; !ok || base == "" || set || !strings.HasPrefix(c.environment[name], "/") {
			continue
		}
		// Without a schema it may be no more than the name of some file.
		if text, err := c.readFile(c.environment[name]); err == nil {
			c.Values[base] = text
			c.secrets = append(c.secrets, text)
		}
	}
	c.sortSecrets()
}

// lookup finds a variable in the environment or in the file that its _FILE names.
func (c *check) lookup(name string, secret bool) (string, bool) {
	text, set := c.environment[name]
	file, fromFile := c.environment[name+fileSuffix]
	if c.Find(name+fileSuffix) != nil {
		fromFile = false // That is a variable of its own.
	}
	switch {
	case set && fromFile && text != "":
		c.problem("%s and %s%s are both set; remove one", name, name, fileSuffix)
	case fromFile && file != "":
		content, err := c.readFile(file)
		if err != nil {
			c.problem("%s%s: %v", name, fileSuffix, err)
			return "", false
		}
		c.secrets = append(c.secrets, content)
		text, set = content, true
	}
	if secret && text != "" {
		c.secrets = append(c.secrets, text)
	}
	return text, set
}

// ReadFile reads the file of a NAME_FILE variable, without the line break at its end.
func ReadFile(path string) (string, error) {
	file, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer file.Close()
	content, err := io.ReadAll(io.LimitReader(file, maxValueBytes+1))
	if err != nil {
		return "", err
	}
	if len(content) > maxValueBytes {
		return "", errors.New(path + " is larger than 1 MiB")
	}
	return strings.TrimSuffix(strings.TrimSuffix(string(content), "\n"), "\r"), nil
}

func (c *check) moveDeprecated(set map[string]string) {
	for i := range c.Variables {
		v := &c.Variables[i]
		text, ok := set[v.Name]
		if v.DeprecatedBy == "" || !ok {
			continue
		}
		if _, both := set[v.DeprecatedBy]; both {
			c.problem("%s is the former name of %s, and both are set; remove %s", v.Name, v.DeprecatedBy, v.Name)
			continue
		}
		c.Warnings = append(c.Warnings, fmt.Sprintf("%s is deprecated; set %s instead", v.Name, v.DeprecatedBy))
		set[v.DeprecatedBy] = text
		if successor := c.Find(v.DeprecatedBy); successor.Secret {
			c.secrets = append(c.secrets, text)
		}
	}
}

func (c *check) variable(v *Variable, set map[string]string) {
	text, ok := set[v.Name]
	switch {
	case len(text) > maxValueBytes:
		c.problem("%s is larger than 1 MiB", v.Name)
		return
	case !utf8.ValidString(text) || strings.ContainsRune(text, 0):
		c.problem("%s is not a text in UTF-8", v.Name)
		return
	case v.Required && text == "":
		state := "is not set"
		if ok {
			state = "is empty"
		}
		c.problem("%s %s, and is required%s", v.Name, state, describe(v))
		return
	case !ok && v.Default != nil:
		text, ok = *v.Default, true
	}
	if !ok || text == "" && v.Type != "string" && v.Type != "enum" {
		c.Values[v.Name] = zero(v)
		return
	}
	value, err := v.parse(text)
	if err != nil {
		shown := fmt.Sprintf("%q ", clip(text))
		if v.Secret {
			shown = "(a secret) "
		}
		c.problem("%s: %s%v%s", v.Name, shown, err, describe(v))
		return
	}
	c.Values[v.Name] = value
}

// zero is what templates see of a variable that is not set: false in an if, nothing in a text.
func zero(v *Variable) any {
	switch v.Type {
	case "bool":
		return false
	case "list":
		return []string{}
	default:
		return ""
	}
}

func describe(v *Variable) string {
	if v.Description == "" {
		return ""
	}
	return " (" + v.Description + ")"
}

func clip(text string) string {
	if len(text) > 80 {
		return strings.ToValidUTF8(text[:80], "") + "…"
	}
	return text
}

// unknown finds variables with the image's prefix that nobody declared.
func (c *check) unknown() {
	if c.Prefix == "" {
		return
	}
	var known []string
	for i := range c.Variables {
		known = append(known, c.Variables[i].Name)
	}
	for _, name := range slices.Sorted(maps.Keys(c.environment)) {
		base := strings.TrimSuffix(name, fileSuffix)
		if !strings.HasPrefix(name, c.Prefix) || c.Find(name) != nil || base != name && c.Find(base) != nil {
			continue
		}
		if near := Nearest(name, known); near != "" {
			c.problem("%s is not a variable of this image; did you mean %s?", name, near)
		} else {
			c.problem("%s is not a variable of this image; remove it, or declare it in the schema", name)
		}
	}
}

func (c *check) constraint(k *Constraint, set map[string]string) {
	is := func(name string) bool {
		text := set[name]
		if v := c.Find(name); text == "" && v.Default != nil {
			text = *v.Default
		}
		return text != ""
	}
	split := func(names []string) (there, missing []string) {
		for _, name := range names {
			if is(name) {
				there = append(there, name)
			} else {
				missing = append(missing, name)
			}
		}
		return there, missing
	}
	switch {
	case len(k.Together) > 0:
		if there, missing := split(k.Together); len(there) > 0 && len(missing) > 0 {
			c.problem("%s is set, so %s must be set as well", strings.Join(there, " and "), strings.Join(missing, " and "))
		}
	case len(k.ExactlyOne) > 0:
		if there, _ := split(k.ExactlyOne); len(there) == 0 {
			c.problem("one of %s must be set", strings.Join(k.ExactlyOne, ", "))
		} else if len(there) > 1 {
			c.problem("%s exclude each other; set exactly one", strings.Join(there, " and "))
		}
	case len(k.AtMostOne) > 0:
		if there, _ := split(k.AtMostOne); len(there) > 1 {
			c.problem("%s exclude each other; remove all but one", strings.Join(there, " and "))
		}
	case len(k.Ascending) > 0:
		c.ascending(k.Ascending)
	case k.If != "" && is(k.If) && (k.Is == "" || render.Plain(c.Values[k.If]) == k.Is):
		if _, missing := split(k.Requires); len(missing) > 0 {
			reason := k.If + " is set"
			if k.Is != "" {
				reason = k.If + " is " + k.Is
			}
			c.problem("%s, so %s must be set as well", reason, strings.Join(missing, " and "))
		}
	}
}

func (c *check) ascending(names []string) {
	before, last := "", 0.0
	for _, name := range names {
		text := render.Plain(c.Values[name])
		if text == "" {
			continue
		}
		size, err := measures[c.Find(name).Type](text)
		if err != nil {
			continue // Told already.
		}
		if before != "" && size < last {
			c.problem("%s is less than %s", name, before)
		}
		before, last = name, size
	}
}
