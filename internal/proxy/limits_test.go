package proxy

import (
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/shopset/shopset/internal/admin"
)

// FuzzConfig: whatever is in the file, it is an error that says where, or a configuration that can be used.
func FuzzConfig(f *testing.F) {
	f.Add("http: {}\nroles: {a: {url: \"http://a\"}}\nroutes: [{prefix: /, role: a}]\n")
	f.Add("http: {}\nroles: {a: {upstreams: [{url: \"http://a\", weight: 0}], fallback: [{stored: 1h}]}}\nroutes: [{regexp: \"(\", role: a}]\n")
	f.Add("roles: {a: {redirect: {to: \"${x\"}, static: {}}}\nrateLimits: [{key: [client/99]}]\naccess: [{}]\ncertificates: {}\n")
	f.Fuzz(func(t *testing.T, text string) {
		config := DefaultConfig()
		if err := admin.ParseConfig("fuzz.yaml", []byte(text), config); err != nil {
			return
		}
		config.fill()
		if config.Certificates != nil || strings.Contains(text, "/") && strings.Contains(text, "page") {
			return // These name files.
		}
		probe := &Proxy{config: config, metrics: newMetrics(newTestRegistry(), &connections{}, 0)}
		made, err := probe.newPipeline(config)
		if err != nil {
			return // Files, mostly.
		}
		request := httptest.NewRequest(http.MethodGet, "http://a.example/x", nil)
		made.explain(request, true)
		made.retire(nil)
	})
}

// FuzzHeaders: whatever texts and requests there are, no header gets a line break, and none of the proxy's own changes.
func FuzzHeaders(f *testing.F) {
	f.Add("${path}", "/a\r\nX-Evil: 1", "X-A", "x-b*")
	f.Add("$${header:Cookie}", "/", "Connection", "X-Forwarded-*")
	f.Fuzz(func(t *testing.T, text, path, name, remove string) {
		to, err := parseText(text)
		if err != nil {
			return
		}
		changes := []HeaderChange{{Set: name, To: to}, {Remove: remove}, {Add: name, To: to}}
		var found problems
		for i := range changes {
			changes[i].problems(&found, "x")
		}
		if len(found) > 0 {
			return
		}
		request := httptest.NewRequest(http.MethodGet, "/", nil)
		request.URL.Path = path
		header := http.Header{"Connection": {"close"}, "X-Forwarded-For": {"192.0.2.1"}, "Content-Length": {"5"}}
		newHeaderFilter(changes).apply(&exchange{request: request, host: "a", path: cleanPath(path)}, header)
		for name, values := range header {
			for _, value := range values {
				if strings.ContainsAny(name+value, "\r\n\x00") {
					t.Fatalf("%q: %q", name, value)
				}
			}
		}
		if header.Get("Connection") != "close" || header.Get("X-Forwarded-For") != "192.0.2.1" || header.Get("Content-Length") != "5" {
			t.Fatalf("the proxy's own headers became %v", header)
		}
	})
}

// TestHTTP2Upstreams: over TLS, and without for those who are known to speak it.
func TestHTTP2Upstreams(t *testing.T) {
	plain := httptest.NewUnstartedServer(http.HandlerFunc(mirrorProto))
	plain.Config.Protocols = &http.Protocols{}
	plain.Config.Protocols.SetUnencryptedHTTP2(true)
	plain.Start()
	t.Cleanup(plain.Close)
	secure := httptest.NewUnstartedServer(http.HandlerFunc(mirrorProto))
	secure.EnableHTTP2 = true
	secure.StartTLS()
	t.Cleanup(secure.Close)
	ca := writeFile(t, t.TempDir()+"/ca.pem", pemOf(secure.Certificate()))
	for name, test := range map[string]struct{ upstream, want string }{
		"without TLS":           {"{url: \"" + plain.URL + "\", protocol: http2}", "HTTP/2.0"},
		"with TLS":              {"{url: \"" + secure.URL + "\", protocol: http2, serverName: example.com, ca: " + ca + "}", "HTTP/2.0"},
		"as they agree":         {"{url: \"" + secure.URL + "\", serverName: example.com, ca: " + ca + "}", "HTTP/2.0"},
		"HTTP/1.1 if it has to": {"{url: \"" + secure.URL + "\", protocol: http1, serverName: example.com, ca: " + ca + "}", "HTTP/1.1"},
	} {
		e := start(t, "roles: {shop: {upstreams: ["+test.upstream+"]}}\nroutes: [{prefix: /, role: shop}]\n")
		for _, method := range []string{http.MethodGet, http.MethodPost} {
			status, body, _ := do(t, client(t, false), newRequest(t, method, e.http+"/", nil))
			if status != http.StatusOK || body != test.want {
				t.Errorf("%s, %s: %d %s, want %s", name, method, status, body, test.want)
			}
		}
	}
	// Who cannot be verified is not asked.
	e := start(t, "roles: {shop: {retries: 0, upstreams: [{url: \""+secure.URL+"\"}]}}\nroutes: [{prefix: /, role: shop}]\n")
	if status, _, _ := do(t, client(t, false), newRequest(t, http.MethodGet, e.http+"/", nil)); status != http.StatusBadGateway {
		t.Errorf("an upstream that cannot be verified: %d", status)
	}
	e.wantMetric(`shopset_proxy_role_failures_total{reason="certificate",role="shop"}`, "1")
}

