package render

import (
	"fmt"
	"strconv"
	"strings"
)

// maxNesting bounds how deep defaults hold defaults.
const maxNesting = 20

// reference is one ${…}.
type reference struct {
	name string
	line int
	// op is empty, or one of - ? + with a colon before it or not (POSIX 2.6.2).
	op string
	// word is what stands after op.
	word []piece
}

// piece is a text, or a reference when ref is not nil.
type piece struct {
	text string
	ref  *reference
}

// parser reads the ${…} of a text.
type parser struct {
	name, text string
	at, line   int
}

// parseEnvsubst splits a text into pieces. The error is of type *Error.
func parseEnvsubst(name, text string) ([]piece, error) {
	p := &parser{name: name, text: text, line: 1}
	return p.pieces(0)
}

func (p *parser) fail(line int, format string, args ...any) error {
	return &Error{Name: p.name, Line: strconv.Itoa(line), Problem: fmt.Sprintf(format, args...)}
}

// pieces reads to the end, or to the closing brace of the default that it is in.
func (p *parser) pieces(depth int) ([]piece, error) {
	var result []piece
	var text strings.Builder
	flush := func() {
		if text.Len() > 0 {
			result = append(result, piece{text: text.String()})
			text.Reset()
		}
	}
	special := "$"
	if depth > 0 {
		special = `$}\`
	}
	for p.at < len(p.text) {
		rest := p.text[p.at:]
		plain := strings.IndexAny(rest, special)
		if plain < 0 {
			plain = len(rest)
		}
		if plain > 0 {
			text.WriteString(rest[:plain])
			p.line += strings.Count(rest[:plain], "\n")
			p.at += plain
			continue
		}
		switch {
		case strings.HasPrefix(rest, "$${"):
			text.WriteString("${")
			p.at += 3
		case strings.HasPrefix(rest, "${"):
			flush()
			ref, err := p.reference(depth)
			if err != nil {
				return nil, err
			}
			result = append(result, piece{ref: ref})
		case depth > 0 && rest[0] == '}':
			flush()
			return result, nil
		case depth > 0 && strings.HasPrefix(rest, `\}`):
			text.WriteByte('}')
			p.at += 2
		default: // One of the special ones that means itself.
			text.WriteByte(rest[0])
			p.at++
		}
	}
	flush()
	return result, nil
}

func (p *parser) reference(depth int) (*reference, error) {
	ref := &reference{line: p.line}
	if depth == maxNesting {
		return nil, p.fail(ref.line, "defaults hold defaults more than %d deep", maxNesting)
	}
	p.at += len("${")
	start := p.at
	for p.at < len(p.text) && isNameByte(p.text[p.at], p.at > start) {
		p.at++
	}
	if ref.name = p.text[start:p.at]; ref.name == "" {
		return nil, p.fail(ref.line, "a variable's name must follow ${; write $${ for a literal ${")
	}
	for _, op := range []string{":-", ":?", ":+", "-", "?", "+"} {
		if strings.HasPrefix(p.text[p.at:], op) {
			ref.op = op
			p.at += len(op)
			word, err := p.pieces(depth + 1)
			if err != nil {
				return nil, err
			}
			ref.word = word
			break
		}
	}
	if p.at == len(p.text) {
		return nil, p.fail(ref.line, "${%s is not closed by }", ref.name)
	}
	if p.text[p.at] != '}' {
		return nil, p.fail(ref.line, "${%s is followed by %q; only }, :-, :?, :+, -, ? and + can be; write $${ for a literal ${", ref.name, p.text[p.at])
	}
	p.at++
	return ref, nil
}

func isNameByte(c byte, digits bool) bool {
	return c == '_' || 'A' <= c && c <= 'Z' || 'a' <= c && c <= 'z' || digits && '0' <= c && c <= '9'
}

// substitute renders a template with ${…}. The failures are all that is wrong.
func (t *Template) substitute(environment map[string]any, budget *Budget) (string, []error) {
	pieces, err := parseEnvsubst(t.Name, t.Text)
	if err != nil {
		return "", []error{err}
	}
	out := &boundedBuffer{}
	s := substitution{template: t, environment: environment, budget: budget}
	if err := s.write(out, pieces); err != nil {
		s.failures = append(s.failures, err)
	}
	return out.String(), s.failures
}

type substitution struct {
	template    *Template
	environment map[string]any
	budget      *Budget
	failures    []error
}

func (s *substitution) write(out *boundedBuffer, pieces []piece) error {
	for _, p := range pieces {
		text := p.text
		if p.ref != nil {
			value, err := s.value(p.ref)
			if err != nil {
				return err
			}
			text = value
		}
		if _, err := out.WriteString(text); err != nil {
			return &Error{Name: s.template.Name, Problem: err.Error()}
		}
	}
	return nil
}

// value notes a variable that is not set and goes on with nothing; an error ends the rendering.
func (s *substitution) value(ref *reference) (string, error) {
	raw, known := s.environment[ref.name]
	set := known && raw != nil // What is nil is declared, and not set.
	value := Plain(raw)
	if known && !set && ref.op == "" {
		return "", nil
	}
	// With a colon, an empty value counts like none.
	there := set && (value != "" || !strings.HasPrefix(ref.op, ":"))
	switch kind := strings.TrimPrefix(ref.op, ":"); {
	case kind == "+" && there, kind == "-" && !there:
		return s.word(ref)
	case kind == "+":
		return "", nil
	case there:
		return value, nil
	}
	problem := "variable " + ref.name + " is not set"
	if set {
		problem = "variable " + ref.name + " is empty"
	}
	message, err := s.word(ref)
	if message != "" {
		problem += ": " + message
	}
	if len(s.failures) < maxMissing {
		s.failures = append(s.failures, &Error{Name: s.template.Name, Line: strconv.Itoa(ref.line), Variable: ref.name, Problem: problem})
	}
	return "", err
}

func (s *substitution) word(ref *reference) (string, error) {
	out := &boundedBuffer{}
	if err := s.write(out, ref.word); err != nil {
		return "", err
	}
	text, err := s.budget.spend(out.String())
	if err != nil {
		return "", &Error{Name: s.template.Name, Problem: err.Error()}
	}
	return text, nil
}

// Plain is a value of an environment as a text: a list with commas, nil as nothing.
func Plain(value any) string {
	switch v := value.(type) {
	case nil:
		return ""
	case []string:
		return strings.Join(v, ",")
	default:
		return fmt.Sprint(v)
	}
}
