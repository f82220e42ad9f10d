package tester_test

import (
	"crypto/tls"
	"fmt"
	"net/http"
	"strings"
	"time"

	tester "github.com/shopset/shopset/containertester"
)

func ExampleContainerConfig() {
	t := examples
	certificate := tester.NewAuthority(t).Issue(t, "shop.example")
	app := tester.StartMockAP(t)
	nginx := tester.StartContainer(t, tester.ContainerConfig{
		Image: "nginx-proxy:test",
		Environment: map[string]string{
			"APP_SERVER": app.Host(), "PROXY_CERTIFICATE": "/etc/tls/crt", "PROXY_KEY": "/etc/tls/key",
		},
		Files: map[string]tester.File{
			"/etc/tls/crt": {Content: certificate.CertificatePEM},
			"/etc/tls/key": {Content: certificate.KeyPEM, Mode: 0o400, UID: 101, GID: 101},
		},
		Tmpfs:        []string{"/tmp", "/run/nginx:uid=101"},
		ReadOnly:     true,
		Memory:       64 << 20,
		CPUs:         0.5,
		Port:         8443,
		StartTimeout: 30 * time.Second,
	})
	nginx.AssertHttpGet(t, tester.WithTLS("shop.example"))
	// Output:
}

func ExampleStartNetwork() {
	t := examples
	network := tester.StartNetwork(t)
	app := tester.StartMockAP(t, tester.MockApResponseBody("app"))
	tester.StartContainer(t, tester.ContainerConfig{Image: "nginx-proxy:test", Network: network, Aliases: []string{"inner"},
		Environment: map[string]string{"APP_SERVER": app.Host()}})
	outer := tester.StartContainer(t, tester.ContainerConfig{Image: "nginx-proxy:test", Network: network,
		Environment: map[string]string{"APP_SERVER": "inner:8080"}})
	outer.AssertHttpGet(t, tester.ExpectedBody("app"))
	// Output:
}

func ExampleContainer_AssertHttpGet() {
	t, _, nginx := example(tester.MockApPath("/missing", tester.MockApStatus(404), tester.MockApResponseBody("none")))
	response := nginx.AssertHttpGet(t, tester.Path("/missing"), tester.ExpectedStatus(404),
		tester.ExpectedBodyContains("no"), tester.ExpectedBodyMatches("^n.*e$"), tester.ExpectedHeader("Server", "nginx"))
	status, _, _ := strings.Cut(response.String(), "\n")
	fmt.Println(status)
	// Output: HTTP/1.1 404 Not Found
}

func ExampleContainer_AssertHttp() {
	t, app, nginx := example(tester.MockApStatus(http.StatusSeeOther), tester.MockApHeader("Location", "/thanks"))
	// Options that belong together can be kept together.
	customer := []tester.HTTPOption{tester.Host("shop.example"), tester.WithCookie("session", "1")}
	nginx.AssertHttp(t, http.MethodPost, append(customer, tester.Path("/buy"), tester.WithBody("n=1"),
		tester.WithHeader("Accept-Language", "de"), tester.Within(5*time.Second),
		tester.ExpectedRedirect(http.StatusSeeOther, "/thanks"), tester.ExpectedNoHeader("X-Debug"))...)
	app.AssertReceived(t, tester.Header("Accept-Language", "de"), tester.Header("Cookie", "session=1"))
	// Output:
}

func ExampleExpectedJSON() {
	t, _, nginx := example(tester.MockApResponseBody(`{"price": 12, "name": "tea"}`))
	nginx.AssertHttpGet(t, tester.ExpectedJSON(map[string]any{"name": "tea", "price": 12}))
	// Output:
}

func ExampleExpectedCookie() {
	t, _, nginx := example(tester.MockApCookie(&http.Cookie{Name: "session", Value: "1", Path: "/", Domain: "shop.example",
		Secure: true, HttpOnly: true, MaxAge: 3600, SameSite: http.SameSiteLaxMode}))
	lasts := tester.CookieMaxAge(time.Hour)
	nginx.AssertHttpGet(t, tester.ExpectedNoCookie("debug"), tester.ExpectedCookie("session", lasts, tester.CookieValue("1"),
		tester.CookiePath("/"), tester.CookieDomain("shop.example"), tester.CookieSecure(), tester.CookieHTTPOnly(),
		tester.CookieSameSite(http.SameSiteLaxMode)))
	// Output:
}

func ExampleFollowRedirects() {
	t, _, nginx := example()
	nginx.AssertHttpGet(t, tester.Path("/old/page"), tester.FollowRedirects(), tester.ExpectedFinalPath("/new/"))
	// Output:
}

