package envschema

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"net"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
)

// types read a value: the result is what templates see. Errors do not repeat the value; Check adds it
// where it is no secret.
var types = map[string]func(v *Variable, text string) (any, error){
	"string":   func(_ *Variable, text string) (any, error) { return text, nil },
	"int":      parseInt,
	"float":    parseFloat,
	"bool":     parseBool,
	"duration": asText(func(text string) error { _, err := parseDuration(text); return err }),
	"bytes":    asText(func(text string) error { _, err := parseBytes(text); return err }),
	"url":      asText(checkURL),
	"hostport": asText(checkHostPort),
	"host":     asText(checkHost),
	"port":     parsePort,
	"path":     asText(checkPath),
	"regexp":   asText(checkRegexp),
	"enum":     parseEnum,
}

// measures turn a value into a number that min, max and ascending compare.
var measures = map[string]func(text string) (float64, error){
	"int":      func(text string) (float64, error) { n, err := parseInt(nil, text); return toFloat(n), err },
	"port":     func(text string) (float64, error) { n, err := parsePort(nil, text); return toFloat(n), err },
	"float":    func(text string) (float64, error) { n, err := parseFloat(nil, text); return toFloat(n), err },
	"duration": func(text string) (float64, error) { d, err := parseDuration(text); return d.Seconds(), err },
	"bytes":    parseBytes,
	"list":     func(text string) (float64, error) { n, err := parseInt(nil, text); return toFloat(n), err },
}

func init() { types["list"] = parseList } // It looks up the type of its elements.

// Types are the names of all types.
func Types() []string { return slices.Sorted(maps.Keys(types)) }

func measured() []string { return slices.Sorted(maps.Keys(measures)) }

func toFloat(n any) float64 {
	switch n := n.(type) {
	case int:
		return float64(n)
	case float64:
		return n
	default:
		return 0
	}
}

// parse reads a value of the variable and checks its bounds and pattern.
func (v *Variable) parse(text string) (any, error) {
	value, err := types[v.Type](v, text)
	if err != nil {
		return nil, err
	}
	if v.pattern != nil && !v.pattern.MatchString(text) {
		return nil, fmt.Errorf("does not match %s", v.Pattern)
	}
	if v.Min == "" && v.Max == "" {
		return value, nil
	}
	size := 0.0
	if list, ok := value.([]string); ok {
		size = float64(len(list))
	} else if size, err = measures[v.Type](text); err != nil {
		return nil, err
	}
	what := ""
	if v.Type == "list" {
		what = " elements"
	}
	if low, _ := v.measureBound(v.Min); v.Min != "" && size < low {
		return nil, fmt.Errorf("is less than %s%s", v.Min, what)
	}
	if high, _ := v.measureBound(v.Max); v.Max != "" && size > high {
		return nil, fmt.Errorf("is more than %s%s", v.Max, what)
	}
	return value, nil
}

func (v *Variable) measureBound(bound string) (float64, error) { return measures[v.Type](bound) }

func asText(check func(string) error) func(*Variable, string) (any, error) {
	return func(_ *Variable, text string) (any, error) { return text, check(text) }
}

func parseInt(_ *Variable, text string) (any, error) {
	n, err := strconv.Atoi(text)
	if err != nil {
		return nil, errors.New("is not a whole number")
	}
	return n, nil
}

func parseFloat(_ *Variable, text string) (any, error) {
	n, err := strconv.ParseFloat(text, 64)
	if err != nil || math.IsNaN(n) || math.IsInf(n, 0) {
		return nil, errors.New("is not a number")
	}
	return n, nil
}

func parseBool(_ *Variable, text string) (any, error) {
	switch strings.ToLower(text) {
	case "true", "yes", "on", "1":
		return true, nil
	case "false", "no", "off", "0":
		return false, nil
	}
	return nil, errors.New("is neither true (yes, on, 1) nor false (no, off, 0)")
}

func parsePort(_ *Variable, text string) (any, error) {
	n, err := strconv.ParseUint(text, 10, 16)
	if err != nil || n == 0 {
		return nil, errors.New("is not a port: a number from 1 to 65535")
	}
	return int(n), nil
}

func parseDuration(text string) (time.Duration, error) {
	d, err := time.ParseDuration(text)
	if err != nil {
		return 0, errors.New("is not a duration like 300ms, 10s, 5m or 1h30m")
	}
	return d, nil
}

var byteSize = regexp.MustCompile(`^(\d+(?:\.\d+)?)\s*([kKmMgGtT]i?)?[bB]?$`)

