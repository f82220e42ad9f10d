package entrypoint_test

import (
	"fmt"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/shopset/shopset/internal/entrypoint"
)

// BenchmarkRun renders 100 templates; bench/entrypoint measures the whole process.
func BenchmarkRun(b *testing.B) {
	for _, language := range []struct{ name, suffix, variable string }{
		{"envsubst", ".template", "${V%d}"}, {"go", ".tmpl", "{{ .V%d }}"},
	} {
		b.Run(language.name, func(b *testing.B) {
			b.Chdir(b.TempDir())
			if err := os.Mkdir("in", 0o755); err != nil {
				b.Fatal(err)
			}
			var environment []string
			for i := range 20 {
				environment = append(environment, fmt.Sprintf("V%d=app:%d", i, i))
			}
			for i := range 100 {
				var text strings.Builder
				for line := range 10 {
					text.WriteString(strings.Repeat("    add_header X-Line \"some header\";\n", 5))
					fmt.Fprintf(&text, "    proxy_pass http://"+language.variable+"/;\n", (i+line)%20)
				}
				if err := os.WriteFile(fmt.Sprintf("in/%d.conf%s", i, language.suffix), []byte(text.String()), 0o600); err != nil {
					b.Fatal(err)
				}
			}
			for b.Loop() {
				if err := os.RemoveAll("out"); err != nil {
					b.Fatal(err)
				}
				if code := entrypoint.Run(b.Context(), &entrypoint.Options{
					Sources: entrypoint.Sources{In: "in", Out: "out"}, Environment: environment, Stderr: io.Discard,
				}); code != 0 {
					b.Fatal(code)
				}
			}
		})
	}
}