func ExampleWithTLS() {
	t := examples
	authority := tester.NewAuthority(t)
	certificate := authority.Issue(t, "shop.example", "*.shop.example")
	app := tester.StartMockAP(t)
	nginx := tester.StartContainer(t, tester.ContainerConfig{
		Image:       "nginx-proxy:test",
		Environment: map[string]string{"APP_SERVER": app.Host(), "PROXY_CERTIFICATE": "/etc/tls/crt", "PROXY_KEY": "/etc/tls/key"},
		Files: map[string]tester.File{"/etc/tls/crt": {Content: certificate.CertificatePEM},
			"/etc/tls/key": {Content: certificate.KeyPEM, Mode: 0o400, UID: 101}},
	})
	nginx.AssertHttpGet(t, tester.OnPort(8443), tester.WithTLS("a.shop.example"), tester.WithHTTP2(), tester.ExpectedHTTP2(),
		tester.ExpectedCertificate("a.shop.example"), tester.ExpectedChain(authority.Pool()), tester.ExpectedTLSVersion(tls.VersionTLS13))
	// Output:
}

func ExampleEventually() {
	t, _, nginx := example(tester.MockApStatus(503), tester.MockApThen(tester.MockApResponseBody("there now")))
	nginx.AssertHttpGet(t, tester.ExpectedBody("there now"), tester.Eventually(10*time.Second))
	// Output:
}

func ExampleAssertEventually() {
	t, app, nginx := example()
	go nginx.AssertHttpGet(t)
	tester.AssertEventually(t, 10*time.Second, func(t tester.TB) { app.AssertCount(t, 1) })
	// Output:
}

func ExampleContainer_AssertRateLimit() {
	t := examples
	app := tester.StartMockAP(t)
	nginx := tester.StartContainer(t, tester.ContainerConfig{Image: "nginx-proxy:test",
		Environment: map[string]string{"APP_SERVER": app.Host(), "PROXY_RATE_PER_MINUTE": "10"}})
	nginx.AssertRateLimit(t, 10, time.Minute, tester.Path("/login"))
	// Output:
}

func ExampleContainer_Exec() {
	t, _, nginx := example()
	_, code := nginx.Exec(t, "cat", "/run/nginx/nginx.conf")
	fmt.Println(code)
	// Output: 0
}

func ExampleContainer_Signal() {
	t, _, nginx := example()
	nginx.Signal(t, "SIGHUP")
	nginx.AssertLog(t, "reconfiguring")
	nginx.Pause(t)
	nginx.AssertHttpGet(t, tester.Within(100*time.Millisecond), tester.ExpectedNoAnswer())
	nginx.Unpause(t)
	nginx.Restart(t)
	nginx.AssertHttpGet(t)
	fmt.Println(nginx.Stop(t, 10*time.Second))
	// Output: 0
}

func ExampleContainer_Wait() {
	t := examples
	job := tester.StartContainer(t, tester.ContainerConfig{Image: "nginx-proxy:test", Entrypoint: []string{"/usr/sbin/nginx", "-v"},
		Command: []string{}, Ready: tester.ReadyAtOnce()})
	fmt.Println(job.Wait(t), strings.HasPrefix(job.Logs(t), "nginx version"))
	// Output: 0 true
}

func ExampleReadyHealthy() {
	t := &recording{} // It fails, and says why: this image has no HEALTHCHECK.
	done := make(chan struct{})
	go func() {
		defer close(done)
		tester.StartContainer(t, tester.ContainerConfig{Image: "nginx-proxy:test", Environment: map[string]string{"APP_SERVER": "127.0.0.1:1"},
			Ready: tester.ReadyHealthy(), StartTimeout: time.Second})
	}()
	<-done
	t.end()
	fmt.Println(strings.Contains(t.errors[0], "the image has no HEALTHCHECK"))
	// Output: true
}

func ExampleRunMatrix() {
	t := examples
	app := tester.StartMockAP(t, tester.MockApResponseBody("app"))
	matrix := tester.Matrix{
		"PROXY_TIMEOUT": {"1s", "10s"}, "PROXY_COOKIE_DOMAIN": {"shop.example", tester.Unset}, "PROXY_SERVER_HEADER": {"true", "false"},
	}
	sets, all := matrix.Pairs()
	fmt.Println(len(sets), "runs cover all pairs of", all, "combinations")
	tester.RunMatrix(t, tester.ContainerConfig{Image: "nginx-proxy:test", Environment: map[string]string{"APP_SERVER": app.Host()}}, matrix,
		func(t tester.TB, nginx *tester.Container) { nginx.AssertHttpGet(t, tester.ExpectedBody("app")) })
	// Output: 4 runs cover all pairs of 8 combinations
}

func ExampleContainer_AssertEnvironmentUsed() {
	t, _, nginx := example()
	nginx.AssertEnvironmentUsed(t)
	nginx.AssertNoLeftovers(t, "/run/nginx/nginx.conf")
	// Output:
}

func ExampleAssertSame() {
	t, oldApp, machine := example(tester.MockApResponseBody("page"))
	_, newApp, nginx := example(tester.MockApResponseBody("page"))
	// The side that is no container yet: an address.
	before := tester.Endpoint{Name: "the old machine", Address: machine.Address(8080), Mocks: []*tester.MockAP{oldApp}}
	tester.AssertSame(t, before, nginx.Endpoint(newApp), []tester.Call{
		{Options: []tester.HTTPOption{tester.Path("/"), tester.Host("shop.example")}},
		{Method: http.MethodPost, Options: []tester.HTTPOption{tester.Path("/cart/add"), tester.WithBody("product=1")}},
	}, tester.IgnoreHeaders{"Server"})
	// Output:
}