// parseBytes reads 10, 64k, 10M, 1.5GiB. nginx and many others mean 1024 by k, and so does this.
func parseBytes(text string) (float64, error) {
	match := byteSize.FindStringSubmatch(text)
	if match == nil {
		return 0, errors.New("is not a number of bytes like 512, 64k, 10M or 1.5GiB")
	}
	n, err := strconv.ParseFloat(match[1], 64)
	if err != nil {
		return 0, errors.New("is not a number of bytes")
	}
	unit := 0
	if match[2] != "" {
		unit = 1 + strings.IndexByte("kmgt", strings.ToLower(match[2])[0])
	}
	return n * math.Pow(1024, float64(unit)), nil
}

func checkURL(text string) error {
	u, err := url.Parse(text)
	if err != nil || u.Scheme == "" || u.Hostname() == "" {
		return errors.New("is not a URL like https://example.com/path")
	}
	if port := u.Port(); port != "" {
		_, err = parsePort(nil, port)
	}
	return err
}

var (
	// Labels may have a _, as services in DNS do.
	hostName = regexp.MustCompile(`^[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?(\.[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?)*\.?$`)
	// A name that ends in a number is an address (WHATWG URL, 3.5), and 999.1.1.1 is none.
	endsInNumber = regexp.MustCompile(`(^|\.)[0-9]+\.?$`)
)

func checkHost(text string) error {
	address := text
	if inner, ok := strings.CutPrefix(text, "["); ok && strings.HasSuffix(inner, "]") && strings.Contains(inner, ":") {
		address = strings.TrimSuffix(inner, "]")
	}
	if net.ParseIP(address) == nil && (len(text) > 253 || !hostName.MatchString(text) || endsInNumber.MatchString(text)) {
		return errors.New("is not a host name or an address")
	}
	return nil
}

func checkHostPort(text string) error {
	host, port, err := net.SplitHostPort(text)
	if err != nil {
		return errors.New("is not HOST:PORT")
	}
	if err := checkHost(host); err != nil {
		return err
	}
	_, err = parsePort(nil, port)
	return err
}

func checkPath(text string) error {
	if !strings.HasPrefix(text, "/") || strings.ContainsFunc(text, unicode.IsControl) {
		return errors.New("is not an absolute path, or holds control characters")
	}
	return nil
}

func checkRegexp(text string) error {
	if _, err := regexp.Compile(text); err != nil {
		return errors.New("is not a regular expression (RE2)")
	}
	return nil
}

func parseEnum(v *Variable, text string) (any, error) {
	if !slices.Contains(v.Values, text) {
		if near := Nearest(text, v.Values); near != "" {
			return nil, fmt.Errorf("is not one of %s; %s?", strings.Join(v.Values, ", "), near)
		}
		return nil, fmt.Errorf("is not one of %s", strings.Join(v.Values, ", "))
	}
	return text, nil
}

// parseList splits and trims; an empty text is an empty list.
func parseList(v *Variable, text string) (any, error) {
	result := []string{}
	if strings.TrimSpace(text) == "" {
		return result, nil
	}
	for i, element := range strings.Split(text, v.Separator) {
		element = strings.TrimSpace(element)
		if element == "" {
			return nil, fmt.Errorf("element %d is empty", i+1)
		}
		if _, err := types[v.Of](v, element); err != nil {
			return nil, fmt.Errorf("element %d %w", i+1, err)
		}
		result = append(result, element)
	}
	return result, nil
}

// Nearest is the candidate that is most like a name, or empty if none is.
func Nearest(name string, candidates []string) string {
	// A third of a name may differ: short names are like too many others.
	best, nearest := len(name)/3+1, ""
	for _, candidate := range candidates {
		if d := distance(strings.ToLower(name), strings.ToLower(candidate), best); d < best {
			best, nearest = d, candidate
		}
	}
	return nearest
}

// distance is the number of insertions, deletions, replacements and swaps of neighbours between two
// texts (optimal string alignment), or limit if it is that or more.
func distance(a, b string, limit int) int {
	if len(a)-len(b) >= limit || len(b)-len(a) >= limit || len(a) > 256 {
		return limit
	}
	before, row := make([]int, len(b)+1), make([]int, len(b)+1)
	next := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		next[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			next[j+1] = min(row[j]+cost, row[j+1]+1, next[j]+1)
			if i > 0 && j > 0 && a[i] == b[j-1] && a[i-1] == b[j] {
				next[j+1] = min(next[j+1], before[j-1]+1)
			}
		}
		before, row, next = row, next, before
	}
	return row[len(b)]
}
