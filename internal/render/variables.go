package render

import (
	"cmp"
	"slices"
	"strconv"
	"strings"
	"text/template/parse"
)

// Use is one place where a template uses a variable.
type Use struct {
	Variable string
	Line     int
	// Partial is the partial that it is in; empty for the template itself.
	Partial string
	// Optional says that the template can do without: it has a default, or asks whether there is one.
	Optional bool
}

// Variables lists the uses of variables in a template, executed or not, by line. Within range and with
// the dot is something else, and only $.NAME counts. What is computed (index . $name) is not found.
func (t *Template) Variables() ([]Use, error) {
	if t.Syntax == Envsubst {
		pieces, err := parseEnvsubst(t.Name, t.Text)
		if err != nil {
			return nil, err
		}
		var uses []Use
		usesOfPieces(pieces, &uses)
		return uses, nil
	}
	r := &run{template: t, budget: &Budget{}}
	parsed, err := t.parse(r.functions())
	if err != nil {
		return nil, err
	}
	var uses []Use
	given := map[string]bool{}
	for _, defined := range parsed.Templates() {
		if defined.Tree != nil {
			givenEnvironment(defined.Root, given)
		}
	}
	for _, defined := range parsed.Templates() {
		if defined.Tree == nil {
			continue
		}
		finder := finder{tree: defined.Tree, uses: &uses, aliases: map[string]bool{}}
		_, partial := t.Partials[defined.Name()]
		if partial {
			finder.partial = defined.Name()
		} else if defined != parsed && !given[defined.Name()] {
			continue // Its dot is what it is called with.
		}
		finder.node(defined.Root, true)
	}
	slices.SortStableFunc(uses, func(a, b Use) int {
		return cmp.Or(strings.Compare(a.Partial, b.Partial), a.Line-b.Line, strings.Compare(a.Variable, b.Variable))
	})
	return uses, nil
}

// givenEnvironment notes the templates that are called with {{ template "name" . }} or $.
func givenEnvironment(node parse.Node, given map[string]bool) {
	switch n := node.(type) {
	case *parse.ListNode:
		if n != nil {
			for _, child := range n.Nodes {
				givenEnvironment(child, given)
			}
		}
	case *parse.IfNode:
		givenEnvironment(n.List, given)
		givenEnvironment(n.ElseList, given)
	case *parse.RangeNode:
		givenEnvironment(n.List, given)
		givenEnvironment(n.ElseList, given)
	case *parse.WithNode:
		givenEnvironment(n.List, given)
		givenEnvironment(n.ElseList, given)
	case *parse.TemplateNode:
		if n.Pipe != nil && (n.Pipe.String() == "." || n.Pipe.String() == "$") {
			given[n.Name] = true
		}
	}
}

func usesOfPieces(pieces []piece, uses *[]Use) {
	for _, p := range pieces {
		if p.ref == nil {
			continue
		}
		kind := strings.TrimPrefix(p.ref.op, ":")
		*uses = append(*uses, Use{Variable: p.ref.name, Line: p.ref.line, Optional: kind == "-" || kind == "+"})
		usesOfPieces(p.ref.word, uses)
	}
}

type finder struct {
	tree    *parse.Tree
	partial string
	uses    *[]Use
	// aliases are variables of the template that are the environment: {{ $e := . }}.
	aliases map[string]bool
}

// is says whether a node is the environment itself.
func (f *finder) is(node parse.Node, dot bool) bool {
	switch n := node.(type) {
	case *parse.DotNode:
		return dot
	case *parse.VariableNode:
		return len(n.Ident) == 1 && (n.Ident[0] == "$" || f.aliases[n.Ident[0]])
	case *parse.PipeNode:
		return len(n.Cmds) == 1 && len(n.Cmds[0].Args) == 1 && f.is(n.Cmds[0].Args[0], dot)
	}
	return false
}

func (f *finder) add(node parse.Node, name string, optional bool) {
	// The context is NAME:LINE:COLUMN; the name may hold colons.
	context, _ := f.tree.ErrorContext(node)
	parts := strings.Split(context, ":")
	line, _ := strconv.Atoi(parts[max(0, len(parts)-2)])
	*f.uses = append(*f.uses, Use{Variable: name, Line: line, Partial: f.partial, Optional: optional})
}

// node walks through a tree; dot says whether the dot is the environment.
func (f *finder) node(node parse.Node, dot bool) {
	switch n := node.(type) {
	case *parse.ListNode:
		if n != nil {
			for _, child := range n.Nodes {
				f.node(child, dot)
			}
		}
	case *parse.ActionNode:
		f.node(n.Pipe, dot)
	case *parse.PipeNode:
		if n != nil {
			for _, command := range n.Cmds {
				f.node(command, dot)
			}
			if len(n.Decl) == 1 {
				f.aliases[n.Decl[0].Ident[0]] = f.is(n, dot)
			}
		}
	case *parse.CommandNode:
		f.command(n, dot)
	case *parse.FieldNode:
		if dot {
			f.add(n, n.Ident[0], false)
		}
	case *parse.VariableNode:
		if len(n.Ident) > 1 && (n.Ident[0] == "$" || f.aliases[n.Ident[0]]) {
			f.add(n, n.Ident[1], false)
		}
	case *parse.ChainNode:
		if f.is(n.Node, dot) { // (.).NAME
			f.add(n, n.Field[0], false)
		}
		f.node(n.Node, dot)
	case *parse.TemplateNode:
		f.node(n.Pipe, dot)
	case *parse.IfNode:
		f.branch(&n.BranchNode, dot, dot)
	case *parse.WithNode:
		f.branch(&n.BranchNode, dot, f.is(n.Pipe, dot)) // with . changes nothing.
	case *parse.RangeNode:
		f.branch(&n.BranchNode, dot, false)
	}
}

func (f *finder) branch(n *parse.BranchNode, dot, inside bool) {
	f.node(n.Pipe, dot)
	f.node(n.List, inside)
	f.node(n.ElseList, dot)
}

// command finds optional "NAME", index . "NAME", get . "NAME" and hasKey . "NAME" besides fields.
func (f *finder) command(n *parse.CommandNode, dot bool) {
	if function, ok := n.Args[0].(*parse.IdentifierNode); ok {
		switch {
		case function.Ident == "optional" && len(n.Args) == 2:
			if name, ok := n.Args[1].(*parse.StringNode); ok {
				f.add(n, name.Text, true)
			}
			return
		case slices.Contains([]string{"index", "get", "hasKey"}, function.Ident) && len(n.Args) == 3 && f.is(n.Args[1], dot):
			if name, ok := n.Args[2].(*parse.StringNode); ok {
				f.add(n, name.Text, true)
			}
		}
	}
	for _, arg := range n.Args {
		f.node(arg, dot)
	}
}
