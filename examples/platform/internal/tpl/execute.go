package tpl

import (
	"fmt"
	"html"
	"slices"
	"strconv"
	"strings"
)

// HTML is text that is HTML already.
type HTML string

// Data are the values of a template: string, HTML, int, int64, bool, Data and []Data.
type Data map[string]any

// Execute appends the program's output over the data.
func (p *Program) Execute(out []byte, data Data) ([]byte, error) {
	return execute(out, p.nodes, []Data{data})
}

func execute(out []byte, nodes []node, scopes []Data) ([]byte, error) {
	for _, n := range nodes {
		if n.kind == nodeText {
			out = append(out, n.text...)
			continue
		}
		value, found := resolve(scopes, n.text)
		var err error
		switch {
		case n.kind == nodeIf:
			branch := n.body
			if truth(value) == n.not {
				branch = n.other
			}
			out, err = execute(out, branch, scopes)
		case !found:
			err = fmt.Errorf("template: there is no value %s", n.text)
		case n.kind == nodeValue:
			out, err = appendValue(out, n.text, value)
		case n.kind == nodeEach:
			items, ok := value.([]Data)
			if !ok {
				return nil, fmt.Errorf("template: %s is no list", n.text)
			}
			for _, item := range items {
				if out, err = execute(out, n.body, append(slices.Clip(scopes), Data{n.variable: item})); err != nil {
					break
				}
			}
		}
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}

func resolve(scopes []Data, path string) (any, bool) {
	first, rest, more := strings.Cut(path, ".")
	for i := len(scopes) - 1; i >= 0; i-- {
		value, found := scopes[i][first]
		if !found {
			continue
		}
		for more && found {
			inner, ok := value.(Data)
			if !ok {
				return nil, false
			}
			first, rest, more = strings.Cut(rest, ".")
			value, found = inner[first]
		}
		return value, found
	}
	return nil, false
}

func truth(value any) bool {
	switch v := value.(type) {
	case string:
		return v != ""
	case HTML:
		return v != ""
	case bool:
		return v
	case int:
		return v != 0
	case int64:
		return v != 0
	case []Data:
		return len(v) > 0
	case Data:
		return len(v) > 0
	}
	return false
}

func appendValue(out []byte, path string, value any) ([]byte, error) {
	switch v := value.(type) {
	case HTML:
		return append(out, v...), nil
	case string:
		return append(out, html.EscapeString(v)...), nil
	case int:
		return strconv.AppendInt(out, int64(v), 10), nil
	case int64:
		return strconv.AppendInt(out, v, 10), nil
	}
	return nil, fmt.Errorf("template: %s is a %T, which cannot be shown", path, value)
}
