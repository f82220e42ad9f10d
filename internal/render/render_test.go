package render_test

import (
	"strings"
	"testing"

	"github.com/shopset/shopset/internal/render"
)

func TestText(t *testing.T) {
	environment := map[string]string{"SHOP_URL": "http://a-shop:8080", "EMPTY": ""}
	for _, test := range []struct{ name, template, want, err string }{
		{name: "value", template: "url: {{ .SHOP_URL }}\n", want: "url: http://a-shop:8080\n"},
		{name: "empty is set", template: "[{{ .EMPTY }}]", want: "[]"},
		{name: "condition", template: "{{ if .EMPTY }}x{{ else }}y{{ end }}", want: "y"},
		{name: "missing", template: "a\nb {{ .SHOP_ULR }}", err: "/etc/c line 2: variable SHOP_ULR is not set"},
		{name: "syntax", template: "a\n\n{{ if }}", err: "/etc/c line 3: missing value for if"},
		{name: "unknown function", template: "{{ exec `rm` }}", err: `/etc/c line 1: function "exec" not defined`},
		{name: "recursion", template: `{{ define "x" }}{{ .SHOP_URL }}{{ template "x" . }}{{ end }}{{ template "x" . }}`,
			err: "/etc/c: the rendered file is larger than 512 KiB"},
		{name: "endless loop", template: "{{ if .SHOP_URL }}{{ range 99999999999 }}{{ end }}{{ end }}",
			err: "/etc/c: the template's loops take more than 100000 steps"},
		{name: "loop", template: "{{ range 3 }}{{ . }}{{ end }}", want: "012"},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := render.Text("/etc/c", test.template, environment)
			if test.err != "" {
				if err == nil || err.Error() != test.err {
					t.Fatalf("got error  %v\nwant error %s", err, test.err)
				}
				return
			}
			if err != nil || got != test.want {
				t.Fatalf("got %q, %v, want %q", got, err, test.want)
			}
		})
	}
}

func FuzzText(f *testing.F) {
	f.Add("{{ .A }}", "x")
	f.Add("{{ range $i, $c := .A }}{{ end }}", "x")
	f.Fuzz(func(t *testing.T, text, value string) {
		first, err := render.Text("f", text, map[string]string{"A": value})
		if err != nil {
			if !strings.HasPrefix(err.Error(), "f") {
				t.Fatalf("error does not name the file: %v", err)
			}
			return
		}
		if second, _ := render.Text("f", text, map[string]string{"A": value}); second != first {
			t.Fatal("rendering twice gives different files")
		}
	})
}
