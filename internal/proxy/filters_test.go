package proxy

import (
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/andybalholm/brotli"
	"github.com/klauspost/compress/zstd"
)

// seen is what an upstream got.
type seen struct {
	Method, URI, Host string
	Header            http.Header
}

// mirror answers with what it got, and with headers that it is told: ?set=Name:Value.
func mirror(w http.ResponseWriter, r *http.Request) {
	for _, line := range r.URL.Query()["set"] {
		name, value, _ := strings.Cut(line, ":")
		w.Header().Add(name, value)
	}
	_ = json.NewEncoder(w).Encode(seen{r.Method, r.URL.RequestURI(), r.Host, r.Header})
}

// mirrored sends a request through a proxy and returns what came out on both sides.
func mirrored(t *testing.T, e *edge, request *http.Request) (seen, http.Header) {
	t.Helper()
	status, body, header := do(t, client(t, false), request)
	if status != http.StatusOK {
		t.Fatalf("status %d: %s", status, body)
	}
	var got seen
	if err := json.Unmarshal([]byte(body), &got); err != nil {
		t.Fatal(err, body)
	}
	return got, header
}

func TestHeaders(t *testing.T) {
	e := start(t, fmt.Sprintf(`
trustedProxies: [127.0.0.1]
roles:
  shop:
    url: %s
    requestHeaders:
    - {set: x-all, to: "${method} ${scheme} ${host} ${path} ${uri} ${role} ${client} ${header:x-in} ${cookie:c} $$5"}
    - {set: X-Shop, to: "${shop}"}
    - {add: x-more, to: two}
    - {remove: x-secret}
    - {remove: "x-internal-*"}
    - {rename: x-old, as: x-new}
    - {set: x-broken, to: "${path}"}
    responseHeaders:
    - {remove: server}
    - {set: strict-transport-security, to: max-age=63072000}
    - {rename: x-a, as: x-b}
routes:
- {prefix: /, role: shop}
`, origin(t, mirror).URL))
	request := newRequest(t, http.MethodGet, e.http+"/a%0ab?q=1&set=Server:php&set=X-A:1&set=X-A:2", nil)
	request.Host = "Shop.Example:8443"
	for name, value := range map[string]string{"X-In": "in", "Cookie": "c=v", "X-More": "one", "X-Secret": "s", "X-Internal-Id": "7", "X-Old": "o",
		"X-Shop": "forged", "X-Forwarded-For": "198.51.100.7"} {
		request.Header.Set(name, value)
	}
	got, header := mirrored(t, e, request)
	for name, want := range map[string]string{
		"X-All":  "GET http shop.example /ab /a%0ab?q=1&set=Server:php&set=X-A:1&set=X-A:2 shop 198.51.100.7 in v $5",
		"X-Shop": "", "X-More": "one, two", "X-Secret": "", "X-Internal-Id": "", "X-Old": "", "X-New": "o", "X-Broken": "/ab",
	} {
		if value := strings.Join(got.Header.Values(name), ", "); value != want {
			t.Errorf("%s: %q, want %q", name, value, want)
		}
	}
	if got.Host != "Shop.Example:8443" || header.Get("Server") != "" || header.Get("Strict-Transport-Security") != "max-age=63072000" ||
		!slices.Equal(header.Values("X-B"), []string{"1", "2"}) {
		t.Errorf("host %q, answer %v", got.Host, header)
	}
}

