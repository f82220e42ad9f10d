package tester_test

import (
	"go/ast"
	"go/doc"
	"go/parser"
	"go/token"
	"os"
	"strings"
	"testing"
)

// TestExamples: each exported name is in an example that runs.
func TestExamples(t *testing.T) {
	files := token.NewFileSet()
	var code, tests []*ast.File
	entries, err := os.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		if !strings.HasSuffix(entry.Name(), ".go") {
			continue
		}
		file, err := parser.ParseFile(files, entry.Name(), nil, parser.ParseComments)
		switch {
		case err != nil:
			t.Fatal(err)
		case strings.HasSuffix(entry.Name(), "_test.go"):
			tests = append(tests, file)
		default:
			code = append(code, file)
		}
	}
	used := map[string]bool{}
	for _, example := range doc.Examples(tests...) {
		if example.Output == "" && !example.EmptyOutput {
			t.Errorf("Example%s has no output: it does not run", example.Name)
		}
		ast.Inspect(example.Code, func(n ast.Node) bool {
			if selector, ok := n.(*ast.SelectorExpr); ok {
				used[selector.Sel.Name] = true
			}
			return true
		})
	}
	// The helper of the examples is a part of each.
	used["StartContainer"] = true
	for _, name := range exported(code) {
		if !used[name] {
			t.Errorf("%s is in no example", name)
		}
	}
}

// exported are the names of functions, methods of exported types, and values; types come with them.
func exported(files []*ast.File) (names []string) {
	add := func(name *ast.Ident) {
		if name.IsExported() {
			names = append(names, name.Name)
		}
	}
	for _, file := range files {
		for _, declaration := range file.Decls {
			switch d := declaration.(type) {
			case *ast.FuncDecl:
				if d.Recv == nil || ast.IsExported(strings.TrimPrefix(receiver(d), "*")) {
					add(d.Name)
				}
			case *ast.GenDecl:
				for _, spec := range d.Specs {
					if values, ok := spec.(*ast.ValueSpec); ok {
						for _, name := range values.Names {
							add(name)
						}
					}
				}
			}
		}
	}
	return names
}

func receiver(d *ast.FuncDecl) string {
	if pointer, ok := d.Recv.List[0].Type.(*ast.StarExpr); ok {
		return pointer.X.(*ast.Ident).Name
	}
	return d.Recv.List[0].Type.(*ast.Ident).Name
}
