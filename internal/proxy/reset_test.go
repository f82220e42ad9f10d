package proxy

import (
	"bufio"
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

// reset ends a connection with RST, not FIN.
func reset(conn net.Conn) {
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	_ = conn.Close()
}

// protocols are the ways in which clients come.
var protocols = []struct {
	name       string
	secure, h2 bool
}{{"HTTP/1.1", false, false}, {"HTTP/1.1 with TLS", true, false}, {"HTTP/2", true, true}}

// resettable is a client whose connections can be reset.
func resettable(t *testing.T, h2 bool) (c *http.Client, resetAll func()) {
	c = client(t, h2)
	var mu sync.Mutex
	var conns []net.Conn
	c.Transport.(*http.Transport).DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := (&net.Dialer{}).DialContext(ctx, network, address)
		mu.Lock()
		defer mu.Unlock()
		conns = append(conns, conn)
		return conn, err
	}
	return c, func() {
		mu.Lock()
		defer mu.Unlock()
		for _, conn := range conns {
			reset(conn)
		}
	}
}

// clientPhase is a moment at which a client resets its connection.
type clientPhase struct {
	name, method string
	// body is what the client sends; gone ends when it has reset its connection.
	body func(gone <-chan struct{}) io.Reader
	// serve is the upstream. It calls begun when the phase has begun, and returns how the exchange ended.
	serve func(w http.ResponseWriter, r *http.Request, begun func()) error
	// answered says that the client resets its connection when it has read a part of the answer.
	answered bool
	log      string
}

func nothing(<-chan struct{}) io.Reader { return nil }

func waits(_ http.ResponseWriter, r *http.Request, begun func()) error {
	_, _ = io.Copy(io.Discard, r.Body)
	begun()
	<-r.Context().Done()
	return r.Context().Err()
}

var clientPhases = []clientPhase{
	{name: "while its body is read", method: http.MethodPost, log: `"status":499`, body: func(gone <-chan struct{}) io.Reader {
		body, feed := io.Pipe()
		go func() {
			_, _ = io.WriteString(feed, "first")
			<-gone
			feed.Close() // net/http waits for it.
		}()
		return body
	}, serve: func(_ http.ResponseWriter, r *http.Request, begun func()) error {
		_, _ = io.ReadFull(r.Body, make([]byte, 5))
		begun()
		_, err := io.Copy(io.Discard, r.Body)
		return err
	}},
	{name: "while it waits", method: http.MethodGet, log: `"status":499`, body: nothing, serve: waits},
	{name: "while it waits, after its body", method: http.MethodPost, log: `"status":499`, serve: waits,
		body: func(<-chan struct{}) io.Reader { return strings.NewReader("whole") }},
	{name: "in the middle of the answer", method: http.MethodGet, log: `"status":200`, body: nothing, answered: true,
		serve: func(w http.ResponseWriter, r *http.Request, begun func()) error {
			begun()
			for r.Context().Err() == nil {
				if _, err := io.WriteString(w, strings.Repeat("x", 1<<16)); err != nil {
					return err
				}
			}
			return r.Context().Err()
		}},
}

// TestClientResets: a client that resets its connection takes its request along, in every phase; nobody is blamed for it, and
// the connection is counted no more.
func TestClientResets(t *testing.T) {
	for _, phase := range clientPhases {
		for _, protocol := range protocols {
			t.Run(phase.name+", "+protocol.name, func(t *testing.T) { resetDuring(t, phase, protocol.secure, protocol.h2) })
		}
	}
}

func resetDuring(t *testing.T, phase clientPhase, secure, h2 bool) {
	underWay, over := make(chan struct{}), make(chan error, 1)
	shop := origin(t, func(w http.ResponseWriter, r *http.Request) { over <- phase.serve(w, r, func() { close(underWay) }) })
	e := start(t, toShop(shop.URL, "health: {break: 50}"))
	c, resetAll := resettable(t, h2)
	url := e.http
	if secure {
		url = e.https
	}
	gone, asked := make(chan struct{}), make(chan struct{})
	request := newRequest(t, phase.method, url, phase.body(gone))
	go func() {
		defer close(asked)
		response, err := c.Do(request)
		if err != nil {
			return
		}
		defer response.Body.Close()
		_, _ = io.ReadFull(response.Body, make([]byte, 5))
		resetAll()
	}()
	<-underWay
	if !phase.answered {
		resetAll()
	}
	close(gone)
	if err := <-over; err == nil {
		t.Error("the upstream took the request for whole, or its answer was read")
	}
	<-asked
	eventually(t, "the connection is gone", func() bool { return e.page(http.MethodGet, "/connections") == `{"open":0,"active":0}` })
	eventually(t, "the log has it", func() bool { return e.log.String() != "" })
	log := e.log.String()
	if !strings.Contains(log, phase.log) || strings.Count(log, "\n") != 1 || !strings.Contains(log, `"error":"`) || strings.Contains(log, `"failure"`) {
		t.Errorf("the log has %s, want %s and why", log, phase.log)
	}
	for i := range breakerSlots {
		if e.current.Load().roles["shop"].breaker.slots[i].failed.Load() > 0 {
			t.Error("the role is blamed")
		}
	}
}