func TestCookies(t *testing.T) {
	e := start(t, fmt.Sprintf(`
roles:
  shop:
    url: %s
    requestCookies: {deny: ["_ga*", track], rename: {front: back}}
    responseCookies: {allow: ["*"], deny: [debug], rename: {back: front}, secure: true, httpOnly: true, sameSite: lax, domain: ""}
  strict:
    url: %[1]s
    requestCookies: {allow: [session]}
    responseCookies: {secure: false, domain: shop.example, path: /x, sameSite: strict}
routes:
- {prefix: /, role: shop}
- {prefix: /strict, role: strict}
`, origin(t, mirror).URL))
	request := newRequest(t, http.MethodGet, e.http+"/?set=Set-Cookie:back%3D%22a+b%22%3B+Path%3D/%3B+Domain%3Dold.example%3B+SameSite%3DNone&set=Set-Cookie:debug%3D1&set=Set-Cookie:x%3D1%3B+Max-Age%3D5%3B+secure", nil)
	request.Header.Set("Cookie", `_ga=1; _gat=2; front="q=1" ; track=x;odd; a=b=c`)
	got, header := mirrored(t, e, request)
	if cookie := got.Header.Get("Cookie"); cookie != `back="q=1"; odd; a=b=c` {
		t.Errorf("the upstream got %q", cookie)
	}
	want := []string{`front="a b"; Path=/; Secure; HttpOnly; SameSite=Lax`, `x=1; Max-Age=5; Secure; HttpOnly; SameSite=Lax`}
	if cookies := header.Values("Set-Cookie"); !slices.Equal(cookies, want) {
		t.Errorf("the client got %q", cookies)
	}
	request = newRequest(t, http.MethodGet, e.http+"/strict?set=Set-Cookie:s%3D1%3B+Secure%3B+Path%3D/%3B+Domain%3Dold.example", nil)
	request.Header["Cookie"] = []string{"a=1; session=2", "b=3; session2=4"}
	got, header = mirrored(t, e, request)
	if cookie := got.Header.Get("Cookie"); cookie != "session=2" {
		t.Errorf("the upstream got %q", cookie)
	}
	if cookie := header.Get("Set-Cookie"); cookie != "s=1; Domain=shop.example; Path=/x; SameSite=Strict" {
		t.Errorf("the client got %q", cookie)
	}
	request.Header["Cookie"] = []string{"a=1"}
	if got, _ = mirrored(t, e, request); got.Header["Cookie"] != nil {
		t.Errorf("the upstream got %q", got.Header["Cookie"])
	}
}

// FuzzCookies: whatever comes, what was denied does not pass, and nothing gets a line break.
func FuzzCookies(f *testing.F) {
	f.Add("a=b; c=d", "x=y; Path=/")
	f.Add(";;=; deny ; deny=1;deny", "deny=1; Secure")
	filter := &CookieFilter{Deny: []string{"deny"}, Rename: map[string]string{"a": "b"}, Secure: new(true), SameSite: "lax"}
	f.Fuzz(func(t *testing.T, request, response string) {
		header := http.Header{"Cookie": {request}, "Set-Cookie": {response}}
		filter.request(header)
		filter.response(header)
		for _, cookie := range (&http.Request{Header: header}).Cookies() {
			if cookie.Name == "deny" {
				t.Fatalf("%q became %q", request, header["Cookie"])
			}
		}
		for _, cookie := range (&http.Response{Header: header}).Cookies() {
			if cookie.Name == "deny" || !cookie.Secure {
				t.Fatalf("%q became %q", response, header["Set-Cookie"])
			}
		}
	})
}

func TestRewrite(t *testing.T) {
	e := start(t, fmt.Sprintf(`
roles:
  strip: {url: "%s/base/", rewrite: {strip: /api}}
  add: {url: "%[1]s", rewrite: {add: /v2}}
  change: {url: "%[1]s", rewrite: {regexp: "^/p/([0-9]+)/.*$", replace: "/product/$1"}}
routes:
- {prefix: /, role: add}
- {prefix: /api, role: strip}
- {prefix: /p, role: change}
`, origin(t, mirror).URL))
	for path, want := range map[string]string{
		"/x?a=%2F": "/v2/x?a=%2F", "/x%2Fy": "/v2/x/y", "/api": "/base/", "/api/a%20b?q": "/base/a%20b?q",
		"/p/12/blue-shoe": "/product/12", "/p/x/": "/p/x/", "/%2e%2e/%2e%2e/admin": "/v2/admin", "/api/..%2f..%2fx": "/v2/x",
	} {
		if got, _ := mirrored(t, e, newRequest(t, http.MethodGet, e.http+path, nil)); got.URI != want {
			t.Errorf("%s: the upstream got %s, want %s", path, got.URI, want)
		}
	}
}

