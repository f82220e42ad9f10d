package proxy

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// script is an upstream that does one thing for each connection, in order; the last for all others.
// Each gets the first request's headers already read, except refuse, which gets nothing.
func script(t *testing.T, steps ...func(net.Conn, *http.Request)) (url string, accepted *atomic.Int64) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	accepted = new(atomic.Int64)
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			step := steps[min(int(accepted.Add(1)), len(steps))-1]
			go func() {
				defer conn.Close()
				request, err := http.ReadRequest(bufio.NewReader(conn))
				if err == nil {
					step(conn, request)
				}
			}()
		}
	}()
	return "http://" + listener.Addr().String(), accepted
}

func answer(conn net.Conn, _ *http.Request) {
	io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")
}

func hangUp(net.Conn, *http.Request) {}

func silence(conn net.Conn, _ *http.Request) { io.Copy(io.Discard, conn) }

func halfAnswer(conn net.Conn, request *http.Request) {
	io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
}

func halfAnswerThenSilence(conn net.Conn, request *http.Request) {
	halfAnswer(conn, request)
	silence(conn, request)
}

// limitFor is short only where the limit is to be met.
func limitFor(failure string, cut bool) string {
	switch {
	case failure != "timeout":
		return "timeout: 30s"
	case cut:
		return "stallTimeout: 100ms"
	}
	return "timeout: 100ms"
}

// TestUpstreamFaults has upstreams that fail in all phases.
func TestUpstreamFaults(t *testing.T) {
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	type steps = []func(net.Conn, *http.Request)
	for _, test := range []struct {
		name, method string
		steps        steps // nil: nobody listens
		status       int
		cut          bool   // the answer breaks off
		tries        int64  // connections that the upstream got
		failure      string // reason in the metric
	}{
		{"nobody listens", "GET", nil, 502, false, 0, "connect"},
		{"nobody listens, with body", "POST", nil, 502, false, 0, "connect"},
		{"GET hung up once", "GET", steps{hangUp, answer}, 200, false, 2, ""},
		{"HEAD hung up once", "HEAD", steps{hangUp, answer}, 200, false, 2, ""},
		{"GET hung up twice", "GET", steps{hangUp, hangUp, answer}, 502, false, 2, "broken"},
		{"POST is not repeated", "POST", steps{hangUp, answer}, 502, false, 1, "broken"},
		{"DELETE is not repeated", "DELETE", steps{hangUp, answer}, 502, false, 1, "broken"},
		{"too slow, not repeated", "GET", steps{silence, answer}, 504, false, 1, "timeout"},
		{"half an answer", "GET", steps{halfAnswer}, 200, true, 1, "broken"},
		{"half an answer, then silence", "GET", steps{halfAnswerThenSilence}, 200, true, 1, "timeout"},
	} {
		for _, h2 := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/h2=%t", test.name, h2), func(t *testing.T) {
				url, tries := "http://"+closed.Addr().String(), new(atomic.Int64)
				if test.steps != nil {
					url, tries = script(t, test.steps...)
				}
				e := start(t, toShop(url, limitFor(test.failure, test.cut)))
				var body io.Reader
				if test.method == "POST" {
					body = strings.NewReader("body")
				}
				response, err := client(t, h2).Do(newRequest(t, test.method, e.https+"/", body))
				var page []byte
				switch {
				case err == nil:
					defer response.Body.Close()
					page, err = io.ReadAll(response.Body)
				case test.cut:
					response = &http.Response{StatusCode: test.status} // cut before the first byte got out
				default:
					t.Fatal(err)
				}
				if response.StatusCode != test.status || (err != nil) != test.cut {
					t.Errorf("got %d, then %v", response.StatusCode, err)
				}
				if want := fmt.Sprintf("<h1>%d ", test.status); test.status >= 500 && !strings.Contains(string(page), want) {
					t.Errorf("got page %q", page)
				}
				if got := tries.Load(); got != test.tries {
					t.Errorf("the upstream was tried %d times, want %d", got, test.tries)
				}
				if test.failure != "" {
					line := fmt.Sprintf("shopset_proxy_role_failures_total{reason=%q,role=\"shop\"}", test.failure)
					eventually(t, line, func() bool { return e.metric(line) == "1" })
				}
			})
		}
	}
}

