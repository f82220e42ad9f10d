package proxy

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

// heads is an upstream that keeps the heads of requests as they came.
func heads(t *testing.T) (url string, next func() string) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	came := make(chan string, 100)
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				var head strings.Builder
				for reader := bufio.NewReader(conn); !strings.HasSuffix(head.String(), "\r\n\r\n"); {
					line, err := reader.ReadString('\n')
					if err != nil {
						return
					}
					head.WriteString(line)
				}
				came <- head.String()
				_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
			}()
		}
	}()
	return "http://" + listener.Addr().String(), func() string {
		select {
		case head := <-came:
			return head
		default:
			return ""
		}
	}
}

// answerTo sends a request as text and returns the answer.
func answerTo(t *testing.T, e *edge, text string) string {
	t.Helper()
	answer, err := io.ReadAll(raw(t, e.http, text))
	if err != nil {
		t.Fatal(err)
	}
	return string(answer)
}

// TestClaims: names that an application could take for the proxy's own do not pass.
func TestClaims(t *testing.T) {
	url, next := heads(t)
	for _, allowed := range []bool{false, true} {
		e := start(t, fmt.Sprintf("underscoreHeaders: %v\n", allowed)+toShop(url))
		answerTo(t, e, "GET / HTTP/1.1\r\nHost: a\r\nX_Forwarded_For: 1.2.3.4\r\nX_Shop: other\r\nProxy: evil\r\nX-Good: 1\r\nConnection: close\r\n\r\n")
		head := next()
		if got := strings.Contains(head, "X_shop"); got != allowed || strings.Contains(head, "evil") || !strings.Contains(head, "X-Good: 1") {
			t.Errorf("allowed %v: %q", allowed, head)
		}
	}
}

// TestPlainPaths: the path that rules were matched with is the one that the upstream gets.
func TestPlainPaths(t *testing.T) {
	url, next := heads(t)
	e := start(t, "access: [{name: admin, prefix: /admin, allow: [192.0.2.0/24]}]\nrateLimits: [{name: login, path: /login, key: [path], requests: 1, period: 1h}]\n"+toShop(url))
	for _, test := range []struct{ path, upstream, status string }{
		{"/admin/x", "", "403"},
		{"/x/../admin/y", "", "403"},
		{"/x/%2e%2e/admin", "", "403"},
		{"/admin/..%2fx", "/x", "200"},
		{"/admin/../x?a=/../b", "/x?a=/../b", "200"},
		{"/admin/%2e%2e/x/", "/x/", "200"},
		{"/x/..", "/", "200"},
		{"/..x/.y/a%2Fb", "/..x/.y/a%2Fb", "200"},
		{"/x//y", "/x//y", "200"},
		{"/login", "/login", "200"},
		{"//login", "", "429"},
		{"/./login/.", "", "429"},
	} {
		answer := answerTo(t, e, "GET "+test.path+" HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
		line, _, _ := strings.Cut(next(), " HTTP/1.1\r\n")
		if !strings.HasPrefix(answer, "HTTP/1.1 "+test.status) || strings.TrimPrefix(line, "GET ") != test.upstream {
			t.Errorf("%s: %.30q, the upstream got %q", test.path, answer, line)
		}
	}
}

// TestTrailersAreFiltered: what does not pass as a header does not as a trailer.
func TestTrailersAreFiltered(t *testing.T) {
	got := make(chan http.Header, 1)
	shop := origin(t, func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		got <- r.Trailer
	})
	e := start(t, toShop(shop.URL, "requestHeaders: [{remove: X-Internal-*}, {set: X-Shop, to: mine}]"))
	answerTo(t, e, "POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum, X-Internal-Id, X-Forwarded-For, Authorization, X-Shop, X_under\r\n\r\n"+
		"2\r\nok\r\n0\r\nX-Sum: 1\r\nX-Internal-Id: 2\r\nX-Forwarded-For: 3\r\nAuthorization: 4\r\nX-Shop: 5\r\nX_under: 6\r\n\r\n")
	if trailer := <-got; len(trailer) != 1 || trailer.Get("X-Sum") != "1" {
		t.Errorf("the upstream got %v", trailer)
	}
}

