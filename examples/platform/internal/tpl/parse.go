package tpl

import (
	"fmt"
	"regexp"
	"strings"
)

// maxDepth bounds nesting, that of included files and blocks together.
const maxDepth = 32

type nodeKind byte

const (
	nodeText nodeKind = iota + 1
	nodeValue
	nodeConstant // only before optimisation
	nodeIf
	nodeEach
)

// node is a part of a template. Which fields are used depends on its kind.
type node struct {
	kind nodeKind
	// text of nodeText; path of nodeValue, nodeIf and nodeEach; name of nodeConstant.
	text string
	// variable of nodeEach.
	variable string
	// not turns the condition of nodeIf round; constant says that it is about a constant.
	not, constant bool
	body, other   []node
	file          string
	line          int
}

var (
	valueTag    = regexp.MustCompile(`^\$([a-z][A-Za-z0-9]*(?:\.[a-z][A-Za-z0-9]*)*)$`)
	constantTag = regexp.MustCompile(`^#([a-z][A-Za-z0-9]*)#$`)
	ifTag       = regexp.MustCompile(`^if (!?)(?:\$([a-z][A-Za-z0-9.]*)|#([a-z][A-Za-z0-9]*)#)$`)
	eachTag     = regexp.MustCompile(`^foreach \$([a-z][A-Za-z0-9.]*) as \$([a-z][A-Za-z0-9]*)$`)
	includeTag  = regexp.MustCompile(`^include "([a-z0-9/._-]+)"$`)
)

type parser struct {
	files map[string]string
	depth int
}

// parse parses a file and what it includes.
func (p *parser) parse(name string) ([]node, error) {
	source, ok := p.files[name]
	if !ok {
		return nil, fmt.Errorf("template %s does not exist", name)
	}
	tokens, err := lex(name, source)
	if err != nil {
		return nil, err
	}
	block := &block{parser: p, file: name, tokens: tokens}
	nodes, end, err := block.parse()
	if err == nil && end != "" {
		err = block.problem("{%s} without its beginning", end)
	}
	return nodes, err
}

type block struct {
	*parser
	file   string
	tokens []token
	line   int
}

func (b *block) problem(format string, arguments ...any) error {
	return &Error{b.file, b.line, fmt.Sprintf(format, arguments...)}
}

// parse reads nodes until a tag that ends a block, which it returns, or the end of the file.
func (b *block) parse() (nodes []node, end string, err error) {
	if b.depth++; b.depth > maxDepth {
		return nil, "", b.problem("nested more than %d deep; does a file include itself?", maxDepth)
	}
	defer func() { b.depth-- }()
	for len(b.tokens) > 0 {
		t := b.tokens[0]
		b.tokens, b.line = b.tokens[1:], t.line
		if t.kind == tokenText {
			nodes = append(nodes, node{kind: nodeText, text: t.text})
			continue
		}
		if t.text == "else" || strings.HasPrefix(t.text, "/") {
			return nodes, t.text, nil
		}
		more, err := b.tag(t.text)
		if err != nil {
			return nil, "", err
		}
		nodes = append(nodes, more...)
	}
	return nodes, "", nil
}

func (b *block) tag(text string) ([]node, error) {
	at := node{file: b.file, line: b.line}
	if m := valueTag.FindStringSubmatch(text); m != nil {
		at.kind, at.text = nodeValue, m[1]
		return []node{at}, nil
	}
	if m := constantTag.FindStringSubmatch(text); m != nil {
		at.kind, at.text = nodeConstant, m[1]
		return []node{at}, nil
	}
	if m := includeTag.FindStringSubmatch(text); m != nil {
		nodes, err := b.parser.parse(m[1])
		if err != nil {
			return nil, fmt.Errorf("%s line %d: include: %w", b.file, b.line, err)
		}
		return nodes, nil
	}
	if m := eachTag.FindStringSubmatch(text); m != nil {
		at.kind, at.text, at.variable = nodeEach, m[1], m[2]
		return b.blockTag(at, "/foreach", false)
	}
	if m := ifTag.FindStringSubmatch(text); m != nil {
		at.kind, at.not, at.text, at.constant = nodeIf, m[1] == "!", m[2]+m[3], m[3] != ""
		return b.blockTag(at, "/if", true)
	}
	return nil, b.problem("{%.60s} is no tag", text)
}

// blockTag reads the inside of a block up to its end.
func (b *block) blockTag(n node, want string, mayElse bool) ([]node, error) {
	begin := b.line
	body, end, err := b.parse()
	if err != nil {
		return nil, err
	}
	n.body = body
	if end == "else" && mayElse {
		if n.other, end, err = b.parse(); err != nil {
			return nil, err
		}
	}
	switch end {
	case want:
		return []node{n}, nil
	case "":
		return nil, b.problem("{%s} is missing for the block of line %d", want, begin)
	}
	return nil, b.problem("{%s} where {%s} was expected for the block of line %d", end, want, begin)
}
