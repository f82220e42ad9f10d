package tpl

import (
	"fmt"
	"regexp"
	"sort"
	"strconv"
	"strings"
)

// Style compiles a style sheet: $variables, nested rules with & for the parent, lighten(c, n%) and
// darken(c, n%), comments. Declarations of the same selector within one @media are merged, the last
// of a property wins, and the output is minified.
func Style(file, source string) (string, error) {
	s := &styler{file: file, source: source, line: 1, variables: map[string]string{}, index: map[string]int{}}
	if err := s.rules("", "", 0); err != nil {
		return "", err
	}
	return s.output(), nil
}

type styler struct {
	file, source string
	line         int
	variables    map[string]string
	collected    []styleRule
	index        map[string]int
}

type styleRule struct {
	media, selector string
	properties      []string
	values          map[string]string
}

func (s *styler) problem(format string, arguments ...any) error {
	return &Error{s.file, s.line, fmt.Sprintf(format, arguments...)}
}

// next returns the text before the next ; { or } and that sign, 0 at the end. Comments are skipped.
func (s *styler) next() (string, byte, error) {
	var text strings.Builder
	for len(s.source) > 0 {
		c := s.source[0]
		if strings.HasPrefix(s.source, "/*") {
			end := strings.Index(s.source, "*/")
			if end < 0 {
				return "", 0, s.problem("the comment is not closed")
			}
			s.line += strings.Count(s.source[:end], "\n")
			s.source = s.source[end+2:]
			continue
		}
		s.source = s.source[1:]
		if c == '\n' {
			s.line++
		}
		if c == ';' || c == '{' || c == '}' {
			return strings.Join(strings.Fields(text.String()), " "), c, nil
		}
		text.WriteByte(c)
	}
	return strings.Join(strings.Fields(text.String()), " "), 0, nil
}

// rules reads declarations and rules up to the end of the block that selector stands for.
func (s *styler) rules(media, selector string, depth int) error {
	if depth > maxDepth {
		return s.problem("nested more than %d deep", maxDepth)
	}
	for {
		text, sign, err := s.next()
		if err != nil {
			return err
		}
		switch sign {
		case '{':
			inner, innerMedia := nested(selector, text), media
			if strings.HasPrefix(text, "@") {
				inner, innerMedia = selector, text
			}
			if err := s.rules(innerMedia, inner, depth+1); err != nil {
				return err
			}
			continue
		case 0:
			if depth > 0 {
				return s.problem("} is missing for %.60q", selector)
			}
		case '}':
			if depth == 0 {
				return s.problem("} without {")
			}
		}
		if text != "" {
			if err := s.declare(media, selector, text); err != nil {
				return err
			}
		}
		if sign != ';' {
			return nil
		}
	}
}

// nested returns the selectors of a rule within another.
func nested(parent, selector string) string {
	var out []string
	for _, inner := range strings.Split(selector, ",") {
		inner = strings.TrimSpace(inner)
		for _, outer := range strings.Split(parent, ",") {
			switch {
			case parent == "":
				out = append(out, inner)
			case strings.Contains(inner, "&"):
				out = append(out, strings.ReplaceAll(inner, "&", outer))
			default:
				out = append(out, outer+" "+inner)
			}
		}
	}
	return strings.Join(out, ",")
}

func (s *styler) declare(media, selector, text string) error {
	name, value, ok := strings.Cut(text, ":")
	if !ok {
		return s.problem("%.60q is no declaration", text)
	}
	name = strings.TrimSpace(name)
	value, err := s.value(strings.TrimSpace(value))
	if err != nil {
		return err
	}
	if strings.HasPrefix(name, "$") {
		s.variables[name[1:]] = value
		return nil
	}
	if selector == "" {
		return s.problem("%s is outside of a rule", name)
	}
	key := media + "\x00" + selector
	at, ok := s.index[key]
	if !ok {
		at = len(s.collected)
		s.index[key] = at
		s.collected = append(s.collected, styleRule{media: media, selector: selector, values: map[string]string{}})
	}
	rule := &s.collected[at]
	if _, ok := rule.values[name]; !ok {
		rule.properties = append(rule.properties, name)
	}
	rule.values[name] = value
	return nil
}

var (
	styleVariable = regexp.MustCompile(`\$[a-z][a-z0-9-]*`)
	styleFunction = regexp.MustCompile(`(lighten|darken)\((#[0-9a-f]{6}), ?([0-9]+)%\)`)
	styleZero     = regexp.MustCompile(`(^|[ ,(])0(?:px|em|rem)\b`)
	styleComma    = regexp.MustCompile(` ?, ?`)
)

// value puts variables and functions in place and shortens the rest.
func (s *styler) value(text string) (string, error) {
	var missing string
	if strings.Contains(text, "$") {
		text = styleVariable.ReplaceAllStringFunc(text, func(name string) string {
			value, ok := s.variables[name[1:]]
			if !ok {
				missing = name
			}
			return value
		})
	}
	if missing != "" {
		return "", s.problem("the variable %s is not set", missing)
	}
	if strings.Contains(text, "en(") {
		text = styleFunction.ReplaceAllStringFunc(text, func(call string) string {
			m := styleFunction.FindStringSubmatch(call)
			percent, _ := strconv.Atoi(m[3])
			return shade(m[2], m[1] == "lighten", percent)
		})
	}
	text = styleZero.ReplaceAllString(text, "${1}0")
	return styleComma.ReplaceAllString(text, ","), nil
}

// shade moves a colour towards white or black.
func shade(color string, lighter bool, percent int) string {
	out := "#"
	for i := 1; i < 7; i += 2 {
		part, _ := strconv.ParseUint(color[i:i+2], 16, 8)
		target := 0
		if lighter {
			target = 255
		}
		mixed := int(part) + (target-int(part))*min(percent, 100)/100
		out += fmt.Sprintf("%02x", mixed)
	}
	return out
}

// output writes all rules, those of each @media together and after those of none.
func (s *styler) output() string {
	sort.SliceStable(s.collected, func(i, j int) bool { return s.collected[i].media < s.collected[j].media })
	var b strings.Builder
	media := ""
	for _, rule := range s.collected {
		if rule.media != media {
			if media != "" {
				b.WriteByte('}')
			}
			b.WriteString(rule.media)
			b.WriteByte('{')
			media = rule.media
		}
		b.WriteString(rule.selector)
		b.WriteByte('{')
		for i, property := range rule.properties {
			if i > 0 {
				b.WriteByte(';')
			}
			b.WriteString(property)
			b.WriteByte(':')
			b.WriteString(rule.values[property])
		}
		b.WriteByte('}')
	}
	if media != "" {
		b.WriteByte('}')
	}
	return b.String()
}