// TestKeptConnectionsThatDie closes every connection of the upstream right before each request.
func TestKeptConnectionsThatDie(t *testing.T) {
	var mu sync.Mutex
	open := map[net.Conn]bool{}
	shop := httptest.NewUnstartedServer(echo("shop"))
	defer shop.Close()
	shop.Config.ConnState = func(conn net.Conn, state http.ConnState) {
		mu.Lock()
		defer mu.Unlock()
		if open[conn] = true; state == http.StateClosed {
			delete(open, conn)
		}
	}
	shop.Start()
	e := start(t, toShop(shop.URL))
	c := client(t, false)
	for i := range 50 {
		if status, body, _ := do(t, c, newRequest(t, "GET", e.http+"/", nil)); status != 200 {
			t.Fatalf("request %d: %d %s", i, status, body)
		}
		mu.Lock()
		for conn := range open {
			conn.Close()
		}
		mu.Unlock()
	}
}

// TestAKeyIsNoReasonToRepeat hangs up on a kept connection after a POST, which has nothing in it that
// could not be sent again.
func TestAKeyIsNoReasonToRepeat(t *testing.T) {
	keys := make(chan string, 2)
	url, tries := script(t, func(conn net.Conn, _ *http.Request) {
		io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
		if request, err := http.ReadRequest(bufio.NewReader(conn)); err == nil {
			keys <- request.Header.Get("Idempotency-Key") + request.Header.Get("X-Idempotency-Key")
		}
	}, answer)
	e := start(t, toShop(url))
	c := client(t, false)
	// A POST as well: what is safe goes over connections of its own.
	if status, _, _ := do(t, c, newRequest(t, "POST", e.http+"/", nil)); status != 200 {
		t.Fatal(status)
	}
	request := newRequest(t, "POST", e.http+"/", nil)
	request.Header = http.Header{"Idempotency-Key": {"one"}, "X-Idempotency-Key": {"two"}}
	if status, _, _ := do(t, c, request); status != 502 || tries.Load() != 1 {
		t.Errorf("got %d after %d connections", status, tries.Load())
	}
	if got := <-keys; got != "onetwo" {
		t.Errorf("the upstream got the keys %q", got)
	}
}

