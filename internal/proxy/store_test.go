package proxy

import (
	"fmt"
	"io"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

// withStore is the YAML of a role that serves from its store when it fails.
func withStore(url, store string) string {
	return toShop(url, "store: "+store, "fallback: [{stored: 1h}]")
}

// TestSessionCookies: what any reader may take for a session keeps a page to itself; other cookies do not.
func TestSessionCookies(t *testing.T) {
	for text, stored := range map[string]bool{
		"lang=de":                       true,
		`lang="de"; theme=`:             true,
		"lang=de; session=1":            false,
		`lang=de; session={"user":1}`:   false,
		"lang=de; session[id]=1":        false,
		`lang=de; session=ab"c`:         false,
		"lang=de; session =1":           false,
		"lang=de; session":              false,
		"lang=de, session=1":            false,
		`lang="de; session=1"`:          false,
		"lang=de;session=1;theme=dark":  false,
		"lang=d\u00e4; theme=dark":      false,
		"lang=de;  session=1":           false,
		"lang=de; session-id=1; end=;;": false,
	} {
		shop := newFlaky(t, "page", nil)
		e := start(t, withStore(shop.URL, "{sessionCookies: [session*]}"))
		ask(t, e, "/", cookie(text))
		shop.fails.Store(true)
		if status, body, _ := ask(t, e, "/"); (status == http.StatusOK) != stored {
			t.Errorf("%s: a stranger gets %d %q, want that it is stored: %v", text, status, body, stored)
		}
	}
}

// TestStoredByWhatWasAsked: what a trusted proxy says of the client's site is in the page's links, and so it is in its key.
func TestStoredByWhatWasAsked(t *testing.T) {
	site := func(proto, host string) func(*http.Request) {
		return func(r *http.Request) {
			r.Host = "shop.example"
			r.Header.Set("X-Forwarded-Proto", proto)
			r.Header.Set("X-Forwarded-Host", host)
		}
	}
	shop := newFlaky(t, "page", nil)
	e := start(t, "trustedProxies: [127.0.0.1]\n"+withStore(shop.URL, "{}"))
	ask(t, e, "/", site("https", "a.example"))
	shop.fails.Store(true)
	for _, test := range []struct {
		proto, host string
		want        int
	}{{"https", "a.example", 200}, {"https", "A.example", 200}, {"https", "b.example", 503}, {"http", "a.example", 503}} {
		if status, _, _ := ask(t, e, "/", site(test.proto, test.host)); status != test.want {
			t.Errorf("%s://%s: %d, want %d", test.proto, test.host, status, test.want)
		}
	}
}

// joining is a shop whose page is known to be for all, and whose next answers wait for go on.
func joining(t *testing.T, answer http.HandlerFunc) (e *edge, requests *atomic.Int64, goOn chan struct{}) {
	requests, goOn = &atomic.Int64{}, make(chan struct{})
	shop := origin(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "max-age=60")
		if requests.Add(1) > 1 {
			<-goOn
		}
		answer(w, r)
	})
	e = start(t, toShop(shop.URL, "store: {bytes: 64MiB, pageBytes: 16MiB}"))
	ask(t, e, "/", func(r *http.Request) { r.Host = "shop.example" })
	return e, requests, goOn
}

// TestASlowLeader: who waits for another one's answer does not wait for that one's client, which reads nothing.
func TestASlowLeader(t *testing.T) {
	long := strings.Repeat("x", 12<<20)
	e, requests, goOn := joining(t, func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, long) })
	raw(t, e.http, "GET / HTTP/1.1\r\nHost: shop.example\r\n\r\n")
	eventually(t, "the first one has asked", func() bool { return requests.Load() == 2 })
	const visitors = 5
	var group sync.WaitGroup
	var whole atomic.Int64
	for range visitors {
		group.Go(func() {
			request, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, e.http+"/", nil)
			request.Host = "shop.example"
			if response, err := client(t, false).Do(request); err == nil {
				if body, _ := io.ReadAll(response.Body); string(body) == long {
					whole.Add(1)
				}
				response.Body.Close()
			}
		})
	}
	eventually(t, "all are under way", func() bool { return e.connections.active.Load() == visitors+1 })
	close(goOn)
	group.Wait()
	if n := whole.Load(); n != visitors {
		t.Errorf("%d of %d visitors got the page", n, visitors)
	}
	if n := requests.Load(); n != 2 {
		t.Errorf("the shop got %d requests, want 2", n)
	}
}

// TestJoinedByVariant: a page that begins to vary is given to those alone that it is for.
func TestJoinedByVariant(t *testing.T) {
	e, requests, goOn := joining(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("X-Group") != "" {
			w.Header().Set("Vary", "X-Group")
		}
		_, _ = io.WriteString(w, "for "+r.Header.Get("X-Group"))
	})
	var group sync.WaitGroup
	answers := sync.Map{}
	for i, name := range []string{"dealer", "public", "dealer"} {
		group.Go(func() {
			request, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, e.http+"/", nil)
			request.Host = "shop.example"
			request.Header.Set("X-Group", name)
			if response, err := client(t, false).Do(request); err == nil {
				body, _ := io.ReadAll(response.Body)
				response.Body.Close()
				answers.Store(i, string(body))
			}
		})
		eventually(t, "it is under way", func() bool { return e.connections.active.Load() == int64(i+1) && requests.Load() == 2 })
	}
	close(goOn)
	group.Wait()
	for i, want := range []string{"for dealer", "for public", "for dealer"} {
		if got, _ := answers.Load(i); got != want {
			t.Errorf("visitor %d got %q, want %q", i, got, want)
		}
	}
}

