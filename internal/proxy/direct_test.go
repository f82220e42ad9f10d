package proxy

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// TestUnaskedAnswers: what an upstream sends on a kept connection without being asked is no answer to the next request,
// whether it comes together with an answer or later.
func TestUnaskedAnswers(t *testing.T) {
	const ok, stranger = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", "HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nstranger"
	for name, together := range map[string]bool{"together": true, "later": false} {
		t.Run(name, func(t *testing.T) {
			send := make(chan struct{})
			url, tries := script(t, func(conn net.Conn, _ *http.Request) {
				if together {
					_, _ = io.WriteString(conn, ok+stranger)
				} else {
					_, _ = io.WriteString(conn, ok)
					<-send
					_, _ = io.WriteString(conn, stranger)
				}
				silence(conn, nil)
			})
			e := start(t, toShop(url))
			c := client(t, false)
			kept := func() (all, quiet int) { return keptConnections(e.current.Load().roles["shop"].upstreams[0].direct) }
			for i := range 5 {
				if status, body, _ := do(t, c, newRequest(t, http.MethodGet, e.http+"/", nil)); status != 200 || body != "ok" {
					t.Fatalf("request %d got %d %q", i, status, body)
				}
				if !together {
					eventually(t, "the connection is kept", func() bool { _, quiet := kept(); return quiet == 1 })
					send <- struct{}{}
					eventually(t, "the stranger is there", func() bool { all, quiet := kept(); return all == 1 && quiet == 0 })
				}
				if n := tries.Load(); n != int64(i+1) {
					t.Fatalf("%d connections for %d requests", n, i+1)
				}
			}
		})
	}
}

// keptConnections counts those that wait for a request, and those of them on which nothing has come.
func keptConnections(d *direct) (all, quiet int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, list := range d.idle {
		for _, conn := range list {
			all++
			if conn.quiet() {
				quiet++
			}
		}
	}
	return all, quiet
}

// TestAnswersOfAllKinds: connections are kept where they may be, and every answer is whole.
func TestAnswersOfAllKinds(t *testing.T) {
	var connections atomic.Int64
	answers := []string{
		"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX-T: v\r\n\r\n",
		"HTTP/1.1 204 No Content\r\n\r\n",
		"HTTP/1.1 304 Not Modified\r\nContent-Length: 100\r\n\r\n",
		"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
		"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			connections.Add(1)
			go func() {
				defer conn.Close()
				reader := bufio.NewReader(conn)
				for {
					request, err := http.ReadRequest(reader)
					if err != nil {
						return
					}
					_, _ = io.WriteString(conn, answers[len(request.URL.Path)-1])
				}
			}()
		}
	}()
	e := start(t, toShop("http://"+listener.Addr().String()))
	c := client(t, false)
	for range 3 {
		for i := range answers {
			want := map[int]int{2: 204, 3: 304}[i]
			if want == 0 {
				want = 200
			}
			status, body, _ := do(t, c, newRequest(t, http.MethodGet, e.http+"/"+strings.Repeat("x", i), nil))
			if status != want || status == 200 && i != 5 && body != "ok" {
				t.Errorf("%.40q: got %d %q", answers[i], status, body)
			}
		}
		if status, _, header := do(t, c, newRequest(t, http.MethodHead, e.http+"/", nil)); status != 200 || header.Get("Content-Length") != "2" {
			t.Errorf("HEAD: %d %v", status, header)
		}
	}
	if n := connections.Load(); n != 3 { // After each HEAD the body that this upstream should not have sent is on the wire.
		t.Errorf("%d connections, want 3", n)
	}
}

// TestBadAnswers: an upstream that sends nonsense is told from one that is slow, and its connection ends.
func TestBadAnswers(t *testing.T) {
	for name, text := range map[string]string{
		"nonsense":            "SSH-2.0-OpenSSH\r\n",
		"endless headers":     "HTTP/1.1 200 OK\r\n" + strings.Repeat("X-Long: "+strings.Repeat("x", 1000)+"\r\n", 400),
		"two lengths":         "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok",
		"switching protocols": "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n",
		"interim for ever":    strings.Repeat("HTTP/1.1 102 Processing\r\n\r\n", 100),
	} {
		url, _ := script(t, func(conn net.Conn, _ *http.Request) { _, _ = io.WriteString(conn, text); silence(conn, nil) })
		e := start(t, toShop(url, "retries: 0"))
		if status, _, _ := do(t, client(t, false), newRequest(t, http.MethodGet, e.http+"/", nil)); status != http.StatusBadGateway {
			t.Errorf("%s: %d", name, status)
		}
	}
}

// TestLeavingTakesTheRequestAlong: a client that leaves ends what was asked for it.
func TestLeavingTakesTheRequestAlong(t *testing.T) {
	came, gone := make(chan struct{}), make(chan struct{})
	url, _ := script(t, func(conn net.Conn, _ *http.Request) {
		close(came)
		_, _ = io.Copy(io.Discard, conn)
		close(gone)
	})
	e := start(t, toShop(url))
	ctx, leave := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if response, err := client(t, false).Do(newRequest(t, http.MethodGet, e.http+"/", nil).WithContext(ctx)); err == nil {
			response.Body.Close()
		}
	}()
	<-came
	leave()
	select {
	case <-gone:
	case <-time.After(testPatience):
		t.Error("the upstream still works for somebody who has left")
	}
	<-ended
	eventually(t, "the log has it", func() bool { return strings.Contains(e.log.String(), `"status":499`) })
}

// TestIdleConnectionsEnd: none stays for longer than was said.
func TestIdleConnectionsEnd(t *testing.T) {
	var open atomic.Int64
	shop := httptest.NewUnstartedServer(echo("shop"))
	t.Cleanup(shop.Close)
	shop.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		switch state {
		case http.StateNew:
			open.Add(1)
		case http.StateClosed:
			open.Add(-1)
		}
	}
	shop.Start()
	e := start(t, toShop(shop.URL, "idleTimeout: 50ms", "health: {interval: 10ms}"))
	do(t, client(t, false), newRequest(t, http.MethodGet, e.http+"/", nil))
	eventually(t, "the connection to the upstream ends", func() bool { return open.Load() == 0 })
}

// FuzzAccessLine: whatever a client sends, the log has one line of JSON.
func FuzzAccessLine(f *testing.F) {
	f.Add("a.example", "/a\"b\\\n", "agent\x00\xff\u2028")
	f.Fuzz(func(t *testing.T, host, path, agent string) {
		request := newRequest(t, http.MethodGet, "http://a/", nil)
		request.Host, request.URL.Path = host, path
		request.Header.Set("User-Agent", agent)
		line := string(appendLine(nil, &exchange{request: request, start: time.Now(), status: 200, problem: fmt.Errorf("%s", agent)}, time.Second))
		var fields map[string]any
		if err := json.Unmarshal([]byte(line), &fields); err != nil || strings.Count(line, "\n") != 1 || fields["status"] != 200.0 {
			t.Fatalf("%q: %v", line, err)
		}
	})
}
