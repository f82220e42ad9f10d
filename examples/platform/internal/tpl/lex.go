package tpl

import (
	"fmt"
	"strings"
)

type tokenKind int

const (
	tokenText tokenKind = iota
	tokenTag
)

// token is a piece of text, or the inside of a tag without its braces.
type token struct {
	kind tokenKind
	text string
	line int
}

// Error says where a template is wrong.
type Error struct {
	File    string
	Line    int
	Problem string
}

func (e *Error) Error() string { return fmt.Sprintf("%s line %d: %s", e.File, e.Line, e.Problem) }

// lex splits a template into text and tags.
func lex(file, source string) ([]token, error) {
	var tokens []token
	line := 1
	for len(source) > 0 {
		start := tagStart(source)
		if start > 0 {
			tokens = append(tokens, token{tokenText, source[:start], line})
			line += strings.Count(source[:start], "\n")
			source = source[start:]
		}
		if source == "" {
			break
		}
		end, skip := "}", 1
		comment := strings.HasPrefix(source, "{*")
		if comment {
			end, skip = "*}", 2
		}
		length := strings.Index(source[1:], end)
		if length < 0 {
			return nil, &Error{file, line, fmt.Sprintf("the tag %.20q is not closed", source)}
		}
		inside := source[1 : 1+length]
		if !comment {
			tokens = append(tokens, token{tokenTag, strings.TrimSpace(inside), line})
		}
		line += strings.Count(inside, "\n")
		source = source[1+length+skip:]
	}
	return tokens, nil
}

// tagStart returns where the next tag begins, or the length of the source.
func tagStart(source string) int {
	for from := 0; ; {
		i := strings.IndexByte(source[from:], '{')
		if i < 0 || from+i+1 >= len(source) {
			return len(source)
		}
		i += from
		if !strings.ContainsRune(" \t\r\n}", rune(source[i+1])) {
			return i
		}
		from = i + 1
	}
}
