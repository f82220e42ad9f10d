package proxy

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
)

// echo answers with what it got.
func echo(name string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Connection", "X-Secret")
		w.Header().Set("X-Secret", "hop")
		w.Header().Set("X-Kept", "yes")
		body, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%s %s %s host=%s body=%s\n", name, r.Method, r.RequestURI, r.Host, body)
		for _, header := range []string{"X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host", "X-Forwarded-Port",
			"Forwarded", "X-Real-Ip", "Te", "Keep-Alive", "X-Hop", "Accept-Encoding", "User-Agent", "Cookie"} {
			if value, ok := r.Header[header]; ok {
				fmt.Fprintf(w, "%s: %s\n", header, strings.Join(value, "|"))
			}
		}
	}
}

// TestForwarding sends requests through a real proxy, over both versions of HTTP and both ports.
func TestForwarding(t *testing.T) {
	shop, cart := origin(t, echo("shop")), origin(t, echo("cart"))
	config := fmt.Sprintf("roles:\n  shop: {url: %q}\n  cart: {url: %q}\nroutes:\n- {prefix: /, role: shop}\n- {prefix: /cart, role: cart}\n",
		shop.URL, cart.URL+"/base")
	strict := start(t, config)
	trusting := start(t, config+"trustedProxies: [127.0.0.0/8]\n")

	for _, test := range []struct {
		name, method, target, body string
		header                     http.Header
		trusted                    bool
		want                       string // %s is the scheme
	}{
		{name: "plain", target: "/a/b?x=1",
			want: "shop GET /a/b?x=1 host=www.shop.example body=\nX-Forwarded-For: 127.0.0.1\nX-Forwarded-Proto: %s\nX-Forwarded-Host: www.shop.example\n"},
		{name: "the other role, below its base", method: "POST", target: "/cart/items", body: "two",
			want: "cart POST /base/cart/items host=www.shop.example body=two\nX-Forwarded-For: 127.0.0.1\nX-Forwarded-Proto: %s\nX-Forwarded-Host: www.shop.example\n"},
		{name: "path and query stay as they are", target: "/%2Fx/%C3%A4%20b?a;b&c=%zz&d",
			want: "shop GET /%%2Fx/%%C3%%A4%%20b?a;b&c=%%zz&d host=www.shop.example body=\nX-Forwarded-For: 127.0.0.1\nX-Forwarded-Proto: %s\nX-Forwarded-Host: www.shop.example\n"},
		{name: "claims of strangers are dropped", target: "/", header: http.Header{
			"X-Forwarded-For": {"6.6.6.6"}, "X-Forwarded-Proto": {"ftp"}, "X-Forwarded-Host": {"evil"}, "X-Forwarded-Port": {"1"},
			"Forwarded": {"for=6.6.6.6"}, "X-Real-Ip": {"6.6.6.6"}},
			want: "shop GET / host=www.shop.example body=\nX-Forwarded-For: 127.0.0.1\nX-Forwarded-Proto: %s\nX-Forwarded-Host: www.shop.example\n"},
		{name: "claims of trusted peers are extended", target: "/", trusted: true, header: http.Header{
			"X-Forwarded-For": {"1.1.1.1", "2.2.2.2"}, "X-Forwarded-Proto": {"https"}, "X-Forwarded-Host": {"outside.example"}},
			want: "shop GET / host=www.shop.example body=\nX-Forwarded-For: 1.1.1.1, 2.2.2.2, 127.0.0.1\nX-Forwarded-Proto: https\nX-Forwarded-Host: outside.example\n"},
		{name: "end to end headers pass, others do not", target: "/", header: http.Header{
			"Keep-Alive": {"9"}, "Accept-Encoding": {"br"}, "Cookie": {"a=b"}, "User-Agent": {"test"}},
			want: "shop GET / host=www.shop.example body=\nX-Forwarded-For: 127.0.0.1\nX-Forwarded-Proto: %s\nX-Forwarded-Host: www.shop.example\nAccept-Encoding: br\nUser-Agent: test\nCookie: a=b\n"},
	} {
		for _, via := range []string{"http", "https", "h2"} {
			t.Run(test.name+"/"+via, func(t *testing.T) {
				edge := strict
				if test.trusted {
					edge = trusting
				}
				base, scheme := edge.https, "https"
				if via == "http" {
					base, scheme = edge.http, "http"
				}
				request := newRequest(t, test.method, base+test.target, strings.NewReader(test.body))
				request.Host = "www.shop.example"
				request.Header = http.Header{"User-Agent": nil, "Accept-Encoding": nil}
				for name, values := range test.header {
					request.Header[name] = values
				}
				c := client(t, via == "h2")
				c.Transport.(*http.Transport).DisableCompression = true
				status, body, header := do(t, c, request)
				want := test.want
				if strings.Contains(want, "%s") {
					want = fmt.Sprintf(want, scheme)
				}
				if status != 200 || body != want {
					t.Errorf("got %d\n%s\nwant\n%s", status, body, want)
				}
				if header.Get("X-Secret") != "" || header.Get("X-Kept") != "yes" {
					t.Errorf("hop-by-hop headers of the answer: %v", header)
				}
			})
		}
	}
}

