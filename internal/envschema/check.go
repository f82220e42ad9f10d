package envschema

import (
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/url"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"unicode/utf8"

	"github.com/shopset/shopset/internal/render"
)

// fileSuffix marks a variable that names a file with the value.
const fileSuffix = "_FILE"

// Result is a checked environment.
type Result struct {
	// Values are what Go templates see: of the types of the schema.
	Values map[string]any
	// Texts are what ${NAME} sees: the texts as they were set, or the defaults; nil for what is declared and not set.
	Texts map[string]any
	// Problems are all violations; Values are of no use if there are any.
	Problems []string
	// Warnings, of deprecated variables.
	Warnings []string
	// unreadable are variables that are no text.
	unreadable map[string]bool
	// secrets are values that must not be printed; hidden are the variables that they are of.
	secrets []string
	hidden  map[string]bool
	// unread says why the file of a NAME_FILE variable was not read.
	unread map[string]error
}

// Redact puts *** in the place of every secret value, in the forms in which templates and messages may show
// it: as it is, quoted, in base64, in a URL, and each line or element of it.
func (r *Result) Redact(text string) string {
	for _, secret := range r.secrets {
		text = strings.ReplaceAll(text, secret, "***")
	}
	return text
}

// HiddenBeside are the names of the variables that are secret and whose values differ from another result's.
func (r *Result) HiddenBeside(other *Result) (names []string) {
	for name := range r.hidden {
		if !reflect.DeepEqual(r.Values[name], other.Values[name]) {
			names = append(names, name)
		}
	}
	return names
}

// Hide puts *** in the place of the secret values themselves, so that whatever templates make of them shows nothing.
func (r *Result) Hide() {
	for name := range r.hidden {
		switch value := r.Values[name].(type) {
		case nil:
		case []string:
			r.Values[name] = slices.Repeat([]string{"***"}, len(value))
		default:
			if value != "" {
				r.Values[name] = "***"
			}
		}
		if text := r.Texts[name]; text != nil && text != "" {
			r.Texts[name] = "***"
		}
	}
}

// secret marks the value of a variable.
func (r *Result) secret(name, text string) {
	r.hidden[name] = true
	if text == "" {
		return
	}
	parts := append([]string{text}, strings.FieldsFunc(text, func(c rune) bool { return strings.ContainsRune("\n\r,; ", c) })...)
	for _, part := range parts {
		quoted := strconv.Quote(part)
		r.secrets = append(r.secrets, part, quoted[1:len(quoted)-1], url.QueryEscape(part), url.PathEscape(part),
			base64.StdEncoding.EncodeToString([]byte(part)), base64.URLEncoding.EncodeToString([]byte(part)))
	}
}

// Unread says why the file was not read that NAME_FILE names; nil when there is none.
func (r *Result) Unread(name string) error { return r.unread[name] }

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
	c := &check{Schema: s, Result: &Result{Values: map[string]any{}, Texts: map[string]any{}, unreadable: map[string]bool{}, hidden: map[string]bool{}, unread: map[string]error{}}, environment: environment, readFile: readFile}
	if s == nil {
		c.takeAll()
		return c.Result
	}
	set := map[string]string{}
	for i := range s.Variables {
		v := &s.Variables[i]
		successor := c.Find(v.DeprecatedBy)
		if text, ok := c.lookup(v.Name, v.Secret || successor != nil && successor.Secret); ok {
			set[v.Name] = text
		}
		if v.Secret && v.Default != nil {
			c.secret(v.Name, *v.Default)
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
	for i, problem := range c.Problems {
		c.Problems[i] = c.Redact(problem)
	}
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
		c.Values[name], c.Texts[name] = text, text
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
		// Without a schema it may be no more than the name of some file: it matters when a template asks for it.
		text, err := c.readFile(c.environment[name])
		if err != nil {
			c.unread[base] = err
			continue
		}
		c.take(base, text)
		c.secret(base, text)
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
	case set && fromFile && text != "" && file != "":
		c.problem("%s and %s%s are both set; remove one", name, name, fileSuffix)
	case fromFile && file != "":
		content, err := c.readFile(file)
		if err != nil {
			c.problem("%s%s: %v", name, fileSuffix, err)
			return "", false
		}
		text, set, secret = content, true, true
	}
	if secret {
		c.secret(name, text)
	}
	return text, set
}

// ReadFile reads a file of 1 MiB at most, without the line break at its end. Pipes and devices are refused: they
// might never end, or be what the program wants to read.
func ReadFile(path string) (string, error) {
	file, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return "", err
	}
	defer file.Close()
	if info, err := file.Stat(); err != nil || !info.Mode().IsRegular() {
		return "", errors.Join(err, errors.New(path+" is not a file"))
	}
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
		if c.hidden[v.Name] {
			c.secret(v.DeprecatedBy, text)
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
	// A number or the like that is empty is not set.
	case v.Default != nil && (!ok || text == "" && v.Type != "string"):
		text, ok = *v.Default, true
	}
	if !ok || text == "" && v.Type != "string" && v.Type != "enum" {
		c.Values[v.Name], c.Texts[v.Name] = zero(v), nil
		return
	}
	c.Texts[v.Name] = text
	value, err := v.parse(text)
	if err != nil {
		shown := fmt.Sprintf("%q ", clip(text))
		if c.hidden[v.Name] {
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
		if !strings.HasPrefix(name, c.Prefix) || c.Find(name) != nil || base != name && c.Find(base) != nil || c.isServiceLink(name) {
			continue
		}
		if near := Nearest(name, known); near != "" {
			c.problem("%s is not a variable of this image; did you mean %s?", name, near)
		} else {
			c.problem("%s is not a variable of this image; remove it, or declare it in the schema", name)
		}
	}
}

// serviceLink is what Kubernetes sets in every container for every Service of its namespace.
var serviceLink = regexp.MustCompile(`^(.+?)_(SERVICE_HOST|SERVICE_PORT(_.+)?|PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)$`)

func (c *check) isServiceLink(name string) bool {
	match := serviceLink.FindStringSubmatch(name)
	if match == nil {
		return false
	}
	_, is := c.environment[match[1]+"_SERVICE_HOST"]
	return is
}

func (c *check) constraint(k *Constraint, set map[string]string) {
	is := func(name string) bool {
		text, ok := set[name]
		if v := c.Find(name); v.Default != nil && (!ok || text == "" && v.Type != "string") {
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
	case k.If != "" && is(k.If) && (k.Is == "" || c.equals(k.If, k.Is)):
		if _, missing := split(k.Requires); len(missing) > 0 {
			reason := k.If + " is set"
			if k.Is != "" {
				reason = k.If + " is " + k.Is
			}
			c.problem("%s, so %s must be set as well", reason, strings.Join(missing, " and "))
		}
	}
}

// equals says whether a variable has a value, however either is written: on is true.
func (c *check) equals(name, text string) bool {
	value, err := c.Find(name).parse(text)
	return render.Plain(c.Values[name]) == text || err == nil && render.Plain(c.Values[name]) == render.Plain(value)
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