func mirrorProto(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, r.Proto) }

// TestAnswerBeforeTheBody: an upstream that has seen enough is heard, and the client is not made to send the rest.
func TestAnswerBeforeTheBody(t *testing.T) {
	shop := origin(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusForbidden) })
	e := start(t, toShop(shop.URL))
	conn := raw(t, e.http, "POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 1000000\r\n\r\n")
	answer, _ := io.ReadAll(io.LimitReader(conn, 24))
	if !strings.HasPrefix(string(answer), "HTTP/1.1 403 Forbidden") {
		t.Errorf("got %q", answer)
	}
	// One that answers at once; net/http would wait for the body.
	url, _ := script(t, func(conn net.Conn, _ *http.Request) {
		_, _ = io.WriteString(conn, "HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
	})
	e = start(t, toShop(url))
	body, writer := io.Pipe()
	go func() {
		_, _ = io.WriteString(writer, "a little") // The rest never comes.
	}()
	t.Cleanup(func() { _ = writer.Close() })
	response, err := client(t, true).Do(newRequest(t, http.MethodPost, e.https+"/", body))
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusForbidden {
		t.Errorf("over HTTP/2: %d", response.StatusCode)
	}
}

// TestFullDisk: a log that cannot be written loses lines, and no requests; when there is room again, it goes on.
func TestFullDisk(t *testing.T) {
	out := &oddDisk{}
	dropped := prometheus.NewCounter(prometheus.CounterOpts{Name: "dropped"})
	log := newAccessLog(out, dropped)
	out.full.Store(true)
	for range 5000 {
		writeLine(t, log)
	}
	eventually(t, "all are lost", func() bool { return testutil.ToFloat64(dropped) == 5000 })
	out.full.Store(false)
	writeLine(t, log)
	log.close()
	if n := out.lines.Load(); n != 1 {
		t.Errorf("%d lines were written, want the one after", n)
	}
}

func writeLine(t *testing.T, log *accessLog) {
	log.write(&exchange{request: newRequest(t, http.MethodGet, "http://a.example/", nil), start: time.Now(), status: 200}, time.Millisecond)
}

// TestStuckLog: whoever reads the log may stop reading: requests are served, lines are dropped above a bound, and the rest
// is written when it goes on.
func TestStuckLog(t *testing.T) {
	out := &oddDisk{stuck: make(chan struct{})}
	config := DefaultConfig()
	config.Shutdown.Delay = 0
	text := "http: {address: \"127.0.0.1:0\", mode: serve}\n" + toShop(origin(t, echo("shop")).URL)
	if err := admin.ParseConfig("test.yaml", []byte(text), config); err != nil {
		t.Fatal(err)
	}
	e := &edge{t: t, admin: admin.New()}
	var err error
	if e.Proxy, err = New(config, e.admin, out); err != nil {
		t.Fatal(err)
	}
	e.http = "http://" + e.Addresses()[0].String()
	served := make(chan error, 1)
	go func() { served <- e.Serve() }()
	const dropped = "shopset_proxy_access_log_dropped_total"
	lines := 0
	for e.metric(dropped) == "0" {
		for range 1000 {
			writeLine(t, e.accessLog)
			lines++
		}
		if lines > accessLogMost/100 {
			t.Fatal("lines are kept without a bound")
		}
	}
	for range 3 {
		if status, _, _ := ask(t, e, "/"); status != http.StatusOK {
			t.Errorf("with a log that is stuck: %d", status)
		}
		lines++
	}
	eventually(t, "all are counted or wait", func() bool { return e.connections.active.Load() == 0 })
	lost, err := strconv.Atoi(e.metric(dropped))
	if err != nil {
		t.Fatal(err)
	}
	close(out.stuck)
	if err := e.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
	if err := <-served; err != nil {
		t.Error(err)
	}
	if n := out.lines.Load(); n != int64(lines-lost) {
		t.Errorf("%d lines were written, %d of %d were dropped", n, lost, lines)
	}
}

// oddDisk may be full, or stuck.
type oddDisk struct {
	full  atomic.Bool
	stuck chan struct{} // nil when it is not
	lines atomic.Int64
}

func (d *oddDisk) Write(p []byte) (int, error) {
	if d.stuck != nil {
		<-d.stuck
	}
	if d.full.Load() {
		return 0, errors.New("no space left on device")
	}
	d.lines.Add(int64(strings.Count(string(p), "\n")))
	return len(p), nil
}
