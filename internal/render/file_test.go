package render_test

import (
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"github.com/shopset/shopset/internal/render"
)

// TestFunctionsCount: whatever a template multiplies by the library's functions ends at the limits.
func TestFunctionsCount(t *testing.T) {
	long := strings.Repeat("ab ", 60_000)
	for _, text := range []string{
		`{{ replace "a" .LONG .LONG }}`,
		`{{ join .LONG (splitList " " .LONG) }}`,
		`{{ regexReplaceAll "a" .LONG .LONG }}`,
		`{{ $x := list 1 }}{{ range 1000 }}{{ $x = concat $x $x }}{{ end }}`,
		`{{ $x := list 1 }}{{ range 90000 }}{{ $x = append $x 1 }}{{ end }}`,
		`{{ $d := dict "a" "b" }}{{ $_ := set $d "self" $d }}{{ toJson (dict "x" $d) }}`,
		`{{ range 1000 }}{{ range until 1000 }}{{ end }}{{ end }}`,
		`{{ seq 0 1 999999999 }}`,
		`{{ untilStep 0 999999999 1 }}`,
		`{{ $x := .LONG }}{{ range 1000 }}{{ $x = quote $x }}{{ end }}`,
		`{{ $x := "x" }}{{ range 1000 }}{{ $x = repeat 1000 $x }}{{ end }}`,
		`{{ $x := "\n\n\n" }}{{ range 100 }}{{ $x = nindent 999 $x }}{{ end }}`,
	} {
		template := &render.Template{Name: "f", Text: text}
		if out, failures := template.File(map[string]any{"LONG": long}); len(failures) != 1 {
			t.Errorf("%s makes %d bytes and fails %d times", text, len(out), len(failures))
		}
	}
}

// TestFilesDoNotMeet: what a template sets in the environment is gone with it.
func TestFilesDoNotMeet(t *testing.T) {
	environment := map[string]any{"A": "a"}
	for range 2 {
		template := &render.Template{Name: "f", Text: `{{ .A }}{{ $_ := set . "A" "b" }}{{ .A }}{{ "}}" | upper }}`}
		if got, failures := template.File(environment); got != "ab}}" {
			t.Fatalf("got %q %v", got, failures)
		}
	}
}

// TestFunctions: those that config templates are full of.
func TestFunctions(t *testing.T) {
	for text, want := range map[string]string{
		`{{ optional "NONE" | default "x" }}`:                                  "x",
		`{{ required "say it" .A }}`:                                           "a",
		`{{ .LIST | join ";" }}`:                                               "1;2",
		`{{ range $i, $x := .LIST }}{{ if $i }},{{ end }}{{ $x }}{{ end }}`:    "1,2",
		`{{ ternary "on" "off" .TRUE }}`:                                       "on",
		`{{ .A | upper | quote }} {{ squote "b" }}`:                            `"A" 'b'`,
		`{{ splitList "," "c,a,b" | sortAlpha | join " " }}`:                   "a b c",
		`{{ add .NUMBER 1 }} {{ mul 2 3 }} {{ atoi "7" }} {{ max 1 9 3 }}`:     "6 6 7 9",
		`{{ regexReplaceAll "[^a-z]+" "x1y22z" "-" }}`:                         "x-y-z",
		`{{ dict "a" 1 | toJson }} {{ (fromJson "{\"b\":2}").b }}`:             `{"a":1} 2`,
		`{{ b64enc "x" }} {{ sha256sum "" | trunc 8 }}`:                        "eA== e3b0c442",
		`{{ (urlParse "https://h:1/p").host }} {{ base "/a/b" }}`:              "h:1 b",
		`{{ "a\nb" | indent 2 }}`:                                              "  a\n  b",
		`{{ range until 3 }}{{ . }}{{ end }} {{ has "1" .LIST }}`:              "012 true",
		`{{ coalesce "" .A }} {{ trimPrefix "x" "xy" }} {{ contains "a" .A }}`: "a y true",
	} {
		template := &render.Template{Name: "f", Text: text}
		got, failures := template.File(map[string]any{"A": "a", "LIST": []string{"1", "2"}, "TRUE": true, "NUMBER": 5})
		if got != want || len(failures) > 0 {
			t.Errorf("%s: got %q %v, want %q", text, got, failures, want)
		}
	}
}

// TestSubstituteLikeTheShell compares with a POSIX shell.
func TestSubstituteLikeTheShell(t *testing.T) {
	shell, err := exec.LookPath("sh")
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{
		"${SET}", "[${EMPTY}]", "${SET:-a}", "${EMPTY:-a}", "${EMPTY-a}", "${NONE:-a}", "${NONE-a}", "${SET:+a}", "${EMPTY:+a}",
		"${EMPTY+a}", "${NONE:+a}", "${NONE+a}", "${NONE:-${SET}}", "${NONE:-${EMPTY:-${SET}b}c}", "${NONE:-}", "a${SET}b${SET}", "${NONE:-a b}",
	} {
		template := &render.Template{Name: "f", Text: text, Syntax: render.Envsubst}
		got, failures := template.File(map[string]any{"SET": "set", "EMPTY": ""})
		command := exec.CommandContext(t.Context(), shell, "-c", `printf %s "`+text+`"`)
		command.Env = []string{"SET=set", "EMPTY="}
		want, err := command.Output()
		if err != nil || got != string(want) || len(failures) > 0 {
			t.Errorf("%s: got %q %v, the shell has %q %v", text, got, failures, want, err)
		}
	}
}

