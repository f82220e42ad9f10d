package envschema_test

import (
	"encoding/base64"
	"errors"
	"net/url"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/shopset/shopset/internal/envschema"
)

func parse(t *testing.T, text string) *envschema.Schema {
	t.Helper()
	schema, err := envschema.Parse("schema.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return schema
}

func check(t *testing.T, schema string, environment map[string]string) *envschema.Result {
	t.Helper()
	return parse(t, schema).Check(environment, nil)
}

// TestTypes: good, bad and border values of each type.
func TestTypes(t *testing.T) {
	for kind, values := range map[string]struct{ good, bad []string }{
		"int":      {[]string{"0", "-1", "007"}, []string{"1.5", "x", "1e3", " 1"}},
		"float":    {[]string{"1.5", "-0.1", "1e21"}, []string{"x", "NaN", "Inf", "1,5"}},
		"bool":     {[]string{"on", "No", "1", "FALSE"}, []string{"2", "x", "y"}},
		"port":     {[]string{"1", "65535"}, []string{"0", "65536", "-1", "http"}},
		"duration": {[]string{"300ms", "1h30m", "0s"}, []string{"10", "1d", "soon"}},
		"bytes":    {[]string{"512", "64k", "1.5GiB", "10MB"}, []string{"x", "-1", "10 q"}},
		"url":      {[]string{"https://a.example/x?y", "redis://a:1"}, []string{"a.example", "/x", "https://", "mailto:a", "http://:80", "http://a:0"}},
		"hostport": {[]string{"a:1", "[2001:db8::1]:443", "192.0.2.1:80"}, []string{"a", "a:0", ":1", "a b:1", "a..b:80", "999.999.1.1:80"}},
		"host":     {[]string{"a.example", "192.0.2.1", "2001:db8::1"}, []string{"a b", "-a", "a/b", "a..b", "999.999.1.1", "1", "]]::1[[", "[a]", "a-.b"}},
		"path":     {[]string{"/", "/etc/x"}, []string{"x", "./x", "/a\nb"}},
		"regexp":   {[]string{"^a.*$"}, []string{"("}},
	} {
		schema := "variables:\n- {name: V, type: " + kind + "}\n"
		for _, value := range values.good {
			if r := check(t, schema, map[string]string{"V": value}); len(r.Problems) > 0 || r.Texts["V"] != value {
				t.Errorf("%s %q: %v, text %v", kind, value, r.Problems, r.Texts["V"])
			}
		}
		for _, value := range values.bad {
			if r := check(t, schema, map[string]string{"V": value}); len(r.Problems) != 1 || !strings.HasPrefix(r.Problems[0], "V: "+strconv.Quote(value)) {
				t.Errorf("%s %q: %v", kind, value, r.Problems)
			}
		}
	}
	for _, test := range []struct{ schema, value, want string }{
		{"type: bytes, max: 1k", "1024", ""}, {"type: bytes, max: 1k", "1025", "is more than 1k"}, {"type: int, min: 4, max: 6", "3", "is less than 4"},
		{"type: list, max: 2", "a,b,c", "is more than 2 elements"}, {"type: list, of: port", "1,x", "element 2 is not a port"}, {"type: list", "a,,b", "element 2 is empty"}, {"type: list", "a,", "element 2 is empty"},
		{"type: string, pattern: \"a|b\"", "axb", "does not match"}, {"type: enum, values: [info, debug]", "inof", "is not one of info, debug; info?"},
	} {
		r := check(t, "variables:\n- {name: V, "+test.schema+"}\n", map[string]string{"V": test.value})
		if got := strings.Join(r.Problems, "\n"); test.want == "" && got != "" || !strings.Contains(got, test.want) {
			t.Errorf("%s with %q: %q, want %q", test.schema, test.value, got, test.want)
		}
	}
}

// TestEmptyIsNotSet: of what is no text.
func TestEmptyIsNotSet(t *testing.T) {
	r := check(t, "variables:\n- {name: W, type: int, default: \"4\"}\n- {name: S, default: d}\n- {name: P, type: port}\n- {name: Z}\nconstraints:\n- {if: S, requires: [P]}\n",
		map[string]string{"W": "", "S": "", "P": ""})
	if len(r.Problems) > 0 || r.Values["W"] != 4 || r.Texts["W"] != "4" || r.Values["S"] != "" || r.Texts["P"] != nil || r.Texts["Z"] != nil || r.Values["Z"] != "" {
		t.Errorf("%v %v %v", r.Problems, r.Values, r.Texts)
	}
}

func TestConstraintsCompareValues(t *testing.T) {
	schema := "variables:\n- {name: TLS, type: bool}\n- {name: KEY}\nconstraints:\n- {if: TLS, is: \"on\", requires: [KEY]}\n"
	for value, want := range map[string]int{"on": 1, "true": 1, "1": 1, "off": 0} {
		if r := check(t, schema, map[string]string{"TLS": value}); len(r.Problems) != want {
			t.Errorf("TLS=%s: %v", value, r.Problems)
		}
	}
}

// TestServiceLinks: what Kubernetes sets by itself is no mistake of anybody.
func TestServiceLinks(t *testing.T) {
	links := map[string]string{"NGINX_SERVICE_HOST": "10.0.0.1", "NGINX_SERVICE_PORT": "80", "NGINX_SERVICE_PORT_HTTP": "80", "NGINX_PORT": "tcp://10.0.0.1:80",
		"NGINX_PORT_80_TCP": "tcp://10.0.0.1:80", "NGINX_PORT_80_TCP_ADDR": "10.0.0.1", "NGINX_PROT": "x"}
	if r := check(t, "prefix: NGINX_\nvariables:\n- {name: NGINX_WORKERS}\n", links); len(r.Problems) != 1 || !strings.Contains(r.Problems[0], "NGINX_PROT is not a variable") {
		t.Errorf("got %v", r.Problems)
	}
}

// TestSecretsStayHidden: whatever form a secret takes, and wherever it is from.
func TestSecretsStayHidden(t *testing.T) {
	const secret = `pa"ss/w rd+x`
	file := func(string) (string, error) { return secret, nil }
	for name, test := range map[string]struct {
		schema      string
		environment map[string]string
	}{
		"set":          {"- {name: S, secret: true}", map[string]string{"S": secret}},
		"by default":   {"- {name: S, secret: true, default: 'pa\"ss/w rd+x'}", nil},
		"from a file":  {"- {name: S, type: port}", map[string]string{"S_FILE": "/x"}},
		"former name":  {"- {name: S, secret: true}\n- {name: OLD, type: port, deprecatedBy: S}", map[string]string{"OLD": secret}},
		"in another's": {"- {name: S, secret: true}\n- {name: U, type: url}", map[string]string{"S": secret, "U": "db/" + secret}},
		"no schema":    {"", map[string]string{"S_FILE": "/x"}},
	} {
		var schema *envschema.Schema
		if test.schema != "" {
			schema = parse(t, "variables:\n"+test.schema+"\n")
		}
		r := schema.Check(test.environment, file)
		shown := strings.Join(r.Problems, "\n")
		for _, form := range []string{secret, strconv.Quote(secret), base64.StdEncoding.EncodeToString([]byte(secret)), url.QueryEscape(secret), `pa"ss/w`} {
			shown += "\n" + r.Redact("text with "+form+" in it")
		}
		for _, leak := range []string{"pa\"ss", `pa\"ss`, "rd+x", "cGEi", "pa%22ss"} {
			if strings.Contains(shown, leak) {
				t.Errorf("%s: %s is shown:\n%s", name, leak, shown)
			}
		}
	}
	r := check(t, "variables:\n- {name: L, type: list, secret: true}\n", map[string]string{"L": "alpha,beta"})
	if got := r.Redact("first alpha then beta"); got != "first *** then ***" {
		t.Errorf("elements of a list: %s", got)
	}
	r.Hide()
	if got, ok := r.Values["L"].([]string); !ok || len(got) != 2 || got[0] != "***" || r.Texts["L"] != "***" {
		t.Errorf("hidden: %v %v", r.Values, r.Texts)
	}
}

// TestFilesThatAreNone: a pipe holds nobody up, and a device is not read.
func TestFilesThatAreNone(t *testing.T) {
	pipe := t.TempDir() + "/pipe"
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{pipe, "/dev/zero", "/dev/null", t.TempDir()} {
		done := make(chan error, 1)
		go func() { _, err := envschema.ReadFile(path); done <- err }()
		select {
		case err := <-done:
			if err == nil || !strings.Contains(err.Error(), "is not a file") {
				t.Errorf("%s: %v", path, err)
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("%s holds it up", path)
		}
	}
	r := (*envschema.Schema)(nil).Check(map[string]string{"KEY_FILE": "/nowhere"}, func(string) (string, error) { return "", errors.New("it is away") })
	if err := r.Unread("KEY"); err == nil || err.Error() != "it is away" {
		t.Errorf("got %v", err)
	}
}

func TestNearest(t *testing.T) {
	known := []string{"HOME", "PATH", "_", "PROXY_TIMEOUT"}
	for name, want := range map[string]string{"HOST": "", "MODE": "", "A": "", "PROXY_TIMEOT": "PROXY_TIMEOUT", "proxy_timeout": "PROXY_TIMEOUT", "PTAH": "PATH"} {
		if got := envschema.Nearest(name, known); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
}

func TestSchemasThatMakeNoSense(t *testing.T) {
	for schema, want := range map[string]string{
		"variables:\n- {name: A, type: int, min: 5, max: 1}\n": "min is more than max", "variables:\n- {name: A, pattern: 'a)|(b'}\n": "pattern",
	} {
		if _, err := envschema.Parse("s", []byte(schema)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", schema, err, want)
		}
	}
}

func TestEnvFiles(t *testing.T) {
	values, problems := envschema.ParseFile("f", "\ufeffA=1\nexport\tB=2\nexport C='x' # a comment\nD=\"y\\n\" # another\nE=plain # no comment\n")
	if len(problems) != 0 {
		t.Errorf("problems %v", problems)
	}
	for name, want := range map[string]string{"A": "1", "B": "2", "C": "x", "D": "y\n", "E": "plain # no comment"} {
		if values[name] != want {
			t.Errorf("%s is %q, want %q", name, values[name], want)
		}
	}
}