func TestHTTP2IsSpoken(t *testing.T) {
	e := start(t, toShop(origin(t, echo("shop")).URL))
	response, err := client(t, true).Get(e.https + "/")
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	if response.ProtoMajor != 2 {
		t.Fatalf("got %s", response.Proto)
	}
}

func TestOwnAnswers(t *testing.T) {
	e := start(t, "roles:\n  shop: {url: \""+origin(t, echo("shop")).URL+"\"}\nroutes:\n- {prefix: /shop, role: shop}\nlimits: {bodyBytes: 10, headerBytes: 8KiB}\n")
	c := client(t, false)
	for _, test := range []struct {
		name, method, path, body, header string
		chunked                          bool
		want                             int
	}{
		{"no route", "GET", "/nothing", "", "", false, 404},
		{"trace", "TRACE", "/shop", "", "", false, 405},
		{"body at the limit", "POST", "/shop", "0123456789", "", false, 200},
		{"chunked body at the limit", "POST", "/shop", "0123456789", "", true, 200},
		{"body above the limit", "POST", "/shop", "0123456789x", "", false, 413},
		{"chunked body above the limit", "POST", "/shop", "0123456789x", "", true, 413},
		{"headers above the limit", "GET", "/shop", "", strings.Repeat("x", 16<<10), false, 431},
	} {
		t.Run(test.name, func(t *testing.T) {
			var body io.Reader = strings.NewReader(test.body)
			if test.chunked {
				body = io.MultiReader(body)
			}
			request := newRequest(t, test.method, e.http+test.path, body)
			if test.header != "" {
				request.Header.Set("X-Large", test.header)
			}
			if status, page, _ := do(t, c, request); status != test.want {
				t.Fatalf("got %d %s, want %d", status, page, test.want)
			}
		})
	}
	if e.metric(`shopset_proxy_role_failures_total{reason="broken",role="shop"}`) != "" {
		t.Error("a body above the limit was blamed on the role")
	}
}

func TestRedirect(t *testing.T) {
	for port, suffix := range map[int]string{443: "", 8443: ":8443"} {
		e := start(t, toShop("http://127.0.0.1:1")+fmt.Sprintf("http: {address: \"127.0.0.1:0\", redirectPort: %d}\n", port))
		for method, want := range map[string]int{"GET": 301, "POST": 308} {
			request := newRequest(t, method, e.http+"/a?b=c", nil)
			request.Host = "www.shop.example:80"
			status, _, header := do(t, client(t, false), request)
			if got := header.Get("Location"); status != want || got != "https://www.shop.example"+suffix+"/a?b=c" {
				t.Errorf("%s: got %d %s", method, status, got)
			}
		}
	}
}

func TestWebSocketPassesAndCounts(t *testing.T) {
	shop := origin(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") != "websocket" {
			http.Error(w, "no upgrade", http.StatusBadRequest)
			return
		}
		conn, buffered, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
		io.Copy(conn, buffered)
	})
	e := start(t, toShop(shop.URL)+"limits: {stallTimeout: 50ms, idleTimeout: 50ms}\n")
	conn := raw(t, e.http, "GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
	reader := bufio.NewReader(conn)
	response, err := http.ReadResponse(reader, nil)
	if err != nil || response.StatusCode != http.StatusSwitchingProtocols {
		t.Fatal(response, err)
	}
	defer response.Body.Close()
	for _, text := range []string{"one", "two"} {
		io.WriteString(conn, text)
		got := make([]byte, 3)
		if _, err := io.ReadFull(reader, got); err != nil || string(got) != text {
			t.Fatalf("got %q %v", got, err)
		}
	}
	if got := e.page("GET", "/connections"); got != `{"open":1,"active":1}` {
		t.Errorf("got %s", got)
	}
	conn.Close()
	eventually(t, "the connection is counted as gone", func() bool { return e.page("GET", "/connections") == `{"open":0,"active":0}` })
	eventually(t, "the access log has it", func() bool { return strings.Contains(e.log.String(), `"status":101`) })
}

func TestAccessLogAndMetrics(t *testing.T) {
	e := start(t, toShop(origin(t, echo("shop")).URL))
	request := newRequest(t, "GET", e.https+"/a?token=geheim", nil)
	request.Host, request.Header = "www.shop.example", http.Header{"User-Agent": {"test"}, "Cookie": {"s=geheim"}, "Authorization": {"geheim"}}
	do(t, client(t, true), request)
	eventually(t, "a line in the access log", func() bool { return e.log.String() != "" })
	text := e.log.String()
	var line map[string]any
	if err := json.Unmarshal([]byte(text), &line); err != nil {
		t.Fatal(err, text)
	}
	for name, want := range map[string]any{"msg": "request", "client": "127.0.0.1", "host": "www.shop.example", "method": "GET",
		"path": "/a", "proto": "HTTP/2.0", "tls": true, "status": 200.0, "role": "shop", "agent": "test"} {
		if line[name] != want {
			t.Errorf("%s: got %v, want %v", name, line[name], want)
		}
	}
	if strings.Contains(text, "geheim") {
		t.Errorf("a secret in the access log: %s", text)
	}
	e.wantMetric(`shopset_proxy_requests_total{code="200",role="shop"}`, "1")
}