// TestAnswersWithoutUpstream are redirects and fixed texts.
func TestAnswersWithoutUpstream(t *testing.T) {
	e := start(t, `
roles:
  www: {redirect: {to: "https://www.${host}${uri}", status: 308}}
  gone: {static: {status: 410, type: text/plain, body: "no longer here"}, responseHeaders: [{set: x-gone, to: "${path}"}]}
routes:
- {prefix: /, role: www}
- {path: /gone, role: gone}
`)
	request := newRequest(t, http.MethodPost, e.http+"/a?b=c", strings.NewReader("body"))
	request.Host = "shop.example"
	status, _, header := do(t, client(t, false), request)
	if status != http.StatusPermanentRedirect || header.Get("Location") != "https://www.shop.example/a?b=c" {
		t.Errorf("%d %v", status, header)
	}
	status, body, header := do(t, client(t, false), newRequest(t, http.MethodGet, e.http+"/gone", nil))
	if status != http.StatusGone || body != "no longer here" || header.Get("Content-Type") != "text/plain" || header.Get("X-Gone") != "/gone" {
		t.Errorf("%d %q %v", status, body, header)
	}
}

// TestCompression: what the client takes, and only what gets smaller.
func TestCompression(t *testing.T) {
	text := strings.Repeat("all shops sell shoes. ", 200)
	shop := origin(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", r.URL.Query().Get("type"))
		w.Header().Set("Etag", `"tag"`)
		if encoding := r.URL.Query().Get("encoding"); encoding != "" {
			w.Header().Set("Content-Encoding", encoding)
		}
		if control := r.URL.Query().Get("control"); control != "" {
			w.Header().Set("Cache-Control", control)
		}
		io.WriteString(w, text[:min(len(text), len(text)/(1+len(r.URL.Query().Get("short"))))])
	})
	e := start(t, toShop(shop.URL, "compress: true"))
	readers := map[string]func(io.Reader) (string, error){
		"": all,
		"gzip": func(r io.Reader) (string, error) {
			g, err := gzip.NewReader(r)
			if err != nil {
				return "", err
			}
			return all(g)
		},
		"br": func(r io.Reader) (string, error) { return all(brotli.NewReader(r)) },
		"zstd": func(r io.Reader) (string, error) {
			z, err := zstd.NewReader(r)
			if err != nil {
				return "", err
			}
			defer z.Close()
			return all(z)
		},
	}
	for _, test := range []struct{ query, accept, want string }{
		{"type=text/html", "gzip, deflate, br, zstd", "zstd"},
		{"type=text/html", "gzip, br", "br"},
		{"type=application/json", "gzip", "gzip"},
		{"type=text/html", "gzip;q=1, br;q=0.5", "gzip"},
		{"type=text/html", "br;q=0, *", "zstd"},
		{"type=text/html", "*;q=0", ""},
		{"type=text/html", "identity, gzip;q=0.5", ""},
		{"type=text/html", "gzip;q=x", ""},
		{"type=text/html", "", ""},
		{"type=image/png", "gzip", ""},
		{"type=text/event-stream", "gzip", ""},
		{"type=text/html&encoding=own", "gzip", ""},
		{"type=text/html&control=no-transform", "gzip", ""},
		{"type=text/html&short=xxxxxxxxxxx", "gzip", ""},
	} {
		for _, h2 := range []bool{false, true} {
			request := newRequest(t, http.MethodGet, e.https+"/?"+test.query, nil)
			request.Header.Set("Accept-Encoding", test.accept)
			response, err := client(t, h2).Do(request)
			if err != nil {
				t.Fatal(err)
			}
			encoding := response.Header.Get("Content-Encoding")
			if encoding == "own" {
				encoding = ""
			}
			body, err := readers[encoding](response.Body)
			response.Body.Close()
			if encoding != test.want || err != nil || !strings.HasPrefix(text, body) || len(body) < 300 {
				t.Errorf("%s, %s: got %q, want %q; %d bytes, %v", test.query, test.accept, encoding, test.want, len(body), err)
			}
			if tag := response.Header.Get("Etag"); (tag == `W/"tag"`) != (encoding != "") {
				t.Errorf("%s, %s: tag %s", test.query, test.accept, tag)
			}
			if encoding != "" && response.Header.Get("Vary") != "Accept-Encoding" {
				t.Errorf("%s, %s: Vary %q", test.query, test.accept, response.Header.Get("Vary"))
			}
		}
	}
}