// TestCopiesAreBounded: however many clients take long pages slowly, and whether their length is known or not, copies of
// them take what was allowed, and nothing in the end.
func TestCopiesAreBounded(t *testing.T) {
	for name, known := range map[string]bool{"length known": true, "length unknown": false} {
		t.Run(name, func(t *testing.T) {
			const clients = 40
			long := strings.Repeat("x", 8<<20)
			var sent atomic.Int64
			shop := origin(t, func(w http.ResponseWriter, _ *http.Request) {
				if known {
					w.Header().Set("Content-Length", fmt.Sprint(len(long)))
				}
				sent.Add(1)
				_, _ = io.WriteString(w, long)
			})
			e := start(t, toShop(shop.URL, "store: {bytes: 20MiB, pageBytes: 9MiB}"))
			store := e.current.Load().roles["shop"].store
			runtime.GC()
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			var conns []io.Closer
			for i := range clients {
				conns = append(conns, raw(t, e.http, fmt.Sprintf("GET /?%d HTTP/1.1\r\nHost: a\r\n\r\n", i)))
			}
			eventually(t, "all are being answered", func() bool { return sent.Load() == clients })
			eventually(t, "a copy was made", func() bool { return store.held.Load() > 8<<20 || store.pages.EstimatedSize() > 0 })
			runtime.GC()
			runtime.ReadMemStats(&after)
			if n := store.held.Load(); n > store.budget() {
				t.Errorf("copies under way take %d bytes, allowed are %d", n, store.budget())
			}
			if grown := (int64(after.HeapAlloc) - int64(before.HeapAlloc)) >> 20; grown > 20+9+100 {
				t.Errorf("the heap grew by %d MiB", grown)
			}
			for _, conn := range conns {
				conn.Close()
			}
			eventually(t, "nothing is held any more", func() bool { return store.held.Load() == 0 })
		})
	}
}

// TestOneCopyOfAPage: many who get the same page at once cost the store one copy.
func TestOneCopyOfAPage(t *testing.T) {
	const clients = 10
	half := strings.Repeat("x", 100<<10)
	var asked atomic.Int64
	goOn := make(chan struct{})
	shop := origin(t, func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, half)
		_ = http.NewResponseController(w).Flush()
		asked.Add(1)
		<-goOn
		_, _ = io.WriteString(w, half)
	})
	e := start(t, toShop(shop.URL, "store: {}"))
	store := e.current.Load().roles["shop"].store
	var group sync.WaitGroup
	var whole, begun atomic.Int64
	for range clients {
		group.Go(func() {
			response, err := client(t, false).Get(e.http)
			if err != nil {
				return
			}
			defer response.Body.Close()
			first := make([]byte, len(half))
			if _, err := io.ReadFull(response.Body, first); err != nil {
				return
			}
			begun.Add(1)
			if rest, _ := io.ReadAll(response.Body); string(first)+string(rest) == half+half {
				whole.Add(1)
			}
		})
	}
	eventually(t, "all have their half", func() bool { return begun.Load() == clients })
	if n := store.held.Load(); n < int64(len(half)) || n > 3*int64(len(half)) {
		t.Errorf("%d bytes are held for one page of which %d have come", n, len(half))
	}
	close(goOn)
	group.Wait()
	if n := whole.Load(); n != clients || asked.Load() != clients {
		t.Errorf("%d of %d got the page", n, clients)
	}
}

// TestFallbacksLeaveNothingBehind: what was for the failed role, when to come again and where to stay, is not in another's answer.
func TestFallbacksLeaveNothingBehind(t *testing.T) {
	shop, legacy := newFlaky(t, "shop", http.Header{"Cache-Control": {"max-age=0"}}), newFlaky(t, "legacy", nil)
	e := start(t, fmt.Sprintf(`
roles:
  shop: {sticky: "cookie:upstream", upstreams: [{url: %q}, {url: %q}], store: {}, maxRequests: 1, health: {failures: 1000}, fallback: [{role: legacy}, {stored: 1h}]}
  legacy: {url: %q}
routes: [{prefix: /, role: shop}]
`, shop.URL, strings.Replace(shop.URL, "127.0.0.1", "localhost", 1), legacy.URL))
	role := e.current.Load().roles["shop"]
	if _, _, header := ask(t, e, "/"); header.Get("Set-Cookie") == "" {
		t.Fatal("the role does not keep its clients")
	}
	want := func(what, answer string) {
		t.Helper()
		status, body, header := ask(t, e, "/")
		if status != http.StatusOK || !strings.HasPrefix(body, answer) || header.Get("Set-Cookie") != "" || header.Get("Retry-After") != "" {
			t.Errorf("%s: %d %s %v", what, status, body, header)
		}
	}
	role.active.Add(1) // It is full.
	want("full", "legacy")
	legacy.fails.Store(true)
	want("full", "shop")
	role.active.Add(-1)
	legacy.fails.Store(false)
	shop.fails.Store(true)
	want("failed", "legacy")
	legacy.fails.Store(true)
	want("failed", "shop")
	if status, _, header := ask(t, e, "/other"); status != http.StatusServiceUnavailable || !strings.HasPrefix(header.Get("Set-Cookie"), "upstream=") {
		t.Errorf("its own failure: %d %v", status, header)
	}
}
