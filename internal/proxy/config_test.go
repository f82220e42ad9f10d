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

func TestRoutes(t *testing.T) {
	roles := map[string]*role{"shop": {name: "shop"}, "cart": {name: "cart"}, "api": {name: "api"}}
	table := newRoutes([]Route{{"/", "shop"}, {"/cart", "cart"}, {"/cart/api/", "api"}}, roles)
	for path, want := range map[string]string{
		"/": "shop", "": "shop", "/cart": "cart", "/cart/": "cart", "/cart/1": "cart", "/cartoon": "shop",
		"/x/../cart": "cart", "//cart": "cart", "/cart/../x": "shop", "/cart/api": "api", "/cart/api/x": "api",
		"/cart/apix": "cart", "/Cart": "shop", "/./cart/.": "cart",
	} {
		if got := table.find(path); got.name != want {
			t.Errorf("%q: got %s, want %s", path, got.name, want)
		}
	}
	if got := newRoutes([]Route{{"/cart", "cart"}}, roles).find("/other"); got != nil {
		t.Errorf("got %s, want no role", got.name)
	}
}
