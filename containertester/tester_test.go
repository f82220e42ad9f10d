package tester_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	tester "github.com/shopset/shopset/containertester"
)

const image = "nginx-proxy:test"

// TestReverseProxy is the example that the package is made for.
func TestReverseProxy(t *testing.T) {
	app := tester.StartMockAP(t, tester.MockApResponseBody("app server"))
	defer app.Close(t)

	nginx := tester.StartContainer(t, tester.ContainerConfig{
		Image:       "nginx-proxy:test",
		Environment: map[string]string{"APP_SERVER": app.Host()},
	})
	defer nginx.Close(t)

	nginx.AssertHttpGet(t, tester.ExpectedBody("app server"))
}

func TestWhatTheApplicationSees(t *testing.T) {
	t.Parallel()
	app := tester.StartMockAP(t, tester.MockApResponseBody("{\"a\": 1}"),
		tester.MockApHeader("X-Internal", "secret"), tester.MockApHeader("Content-Type", "application/json"))
	nginx := tester.StartContainer(t, tester.ContainerConfig{Image: image, Environment: map[string]string{"APP_SERVER": app.Host()}})
	nginx.AssertHttp(t, http.MethodPost, tester.Path("/buy?x=1"), tester.Host("shop.example"), tester.WithHeader("X-Forwarded-For", "192.0.2.7"),
		tester.WithBody("body"), tester.ExpectedStatus(200), tester.ExpectedJSON(map[string]int{"a": 1}), tester.ExpectedNoHeader("X-Internal"),
		tester.ExpectedHeader("Server", "nginx"), tester.ExpectedBodyContains("a"), tester.ExpectedBodyMatches(`^\{.*\}$`))
	app.AssertReceived(t, tester.ReceivedMethod("POST"), tester.ReceivedPath("/buy"), tester.ReceivedHost("shop.example"),
		tester.ReceivedBody("body"), tester.Header("X-Forwarded-Proto", "http"), tester.NoHeader("X-Other"))
	app.AssertCount(t, 1)
	app.AssertNotReceived(t, tester.ReceivedPath("/other"))
	nginx.AssertHttpGet(t, tester.Path("/old/page"), tester.ExpectedRedirect(301, "http://shop.example:8080/new/"), tester.Host("shop.example"))
	nginx.AssertHttpGet(t, tester.Path("/old/page"), tester.FollowRedirects(), tester.ExpectedFinalPath("/new/"))
	nginx.AssertLog(t, "GET /old/page")
}

func TestCookies(t *testing.T) {
	t.Parallel()
	app := tester.StartMockAP(t, tester.MockApCookie(&http.Cookie{Name: "session", Value: "x", Domain: "internal", Path: "/"}))
	nginx := tester.StartContainer(t, tester.ContainerConfig{Image: image, Environment: map[string]string{
		"APP_SERVER": app.Host(), "PROXY_COOKIE_DOMAIN": "shop.example"}})
	nginx.AssertHttpGet(t, tester.WithCookie("a", "b"), tester.ExpectedNoCookie("other"), tester.ExpectedCookie("session", tester.CookieValue("x"),
		tester.CookieDomain("shop.example"), tester.CookiePath("/"), tester.CookieSecure(), tester.CookieHTTPOnly()))
	app.AssertReceived(t, tester.Header("Cookie", "a=b"))
}

func TestFallback(t *testing.T) {
	t.Parallel()
	app := tester.StartMockAP(t, tester.MockApResponseBody("app"))
	fallback := tester.StartMockAP(t, tester.MockApResponseBody("fallback"))
	nginx := tester.StartContainer(t, tester.ContainerConfig{Image: image, Environment: map[string]string{
		"APP_SERVER": app.Host(), "PROXY_FALLBACK_SERVER": fallback.Host(), "PROXY_TIMEOUT": "1s"}})
	for name, fails := range map[string]func(tester.TB){
		"down": app.Down, "refuse": app.Refuse, "reset": app.Reset, "hang": app.Hang,
		"503":  func(t tester.TB) { app.Fail(t, 503) },
		"slow": func(t tester.TB) { app.Slow(t, time.Minute) },
	} {
		nginx.AssertHttpGet(t, tester.ExpectedBody("app"), tester.Eventually(10*time.Second))
		fails(t)
		nginx.AssertHttpGet(t, tester.ExpectedBody("fallback"))
		app.Recover(t)
		if t.Failed() {
			t.Fatalf("while the application is: %s", name)
		}
	}
	nginx.AssertHttpGet(t, tester.ExpectedBody("app"), tester.Eventually(10*time.Second))
}

