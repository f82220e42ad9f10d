package proxy

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/shopset/shopset/internal/admin"
)

// TestSmuggling: what two readers may understand differently is refused with 400, the connection ends, and the upstream
// never sees it. With TLS and without.
func TestSmuggling(t *testing.T) {
	var reached atomic.Int64
	shop := origin(t, func(_ http.ResponseWriter, r *http.Request) {
		reached.Add(1)
		_, _ = io.Copy(io.Discard, r.Body)
	})
	e := start(t, toShop(shop.URL))
	const head = "POST / HTTP/1.1\r\nHost: a.example\r\n"
	const smuggled = "GET /smuggled HTTP/1.1\r\nHost: a.example\r\n\r\n"
	for name, request := range map[string]string{
		"two lengths":          head + "Content-Length: 0\r\nContent-Length: 44\r\n\r\n" + smuggled,
		"the same length":      head + "Content-Length: 1\r\nContent-Length: 1\r\n\r\nx",
		"length and chunked":   head + "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + smuggled,
		"chunked and length":   head + "Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n" + smuggled,
		"odd coding":           head + "Transfer-Encoding: \vchunked\r\n\r\n0\r\n\r\n",
		"two codings":          head + "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
		"bare line feed":       "GET / HTTP/1.1\nHost: a.example\n\n",
		"one bare line feed":   head + "X: y\n\r\n",
		"folded":               head + "X: y\r\n z\r\n\r\n",
		"space before a colon": head + "Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
		"NUL":                  head + "X: y\x00\r\n\r\n",
		"bare CR":              head + "X: y\rContent-Length: 5\r\n\r\n",
		"another host":         "GET http://b.example/ HTTP/1.1\r\nHost: a.example\r\n\r\n",
		"two hosts":            "GET / HTTP/1.1\r\nHost: a.example\r\nHost: b.example\r\n\r\n",
		"no host":              "GET / HTTP/1.1\r\n\r\n",
		"a sign in the length": head + "Content-Length: +3\r\n\r\nabc",
	} {
		for _, secure := range []bool{false, true} {
			conn := raw(t, e.http, "")
			if secure {
				conn = tls.Client(raw(t, "http://"+e.Addresses()[0].String(), ""), &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"http/1.1"}})
			}
			_, _ = io.WriteString(conn, request)
			answer, _ := io.ReadAll(conn) // A reset after the answer is as good as an end.
			if !strings.HasPrefix(string(answer), "HTTP/1.1 400 ") || strings.Count(string(answer), "HTTP/1.1 ") != 1 {
				t.Errorf("%s, TLS %v: got %q", name, secure, answer)
			}
		}
	}
	if n := reached.Load(); n != 0 {
		t.Errorf("%d of these requests reached the upstream", n)
	}
	// A chunk that is none is found when the request is under way; the upstream must not take it for whole.
	for _, body := range []string{"5\r\nhello\r\nzz\r\n\r\n", "5\nhello\r\n0\r\n\r\n", "+5\r\nhello\r\n0\r\n\r\n", "5\r\nhelloX\r\n0\r\n\r\n"} {
		conn := raw(t, e.http, head+"Transfer-Encoding: chunked\r\n\r\n"+body)
		answer, _ := io.ReadAll(conn)
		if !strings.HasPrefix(string(answer), "HTTP/1.1 400 ") {
			t.Errorf("%q: got %q", body, answer)
		}
	}
	// What is good goes on, several on one connection, in any pieces.
	conn := raw(t, e.http, "")
	good := head + "Transfer-Encoding: chunked\r\n\r\n5;x=y\r\nhello\r\n0\r\nX: y\r\n\r\n" + head + "Content-Length: 3\r\n\r\na\nb" + "GET http://A.example/ HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\n\r\n"
	for _, b := range []byte(good) {
		if _, err := conn.Write([]byte{b}); err != nil {
			t.Fatal(err)
		}
	}
	if answer, err := io.ReadAll(conn); strings.Count(string(answer), "HTTP/1.1 200 ") != 3 {
		t.Errorf("got %q %v", answer, err)
	}
}

