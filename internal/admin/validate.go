package admin

import (
	"fmt"
	"regexp"
	"sort"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Problem is one thing that is wrong in a configuration. Path leads to it with the names of the
// file, like "roles.shop.url" or "routes[2].role"; the empty path is the whole file. Message is a
// sentence that can follow the path: "names no role: want one of shop, cart".
type Problem struct{ Path, Message string }

// Validator is a configuration that knows what makes sense in it beyond names and types.
// ParseConfig asks it for all problems and adds their lines.
type Validator interface {
	Problems() []Problem
}

// finding is a problem with its line, 0 when it has none.
type finding struct {
	line int
	text string
}

func (f finding) String() string {
	if f.line == 0 {
		return f.text
	}
	return fmt.Sprintf("line %d: %s", f.line, f.text)
}

var (
	lineNumber   = regexp.MustCompile(`^line (\d+): `)
	badDuration  = regexp.MustCompile("^cannot unmarshal !!\\w+ `(.*)` into time.Duration$")
	unknownField = regexp.MustCompile(`^field (\S+) not found in type \S+$`)
)

// typeFinding takes the line out of a message of the YAML decoder and leaves out names of Go types.
func typeFinding(message string) finding {
	var f finding
	if match := lineNumber.FindStringSubmatch(message); match != nil {
		f.line, _ = strconv.Atoi(match[1])
		message = strings.TrimPrefix(message, match[0])
	}
	message = unknownField.ReplaceAllString(message, "unknown field $1")
	f.text = badDuration.ReplaceAllString(message, `"$1" is no time: want one like 10s`)
	return f
}

// validate returns what config itself finds wrong, except on lines that could not be read at all.
func validate(root *yaml.Node, config any, unreadable []finding) []finding {
	validator, ok := config.(Validator)
	if !ok {
		return nil
	}
	skip := map[int]bool{}
	for _, f := range unreadable {
		skip[f.line] = true
	}
	var findings []finding
	for _, problem := range validator.Problems() {
		line, exact := locate(root, problem.Path)
		if exact && skip[line] {
			continue
		}
		text := problem.Message
		if problem.Path != "" {
			text = problem.Path + ": " + text
		}
		findings = append(findings, finding{line, text})
	}
	return findings
}

// locate returns the line of path, or of the nearest thing around it when the file does not have it.
func locate(root *yaml.Node, path string) (line int, exact bool) {
	node := root
	if node.Kind == yaml.DocumentNode && len(node.Content) > 0 {
		node = node.Content[0]
	}
	if path == "" {
		return 0, false
	}
	line = node.Line
	for _, step := range strings.FieldsFunc(path, func(r rune) bool { return r == '.' || r == '[' || r == ']' }) {
		for node.Kind == yaml.AliasNode {
			node = node.Alias
		}
		var next *yaml.Node
		switch node.Kind {
		case yaml.MappingNode:
			for i := 0; i+1 < len(node.Content); i += 2 {
				if node.Content[i].Value == step {
					line, next = node.Content[i].Line, node.Content[i+1]
				}
			}
		case yaml.SequenceNode:
			if i, err := strconv.Atoi(step); err == nil && i < len(node.Content) {
				next = node.Content[i]
				line = next.Line
			}
		}
		if next == nil {
			return line, false
		}
		node = next
	}
	return line, true
}

// sorted orders findings by line and keeps the order of those on one line.
func sorted(findings []finding) []finding {
	sort.SliceStable(findings, func(i, j int) bool { return findings[i].line < findings[j].line })
	return findings
}
