package tpl

import (
	"html"
	"strings"
)

// Program is a compiled template. It is immutable.
type Program struct{ nodes []node }

// Compile compiles the file name of files with the constants of the theme.
func Compile(files map[string]string, name string, constants map[string]string) (*Program, error) {
	nodes, err := (&parser{files: files}).parse(name)
	if err != nil {
		return nil, err
	}
	if nodes, err = fold(nodes, constants); err != nil {
		return nil, err
	}
	return &Program{join(nodes)}, nil
}

// fold replaces constants and decides the conditions that only need them.
func fold(nodes []node, constants map[string]string) ([]node, error) {
	var out []node
	for _, n := range nodes {
		var err error
		switch n.kind {
		case nodeText:
			n.text = collapse(n.text)
		case nodeConstant:
			value, ok := constants[n.text]
			if !ok {
				return nil, &Error{n.file, n.line, "the theme has no constant " + n.text}
			}
			n = node{kind: nodeText, text: html.EscapeString(value)}
		case nodeIf, nodeEach:
			if n.body, err = fold(n.body, constants); err != nil {
				return nil, err
			}
			if n.other, err = fold(n.other, constants); err != nil {
				return nil, err
			}
			if n.constant {
				taken := n.body
				if (constants[n.text] != "") == n.not {
					taken = n.other
				}
				out = append(out, taken...)
				continue
			}
		}
		out = append(out, n)
	}
	return out, nil
}

// collapse makes each run of white space one space, and removes those between tags.
func collapse(text string) string {
	var b strings.Builder
	b.Grow(len(text))
	space := false
	for i := 0; i < len(text); i++ {
		c := text[i]
		if c == ' ' || c == '\n' || c == '\t' || c == '\r' {
			space = true
			continue
		}
		if space {
			previous := byte(0)
			if b.Len() > 0 {
				previous = b.String()[b.Len()-1]
			}
			if c != '<' || previous != '>' && previous != 0 {
				b.WriteByte(' ')
			}
			space = false
		}
		b.WriteByte(c)
	}
	if out := b.String(); !space || strings.HasSuffix(out, ">") {
		return out
	}
	if b.Len() == 0 {
		return " "
	}
	return b.String() + " "
}

// join makes one text of neighbours.
func join(nodes []node) []node {
	var out []node
	for _, n := range nodes {
		n.body, n.other = join(n.body), join(n.other)
		n.file, n.line = "", 0
		if last := len(out) - 1; n.kind == nodeText && last >= 0 && out[last].kind == nodeText {
			out[last].text += n.text
			continue
		}
		if n.kind == nodeText && n.text == "" {
			continue
		}
		out = append(out, n)
	}
	return out
}