// TestSmugglingOverHTTP2: headers that would frame a message of HTTP/1.1.
func TestSmugglingOverHTTP2(t *testing.T) {
	var reached atomic.Int64
	e := start(t, toShop(origin(t, func(http.ResponseWriter, *http.Request) { reached.Add(1) }).URL))
	for name, fields := range map[string][]hpack.HeaderField{
		"transfer-encoding":      {{Name: "transfer-encoding", Value: "chunked"}},
		"connection":             {{Name: "connection", Value: "x-secret"}},
		"keep-alive":             {{Name: "keep-alive", Value: "1"}},
		"upgrade":                {{Name: "upgrade", Value: "websocket"}},
		"te":                     {{Name: "te", Value: "gzip"}},
		"line break":             {{Name: "x", Value: "a\r\nTransfer-Encoding: chunked"}},
		"line break in a name":   {{Name: "x: y\r\nz", Value: "a"}},
		"colon":                  {{Name: "x:y", Value: "a"}},
		"upper case":             {{Name: "X-Upper", Value: "a"}},
		"length":                 {{Name: "content-length", Value: "5"}},
		"host in the authority":  {{Name: ":authority", Value: "a.example@b.example"}},
		"space in the authority": {{Name: ":authority", Value: "a example"}},
		"odd authority":          {{Name: ":authority", Value: "a.example\"<>?x#\x80"}},
		"another host":           {{Name: "host", Value: "b.example"}},
		"the host twice":         {{Name: "host", Value: "a.example"}, {Name: "host", Value: "a.example"}},
		"a line in the query":    {{Name: ":path", Value: "/?x HTTP/1.0 y"}},
		"a fragment":             {{Name: ":path", Value: "/?x#y"}},
		"bytes in the query":     {{Name: ":path", Value: "/?x\xff"}},
		"method of two words":    {{Name: ":method", Value: "A B"}},
	} {
		status := overHTTP2(t, e, fields)
		if strings.HasPrefix(status, "2") {
			t.Errorf("%s: %s", name, status)
		}
	}
	if n := reached.Load(); n != 0 {
		t.Errorf("%d of these requests reached the upstream", n)
	}
	if status := overHTTP2(t, e, []hpack.HeaderField{{Name: "te", Value: "trailers"}}); status != "200" {
		t.Errorf("te: trailers: %s", status)
	}
}

// overHTTP2 sends a request with fields that no client library would send, and returns the status or what came instead.
func overHTTP2(t *testing.T, e *edge, fields []hpack.HeaderField) string {
	t.Helper()
	conn := tls.Client(raw(t, "http://"+e.Addresses()[0].String(), ""), &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}})
	_, _ = io.WriteString(conn, http2.ClientPreface)
	framer := http2.NewFramer(conn, conn)
	framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	var block bytes.Buffer
	encoder := hpack.NewEncoder(&block)
	pseudo := []hpack.HeaderField{{Name: ":method", Value: "GET"}, {Name: ":scheme", Value: "https"}, {Name: ":path", Value: "/"}, {Name: ":authority", Value: "a.example"}}
	var others []hpack.HeaderField
	for _, f := range fields {
		if i := slices.IndexFunc(pseudo, func(p hpack.HeaderField) bool { return p.Name == f.Name }); i >= 0 {
			pseudo[i] = f
		} else {
			others = append(others, f)
		}
	}
	for _, f := range append(pseudo, others...) {
		if err := encoder.WriteField(f); err != nil {
			t.Fatal(err)
		}
	}
	if err := framer.WriteSettings(); err != nil {
		t.Fatal(err)
	}
	if err := framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block.Bytes(), EndHeaders: true, EndStream: true}); err != nil {
		t.Fatal(err)
	}
	for {
		frame, err := framer.ReadFrame()
		if err != nil {
			return err.Error()
		}
		switch f := frame.(type) {
		case *http2.MetaHeadersFrame:
			return f.PseudoValue("status")
		case *http2.RSTStreamFrame:
			return f.ErrCode.String()
		case *http2.GoAwayFrame:
			return f.ErrCode.String()
		}
	}
}

