package render_test

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

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
			err: "/etc/c: templates call each other more than 1000 deep"},
		{name: "large output", template: "{{ range 60000 }}{{ $.SHOP_URL }}{{ end }}", err: "/etc/c: the rendered file is larger than 512 KiB"},
		{name: "endless loop", template: "{{ if .SHOP_URL }}{{ range 99999999999 }}{{ end }}{{ end }}",
			err: "/etc/c: rendering takes more than 1000000 steps: a loop or a template that calls itself does not end"},
		{name: "doubling calls without output", template: doubling(40),
			err: "/etc/c: rendering takes more than 1000000 steps: a loop or a template that calls itself does not end"},
		{name: "recursion without output", template: `{{ define "x" }}{{ template "x" . }}{{ end }}{{ template "x" . }}`,
			err: "/etc/c: templates call each other more than 1000 deep"},
		{name: "a long loop of much", template: `{{ range 100000 }}` + strings.Repeat(`{{ if false }}{{ end }}`, 1000) + `{{ end }}`,
			err: "/etc/c: rendering takes more than 1000000 steps: a loop or a template that calls itself does not end"},
		{name: "doubling values without output", template: `{{ $x := "0123456789abcdef" }}` + strings.Repeat("{{ $x = print $x $x }}", 40),
			err: "/etc/c: rendering makes values of more than 512 KiB on the way"},
		{name: "doubling by printf", template: `{{ $x := "0123456789abcdef" }}` + strings.Repeat(`{{ $x = printf "%s%s" $x $x }}`, 40),
			err: "/etc/c: rendering makes values of more than 512 KiB on the way"},
		{name: "doubling by escapes", template: `{{ $x := "&&&&&&&&" }}` + strings.Repeat(`{{ $x = html $x $x }}`, 40),
			err: "/etc/c: rendering makes values of more than 512 KiB on the way"},
		{name: "wide printf", template: `{{ printf "%0999999999d" 1 }}`,
			err: `/etc/c line 1: error calling printf: printf: a width or precision has three digits at most, and there are no * and [n]`},
		{name: "indexed printf", template: `{{ printf "%[1]s%[1]s" "x" }}`,
			err: `/etc/c line 1: error calling printf: printf: a width or precision has three digits at most, and there are no * and [n]`},
		{name: "printf", template: `{{ printf "%5.2f|%-8s|%q" 1.5 .SHOP_URL "x" | len }}`, want: "28"},
		{name: "index of nothing", template: "a\n{{ index . \"NONE\" }}",
			err: `/etc/c line 2: error calling index: there is no key "NONE"`},
		{name: "keys are sorted", template: `{{ dict "c" 1 "a" 2 "b" 3 | keys | join "," }} {{ dict "c" 1 "a" 2 "b" 3 | values }}`, want: "a,b,c [2 3 1]"},
		{name: "what is no number", template: `{{ int "8o80" }}`, err: "/etc/c line 1: error calling int: it is given a text that is no number"},
		{name: "what is no number in a sum", template: `{{ add 1 "x" }}`, err: "/etc/c line 1: error calling add: it is given a text that is no number"},
		{name: "what is no base64", template: `{{ b64dec "!!!" }}`, err: "/etc/c line 1: error calling b64dec: b64dec: it is not base64"},
		{name: "what is no regexp", template: `{{ regexMatch "(" "a" }}`, err: "/etc/c line 1: error calling regexMatch: error parsing regexp: missing closing ): `(`"},
		{name: "what is no JSON", template: `{{ fromJson "{" }}`, err: "/etc/c line 1: error calling fromJson: unexpected end of JSON input"},
		{name: "a format that does not fit", template: `{{ printf "%d" "80" }}`, err: "/etc/c line 1: error calling printf: printf: the format and what it is given do not fit: %!d(…"},
		{name: "a format with too little", template: `{{ printf "%s %s" "80" }}`, err: "/etc/c line 1: error calling printf: printf: the format and what it is given do not fit: %!s(…"},
		{name: "a key that is not there", template: `{{ get . "NONE" }}`, err: `/etc/c line 1: error calling get: there is no key "NONE"`},
		{name: "no value, as a text", template: `<no value>`, want: "<no value>"},
		{name: "lists that double", template: `{{ $x := list "" }}{{ range 33 }}{{ $x = concat $x $x }}{{ end }}`, err: "/etc/c: rendering makes values of more than 512 KiB on the way"},
		{name: "a slow function", template: `{{ $l := until 1000 }}{{ range 1000 }}{{ $_ := has 1001 $l }}{{ end }}`, err: "/etc/c: rendering takes more than 1000000 steps: a loop or a template that calls itself does not end"},
		{name: "nested very deep", template: strings.Repeat("{{ if .SHOP_URL }}", 10_000) + "x" + strings.Repeat("{{ end }}", 10_000), want: "x"},
		{name: "a map that holds itself", template: `{{ $d := dict }}{{ $e := dict "d" $d }}{{ $_ := set $d "e" $e }}{{ $d }}`,
			err: "/etc/c: rendering makes values of more than 512 KiB on the way"},
		{name: "loop", template: "{{ range 3 }}{{ . }}{{ end }}", want: "012"},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := render.Text("/etc/c", test.template, environment, nil)
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

// doubling is a chain of templates each of which calls the next one twice.
func doubling(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, `{{ define "t%d" }}{{ template "t%d" }}{{ template "t%d" }}{{ end }}`, i, i+1, i+1)
	}
	fmt.Fprintf(&b, `{{ define "t%d" }}{{ end }}{{ template "t0" }}`, n)
	return b.String()
}

// TestBudgetIsShared: many small templates may not take together what one may not.
func TestBudgetIsShared(t *testing.T) {
	budget := &render.Budget{}
	var err error
	rounds := 0
	for ; err == nil && rounds < 100; rounds++ {
		_, err = render.Text("f", "{{ range 100000 }}{{ end }}", nil, budget)
	}
	if rounds != 10 {
		t.Fatalf("%d templates of 100,000 steps were rendered, then %v", rounds, err)
	}
}

func FuzzText(f *testing.F) {
	f.Add("{{ .A }}", "x")
	f.Add("{{ range $i, $c := .A }}{{ end }}", "x")
	f.Fuzz(func(t *testing.T, text, value string) {
		// A template that takes long stops the fuzzer with its text.
		slow := time.AfterFunc(10*time.Second, func() { panic("slow: " + strconv.Quote(text) + " with " + strconv.Quote(value)) })
		defer slow.Stop()
		first, err := render.Text("f", text, map[string]string{"A": value}, nil)
		if err != nil {
			if !strings.HasPrefix(err.Error(), "f") {
				t.Fatalf("error does not name the file: %v", err)
			}
			return
		}
		if second, _ := render.Text("f", text, map[string]string{"A": value}, nil); second != first {
			t.Fatal("rendering twice gives different files")
		}
	})
}