// TestFaults: what a client of the proxy gets while the application fails, and after it.
func TestFaults(t *testing.T) {
	t.Parallel()
	app := tester.StartMockAP(t, tester.MockApResponseBody("app"))
	nginx := tester.StartContainer(t, tester.ContainerConfig{Image: image, Environment: map[string]string{"APP_SERVER": app.Host(), "PROXY_TIMEOUT": "1s"}})
	for _, fault := range []struct {
		name  string
		begin func(tester.TB)
		want  int
	}{{"down", app.Down, 502}, {"refuse", app.Refuse, 502}, {"reset", app.Reset, 502}, {"hang", app.Hang, 504},
		{"slow to read", func(t tester.TB) { app.Listener.Slow(t, 5*time.Second) }, 504}} {
		fault.begin(t)
		nginx.AssertHttpGet(t, tester.ExpectedStatus(fault.want))
		app.Up(t)
		nginx.AssertHttpGet(t, tester.ExpectedBody("app"))
		if t.Failed() {
			t.Fatalf("while the application is: %s", fault.name)
		}
	}
}

func TestSequenceAndPaths(t *testing.T) {
	t.Parallel()
	app := tester.StartMockAP(t, tester.MockApResponseBody("first"), tester.MockApThen(tester.MockApStatus(404), tester.MockApResponseBody("gone")),
		tester.MockApPath("/api/", tester.MockApResponseBody("api"), tester.MockApDelay(time.Millisecond)))
	nginx := tester.StartContainer(t, tester.ContainerConfig{Image: image, Environment: map[string]string{"APP_SERVER": app.Host()}})
	nginx.AssertHttpGet(t, tester.ExpectedBody("first"))
	for range 2 {
		nginx.AssertHttpGet(t, tester.ExpectedStatus(404), tester.ExpectedBody("gone"))
	}
	nginx.AssertHttpGet(t, tester.Path("/api/x"), tester.ExpectedBody("api"))
	app.Forget()
	app.AssertNotReceived(t)
}

func TestRateLimit(t *testing.T) {
	t.Parallel()
	app := tester.StartMockAP(t)
	nginx := tester.StartContainer(t, tester.ContainerConfig{Image: image, Environment: map[string]string{
		"APP_SERVER": app.Host(), "PROXY_RATE_PER_MINUTE": "10"}})
	nginx.AssertRateLimit(t, 10, time.Minute)
}

func TestTLS(t *testing.T) {
	t.Parallel()
	authority := tester.NewAuthority(t)
	certificate := authority.Issue(t, "shop.example", "*.shop.example")
	app := tester.StartMockAP(t, tester.MockApResponseBody("app"))
	nginx := tester.StartContainer(t, tester.ContainerConfig{Image: image,
		Environment: map[string]string{"APP_SERVER": app.Host(), "PROXY_CERTIFICATE": "/etc/tls/crt", "PROXY_KEY": "/etc/tls/key"},
		Ready:       tester.ReadyLog("start worker process"), // The check of its configuration opens the port, too, and may take its time.
		Files:       map[string]tester.File{"/etc/tls/crt": {Content: certificate.CertificatePEM}, "/etc/tls/key": {Content: certificate.KeyPEM, Mode: 0o400, UID: 101, GID: 101}},
	})
	nginx.AssertHttpGet(t, tester.OnPort(8443), tester.WithTLS("a.shop.example"), tester.ExpectedCertificate("a.shop.example"), tester.ExpectedChain(authority.Pool()),
		tester.ExpectedTLSVersion(tls.VersionTLS13), tester.ExpectedBody("app"))
	nginx.AssertHttpGet(t, tester.OnPort(8443), tester.WithTLS("shop.example"), tester.WithHTTP2(), tester.ExpectedHTTP2())
	app.AssertReceived(t, tester.Header("X-Forwarded-Proto", "https"), tester.ReceivedHost("shop.example"))
	fake := &recording{}
	nginx.AssertHttpGet(fake, tester.OnPort(8443), tester.WithTLS("other.example"), tester.ExpectedCertificate("other.example"),
		tester.ExpectedTLSVersion(tls.VersionTLS12), tester.ExpectedHTTP2())
	nginx.AssertHttpGet(fake, tester.OnPort(8443), tester.WithTLS("shop.example"), tester.ExpectedChain(tester.NewAuthority(t).Pool()))
	for _, want := range []string{"not other.example", "unknown authority", "TLS version is not 0x303", "protocol is HTTP/1.1, want HTTP/2.0"} {
		if report := strings.Join(fake.errors, "\n"); !strings.Contains(report, want) {
			t.Errorf("the report lacks %q:\n%s", want, report)
		}
	}
}

