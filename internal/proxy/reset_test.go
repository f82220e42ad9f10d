package proxy

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
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

// TestClientResets: a client that resets its connection takes its request along, in every phase; nobody is blamed for it, and
// the connection is counted no more.
func TestClientResets(t *testing.T) {
	for _, phase := range []struct{ name, method, log string }{
		{"while its body is read", http.MethodPost, `"status":499`},
		{"while it waits", http.MethodGet, `"status":499`},
		{"while it waits, after its body", http.MethodPut, `"status":499`},
		{"in the middle of the answer", http.MethodHead, `"status":200`}, // The method of the answer is GET, see below.
	} {
		for _, protocol := range protocols {
			t.Run(phase.name+", "+protocol.name, func(t *testing.T) {
				underWay, over := make(chan struct{}), make(chan error, 1)
				shop := origin(t, func(w http.ResponseWriter, r *http.Request) {
					var err error
					switch phase.method {
					case http.MethodPost:
						_, _ = io.ReadFull(r.Body, make([]byte, 5))
						close(underWay)
						_, err = io.Copy(io.Discard, r.Body)
					case http.MethodHead:
						_, err = io.WriteString(w, "first")
						for close(underWay); err == nil && r.Context().Err() == nil; {
							_, err = io.WriteString(w, strings.Repeat("x", 1<<16))
						}
						err = errors.Join(err, r.Context().Err())
					default:
						_, _ = io.Copy(io.Discard, r.Body)
						close(underWay)
						<-r.Context().Done()
						err = r.Context().Err()
					}
					over <- err
				})
				e := start(t, toShop(shop.URL, "health: {break: 50}"))
				c, resetAll := resettable(t, protocol.h2)
				url := e.http
				if protocol.secure {
					url = e.https
				}
				asked, gone := make(chan struct{}), make(chan struct{})
				request := newRequest(t, strings.ReplaceAll(phase.method, "HEAD", "GET"), url, nil)
				switch phase.method {
				case http.MethodPost:
					body, feed := io.Pipe()
					go func() {
						_, _ = io.WriteString(feed, "first")
						<-gone
						feed.Close() // net/http waits for it.
					}()
					request.Body, request.ContentLength = body, 100
				case http.MethodPut:
					request.Body, request.ContentLength = io.NopCloser(strings.NewReader("whole")), 5
				}
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
				if phase.method != http.MethodHead {
					resetAll()
				}
				close(gone)
				if err := <-over; err == nil {
					t.Error("the upstream took the request for whole, or its answer was read")
				}
				<-asked
				eventually(t, "the connection is gone", func() bool { return e.page(http.MethodGet, "/connections") == `{"open":0,"active":0}` })
				eventually(t, "the log has it", func() bool { return e.log.String() != "" })
				if log := e.log.String(); !strings.Contains(log, phase.log) || strings.Count(log, "\n") != 1 || !strings.Contains(log, `"error":"`) || strings.Contains(log, `"failure"`) {
					t.Errorf("the log has %s, want %s and why", log, phase.log)
				}
				for i := range breakerSlots {
					if n := e.current.Load().roles["shop"].breaker.slots[i].failed.Load(); n > 0 {
						t.Error("the role is blamed")
					}
				}
			})
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
			t.Error(fmt.Sprint(n) + " connections")
		}
	})
}
