package tester_test

import (
	"maps"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	tester "github.com/shopset/shopset/containertester"
)

// behaviour is the test of the nginx image that a team would have: what it must do, whatever its template says.
func behaviour(t tester.TB, template string) {
	app := tester.StartMockAP(t, tester.MockApResponseBody("app"), tester.MockApHeader("X-Internal", "1"),
		tester.MockApCookie(&http.Cookie{Name: "session", Value: "x", Domain: "internal"}))
	fallback := tester.StartMockAP(t, tester.MockApResponseBody("fallback"))
	authority := tester.NewAuthority(t)
	certificate := authority.Issue(t, "shop.example")
	config := tester.ContainerConfig{
		Image: image,
		Environment: map[string]string{
			"APP_SERVER": app.Host(), "PROXY_FALLBACK_SERVER": fallback.Host(), "PROXY_TIMEOUT": "1s",
			"PROXY_COOKIE_DOMAIN": "shop.example", "PROXY_CERTIFICATE": "/etc/tls/crt", "PROXY_KEY": "/etc/tls/key",
		},
		Files: map[string]tester.File{
			"/templates/nginx.conf.tmpl": {Content: template}, "/etc/tls/crt": {Content: certificate.CertificatePEM},
			"/etc/tls/key": {Content: certificate.KeyPEM, Mode: 0o400, UID: 101, GID: 101},
		},
	}
	nginx := tester.StartContainer(t, config)
	nginx.AssertHttpGet(t, tester.OnPort(8443), tester.WithTLS("shop.example"), tester.WithHTTP2(), tester.ExpectedHTTP2(),
		tester.ExpectedChain(authority.Pool()), tester.ExpectedBody("app"), tester.ExpectedHeader("Server", "nginx"),
		tester.ExpectedNoHeader("X-Internal"), tester.ExpectedCookie("session", tester.CookieDomain("shop.example"), tester.CookieSecure()))
	app.AssertReceived(t, tester.ReceivedHost("shop.example"), tester.Header("X-Forwarded-Proto", "https"))
	for _, fails := range []func(tester.TB){app.Down, app.Hang, func(t tester.TB) { app.Fail(t, http.StatusServiceUnavailable) }} {
		fails(t)
		nginx.AssertHttpGet(t, tester.ExpectedBody("fallback"))
		app.Recover(t)
		nginx.AssertHttpGet(t, tester.ExpectedBody("app"), tester.Eventually(10*time.Second))
	}
	nginx.AssertNoLeftovers(t, "/run/nginx/nginx.conf")
	nginx.AssertEnvironmentUsed(t)

	config.Environment = maps.Clone(config.Environment)
	config.Environment["PROXY_RATE_PER_MINUTE"] = "20"
	tester.StartContainer(t, config).AssertRateLimit(t, 20, time.Minute)
}

// TestPlantedMistakes: the tests that pass with the right template find each of these mistakes, and say which
// it is.
func TestPlantedMistakes(t *testing.T) {
	t.Parallel()
	content, err := os.ReadFile("testdata/nginx/nginx.conf.tmpl")
	if err != nil {
		t.Fatal(err)
	}
	right := string(content)
	for name, plant := range map[string]struct{ old, new, want string }{
		"none":                         {"", "", ""},
		"a host that is not passed on": {"proxy_set_header Host $http_host;", "", `host is "app", want "shop.example"`},
		"a fixed scheme":               {"X-Forwarded-Proto $scheme", "X-Forwarded-Proto http", `header X-Forwarded-Proto is ["http"], want "https"`},
		"a header that gets out":       {"proxy_hide_header X-Internal;", "", "header X-Internal is"},
		"a cookie of another domain":   {"proxy_cookie_domain ~.*", "proxy_cookie_domain other", "cookie session: domain is internal, want shop.example"},
		"a cookie without Secure":      {"proxy_cookie_flags ~ secure httponly;", "", "cookie session: Secure is false"},
		"no fallback for an error":     {" http_503", "", "status is 503"},
		"no fallback for silence":      {"error timeout", "error", "status is 504"},
		"a fallback for nothing":       {" backup;", " down;", "status is 502"},
		"a limit that is too wide":     {"burst={{ sub (int .PROXY_RATE_PER_MINUTE) 1 }}", "burst=40", "41 pass, want 20 per 1m0s"},
		"a limit that nobody applies":  {"limit_req zone=clients", "# limit_req zone=clients", "60 pass, want 20 per 1m0s"},
		"HTTP/2 forgotten":             {"ssl http2;", "ssl;", "protocol is HTTP/1.1, want HTTP/2.0"},
		"a version that is told":       {"server_tokens {{", "server_tokens on; #{{", `want "nginx"`},
		"a placeholder that stayed":    {"location /old/", "# {{`{{ .PORT }}`}}\n location /old/", "was not rendered: {{ .PORT }}"},
		"a variable of another name":   {".PROXY_COOKIE_DOMAIN", ".PROXY_COOKY_DOMAIN", "PROXY_COOKY_DOMAIN"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			template := strings.ReplaceAll(right, plant.old, plant.new)
			if plant.want == "" {
				behaviour(t, right)
				return
			}
			if template == right {
				t.Fatalf("%q is not in the template", plant.old)
			}
			report := strings.Join(failuresOf(func(t tester.TB) { behaviour(t, template) }), "\n")
			if !strings.Contains(report, plant.want) {
				t.Errorf("not found: the report lacks %q:\n%s", plant.want, report)
			}
		})
	}
}