// TestOnlyWebSockets: no other protocol gets a connection of its own, unless the role says so.
func TestOnlyWebSockets(t *testing.T) {
	url, next := heads(t)
	for protocols, want := range map[string]bool{"[]": false, "[websocket]": false, "[h2c]": true} {
		e := start(t, toShop(url, "upgrades: "+protocols))
		answerTo(t, e, "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, close\r\nUpgrade: h2c\r\n\r\n")
		if head := next(); strings.Contains(head, "Upgrade: h2c") != want {
			t.Errorf("%s: %q", protocols, head)
		}
	}
}

// TestLoop: a role that leads back is found out at once.
func TestLoop(t *testing.T) {
	var asked atomic.Int64
	var e *edge
	relay := origin(t, func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		request := newRequest(t, http.MethodGet, e.http, nil)
		request.Header = r.Header.Clone()
		answer, err := http.DefaultTransport.RoundTrip(request)
		if err != nil {
			return
		}
		defer answer.Body.Close()
		w.WriteHeader(answer.StatusCode)
	})
	e = start(t, toShop(relay.URL))
	if status, _, _ := ask(t, e, "/"); status != http.StatusLoopDetected || asked.Load() != 1 {
		t.Errorf("%d after %d rounds", status, asked.Load())
	}
	if status, _, _ := ask(t, e, "/", func(r *http.Request) {
		r.Header.Set("CDN-Loop", strings.TrimSuffix(strings.Repeat("shopset-proxy; id=other, ", maxHops), ", "))
	}); status != http.StatusLoopDetected {
		t.Errorf("after %d others: %d", maxHops, status)
	}
}

// TestClientsAreNotBlamedOnRoles: what a client does wrong says nothing of a role.
func TestClientsAreNotBlamedOnRoles(t *testing.T) {
	shop := origin(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		_, _ = io.WriteString(w, "ok")
	})
	e := start(t, toShop(shop.URL, "health: {break: 50}"))
	for range 2 * breakerLeast {
		answerTo(t, e, "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nzz\r\n\r\n")
	}
	if status, body, _ := ask(t, e, "/"); status != http.StatusOK {
		t.Errorf("the next one gets %d %q", status, body)
	}
}

// TestEarlyAnswers: an answer that comes before the end of the body reaches the client at once, and the upstream gets
// the rest of the body, whole.
func TestEarlyAnswers(t *testing.T) {
	const rest = 100_000
	got := make(chan int64, 1)
	shop := origin(t, func(w http.ResponseWriter, r *http.Request) {
		control := http.NewResponseController(w)
		_ = control.EnableFullDuplex()
		first := make([]byte, 5)
		_, _ = io.ReadFull(r.Body, first)
		_, _ = io.WriteString(w, "early")
		_ = control.Flush()
		n, _ := io.Copy(io.Discard, r.Body)
		got <- n
	})
	e := start(t, toShop(shop.URL))
	body, feed := io.Pipe()
	request := newRequest(t, http.MethodPost, e.http, body)
	go func() { _, _ = io.WriteString(feed, "first") }()
	answer, err := client(t, false).Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	early := make([]byte, 5)
	if _, err := io.ReadFull(answer.Body, early); err != nil || string(early) != "early" {
		t.Fatalf("%q %v", early, err)
	}
	_, _ = io.WriteString(feed, strings.Repeat("x", rest))
	feed.Close()
	if n := <-got; n != rest {
		t.Errorf("the upstream got %d of %d bytes", n, rest)
	}
}

