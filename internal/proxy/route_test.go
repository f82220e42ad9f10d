package proxy

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/shopset/shopset/internal/certrecord"
	"github.com/shopset/shopset/internal/certstore"
)

// testRoutes makes routes; each names its role, which is made, too.
func testRoutes(config ...Route) *routes {
	roles := map[string]*role{}
	for _, r := range config {
		roles[r.Role] = &role{name: r.Role}
	}
	return newRoutes(config, roles)
}

func (t *routes) named(r *http.Request, domain *certstore.Domain) string {
	if found := t.find(r, hostOf(r.Host), cleanPath(r.URL.Path), domain); found != nil {
		return found.role.name
	}
	return ""
}

func prefix(path, role string) Route { return Route{Match{Prefix: path}, role} }

// TestRoutesByPath: the longest prefix, whatever spelling of the path.
func TestRoutesByPath(t *testing.T) {
	table := testRoutes(prefix("/", "shop"), prefix("/cart", "cart"), prefix("/cart/api/", "api"),
		Route{Match{Path: "/cart/exact"}, "exact"}, Route{Match{Regexp: `^/p/\d+$`}, "product"}, prefix("/p/12", "prefix"))
	for path, want := range map[string]string{
		"/": "shop", "": "shop", "/cart": "cart", "/cart/": "cart", "/cart/1": "cart", "/cartoon": "shop",
		"/x/../cart": "cart", "//cart": "cart", "/cart/../x": "shop", "/cart/api": "api", "/cart/api/x": "api",
		"/cart/apix": "cart", "/Cart": "shop", "/./cart/.": "cart",
		"/cart/exact": "exact", "/cart/exact/": "exact", "/cart/exact/x": "cart", "/p/12": "product", "/p/12/": "product", "/p/12/x": "prefix",
	} {
		request := httptest.NewRequest(http.MethodGet, "/", nil)
		request.URL.Path = path
		if got := table.named(request, nil); got != want {
			t.Errorf("%q: got %q, want %q", path, got, want)
		}
	}
	if got := testRoutes(prefix("/cart", "cart")).named(httptest.NewRequest(http.MethodGet, "/other", nil), nil); got != "" {
		t.Errorf("got %s, want no role", got)
	}
}

// TestRoutesByEverything: hosts, methods, headers, cookies and what the domain's record says.
func TestRoutesByEverything(t *testing.T) {
	table := testRoutes(
		prefix("/", "any"),
		Route{Match{Prefix: "/", Hosts: []string{"*.shops.example"}}, "platform"},
		Route{Match{Prefix: "/", Hosts: []string{"a.shops.example", "b.example"}}, "named"},
		Route{Match{Prefix: "/", Methods: []string{"PUT", "DELETE"}}, "writes"},
		Route{Match{Prefix: "/beta", Headers: map[string]string{"x-beta": ""}}, "header"},
		Route{Match{Prefix: "/beta", Headers: map[string]string{"x-beta": "~^v[0-9]$"}}, "pattern"},
		Route{Match{Prefix: "/beta", Cookies: map[string]string{"beta": "yes"}}, "cookie"},
		Route{Match{Prefix: "/mc", Labels: map[string]string{"cloud": "managed"}}, "cloud"},
		Route{Match{Prefix: "/mc", Plans: []string{"pro"}}, "plan"},
	)
	domain := func(label, plan string) *certstore.Domain {
		return &certstore.Domain{Labels: map[string]string{"cloud": label}, Options: &certrecord.Options{Plan: plan}}
	}
	for _, test := range []struct {
		url, more string
		domain    *certstore.Domain
		want      string
	}{
		{"http://x.example/", "", nil, "any"},
		{"http://x.shops.example/", "", nil, "platform"},
		{"http://x.y.shops.example:8443/", "", nil, "platform"},
		{"http://shops.example/", "", nil, "any"},
		{"http://A.Shops.Example./", "", nil, "named"},
		{"http://b.example/", "", nil, "named"},
		{"http://x.example/", "PUT", nil, "any"},
		{"http://x.example/beta", "x-beta: whatever", nil, "header"},
		{"http://x.shops.example/beta", "x-beta: v1", nil, "header"},
		{"http://x.example/beta", "cookie: beta=yes", nil, "cookie"},
		{"http://x.example/beta", "cookie: beta=no", nil, "any"},
		{"http://x.example/mc", "", domain("managed", ""), "cloud"},
		{"http://x.example/mc", "", domain("own", "pro"), "plan"},
		{"http://x.example/mc", "", domain("own", "free"), "any"},
		{"http://x.example/mc", "", nil, "any"},
	} {
		request := httptest.NewRequest(http.MethodGet, test.url, nil)
		if name, value, ok := strings.Cut(test.more, ": "); ok {
			request.Header.Set(name, value)
		} else if test.more != "" {
			request.Method = test.more
		}
		if got := table.named(request, test.domain); got != test.want {
			t.Errorf("%s %s: got %q, want %q", test.url, test.more, got, test.want)
		}
	}
	lines := strings.Join(table.explain(httptest.NewRequest(http.MethodGet, "/beta", nil), "x.example", "/beta", nil), "\n")
	for _, want := range []string{"routes[4] → header: not its header X-Beta", "routes[7] → cloud: another path", "routes[0] → any: matches"} {
		if !strings.Contains(lines, want) {
			t.Errorf("no %q in\n%s", want, lines)
		}
	}
}

// TestManyHosts: a table of its own for each of many hosts, and each finds its own.
func TestManyHosts(t *testing.T) {
	config := []Route{prefix("/", "any")}
	for i := range 1000 {
		config = append(config, Route{Match{Prefix: "/mc", Hosts: []string{fmt.Sprintf("shop-%d.example", i)}}, fmt.Sprintf("role-%d", i%7)})
	}
	table := testRoutes(config...)
	for i := range 1000 {
		request := httptest.NewRequest(http.MethodGet, fmt.Sprintf("http://shop-%d.example/mc/x", i), nil)
		if got, want := table.named(request, nil), fmt.Sprintf("role-%d", i%7); got != want {
			t.Fatalf("shop %d: got %q, want %q", i, got, want)
		}
		request.URL.Path = "/"
		if got := table.named(request, nil); got != "any" {
			t.Fatalf("shop %d: got %q for /", i, got)
		}
	}
}

// BenchmarkFind is of requests to 1,000 busy shops, spread over all that have routes of their own.
func BenchmarkFind(b *testing.B) {
	for _, hosts := range []int{10, 1000, 100000} {
		config := []Route{prefix("/", "any"), prefix("/cart", "cart"), prefix("/api", "api")}
		for i := range hosts {
			config = append(config, Route{Match{Prefix: "/mc", Hosts: []string{fmt.Sprintf("shop-%d.example", i)}}, "mc"})
		}
		table := testRoutes(config...)
		var busy [1000]string
		for i := range busy {
			busy[i] = fmt.Sprintf("shop-%d.example", i*7919%hosts)
		}
		request := httptest.NewRequest(http.MethodGet, "http://a.example/products/1", nil)
		b.Run(fmt.Sprint(hosts), func(b *testing.B) {
			for i := 0; b.Loop(); i++ {
				table.find(request, busy[i%len(busy)], "/products/1", nil)
			}
		})
	}
}