func TestControl(t *testing.T) {
	t.Parallel()
	app := tester.StartMockAP(t, tester.MockApResponseBody("app"))
	nginx := tester.StartContainer(t, tester.ContainerConfig{Image: image, Environment: map[string]string{"APP_SERVER": app.Host()},
		Memory: 64 << 20, CPUs: 0.5, Tmpfs: []string{"/tmp", "/run/nginx:uid=101"}, ReadOnly: true})
	if output, code := nginx.Exec(t, "cat", "/run/nginx/nginx.conf"); code != 0 || !strings.Contains(output, app.Host()) {
		t.Errorf("exec: %d %q", code, output)
	}
	if _, code := nginx.Exec(t, "false"); code != 1 {
		t.Errorf("exit code %d", code)
	}
	nginx.Signal(t, "SIGHUP")
	nginx.AssertLog(t, "reconfiguring")
	nginx.Pause(t)
	nginx.AssertHttpGet(t, tester.Within(200*time.Millisecond), tester.ExpectedNoAnswer())
	nginx.Unpause(t)
	nginx.AssertHttpGet(t)
	fake := &recording{}
	nginx.AssertHttpGet(fake, tester.ExpectedNoAnswer())
	if len(fake.errors) != 1 || !strings.Contains(fake.errors[0], "there is an answer, want none") {
		t.Errorf("got %q", fake.errors)
	}
	nginx.Restart(t)
	nginx.AssertHttpGet(t, tester.ExpectedBody("app"))
	if code := nginx.Stop(t, 10*time.Second); code != 0 {
		t.Errorf("exit code %d", code)
	}
	if !strings.Contains(nginx.Logs(t), "start worker process") {
		t.Errorf("log: %s", nginx.Logs(t))
	}
	nginx.Close(t)
	nginx.Close(t)
}