// TestUnreadBodyEndsTheConnection: what is left of a body is never taken for a request.
func TestUnreadBodyEndsTheConnection(t *testing.T) {
	var asked atomic.Int64
	shop := origin(t, func(w http.ResponseWriter, _ *http.Request) {
		asked.Add(1)
		w.Header().Set("Connection", "close")
		w.WriteHeader(http.StatusForbidden)
	})
	e := start(t, toShop(shop.URL))
	conn := raw(t, e.http, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n")
	answer, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil || answer.StatusCode != http.StatusForbidden {
		t.Fatalf("%v %v", answer, err)
	}
	answer.Body.Close()
	smuggled := strings.Repeat("GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n", 10_000)
	_, _ = io.WriteString(conn, smuggled) // It may break off.
	_, _ = io.Copy(io.Discard, conn)
	if n := asked.Load(); n != 1 {
		t.Errorf("%d requests reached the upstream", n)
	}
}

// TestNoAnswerIsNotAnEmptyOne: a client that closed its half must not take the end of its request for an answer.
func TestNoAnswerIsNotAnEmptyOne(t *testing.T) {
	entered, release := make(chan struct{}), make(chan struct{})
	shop := origin(t, func(http.ResponseWriter, *http.Request) {
		close(entered)
		<-release
	})
	defer close(release)
	e := start(t, toShop(shop.URL))
	conn := raw(t, e.http, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n")
	<-entered
	_ = conn.(*net.TCPConn).CloseWrite()
	if answer, _ := io.ReadAll(conn); len(answer) > 0 {
		t.Errorf("got %q", answer)
	}
	eventually(t, "the log says 499", func() bool { return strings.Contains(e.log.String(), "499") })
}

// TestOwnAnswersKeepHTTP2: a refusal costs no new connection.
func TestOwnAnswersKeepHTTP2(t *testing.T) {
	e := start(t, "roles: {www: {redirect: {to: \"https://www.example/\"}}}\nroutes: [{prefix: /www, role: www}]\n")
	c := client(t, true)
	for i := range 6 {
		status, _, _ := do(t, c, newRequest(t, http.MethodGet, e.https+[]string{"/", "/www"}[i%2], nil))
		if want := []int{http.StatusNotFound, http.StatusFound}[i%2]; status != want {
			t.Errorf("%d, want %d", status, want)
		}
	}
	if open := e.page(http.MethodGet, "/connections"); !strings.Contains(open, `"open":1`) {
		t.Error(open)
	}
}

// TestStoreOverHTTP2: pages are kept, served and joined for clients of HTTP/2 as well.
func TestStoreOverHTTP2(t *testing.T) {
	var asked atomic.Int64
	var fails atomic.Bool
	release := make(chan struct{})
	shop := origin(t, func(w http.ResponseWriter, _ *http.Request) {
		if n := asked.Add(1); fails.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		} else if n > 1 {
			<-release
		}
		w.Header().Set("Cache-Control", "max-age=60")
		_, _ = io.WriteString(w, "page")
	})
	e := start(t, toShop(shop.URL, "store: {}", "fallback: [{stored: 1h}]"))
	c := client(t, true)
	get := func() (int, string, http.Header) { return do(t, c, newRequest(t, http.MethodGet, e.https, nil)) }
	get()
	var group sync.WaitGroup
	for range 5 {
		group.Go(func() {
			if status, body, _ := get(); status != http.StatusOK || body != "page" {
				t.Errorf("%d %q", status, body)
			}
		})
	}
	eventually(t, "five wait for one", func() bool {
		return asked.Load() == 2 && strings.Contains(e.page(http.MethodGet, "/connections"), `"active":1`)
	})
	close(release)
	group.Wait()
	fails.Store(true)
	if status, body, header := get(); status != http.StatusOK || body != "page" || !strings.HasPrefix(header.Get(FallbackHeader), "stored") {
		t.Errorf("%d %q %v", status, body, header)
	}
}

// TestStickyClientsStayWithEveryReplica: replicas agree where a client belongs, and so does the one after a reload.
func TestStickyClientsStayWithEveryReplica(t *testing.T) {
	made := func() *role {
		config := Role{Upstreams: []Upstream{{URL: "http://a.example"}, {URL: "http://b.example", Weight: new(3)}}, Sticky: Sticky{Client: true}}
		config.fill()
		r, err := newRole("shop", config, func() {}, nil)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	one, two := made(), made()
	counts := map[string]int{}
	for i := range 4000 {
		request := newRequest(t, http.MethodGet, "http://a", nil)
		request.RemoteAddr = fmt.Sprintf("10.1.%d.%d:1", i/250, i%250)
		e := &exchange{request: request, client: peer(request.RemoteAddr)}
		u := one.pickUpstream(e)
		if other := two.pickUpstream(e); other.name != u.name {
			t.Fatalf("%s: %s and %s", request.RemoteAddr, u.name, other.name)
		}
		counts[u.name]++
	}
	if n := counts["a.example"]; n < 830 || n > 1170 { // Six standard deviations of 1000 are 164.
		t.Errorf("%v", counts)
	}
}