// TestClientResetsInItsHead: no upstream is asked, and no line is written.
func TestClientResetsInItsHead(t *testing.T) {
	var reached atomic.Int64
	e := start(t, toShop(origin(t, func(http.ResponseWriter, *http.Request) { reached.Add(1) }).URL))
	for _, text := range []string{"", "\x16\x03\x01", "GET / HT", "GET / HTTP/1.1\r\nHost: a\r\nX-Slow: "} {
		reset(raw(t, e.http, text))
		reset(raw(t, strings.TrimPrefix(e.https, "https://"), text))
		conn := raw(t, strings.TrimPrefix(e.https, "https://"), "")
		if _, err := io.WriteString(tls.Client(conn, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"http/1.1"}}), text); err != nil {
			t.Fatal(err)
		}
		reset(conn)
	}
	eventually(t, "the connections are gone", func() bool { return e.page(http.MethodGet, "/connections") == `{"open":0,"active":0}` })
	if log := e.log.String(); reached.Load() != 0 || log != "" {
		t.Errorf("%d requests reached the upstream, the log has %q", reached.Load(), log)
	}
}

// TestUpstreamResets: in every phase it is as if the upstream had closed: what changes nothing is asked of another one while no
// byte of an answer has come, and an answer that has begun breaks off.
func TestUpstreamResets(t *testing.T) {
	const head = "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n"
	whole := func(conn net.Conn, r *http.Request) {
		if _, err := io.Copy(io.Discard, r.Body); err == nil {
			answer(conn, r)
		}
	}
	for _, phase := range []struct {
		name string
		step func(net.Conn, *http.Request)
	}{
		{"at once", func(conn net.Conn, _ *http.Request) { reset(conn) }},
		{"after the body", func(conn net.Conn, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body); reset(conn) }},
		{"in the headers", func(conn net.Conn, _ *http.Request) { _, _ = io.WriteString(conn, head[:20]); reset(conn) }},
		{"after an interim answer", func(conn net.Conn, _ *http.Request) {
			_, _ = io.WriteString(conn, "HTTP/1.1 103 Early Hints\r\n\r\n")
			reset(conn)
		}},
	} {
		for _, method := range []string{http.MethodGet, http.MethodPost} {
			t.Run(phase.name+", "+method, func(t *testing.T) {
				url, tries := script(t, phase.step, whole)
				e := start(t, toShop(url))
				var body io.Reader
				status, n := http.StatusOK, int64(2)
				if method == http.MethodPost {
					body, status, n = strings.NewReader(strings.Repeat("x", 1<<20)), http.StatusBadGateway, 1
				}
				if got, page, _ := do(t, client(t, false), newRequest(t, method, e.https, body)); got != status || tries.Load() != n {
					t.Errorf("got %d %q after %d connections, want %d after %d", got, page, tries.Load(), status, n)
				}
			})
		}
	}
	for _, protocol := range protocols {
		t.Run("in the middle of the answer, "+protocol.name, func(t *testing.T) {
			read := make(chan struct{})
			url, tries := script(t, func(conn net.Conn, _ *http.Request) {
				_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n")
				<-read
				reset(conn)
			})
			e := start(t, toShop(url))
			address := e.http
			if protocol.secure {
				address = e.https
			}
			response, err := client(t, protocol.h2).Get(address)
			if err != nil {
				t.Fatal(err)
			}
			defer response.Body.Close()
			_, err = io.ReadFull(response.Body, make([]byte, 5))
			close(read)
			if _, broken := io.Copy(io.Discard, response.Body); err != nil || broken == nil || tries.Load() != 1 {
				t.Errorf("got %v, then %v, after %d connections", err, broken, tries.Load())
			}
			e.wantMetric(`shopset_proxy_role_failures_total{reason="broken",role="shop"}`, "1")
		})
	}
	t.Run("a kept connection", func(t *testing.T) {
		url, tries := script(t, func(conn net.Conn, _ *http.Request) {
			_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
			reader := bufio.NewReader(conn)
			if _, err := http.ReadRequest(reader); err == nil {
				reset(conn)
			}
		}, answer)
		e := start(t, toShop(url))
		for i := range 2 {
			if status, body, _ := ask(t, e, "/"); status != http.StatusOK || body != "ok" {
				t.Errorf("%d: %d %q", i, status, body)
			}
		}
		if n := tries.Load(); n != 2 {
			t.Errorf("%d connections", n)
		}
	})
}
