package proxy

import (
	"fmt"
	"net/http"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Text is a text with variables of the request: ${host}, ${header:Accept-Language}. $$ is a dollar. The variables:
//
//	client       address of the client, as far as trusted proxies tell
//	host         host of the request, in lower case and without a port
//	method       of the request
//	path         decoded path
//	uri          path and query as the client sent them
//	scheme       http or https
//	shop, plan   of the domain's record; empty without
//	label:NAME   label of the domain's record
//	header:NAME  header of the request
//	cookie:NAME  cookie of the request
//	role         that serves the request; empty before one is found
//	request_id   as in X-Request-Id
type Text struct {
	source string
	parts  []textPart
}

type textPart struct {
	text  string
	value func(e *exchange) string
}

// variables are those without an argument.
var variables = map[string]func(e *exchange) string{
	"client": func(e *exchange) string { return e.client.String() },
	"host":   func(e *exchange) string { return e.host },
	"method": func(e *exchange) string { return e.request.Method },
	"path":   func(e *exchange) string { return e.request.URL.Path },
	"uri":    func(e *exchange) string { return e.request.URL.RequestURI() },
	"scheme": func(e *exchange) string { return e.scheme() },
	"shop":   func(e *exchange) string { return e.shop() },
	"plan": func(e *exchange) string {
		if e.domain == nil {
			return ""
		}
		return e.domain.Options.Plan
	},
	"role": func(e *exchange) string {
		if e.role == nil {
			return ""
		}
		return e.role.name
	},
	"request_id": func(e *exchange) string { return e.id() },
}

// arguments are variables that take one.
var arguments = map[string]func(argument string) func(e *exchange) string{
	"label": func(name string) func(*exchange) string {
		return func(e *exchange) string {
			if e.domain == nil {
				return ""
			}
			return e.domain.Labels[name]
		}
	},
	"header": func(name string) func(*exchange) string {
		name = http.CanonicalHeaderKey(name)
		return func(e *exchange) string { return e.request.Header.Get(name) }
	},
	"cookie": func(name string) func(*exchange) string {
		return func(e *exchange) string {
			if cookie, err := e.request.Cookie(name); err == nil {
				return cookie.Value
			}
			return ""
		}
	},
}

func parseText(source string) (Text, error) {
	text := Text{source: source}
	for rest := source; rest != ""; {
		plain, after, found := strings.Cut(rest, "$")
		if plain != "" {
			text.parts = append(text.parts, textPart{text: plain})
		}
		if !found {
			break
		}
		switch {
		case strings.HasPrefix(after, "$"):
			text.parts = append(text.parts, textPart{text: "$"})
			rest = after[1:]
		case strings.HasPrefix(after, "{"):
			name, behind, closed := strings.Cut(after[1:], "}")
			if !closed {
				return text, fmt.Errorf("the ${ in %q is not closed", source)
			}
			value, err := variable(name)
			if err != nil {
				return text, err
			}
			text.parts = append(text.parts, textPart{value: value})
			rest = behind
		default:
			return text, fmt.Errorf("a $ in %q is no variable: write ${NAME}, or $$ for a dollar", source)
		}
	}
	return text, nil
}

func variable(name string) (func(*exchange) string, error) {
	if value := variables[name]; value != nil {
		return value, nil
	}
	kind, argument, ok := strings.Cut(name, ":")
	if make := arguments[kind]; ok && make != nil && argument != "" {
		return make(argument), nil
	}
	var known []string
	for name := range variables {
		known = append(known, name)
	}
	for name := range arguments {
		known = append(known, name+":NAME")
	}
	slices.Sort(known)
	return nil, fmt.Errorf("there is no variable %q: want one of %s", name, strings.Join(known, ", "))
}

// UnmarshalYAML implements yaml.Unmarshaler.
func (t *Text) UnmarshalYAML(node *yaml.Node) error {
	parsed, err := parseText(node.Value)
	if err != nil {
		return lineError(node, "%v", err)
	}
	*t = parsed
	return nil
}

// of returns the text for a request.
func (t *Text) of(e *exchange) string {
	switch len(t.parts) {
	case 0:
		return ""
	case 1:
		if t.parts[0].value == nil {
			return t.parts[0].text
		}
		return t.parts[0].value(e)
	}
	var b strings.Builder
	for _, part := range t.parts {
		if part.value != nil {
			b.WriteString(part.value(e))
		} else {
			b.WriteString(part.text)
		}
	}
	return b.String()
}