// TestProxyProtocol: the client's address comes from the header, in both versions, on both ports; from those who must send
// one, one without is refused, and from others it is not believed.
func TestProxyProtocol(t *testing.T) {
	shop := toShop(origin(t, mirror).URL)
	e := start(t, strings.ReplaceAll(shop, "roles:", "\nhttp: {address: \"127.0.0.1:0\", mode: serve, proxyProtocol: [127.0.0.1]}\nroles:"))
	two := append([]byte("\r\n\r\n\x00\r\nQUIT\n\x21\x11"), binary.BigEndian.AppendUint16(nil, 12)...)
	two = append(two, 203, 0, 113, 9, 127, 0, 0, 1, 0x10, 0, 0x20, 0)
	const request = "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
	for name, test := range map[string]struct{ prefix, want string }{
		"version 1":    {"PROXY TCP4 203.0.113.7 127.0.0.1 4096 8192\r\n", `"X-Forwarded-For":["203.0.113.7"]`},
		"version 1, 6": {"PROXY TCP6 2001:db8::7 ::1 4096 8192\r\n", `"X-Forwarded-For":["2001:db8::7"]`},
		"version 2":    {string(two), `"X-Forwarded-For":["203.0.113.9"]`},
		"of the peer":  {"\r\n\r\n\x00\r\nQUIT\n\x20\x00\x00\x00", `"X-Forwarded-For":["127.0.0.1"]`},
		"a socket":     {"\r\n\r\n\x00\r\nQUIT\n\x21\x31\x00\xd8" + strings.Repeat("s", 216), ""},
		"none":         {"", ""},
		"garbage":      {"PROXY TCP4 x\r\n", ""},
	} {
		conn := raw(t, e.http, test.prefix+request)
		answer, _ := io.ReadAll(conn)
		if served := strings.HasPrefix(string(answer), "HTTP/1.1 200 "); served != (test.want != "") || !strings.Contains(string(answer), test.want) {
			t.Errorf("%s: got %q", name, answer)
		}
	}
	answer, _ := io.ReadAll(raw(t, start(t, shop).http, "PROXY TCP4 203.0.113.7 127.0.0.1 1 2\r\n"+request))
	if !strings.HasPrefix(string(answer), "HTTP/1.1 400 ") {
		t.Errorf("from somebody who should send none: %q", answer)
	}
}