// TestReports: what a failed assertion prints is enough to find the mistake.
func TestReports(t *testing.T) {
	t.Parallel()
	app := tester.StartMockAP(t, tester.MockApStatus(500), tester.MockApResponseBody("oops"))
	nginx := tester.StartContainer(t, tester.ContainerConfig{Image: image, Environment: map[string]string{"APP_SERVER": app.Host(), "PROXY_TIMEOUT": "3s", "APP_PASSWORD": "hunter2"}})
	fake := &recording{}
	nginx.AssertHttpGet(fake, tester.Path("/x"))
	nginx.AssertLog(t, `"GET /x HTTP/1.1" 500`) // Written after the answer was sent.
	fake = &recording{}
	nginx.AssertHttpGet(fake, tester.Path("/x"), tester.WithHeader("X-Test", "1"), tester.ExpectedBody("fine"), tester.ExpectedNoHeader("Server"),
		tester.ExpectedCookie("c"), tester.ExpectedHeader("A", "b"), tester.ExpectedBodyContains("z"), tester.ExpectedBodyMatches("z"), tester.ExpectedJSON(1))
	report := strings.Join(fake.errors, "\n")
	for _, want := range []string{
		"status is 500", `body is "oops", want "fine"`, `header Server is ["nginx"], want none`, "there is no cookie c", `header A is [], want "b"`,
		"GET /x (http, port 8080)", "X-Test: 1", "HTTP/1.1 500", "PROXY_TIMEOUT=3s", "APP_PASSWORD=(hidden)", "the end of its log", `"GET /x HTTP/1.1" 500`,
		"body is no JSON", "does not match z", `does not contain "z"`,
	} {
		if !strings.Contains(report, want) {
			t.Errorf("the report lacks %q:\n%s", want, report)
		}
	}
	if strings.Contains(report, "hunter2") {
		t.Errorf("the report holds a secret:\n%s", report)
	}
	fake = &recording{}
	app.AssertReceived(fake, tester.Header("X-Test", "2"), tester.ReceivedPath("/x"))
	app.AssertCount(fake, 7)
	app.AssertNotReceived(fake, tester.ReceivedPath("/x"))
	if len(fake.errors) != 3 || !strings.Contains(fake.errors[0], `header X-Test is ["1"], want "2"`) {
		t.Errorf("got %q", fake.errors)
	}
}

// TestMistakes: planted ones are found at the start, with the reason.
func TestMistakes(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		config tester.ContainerConfig
		want   []string
	}{
		"no such image":     {tester.ContainerConfig{Image: "nowhere:none"}, []string{"look at the image", "nowhere"}},
		"variable missing":  {tester.ContainerConfig{Image: image}, []string{"ended with code 78 before it was ready", "APP_SERVER is not set, and is required"}},
		"variable misspelt": {tester.ContainerConfig{Image: image, Environment: map[string]string{"APP_SERVER": "a:1", "PROXY_TIMEOT": "1s"}}, []string{"PROXY_TIMEOT is not a variable of this image; did you mean PROXY_TIMEOUT?"}},
		"bad value":         {tester.ContainerConfig{Image: image, Environment: map[string]string{"APP_SERVER": "a:1", "PROXY_TIMEOUT": "soon"}}, []string{`PROXY_TIMEOUT: "soon" is not a duration`}},
		"nginx refuses":     {tester.ContainerConfig{Image: image, Environment: map[string]string{"APP_SERVER": "no-such-host:80"}}, []string{"host not found in upstream"}},
		"never ready":       {tester.ContainerConfig{Image: image, Environment: map[string]string{"APP_SERVER": "127.0.0.1:1"}, Ready: tester.ReadyLog("never"), StartTimeout: 15 * time.Second}, []string{"not ready within 15s", `the log does not say "never"`}},
		"relative file":     {tester.ContainerConfig{Image: image, Files: map[string]tester.File{"x": {}}}, []string{"file x: the path must be absolute"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			fake := &recording{}
			done := make(chan struct{})
			go func() {
				defer close(done)
				tester.StartContainer(fake, test.config)
			}()
			<-done
			fake.end()
			for _, want := range test.want {
				if report := strings.Join(fake.errors, "\n"); !strings.Contains(report, want) {
					t.Errorf("the report lacks %q:\n%s", want, report)
				}
			}
		})
	}
}

// TestReady: all ways to wait.
func TestReady(t *testing.T) {
	t.Parallel()
	app := tester.StartMockAP(t)
	network := tester.StartNetwork(t)
	for _, ready := range []tester.Ready{tester.ReadyHTTP(8080, "/"), tester.ReadyLog("start worker process"), tester.ReadyPort(8080), tester.ReadyAtOnce()} {
		nginx := tester.StartContainer(t, tester.ContainerConfig{Image: image, Ready: ready, Network: network, Aliases: []string{"web"},
			Environment: map[string]string{"APP_SERVER": app.Host()}})
		nginx.AssertHttpGet(t, tester.Eventually(5*time.Second))
		nginx.Close(t)
	}
}

// recording is a test that may fail.
type recording struct {
	mu       sync.Mutex
	errors   []string
	cleanups []func()
}

