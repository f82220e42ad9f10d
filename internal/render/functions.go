package render

import (
	"errors"
	"fmt"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"text/template"

	sprig "github.com/go-task/slim-sprig/v3"
)

// library are the functions of sprig that templates may use: those that only depend on their arguments.
// A list of our own, so that a new release of the library brings no function that nobody looked at.
var library = strings.Fields(`
	default empty coalesce ternary fail
	trim trimAll trimPrefix trimSuffix upper lower title substr trunc repeat replace
	contains hasPrefix hasSuffix quote squote cat indent nindent toString toStrings
	split splitList splitn join sortAlpha
	atoi int int64 float64 add add1 sub mul div mod max min ceil floor round until untilStep seq
	list first last rest initial reverse uniq without has append prepend concat slice compact
	dict get set hasKey keys values pick omit
	toJson toPrettyJson fromJson b64enc b64dec sha256sum
	regexMatch regexFind regexFindAll regexReplaceAll regexReplaceAllLiteral regexSplit regexQuoteMeta
	base dir clean ext urlParse urlJoin typeOf kindOf kindIs`)

var sprigFunctions = sync.OnceValue(func() map[string]reflect.Value {
	all := sprig.GenericFuncMap()
	result := make(map[string]reflect.Value, len(library))
	for _, name := range library {
		result[name] = reflect.ValueOf(all[name])
	}
	return result
})

// maxProduct bounds the product of the sizes of a function's two largest texts: what replace and join
// could make of them at most.
const maxProduct = 64 << 20

// maxCount bounds the numbers that say how much a function makes.
const maxCount = 1000

// functions are those of templates, each of which counts. Of the library's there are only those whose names
// are in one of the texts at all: to wrap all of them takes longer than most templates.
func (r *run) functions() template.FuncMap {
	functions := template.FuncMap{
		stepFunction:  r.budget.step,
		enterFunction: r.budget.enter,
		leaveFunction: r.budget.leave,
		"optional":    r.optional,
		"required":    required,
		"include":     r.include,
		"print":       r.budget.printer(fmt.Sprint),
		"println":     r.budget.printer(fmt.Sprintln),
		"html":        r.budget.printer(template.HTMLEscaper),
		"js":          r.budget.printer(template.JSEscaper),
		"urlquery":    r.budget.printer(template.URLQueryEscaper),
		"printf":      r.budget.printf,
	}
	all := sprigFunctions()
	wrap := func(text string) {
		for word := range strings.FieldsFuncSeq(text, func(c rune) bool {
			return c != '_' && (c < '0' || c > '9') && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z')
		}) {
			if function, ok := all[word]; ok && functions[word] == nil {
				functions[word] = r.budget.counted(word, function)
			}
		}
	}
	wrap(r.template.Text)
	for _, partial := range r.template.Partials {
		wrap(partial)
	}
	return functions
}

func (r *run) optional(name string) any {
	if value, ok := r.environment[name]; ok {
		return value
	}
	return ""
}

func required(message string, value any) (any, error) {
	if value == nil || value == "" {
		return nil, errors.New(message)
	}
	return value, nil
}

// maxIncludes bounds how deep partials include each other.
const maxIncludes = 50

// include executes a partial into a text. text/template's own {{ template }} cannot be piped, which
// indent needs.
func (r *run) include(name string, data any) (string, error) {
	if r.parsed.Lookup(name) == nil {
		return "", fmt.Errorf("there is no partial %q", name)
	}
	if len(r.including) == maxIncludes {
		return "", &Error{Name: r.template.Name, Problem: "partials include each other for ever: " +
			strings.Join(r.including[:3], " → ") + " → …"}
	}
	r.including = append(r.including, name)
	defer func() { r.including = r.including[:len(r.including)-1] }()
	out := &boundedBuffer{}
	if err := r.parsed.ExecuteTemplate(out, name, data); err != nil {
		return "", explain(r.template.Name, err)
	}
	return r.budget.spend(out.String())
}

