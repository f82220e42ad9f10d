package envschema

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// ParseFile reads an env file: NAME=VALUE lines, empty lines, # comments, an export before the name.
// A value in single quotes is taken as it is, one in double quotes with Go's escapes (\n, \", \\);
// without quotes it goes to the end of the line, but for spaces. A comment may follow quotes. name stands for the file in
// errors, which are all that is wrong.
func ParseFile(name, content string) (map[string]string, []error) {
	result := map[string]string{}
	var problems []error
	content = strings.TrimPrefix(content, "\ufeff")
	for i, line := range strings.Split(content, "\n") {
		line = strings.TrimSpace(strings.TrimSuffix(line, "\r"))
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		fail := func(format string, args ...any) {
			problems = append(problems, fmt.Errorf("%s line %d: %s", name, i+1, fmt.Sprintf(format, args...)))
		}
		key, value, ok := strings.Cut(exported.ReplaceAllString(line, ""), "=")
		key = strings.TrimSpace(key)
		if !ok || !variableName.MatchString(key) {
			fail("is not NAME=VALUE")
			continue
		}
		if _, twice := result[key]; twice {
			fail("%s is there twice", key)
		}
		value, ok = unquote(strings.TrimSpace(value))
		if !ok {
			fail("the quotes of %s do not match", key)
		}
		result[key] = value
	}
	return result, problems
}

// exported is what shells write before a name.
var exported = regexp.MustCompile(`^export[ \t]+`)

// comment is what may follow a value in quotes.
var comment = regexp.MustCompile(`[ \t]+#.*$`)

func unquote(value string) (string, bool) {
	if value == "" || value[0] != '\'' && value[0] != '"' {
		return value, true
	}
	if plain := comment.ReplaceAllString(value, ""); len(plain) > 1 && plain[len(plain)-1] == value[0] {
		value = plain
	}
	if len(value) < 2 || value[len(value)-1] != value[0] {
		return value, false
	}
	if value[0] == '\'' {
		return value[1 : len(value)-1], true
	}
	plain, err := strconv.Unquote(value)
	return plain, err == nil
}