// TestSlowClientsAreCut lets clients stop in every phase.
func TestSlowClientsAreCut(t *testing.T) {
	shop := origin(t, func(_ http.ResponseWriter, r *http.Request) { io.Copy(io.Discard, r.Body) })
	const limits = "limits: {headerTimeout: 100ms, bodyTimeout: 200ms, stallTimeout: 100ms, idleTimeout: 100ms}\n"
	e := start(t, toShop(shop.URL)+limits)
	redirecting := start(t, toShop(shop.URL)+limits+"http: {address: \"127.0.0.1:0\"}\n")
	tlsAddress := strings.TrimPrefix(e.https, "https://")
	for _, test := range []struct{ name, address, text, want string }{
		{"no TLS handshake", tlsAddress, "\x16\x03\x01", ""},
		{"nothing at all", e.http, "", ""},
		{"half a header", e.http, "GET / HTTP/1.1\r\nHost: a\r\nX-Slow: ", ""},
		{"no body", e.http, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhalf", "408 Request Timeout"},
		{"no body where all is redirected", redirecting.http, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\nhalf", "308 Permanent"},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := io.ReadAll(raw(t, test.address, test.text))
			if errors.Is(err, os.ErrDeadlineExceeded) || !strings.Contains(string(got), test.want) {
				t.Fatalf("got %q %v", got, err)
			}
		})
	}
	t.Run("a body in drops", func(t *testing.T) {
		conn := raw(t, e.http, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n")
		done := make(chan string)
		go func() {
			got, _ := io.ReadAll(conn)
			done <- string(got)
		}()
		ticker := time.NewTicker(10 * time.Millisecond)
		defer ticker.Stop()
		for {
			select {
			case got := <-done:
				if !strings.Contains(got, "408 Request Timeout") {
					t.Fatalf("got %q", got)
				}
				return
			case <-ticker.C:
				io.WriteString(conn, "x")
			}
		}
	})
	e.wantMetric(`shopset_proxy_role_failures_total{reason="timeout",role="shop"}`, "")
}

// TestAnAnswerThatNobodyReads has a client that takes nothing of a large answer.
func TestAnAnswerThatNobodyReads(t *testing.T) {
	large := strings.Repeat("x", 1<<20)
	underWay, goOn := make(chan struct{}), make(chan struct{})
	shop := origin(t, func(w http.ResponseWriter, r *http.Request) {
		underWay <- struct{}{}
		<-goOn
		for range 64 {
			if _, err := io.WriteString(w, large); err != nil {
				return
			}
		}
	})
	e := start(t, toShop(shop.URL)+"limits: {stallTimeout: 100ms}\n")
	conn := raw(t, e.http, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
	<-underWay
	if got := e.page("GET", "/connections"); got != `{"open":1,"active":1}` {
		t.Errorf("while the request is under way: %s", got)
	}
	close(goOn)
	eventually(t, "the connection is cut", func() bool { return e.page("GET", "/connections") == `{"open":0,"active":0}` })
	if n, _ := io.Copy(io.Discard, conn); n >= 64<<20 {
		t.Fatal("everything was sent")
	}
	e.wantMetric(`shopset_proxy_role_failures_total{reason="timeout",role="shop"}`, "")
}

// TestInterimAnswersThatNobodyReads: a client that takes none is cut, and does not hold the upstream's connection.
func TestInterimAnswersThatNobodyReads(t *testing.T) {
	hints := "HTTP/1.1 103 Early Hints\r\n" + strings.Repeat("Link: <"+strings.Repeat("x", 1000)+">\r\n", 900) + "\r\n"
	gone := make(chan struct{})
	url, _ := script(t, func(conn net.Conn, _ *http.Request) {
		for range maxInterims {
			if _, err := io.WriteString(conn, hints); err != nil {
				break
			}
		}
		silence(conn, nil)
		close(gone)
	})
	e := start(t, toShop(url)+"limits: {stallTimeout: 100ms}\n")
	raw(t, e.http, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx")
	eventually(t, "the client is cut", func() bool { return e.page("GET", "/connections") == `{"open":0,"active":0}` })
	<-gone
}

// TestSlowUpstreamOverHTTP2 makes sure that the limit on slow clients does not hit a fast client
// that waits for a slow upstream, before and within the answer.
func TestSlowUpstreamOverHTTP2(t *testing.T) {
	pause := make(chan time.Time)
	shop := origin(t, func(w http.ResponseWriter, r *http.Request) {
		body := bufio.NewReader(r.Body)
		body.ReadByte()
		for range 2 {
			<-pause
			io.WriteString(w, "x")
			w.(http.Flusher).Flush()
		}
		rest, _ := io.ReadAll(body)
		fmt.Fprintf(w, "%d", len(rest))
	})
	e := start(t, toShop(shop.URL)+"limits: {stallTimeout: 500ms}\n")
	go func() {
		for range 2 {
			pause <- <-time.After(750 * time.Millisecond) // longer than the limit
		}
	}()
	status, body, _ := do(t, client(t, true), newRequest(t, "POST", e.https+"/", strings.NewReader(strings.Repeat("b", 10))))
	if status != 200 || body != "xx9" {
		t.Fatalf("got %d %q", status, body)
	}
}

// TestStreamingIsNotHeldBack gets the first event while the upstream waits for the client.
func TestStreamingIsNotHeldBack(t *testing.T) {
	next := make(chan struct{})
	shop := origin(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		for range 3 {
			io.WriteString(w, "data: x\n\n")
			w.(http.Flusher).Flush()
			<-next
		}
	})
	e := start(t, toShop(shop.URL))
	for _, h2 := range []bool{false, true} {
		response, err := client(t, h2).Get(e.https + "/")
		if err != nil {
			t.Fatal(err)
		}
		for range 3 {
			event := make([]byte, len("data: x\n\n"))
			if _, err := io.ReadFull(response.Body, event); err != nil {
				t.Fatal(err)
			}
			next <- struct{}{}
		}
		response.Body.Close()
	}
}

// TestCertificateReload replaces the files under a connection that goes on.
func TestCertificateReload(t *testing.T) {
	e := start(t, toShop(origin(t, echo("shop")).URL))
	seen := func(c *http.Client) string {
		response, err := c.Get(e.https + "/")
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		io.Copy(io.Discard, response.Body)
		return response.TLS.PeerCertificates[0].DNSNames[0]
	}
	kept := client(t, false)
	if got := seen(kept); got != "first.example" {
		t.Fatalf("got %s", got)
	}
	if err := os.WriteFile(e.keyFile, []byte("no key"), 0o600); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the bad pair is counted", func() bool { return e.metric("shopset_proxy_certificate_failures_total") == "1" })
	if got := seen(client(t, false)); got != "first.example" {
		t.Fatalf("after a bad pair: got %s", got)
	}
	writeCertificate(t, e.certFile, e.keyFile, "second.example")
	eventually(t, "new connections get the new certificate", func() bool { return seen(client(t, false)) == "second.example" })
	if got := seen(kept); got != "first.example" {
		t.Fatalf("the kept connection was dropped, it got %s", got)
	}
}

func TestCheckNamesTheCertificate(t *testing.T) {
	err := Check(&Config{HTTPS: &HTTPS{Certificate: "/nowhere/tls.crt", Key: "/nowhere/tls.key"}})
	if err == nil || err.Error() != "certificate: open /nowhere/tls.crt: no such file or directory" {
		t.Fatal(err)
	}
}