func (r *recording) Helper()                  {}
func (r *recording) Name() string             { return fmt.Sprintf("recording-%p", r) }
func (r *recording) Cleanup(f func())         { r.cleanups = append(r.cleanups, f) }
func (r *recording) Logf(string, ...any)      {}
func (r *recording) Context() context.Context { return context.Background() }
func (r *recording) Failed() bool             { r.mu.Lock(); defer r.mu.Unlock(); return len(r.errors) > 0 }
func (r *recording) Errorf(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.errors = append(r.errors, fmt.Sprintf(format, args...))
}

// Fatalf ends the goroutine, as that of a test does.
func (r *recording) Fatalf(format string, args ...any) {
	r.Errorf(format, args...)
	goexit()
}

func (r *recording) end() {
	for i := len(r.cleanups) - 1; i >= 0; i-- {
		r.cleanups[i]()
	}
}

func TestMain(m *testing.M) {
	if os.Getenv("TESTER_LEAVE") != "" {
		leave()
	}
	code := m.Run()
	examples.end()
	os.Exit(code)
}

// TestNoAnswerNeedsAQuestion: what was never sent has no answer, and says nothing of the container.
func TestNoAnswerNeedsAQuestion(t *testing.T) {
	t.Parallel()
	app := tester.StartMockAP(t)
	nginx := tester.StartContainer(t, tester.ContainerConfig{Image: image, Environment: map[string]string{"APP_SERVER": app.Host()}})
	for _, option := range []tester.HTTPOption{tester.OnPort(81), tester.Path("no-slash")} {
		fake := &recording{}
		nginx.AssertHttpGet(fake, option, tester.ExpectedNoAnswer())
		if !fake.Failed() {
			t.Error("a request that cannot be sent passed for one without an answer")
		}
	}
	nginx.Stop(t, time.Second)
	if address := nginx.Address(8080); address != "" {
		t.Errorf("a container that was stopped is said to be at %s", address)
	}
}

// TestRestartWaitsForItsOwnLog: what the log held before a restart does not count.
func TestRestartWaitsForItsOwnLog(t *testing.T) {
	t.Parallel()
	app := tester.StartMockAP(t)
	nginx := tester.StartContainer(t, tester.ContainerConfig{Image: image, Ready: tester.ReadyLog("start worker process"),
		Environment: map[string]string{"APP_SERVER": app.Host()}})
	before := strings.Count(nginx.Logs(t), "start worker process")
	nginx.Restart(t)
	if after := strings.Count(nginx.Logs(t), "start worker process"); after <= before {
		t.Errorf("ready after a restart with %d lines as before", after)
	}
}

// TestUnset takes a variable of the image away.
func TestUnset(t *testing.T) {
	t.Parallel()
	app := tester.StartMockAP(t)
	nginx := tester.StartContainer(t, tester.ContainerConfig{Image: image, Environment: map[string]string{"APP_SERVER": app.Host(), "PATH": tester.Unset}})
	if output, _ := nginx.Exec(t, "/bin/sh", "-c", "env"); strings.Contains(output, "tester") || strings.Contains(output, "\x00") {
		t.Errorf("the environment holds %q", output)
	}
}

// TestLongBodies: a mock reads all of an upload, keeps a part and says so; its handler gets the whole.
func TestLongBodies(t *testing.T) {
	t.Parallel()
	whole := int64(0)
	app := tester.StartMockAP(t, tester.MockApPath("/handler", tester.MockApHandler(func(_ http.ResponseWriter, r *http.Request) {
		whole, _ = io.Copy(io.Discard, r.Body)
	})))
	for _, path := range []string{"/", "/handler"} {
		app.Forget()
		response, err := http.Post(app.URL()+path, "text/plain", strings.NewReader(strings.Repeat("x", 3<<20)))
		if err != nil {
			t.Fatal(err)
		}
		_ = response.Body.Close()
		if got := app.Received(); len(got) != 1 || !got[0].Truncated || len(got[0].Body) != 1<<20 {
			t.Errorf("%s: %d requests", path, len(got))
		}
	}
	if whole != 3<<20 {
		t.Errorf("the handler got %d bytes", whole)
	}
}