// failuresOf runs a test that should fail, to its end.
func failuresOf(test func(tester.TB)) []string {
	fake := &recording{}
	done := make(chan struct{})
	go func() {
		defer close(done)
		test(fake)
	}()
	<-done
	fake.end()
	return fake.errors
}

// TestShopSetProxy tests the project's own edge as an image.
func TestShopSetProxy(t *testing.T) {
	t.Parallel()
	shop := tester.StartMockAP(t, tester.MockApResponseBody("shop"), tester.MockApCookie(&http.Cookie{Name: "sid", Value: "1", HttpOnly: true}))
	cart := tester.StartMockAP(t, tester.MockApResponseBody("cart"))
	authority := tester.NewAuthority(t)
	certificate := authority.Issue(t, "shop.example")
	proxy := tester.StartContainer(t, tester.ContainerConfig{
		Image: "shopset-proxy:test",
		Files: map[string]tester.File{
			"/etc/shopset-proxy/config.yaml": {Content: `
https: {certificate: /tls/tls.crt, key: /tls/tls.key}
http: {mode: redirect}
roles:
  shop: {url: "` + shop.URL() + `", timeout: 300ms}
  cart: {url: "` + cart.URL() + `"}
routes: [{prefix: /cart, role: cart}, {prefix: /, role: shop}]
`},
			"/tls/tls.crt": {Content: certificate.CertificatePEM},
			"/tls/tls.key": {Content: certificate.KeyPEM, Mode: 0o400, UID: 65532, GID: 65532},
		},
		ReadOnly: true, Memory: 64 << 20, Port: 8443, Ready: tester.ReadyHTTP(9090, "/readyz"),
	})
	ask := func(options ...tester.HTTPOption) {
		t.Helper()
		proxy.AssertHttpGet(t, append([]tester.HTTPOption{tester.WithTLS("shop.example"), tester.WithHTTP2()}, options...)...)
	}
	ask(tester.ExpectedChain(authority.Pool()), tester.ExpectedHTTP2(), tester.ExpectedBody("shop"), tester.ExpectedCookie("sid", tester.CookieHTTPOnly()))
	ask(tester.Path("/cart/1"), tester.WithHeader("X-Forwarded-For", "192.0.2.7"), tester.ExpectedBody("cart"))
	cart.AssertReceived(t, tester.ReceivedPath("/cart/1"), tester.Header("X-Forwarded-Proto", "https"), tester.ReceivedHost("shop.example"))
	cart.AssertNotReceived(t, tester.Header("X-Forwarded-For", "192.0.2.7")) // Nobody is believed who is not trusted.
	proxy.AssertHttpGet(t, tester.OnPort(8080), tester.Host("shop.example"), tester.Path("/x"), tester.ExpectedRedirect(http.StatusMovedPermanently, "https://shop.example/x"))

	shop.Down(t)
	ask(tester.ExpectedStatus(http.StatusBadGateway))
	ask(tester.Path("/cart"), tester.ExpectedBody("cart"))
	shop.Up(t)
	shop.Hang(t)
	ask(tester.ExpectedStatus(http.StatusGatewayTimeout))
	shop.Up(t)
	ask(tester.ExpectedBody("shop"), tester.Eventually(5*time.Second))
	if code := proxy.Stop(t, 20*time.Second); code != 0 {
		t.Errorf("it ends with code %d:\n%s", code, proxy.Logs(t))
	}
}