func all(r io.Reader) (string, error) {
	body, err := io.ReadAll(r)
	return string(body), err
}

// TestTrace: an id for every request, and a place in a trace.
func TestTrace(t *testing.T) {
	shop := origin(t, mirror).URL
	const parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
	for _, test := range []struct{ trust, id, traceparent, wantID, wantTrace string }{
		{"", "", "", "", ""},
		{"", "forged", parent, "", parent},
		{"trustedProxies: [127.0.0.1]\n", "given", parent, "given", parent},
		{"trustedProxies: [127.0.0.1]\n", "a b", "00-00000000000000000000000000000000-00f067aa0ba902b7-01", "", ""},
	} {
		e := start(t, test.trust+toShop(shop))
		request := newRequest(t, http.MethodGet, e.http+"/", nil)
		request.Header.Set("X-Request-Id", test.id)
		request.Header.Set("Traceparent", test.traceparent)
		request.Header.Set("Tracestate", "a=b")
		got, _ := mirrored(t, e, request)
		id, trace := got.Header.Get("X-Request-Id"), got.Header.Get("Traceparent")
		if test.wantID != "" && id != test.wantID || test.wantID == "" && len(id) != 32 {
			t.Errorf("%+v: id %q", test, id)
		}
		if test.wantTrace != "" && trace != test.wantTrace || !isTraceparent(trace) || (got.Header.Get("Tracestate") == "") != (test.wantTrace == "") {
			t.Errorf("%+v: trace %q %q", test, trace, got.Header.Get("Tracestate"))
		}
		eventually(t, "the id is in the log", func() bool { return strings.Contains(e.log.String(), `"id":"`+id+`"`) })
	}
}

// TestTrailersAndInterim: what comes before and behind an answer passes, in both directions.
func TestTrailersAndInterim(t *testing.T) {
	shop := origin(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Link", "</style.css>; rel=preload")
		w.WriteHeader(http.StatusEarlyHints)
		body, err := io.ReadAll(r.Body)
		w.Header().Set("Trailer", "X-Sum")
		w.Header().Set("X-Got", fmt.Sprint(string(body), r.Trailer.Get("X-End"), err))
		io.WriteString(w, "answer")
		w.Header().Set("X-Sum", "42")
	})
	e := start(t, toShop(shop.URL))
	for _, h2 := range []bool{false, true} {
		request := newRequest(t, http.MethodPost, e.https+"/", io.NopCloser(strings.NewReader("body ")))
		request.Trailer = http.Header{"X-End": {"end"}}
		request.ContentLength = -1
		hints := 0
		response, err := client(t, h2).Do(request.WithContext(withHints(t, &hints)))
		if err != nil {
			t.Fatal(err)
		}
		body, err := all(response.Body)
		response.Body.Close()
		if err != nil || body != "answer" || response.Trailer.Get("X-Sum") != "42" || response.Header.Get("X-Got") != "body end<nil>" || hints != 1 {
			t.Errorf("HTTP/2 %v: %q %v, trailer %v, upstream got %q, %d hints", h2, body, err, response.Trailer, response.Header.Get("X-Got"), hints)
		}
	}
}
