package tester_test

import (
	"bufio"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	tester "github.com/shopset/shopset/containertester"
)

// In a test, t is its argument. The examples are compiled, not run: they need images.
var t *testing.T

func ExampleStartContainer() {
	nginx := tester.StartContainer(t, tester.ContainerConfig{
		Image:        "nginx-proxy:test",
		Environment:  map[string]string{"APP_SERVER": "app:8080"},
		Files:        map[string]tester.File{"/etc/nginx/extra.conf": {Content: "gzip on;\n", Mode: 0o644}},
		Mounts:       map[string]string{"/srv/pages": "/home/me/pages"},
		Tmpfs:        []string{"/tmp"},
		ReadOnly:     true,
		Memory:       64 << 20,
		CPUs:         0.5,
		Ready:        tester.ReadyHTTP(8080, "/healthz"),
		StartTimeout: 10 * time.Second,
	})
	nginx.AssertHttpGet(t, tester.ExpectedStatus(200))
}

func ExampleStartMockAP() {
	app := tester.StartMockAP(t,
		tester.MockApResponseBody("hello"),
		tester.MockApHeader("Cache-Control", "no-store"),
		tester.MockApCookie(&http.Cookie{Name: "session", Value: "1"}),
		tester.MockApThen(tester.MockApStatus(http.StatusNotFound)), // The second answer, and all after it.
		tester.MockApPath("/slow/", tester.MockApDelay(time.Second)),
	)
	_ = app.URL() // For the environment of the container under test.
}

func ExampleMockAP_AssertReceived() {
	app := tester.StartMockAP(t)
	app.AssertReceived(t, tester.ReceivedMethod("POST"), tester.ReceivedPath("/buy"), tester.ReceivedHost("shop.example"),
		tester.Header("X-Forwarded-For", "192.0.2.7"), tester.NoHeader("X-Debug"), tester.ReceivedBody("n=1"))
	app.AssertNotReceived(t, tester.ReceivedPath("/admin"))
	app.AssertCount(t, 1)
}

func ExampleMockAP_Fail() {
	app := tester.StartMockAP(t, tester.MockApResponseBody("app"))
	fallback := tester.StartMockAP(t, tester.MockApResponseBody("fallback"))
	nginx := tester.StartContainer(t, tester.ContainerConfig{Image: "nginx-proxy:test", Environment: map[string]string{
		"APP_SERVER": app.Host(), "PROXY_FALLBACK_SERVER": fallback.Host()}})
	app.Fail(t, http.StatusServiceUnavailable) // Or Down, Hang, Reset, Slow.
	nginx.AssertHttpGet(t, tester.ExpectedBody("fallback"))
	app.Recover(t)
	nginx.AssertHttpGet(t, tester.ExpectedBody("app"), tester.Eventually(10*time.Second))
}

func ExampleStartMockRedis() {
	redis := tester.StartMockRedis(t)
	redis.Set(t, "certificate:shop.example", "…")
	redis.Latency(50 * time.Millisecond)
	redis.Down(t)
	redis.Up(t)
	redis.AssertReceived(t, "GET certificate:shop.example")
}

func ExampleStartMockTCP() {
	tester.StartMockTCP(t, func(conn net.Conn) {
		defer conn.Close()
		line, _ := bufio.NewReader(conn).ReadString('\n')
		_, _ = io.WriteString(conn, line)
	})
}

func ExampleContainer_AssertHttp() {
	var nginx *tester.Container
	nginx.AssertHttp(t, http.MethodPost, tester.Path("/buy"), tester.Host("shop.example"), tester.WithBody("n=1"),
		tester.WithHeader("Accept-Language", "de"), tester.WithCookie("session", "1"), tester.Within(time.Second),
		tester.ExpectedRedirect(http.StatusSeeOther, "/thanks"),
		tester.ExpectedCookie("session", tester.CookieSecure(), tester.CookieHTTPOnly(), tester.CookieSameSite(http.SameSiteLaxMode)))
}

func ExampleWithTLS() {
	certificate, key, err := tester.CertificatePEM("shop.example")
	if err != nil {
		t.Fatal(err)
	}
	nginx := tester.StartContainer(t, tester.ContainerConfig{
		Image:       "nginx-proxy:test",
		Environment: map[string]string{"PROXY_CERTIFICATE": "/etc/tls/crt", "PROXY_KEY": "/etc/tls/key"},
		Files:       map[string]tester.File{"/etc/tls/crt": {Content: certificate}, "/etc/tls/key": {Content: key}},
	})
	nginx.AssertHttpGet(t, tester.OnPort(8443), tester.WithTLS("shop.example"), tester.WithHTTP2(),
		tester.ExpectedCertificate("shop.example"), tester.ExpectedTLSVersion(tls.VersionTLS13), tester.ExpectedHTTP2())
}

func ExampleContainer_AssertRateLimit() {
	var nginx *tester.Container
	nginx.AssertRateLimit(t, 10, time.Minute, tester.Path("/login"))
}

func ExampleContainer_Exec() {
	var nginx *tester.Container
	output, code := nginx.Exec(t, "nginx", "-T")
	if code != 0 {
		t.Error(output)
	}
	nginx.Signal(t, "SIGHUP")
	nginx.AssertLog(t, "reconfiguring")
}

func ExampleRunMatrix() {
	app := tester.StartMockAP(t, tester.MockApResponseBody("app"))
	tester.RunMatrix(t,
		tester.ContainerConfig{Image: "nginx-proxy:test", Environment: map[string]string{"APP_SERVER": app.Host()}},
		tester.Matrix{"PROXY_TIMEOUT": {"1s", "10s"}, "PROXY_COOKIE_DOMAIN": {"shop.example", tester.Unset}},
		func(t tester.TB, nginx *tester.Container) { nginx.AssertHttpGet(t, tester.ExpectedBody("app")) })
}

func ExampleContainer_AssertEnvironmentUsed() {
	var nginx *tester.Container
	nginx.AssertEnvironmentUsed(t)
	nginx.AssertNoLeftovers(t, "/etc/nginx")
}

func ExampleAssertSame() {
	var machine, image tester.Endpoint // The machine's address and the new image's Endpoint().
	tester.AssertSame(t, machine, image, []tester.Call{
		{Options: []tester.HTTPOption{tester.Path("/"), tester.Host("shop.example")}},
		{Method: http.MethodPost, Options: []tester.HTTPOption{tester.Path("/cart/add"), tester.WithBody("product=1")}},
	}, tester.IgnoreHeaders{"Server"})
}
