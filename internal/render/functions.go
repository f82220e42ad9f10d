package render

import (
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"regexp"
	"slices"
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
		function := all[name]
		// The library has two of many: one that makes nothing of what it cannot do, and one that says so.
		if strict, ok := all["must"+strings.ToUpper(name[:1])+name[1:]]; ok {
			function = strict
		}
		if own, ok := ours[name]; ok {
			function = own
		}
		result[name] = reflect.ValueOf(function)
	}
	return result
})

// ours stand for functions of the library whose results change from call to call, that change what they are
// given, or that make something of nothing.
var ours = map[string]any{
	"keys": func(maps ...map[string]any) []string {
		var names []string
		for _, m := range maps {
			for name := range m {
				names = append(names, name)
			}
		}
		slices.Sort(names)
		return names
	},
	"values": func(m map[string]any) []any {
		var values []any
		for _, name := range slices.Sorted(maps.Keys(m)) {
			values = append(values, m[name])
		}
		return values
	},
	"sortAlpha": func(list any) ([]string, error) {
		value := reflect.ValueOf(list)
		if value.Kind() != reflect.Slice {
			return nil, fmt.Errorf("sortAlpha takes a list, not %T", list)
		}
		sorted := make([]string, value.Len())
		for i := range sorted {
			sorted[i] = fmt.Sprint(value.Index(i).Interface())
		}
		slices.Sort(sorted)
		return sorted, nil
	},
	"get": func(m map[string]any, key string) (any, error) {
		value, ok := m[key]
		if !ok {
			return nil, fmt.Errorf("there is no key %q", key)
		}
		return value, nil
	},
	"b64dec": func(text string) (string, error) {
		plain, err := base64.StdEncoding.DecodeString(text)
		if err != nil {
			return "", errors.New("b64dec: it is not base64")
		}
		return string(plain), nil
	},
}

// index is text/template's, but that a key which is not in a map is an error.
func index(item any, keys ...any) (any, error) {
	for _, key := range keys {
		value := reflect.ValueOf(item)
		for value.Kind() == reflect.Interface || value.Kind() == reflect.Pointer {
			value = value.Elem()
		}
		at := reflect.ValueOf(key)
		switch value.Kind() {
		case reflect.Map:
			if !at.IsValid() || !at.Type().AssignableTo(value.Type().Key()) {
				return nil, fmt.Errorf("index: a key of %s cannot be %v", value.Type(), key)
			}
			found := value.MapIndex(at)
			if !found.IsValid() {
				return nil, fmt.Errorf("there is no key %q", fmt.Sprint(key))
			}
			item = found.Interface()
		case reflect.Slice, reflect.Array, reflect.String:
			if !at.IsValid() || !at.CanInt() || at.Int() < 0 || at.Int() >= int64(value.Len()) {
				return nil, fmt.Errorf("index: there is no element %v of %d", key, value.Len())
			}
			item = value.Index(int(at.Int())).Interface()
		default:
			return nil, fmt.Errorf("index: %T has no elements", item)
		}
	}
	return item, nil
}

// arithmetic functions take numbers, and texts that are numbers; the library takes any other text for zero.
var arithmetic = strings.Fields("atoi int int64 float64 add add1 sub mul div mod max min ceil floor round")

func checkNumbers(args []reflect.Value) error {
	for _, arg := range args {
		for arg.Kind() == reflect.Interface && !arg.IsNil() {
			arg = arg.Elem()
		}
		switch arg.Kind() {
		case reflect.Slice:
			elements := make([]reflect.Value, arg.Len())
			for i := range elements {
				elements[i] = arg.Index(i)
			}
			if err := checkNumbers(elements); err != nil {
				return err
			}
		case reflect.String:
			if _, err := strconv.ParseFloat(arg.String(), 64); err != nil {
				return errors.New("it is given a text that is no number")
			}
		case reflect.Interface, reflect.Invalid, reflect.Map:
			return errors.New("it is given something that is no number")
		}
	}
	return nil
}

// maxProduct bounds the product of the sizes of a function's two largest texts: what replace and join
// could make of them at most.
const maxProduct = 64 << 20

// bytesPerStep is how much of their arguments functions go through in one step.
const bytesPerStep = 64

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
		"index":       index,
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
	largest, second, sum, elements := 1, 1, 0, 0
	for _, arg := range args {
		n := size(arg, 0)
		largest, second, sum = max(largest, n), max(second, min(largest, n)), sum+n
		for arg.Kind() == reflect.Interface && !arg.IsNil() {
			arg = arg.Elem()
		}
		if arg.Kind() == reflect.Slice {
			elements = max(elements, arg.Len())
		}
	}
	if largest*second > maxProduct {
		return ErrTooMuch
	}
	// What it takes depends on what it is given: a step is roughly a microsecond's tenth.
	weight := 1 + sum/bytesPerStep
	switch {
	case strings.HasPrefix(name, "regex"):
		weight += largest / bytesPerStep * second
	case name == "uniq" || name == "without" || name == "has":
		weight += elements * elements / bytesPerStep
	}
	if _, err := b.step(weight); err != nil {
		return err
	}
	if slices.Contains(arithmetic, name) {
		return checkNumbers(args)
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
	const one = 16 // What a value costs besides its content.
	if depth > maxIncludes {
		return MaxBytes + 1 // It holds itself.
	}
	total := one
	switch value.Kind() {
	case reflect.String:
		return one + value.Len()
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
	text, err := b.printer(func(all ...any) string { return fmt.Sprintf(format, all[1:]...) })(append([]any{format}, args...)...)
	if mistake := badVerb.FindString(text); err == nil && mistake != "" && !strings.Contains(format, "%%!") {
		for _, arg := range args {
			if strings.Contains(fmt.Sprint(arg), mistake) {
				return text, nil // It was given so.
			}
		}
		return "", errors.New("printf: the format and what it is given do not fit: " + mistake + "…")
	}
	return text, err
}

// badVerb is how fmt tells mistakes.
var badVerb = regexp.MustCompile(`%!([a-zA-Z]\(|\()`)