// TestReload: a changed file is used for new requests, and one that cannot be used changes nothing.
func TestReload(t *testing.T) {
	one, two := origin(t, echo("one")), origin(t, echo("two"))
	certificate, key := filepath.Join(t.TempDir(), "crt"), filepath.Join(t.TempDir(), "key")
	writeCertificate(t, certificate, key, "a.example")
	path := filepath.Join(t.TempDir(), "config.yaml")
	write := func(role, more string) {
		t.Helper()
		text := fmt.Sprintf("https: {address: \"127.0.0.1:0\", certificate: %q, key: %q}\nhttp: {address: \"127.0.0.1:0\", mode: serve}\nreload: 1ms\nshutdown: {delay: 0s}\n%s%s", certificate, key, toShop(role), more)
		if err := os.WriteFile(path+".new", []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(path+".new", path); err != nil {
			t.Fatal(err)
		}
	}
	write(one.URL, "")
	config, err := Load(path)
	if err != nil {
		t.Fatal(err)
	}
	e := &edge{t: t, admin: admin.New(), log: &lockedBuffer{}}
	if e.Proxy, err = New(config, e.admin, e.log); err != nil {
		t.Fatal(err)
	}
	e.Follow(path)
	e.http = "http://" + e.Addresses()[1].String()
	served := make(chan error, 1)
	go func() { served <- e.Serve() }()
	stop := make(chan struct{})
	failures := make(chan string, 1)
	go func() { // Somebody buys all the time, on one connection.
		defer close(failures)
		c := client(t, false)
		for {
			select {
			case <-stop:
				return
			default:
			}
			response, err := c.Get(e.http)
			if err != nil {
				failures <- err.Error()
				return
			}
			_, _ = io.Copy(io.Discard, response.Body)
			response.Body.Close()
			if response.StatusCode != http.StatusOK {
				failures <- response.Status
				return
			}
		}
	}()
	body := func() string { _, body, _ := ask(t, e, "/"); return body }
	for range 3 {
		write(two.URL, "")
		eventually(t, "the new role serves", func() bool { return strings.HasPrefix(body(), "two") })
		write(one.URL, "")
		eventually(t, "the old role serves again", func() bool { return strings.HasPrefix(body(), "one") })
	}
	write(two.URL, "unknown: 1\n")
	eventually(t, "the failure is counted", func() bool { return e.metric(`shopset_proxy_config_reloads_total{result="failed"}`) == "1" })
	if got := body(); !strings.HasPrefix(got, "one") {
		t.Errorf("a file that cannot be used changed something: %s", got)
	}
	close(stop)
	if failure := <-failures; failure != "" {
		t.Errorf("a reload lost a request: %s", failure)
	}
	if err := e.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
	if err := <-served; err != nil {
		t.Error(err)
	}
}

// TestExplain tells which rules hold, without asking anybody.
func TestExplain(t *testing.T) {
	e := start(t, `
access: [{name: office, prefix: /admin, allow: [192.0.2.0/24]}]
rateLimits: [{name: login, methods: [POST], requests: 1}]
roles: {shop: {url: "http://127.0.0.1:1"}, cart: {url: "http://127.0.0.1:2"}}
routes: [{prefix: /, role: shop}, {prefix: /cart, role: cart, cookies: {beta: ""}}]
`)
	for query, want := range map[string][]string{
		"?url=https://a.example/cart&header=Cookie:+beta%3D1": {"role: cart", "127.0.0.1:2, well true"},
		"?url=https://a.example/cart/x&method=POST":           {"routes[1] → cart: not its cookie beta", "routes[0] → shop: matches", "rateLimits[0] login: counts", "role: shop"},
		"?url=https://a.example/admin&client=198.51.100.1":    {"access[0] office: refuses with 403", "from 198.51.100.1"},
		"?url=https://a.example/admin&client=192.0.2.9":       {"access[0] office: lets it pass"},
		"?url=https://a.example/admin":                        {"access[0] office: applies"},
		"?url=nonsense":                                       {"want ?url="},
	} {
		page := e.page(http.MethodGet, "/debug/routes"+query)
		for _, text := range want {
			if !strings.Contains(page, text) {
				t.Errorf("%s: no %q in\n%s", query, text, page)
			}
		}
	}
}

// TestTopShops: the busiest have a series of their own, the rest is one, and none falls when others come to the top.
func TestTopShops(t *testing.T) {
	shops := newTopShops(2)
	server := admin.New()
	server.Registry().MustRegister(shops)
	e := &edge{t: t, admin: server}
	observe := func(counts ...any) {
		for i := 0; i < len(counts); i += 2 {
			for n := range counts[i+1].(int) {
				shops.observe(counts[i].(string), n == 0)
			}
		}
	}
	want := func(when string, values map[string]string) {
		t.Helper()
		for shop, want := range values {
			if got := e.metric(`shopset_proxy_shop_requests_total{shop="` + shop + `"}`); got != want {
				t.Errorf("%s, %s: %q, want %q", when, shop, got, want)
			}
		}
	}
	observe("a", 5, "b", 3, "c", 2, "d", 1)
	want("at first", map[string]string{"a": "5", "b": "3", "*": "3", "c": "", "d": ""})
	observe("c", 10)
	want("when c comes to the top", map[string]string{"a": "5", "c": "0", "*": "13", "b": ""})
	observe("a", 1, "b", 1, "c", 2)
	want("then", map[string]string{"a": "6", "c": "2", "*": "14", "b": ""})
	observe("b", 30)
	want("when b comes back", map[string]string{"b": "3", "c": "2", "*": "44", "a": ""})
	e.wantMetric(`shopset_proxy_shop_failures_total{shop="*"}`, "5")
}

// TestWebSocketKeepsItsBytes: what looks like no HTTP passes once the protocol was switched.
func TestWebSocketKeepsItsBytes(t *testing.T) {
	shop := origin(t, func(w http.ResponseWriter, _ *http.Request) {
		conn, buffered, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer conn.Close()
		_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
		_, _ = io.Copy(conn, buffered)
	})
	e := start(t, toShop(shop.URL))
	for _, address := range []string{e.http, "http://" + e.Addresses()[0].String()} {
		conn := raw(t, address, "")
		if address != e.http {
			conn = tls.Client(conn, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"http/1.1"}})
		}
		_, _ = io.WriteString(conn, "GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n")
		reader := bufio.NewReader(conn)
		response, err := http.ReadResponse(reader, nil) //nolint:bodyclose // It has none.
		if err != nil || response.StatusCode != http.StatusSwitchingProtocols {
			t.Fatalf("%v %v", response, err)
		}
		want := "\x81\x00\n\n\r\x00GET smuggled\n\n" + strings.Repeat("\x00\xff\n", 1000)
		_, _ = io.WriteString(conn, want)
		got := make([]byte, len(want))
		if _, err := io.ReadFull(reader, got); err != nil || string(got) != want {
			t.Errorf("got %d bytes, the same %v, %v", len(got), string(got) == want, err)
		}
	}
}