// counted wraps a function of the library so that it cannot make more than the budget has: what it could
// make is estimated before, what it made is counted after. Its signature stays, because text/template
// converts arguments by it.
func (b *Budget) counted(name string, function reflect.Value) any {
	call := function.Call
	if function.Type().IsVariadic() {
		call = function.CallSlice
	}
	return reflect.MakeFunc(function.Type(), func(args []reflect.Value) []reflect.Value {
		if err := b.allow(name, args); err != nil {
			panic(err) // text/template makes an error of it.
		}
		results := call(args)
		if err := b.take(size(results[0], 0)); err != nil {
			panic(err)
		}
		return results
	}).Interface()
}

// allow refuses calls that could make far more than they are given.
func (b *Budget) allow(name string, args []reflect.Value) error {
	if _, err := b.step(1); err != nil {
		return err
	}
	largest, second := 1, 1
	for _, arg := range args {
		n := size(arg, 0)
		largest, second = max(largest, n), max(second, min(largest, n))
	}
	if largest*second > maxProduct {
		return ErrTooMuch
	}
	switch name {
	case "repeat", "indent", "nindent":
		count, text := number(args[0]), args[1].String()
		if count < 0 || count > maxCount {
			return fmt.Errorf("%s takes a number from 0 to %d", name, maxCount)
		}
		units := len(text)
		if name != "repeat" {
			units = strings.Count(text, "\n") + 1
		}
		if b.bytes+count*units > MaxBytes {
			return ErrTooMuch
		}
	case "until", "untilStep", "seq":
		for _, n := range numbers(args) {
			if n < -maxCount || n > maxCount {
				return fmt.Errorf("%s takes numbers up to %d", name, maxCount)
			}
		}
	}
	return nil
}

// number is an argument as an int; what is no number is 0 and left to the function itself.
func number(arg reflect.Value) int {
	for arg.Kind() == reflect.Interface && !arg.IsNil() {
		arg = arg.Elem()
	}
	switch arg.Kind() {
	case reflect.Int, reflect.Int64, reflect.Int32:
		return int(arg.Int())
	case reflect.String:
		n, _ := strconv.Atoi(arg.String())
		return n
	default:
		return 0
	}
}

func numbers(args []reflect.Value) []int {
	var result []int
	for _, arg := range args {
		if arg.Kind() == reflect.Slice {
			for i := range arg.Len() {
				result = append(result, number(arg.Index(i)))
			}
			continue
		}
		result = append(result, number(arg))
	}
	return result
}

// size is about how many bytes a value holds.
func size(value reflect.Value, depth int) int {
	const one = 8
	if depth > maxIncludes {
		return MaxBytes + 1 // It holds itself.
	}
	total := one
	switch value.Kind() {
	case reflect.String:
		return value.Len()
	case reflect.Interface, reflect.Pointer:
		if !value.IsNil() {
			return size(value.Elem(), depth+1)
		}
	case reflect.Slice, reflect.Array:
		for i := range value.Len() {
			if total += size(value.Index(i), depth+1); total > MaxBytes {
				break
			}
		}
	case reflect.Map:
		for iterator := value.MapRange(); iterator.Next() && total <= MaxBytes; {
			total += size(iterator.Key(), depth+1) + size(iterator.Value(), depth+1)
		}
	}
	return total
}

// printer makes a function like fmt.Sprint count. The arguments are added up first, so that nothing larger
// than the budget is ever made.
func (b *Budget) printer(make func(...any) string) func(...any) (string, error) {
	return func(args ...any) (string, error) {
		if b.bytes+size(reflect.ValueOf(args), 0) > MaxBytes {
			return "", ErrTooMuch
		}
		return b.spend(make(args...))
	}
}

// width finds what makes printf write much more than it was given.
var width = regexp.MustCompile(`%[^a-zA-Z%]*(\*|\[|[0-9]{4,})`)

func (b *Budget) printf(format string, args ...any) (string, error) {
	if width.MatchString(format) {
		return "", errors.New("printf: a width or precision has three digits at most, and there are no * and [n]")
	}
	return b.printer(func(all ...any) string { return fmt.Sprintf(format, all[1:]...) })(append([]any{format}, args...)...)
}
