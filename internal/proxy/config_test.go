package proxy

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"text/template"
)

var update = flag.Bool("update", false, "write golden files")

// TestBadConfigs compares every error of every bad file, line by line.
func TestBadConfigs(t *testing.T) {
	files, err := filepath.Glob("testdata/bad/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatal("no cases", err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			_, err := Load(file)
			if err == nil {
				t.Fatal("no error")
			}
			got := strings.ReplaceAll(err.Error(), file, "config.yaml") + "\n"
			golden := strings.TrimSuffix(file, ".yaml") + ".want"
			if *update {
				if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if got != string(want) {
				t.Fatalf("got\n%s\nwant\n%s", got, want)
			}
		})
	}
}

// TestExampleConfig renders the demo platform's template as the operator does.
func TestExampleConfig(t *testing.T) {
	text, err := os.ReadFile("../../examples/platform/proxy.yaml")
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := template.New("proxy.yaml").Option("missingkey=error").Parse(string(text))
	if err != nil {
		t.Fatal(err)
	}
	var rendered bytes.Buffer
	if err := parsed.Execute(&rendered, map[string]string{"SHOP_URL": "http://shop:8080", "CART_URL": "http://cart:8080"}); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "config.yaml")
	if err := os.WriteFile(file, rendered.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	config, err := Load(file)
	if err != nil {
		t.Fatal(err)
	}
	if config.Roles["cart"].URL != "http://cart:8080" || config.HTTPS.Address != ":8443" || config.HTTP.Mode != ModeRedirect {
		t.Fatalf("got %+v", config)
	}
}