var plainReference = regexp.MustCompile(`\$\{[A-Z]+\}`)

// FuzzEnvsubst: it never panics, tells the file in every error, says what Variables says, and leaves a text
// without ${ as it is.
func FuzzEnvsubst(f *testing.F) {
	for _, seed := range []string{"${A}", "${A:-${B:-c}}", "$${A}", "${A:?x}", "${", "${A", "${A:-", `${A:-\}}`, "a$b{c}", "${A:-${A:-${A"} {
		f.Add(seed, "value")
	}
	f.Fuzz(func(t *testing.T, text, value string) {
		template := &render.Template{Name: "file", Text: text, Syntax: render.Envsubst}
		got, failures := template.File(map[string]any{"A": value})
		for _, failure := range failures {
			if !strings.HasPrefix(failure.Error(), "file") {
				t.Fatalf("%q: %v", text, failure)
			}
		}
		if len(failures) == 0 && !strings.Contains(text, "${") && got != text {
			t.Fatalf("%q became %q", text, got)
		}
		uses, err := template.Variables()
		if len(failures) == 0 && err != nil {
			t.Fatalf("%q is rendered, and cannot be read: %v", text, err)
		}
		if err == nil && len(uses) < len(plainReference.FindAllString(strings.ReplaceAll(text, "$${", ""), -1)) {
			t.Fatalf("%q uses %v", text, uses)
		}
	})
}

// TestPartialsDoNotTakeThePlaceOfTheFile: whatever a partial is called, the file's own loops are bounded.
func TestPartialsDoNotTakeThePlaceOfTheFile(t *testing.T) {
	for _, name := range []string{"config", "/", "main"} {
		template := &render.Template{Name: "a", Text: "{{ range 99999999999999 }}{{ end }}", Partials: map[string]string{name: "hi"}}
		if _, errs := template.File(nil); len(errs) != 1 || !strings.Contains(errs[0].Error(), "takes more than") {
			t.Errorf("beside a partial %s: %v", name, errs)
		}
	}
}

// TestFilesDoNotShareLists: what a template does to a list of the environment, no other sees.
func TestFilesDoNotShareLists(t *testing.T) {
	environment := map[string]any{"L": []string{"c", "b", "a"}}
	for _, test := range []struct{ text, want string }{{`{{ .L | sortAlpha | join "," }}`, "a,b,c"}, {`{{ .L | join "," }}`, "c,b,a"}} {
		if got, errs := (&render.Template{Name: "a", Text: test.text}).File(environment); got != test.want || len(errs) > 0 {
			t.Errorf("%s: %q %v", test.text, got, errs)
		}
	}
}

// TestKeysOfOtherMaps are told once.
func TestKeysOfOtherMaps(t *testing.T) {
	if _, errs := (&render.Template{Name: "a", Text: `{{ (dict "a" 1).b }}`}).File(map[string]any{"b": ""}); len(errs) != 1 {
		t.Errorf("got %v", errs)
	}
}

// TestDeclaredAndNotSet: nil is empty, and not set where a template asks for that.
func TestDeclaredAndNotSet(t *testing.T) {
	template := &render.Template{Name: "a", Text: "[$E][${E}][${E-dflt}][${E:-dflt}][${E+set}]", Syntax: render.Envsubst}
	if got, errs := template.File(map[string]any{"E": nil}); got != "[$E][][dflt][dflt][]" || len(errs) > 0 {
		t.Errorf("got %q %v", got, errs)
	}
	template.Text = "${E?want it}"
	if _, errs := template.File(map[string]any{"E": nil}); len(errs) != 1 || !strings.Contains(errs[0].Error(), "E is not set: want it") {
		t.Errorf("got %v", errs)
	}
}

// TestVariablesOfDefinedTemplates: what they are called with is their dot; it is the environment only if that is.
func TestVariablesOfDefinedTemplates(t *testing.T) {
	template := &render.Template{Name: "a", Text: `{{ define "x" }}{{ .host }}{{ end }}{{ define "y" }}{{ .REAL }}{{ end }}{{ template "x" (dict "host" .A) }}{{ template "y" . }}`}
	uses, err := template.Variables()
	var names []string
	for _, use := range uses {
		names = append(names, use.Variable)
	}
	if err != nil || strings.Join(names, " ") != "A REAL" {
		t.Errorf("got %v %v", names, err)
	}
}
