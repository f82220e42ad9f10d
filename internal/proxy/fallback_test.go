package proxy

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// flaky is an upstream that can be told to fail.
type flaky struct {
	*httptest.Server
	fails    atomic.Bool
	requests atomic.Int64
	header   http.Header
}

func newFlaky(t *testing.T, name string, header http.Header) *flaky {
	f := &flaky{header: header}
	f.Server = origin(t, func(w http.ResponseWriter, r *http.Request) {
		n := f.requests.Add(1)
		for name, values := range f.header {
			w.Header()[name] = values
		}
		if f.fails.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		_, _ = fmt.Fprintf(w, "%s %s %d", name, r.Host, n)
	})
	return f
}

func ask(t *testing.T, e *edge, path string, edit ...func(*http.Request)) (int, string, http.Header) {
	t.Helper()
	request := newRequest(t, http.MethodGet, e.http+path, nil)
	for _, change := range edit {
		change(request)
	}
	return do(t, client(t, false), request)
}

// TestFallbacks: another role, a stored page, a static page, in this order, and why is said.
func TestFallbacks(t *testing.T) {
	folder := t.TempDir()
	writeFile(t, filepath.Join(folder, "default.html"), "sorry")
	shop := newFlaky(t, "shop", http.Header{"Cache-Control": {"max-age=0"}})
	legacy := newFlaky(t, "legacy", nil)
	e := start(t, fmt.Sprintf(`
roles:
  shop: {url: %q, retries: 0, store: {}, fallback: [{role: legacy}, {stored: 1h}, {page: %s}]}
  legacy: {url: %q, retries: 0}
routes: [{prefix: /, role: shop}]
`, shop.URL, folder, legacy.URL))
	if status, body, header := ask(t, e, "/"); status != 200 || !strings.HasPrefix(body, "shop ") || header.Get(FallbackHeader) != "" {
		t.Fatalf("%d %s %v", status, body, header)
	}
	shop.fails.Store(true)
	if status, body, header := ask(t, e, "/"); status != 200 || !strings.HasPrefix(body, "legacy ") || header.Get(FallbackHeader) != "role legacy; for=shop; reason=503" {
		t.Errorf("%d %s %v", status, body, header)
	}
	legacy.fails.Store(true)
	if status, body, header := ask(t, e, "/"); status != 200 || !strings.HasSuffix(body, " 1") || header.Get(FallbackHeader) != "stored; for=shop; reason=503" || header.Get("Age") == "" {
		t.Errorf("%d %s %v", status, body, header)
	}
	if status, body, header := ask(t, e, "/other"); status != 503 || body != "sorry" || header.Get(FallbackHeader) != "page; for=shop; reason=503" {
		t.Errorf("%d %s %v", status, body, header)
	}
	shop.Close()
	if status, body, header := ask(t, e, "/other"); status != 502 || body != "sorry" || header.Get(FallbackHeader) != "page; for=shop; reason=connect" {
		t.Errorf("%d %s %v", status, body, header)
	}
	e.wantMetric(`shopset_proxy_fallbacks_total{answer="stored",reason="503",role="shop"}`, "1")
	// A request that the first role may have done is not done again.
	request := newRequest(t, http.MethodPost, e.http+"/", strings.NewReader("buy"))
	legacy.fails.Store(false)
	before := legacy.requests.Load()
	if status, _, header := do(t, client(t, false), request); status != 200 || legacy.requests.Load() != before+1 {
		t.Errorf("a POST that was never sent: %d %v", status, header)
	}
}

// TestUnsafeIsNotRepeated: a POST that an upstream answered with 503 may have done something.
func TestUnsafeIsNotRepeated(t *testing.T) {
	shop, legacy := newFlaky(t, "shop", nil), newFlaky(t, "legacy", nil)
	shop.fails.Store(true)
	e := start(t, fmt.Sprintf("roles:\n  shop: {url: %q, fallback: [{role: legacy}]}\n  legacy: {url: %q}\nroutes: [{prefix: /, role: shop}]\n", shop.URL, legacy.URL))
	status, body, _ := do(t, client(t, false), newRequest(t, http.MethodPost, e.http+"/", strings.NewReader("buy")))
	if status != http.StatusServiceUnavailable || !strings.HasPrefix(body, "shop ") || legacy.requests.Load() != 0 {
		t.Errorf("%d %s, the other role got %d", status, body, legacy.requests.Load())
	}
}

// TestNeverStored: what RFC 9111 forbids, sessions, and other hosts.
func TestNeverStored(t *testing.T) {
	for name, test := range map[string]struct {
		header        http.Header
		first, second func(*http.Request)
		stored        bool
	}{
		"plain":           {header: http.Header{}, stored: true},
		"public":          {header: http.Header{"Cache-Control": {"public, max-age=60"}}, stored: true},
		"no-store":        {header: http.Header{"Cache-Control": {"no-store"}}},
		"private":         {header: http.Header{"Cache-Control": {`private="x"`}}},
		"no-cache":        {header: http.Header{"Cache-Control": {"no-cache"}}},
		"must-revalidate": {header: http.Header{"Cache-Control": {"max-age=0, must-revalidate"}}},
		"stale-if-error":  {header: http.Header{"Cache-Control": {"max-age=0, stale-if-error=600"}}, stored: true},
		"and must not":    {header: http.Header{"Cache-Control": {"max-age=0, must-revalidate, stale-if-error=600"}}},
		"nor by proxies":  {header: http.Header{"Cache-Control": {"max-age=0, proxy-revalidate, stale-if-error=600"}}},
		"nor for long":    {header: http.Header{"Cache-Control": {"s-maxage=0, stale-if-error=600"}}},
		"nor at all":      {header: http.Header{"Cache-Control": {"no-cache, stale-if-error=600"}}},
		"still fresh":     {header: http.Header{"Cache-Control": {"max-age=600, must-revalidate"}, "Age": {"10"}}, stored: true},
		"old at arrival":  {header: http.Header{"Cache-Control": {"max-age=600, must-revalidate"}, "Age": {"601"}}},
		"old by its date": {header: http.Header{"Cache-Control": {"max-age=600, must-revalidate"}, "Date": {"Mon, 01 Jan 2024 00:00:00 GMT"}}},
		"older than said": {header: http.Header{"Age": {"3601"}}},
		"asked no-store":  {header: http.Header{}, first: func(r *http.Request) { r.Header.Set("Cache-Control", "max-age=0, No-Store") }},
		"set-cookie":      {header: http.Header{"Set-Cookie": {"session=1"}}},
		"vary *":          {header: http.Header{"Vary": {"*"}}},
		"vary cookie":     {header: http.Header{"Vary": {"Accept, cookie"}}},
		"vary same": {header: http.Header{"Vary": {"Accept-Language"}}, stored: true,
			first: speaks("de"), second: speaks("de")},
		"vary other":      {header: http.Header{"Vary": {"Accept-Language"}}, first: speaks("de"), second: speaks("en")},
		"session stores":  {header: http.Header{}, first: cookie("a=b")},
		"session reads":   {header: http.Header{}, second: cookie("a=b")},
		"odd cookie":      {header: http.Header{}, second: cookie("=;=")},
		"authorization":   {header: http.Header{}, first: func(r *http.Request) { r.Header.Set("Authorization", "Basic x") }},
		"other host":      {header: http.Header{}, second: func(r *http.Request) { r.Host = "other.example" }},
		"other port":      {header: http.Header{}, first: func(r *http.Request) { r.Host = "shop.example:1337" }},
		"same host":       {header: http.Header{}, second: func(r *http.Request) { r.Host = "Shop.Example" }, stored: true},
		"other query":     {header: http.Header{}, second: func(r *http.Request) { r.URL.RawQuery = "a=b" }},
		"method":          {header: http.Header{}, first: func(r *http.Request) { r.Method = http.MethodPost }},
		"range":           {header: http.Header{}, second: func(r *http.Request) { r.Header.Set("Range", "bytes=0-1") }},
		"encoded as none": {header: http.Header{"Content-Type": {"text/html"}}, stored: true},
	} {
		t.Run(name, func(t *testing.T) {
			shop := newFlaky(t, "shop", test.header)
			e := start(t, fmt.Sprintf("roles:\n  shop: {url: %q, store: {}, fallback: [{stored: 1h}]}\nroutes: [{prefix: /, role: shop}]\n", shop.URL))
			host := func(r *http.Request) { r.Host = "shop.example" }
			nothing := func(*http.Request) {}
			pick := func(f func(*http.Request)) func(*http.Request) {
				if f == nil {
					return nothing
				}
				return f
			}
			ask(t, e, "/page", host, pick(test.first))
			shop.fails.Store(true)
			status, body, _ := ask(t, e, "/page", host, pick(test.second))
			if (status == http.StatusOK) != test.stored {
				t.Errorf("%d %s, want that it is stored: %v", status, body, test.stored)
			}
		})
	}
}

func speaks(tag string) func(*http.Request) {
	return func(r *http.Request) { r.Header.Set("Accept-Language", tag) }
}

func cookie(text string) func(*http.Request) {
	return func(r *http.Request) { r.Header.Set("Cookie", text) }
}

// TestBrokenIsNotStored: an answer that breaks off leaves no copy.
func TestBrokenIsNotStored(t *testing.T) {
	var broken atomic.Bool
	broken.Store(true)
	shop := origin(t, func(w http.ResponseWriter, _ *http.Request) {
		if !broken.Load() {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		w.Header().Set("Content-Length", "100")
		_, _ = io.WriteString(w, "half")
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	})
	e := start(t, fmt.Sprintf("roles:\n  shop: {url: %q, store: {}, fallback: [{stored: 1h}]}\nroutes: [{prefix: /, role: shop}]\n", shop.URL))
	if response, err := client(t, false).Get(e.http); err == nil {
		if _, err := io.ReadAll(response.Body); err == nil {
			t.Error("half an answer looked whole")
		}
		response.Body.Close()
	}
	broken.Store(false)
	if status, _, _ := ask(t, e, "/"); status != http.StatusBadGateway {
		t.Errorf("%d", status)
	}
}

// TestJoined: many who want the same page at once cost its role one request, each gets the whole answer, and only where
// one answer is for all.
func TestJoined(t *testing.T) {
	release := make(chan struct{})
	var requests atomic.Int64
	shop := origin(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", r.URL.Query().Get("control"))
		if requests.Add(1) > 1 {
			<-release
		}
		_, _ = io.WriteString(w, "page")
	})
	e := start(t, fmt.Sprintf("roles:\n  shop: {url: %q, store: {}}\nroutes: [{prefix: /, role: shop}]\n", shop.URL))
	const visitors = 20
	for control, want := range map[string]int64{"max-age=10": 2, "max-age=0": 1 + visitors} {
		requests.Store(0)
		ask(t, e, "/?control="+control) // Now it is known whether one answer is for all.
		var group sync.WaitGroup
		var whole atomic.Int64
		for range visitors {
			group.Go(func() {
				if response, err := client(t, false).Get(e.http + "/?control=" + control); err == nil {
					if body, _ := io.ReadAll(response.Body); string(body) == "page" {
						whole.Add(1)
					}
					response.Body.Close()
				}
			})
		}
		eventually(t, "all are under way", func() bool { return e.connections.active.Load() == visitors })
		eventually(t, "who asks has asked", func() bool { return requests.Load() == want })
		close(release)
		group.Wait()
		if whole.Load() != visitors || requests.Load() != want {
			t.Errorf("%s: %d got the page, by %d requests, want %d", control, whole.Load(), requests.Load(), want)
		}
		release = make(chan struct{})
	}
}

// TestEndpoints: requests are spread over what a name stands for, and an endpoint that fails gets none for a while.
func TestEndpoints(t *testing.T) {
	config := Role{Upstreams: []Upstream{{URL: "http://shop.internal:80"}}}
	config.fill()
	u, err := newUpstream(&config, config.Upstreams[0], true)
	if err != nil {
		t.Fatal(err)
	}
	var all []*endpoint
	for i := range 4 {
		all = append(all, &endpoint{address: fmt.Sprintf("192.0.2.%d:80", i)})
	}
	u.endpoints.Store(&all)
	count := func() map[*endpoint]int {
		counts := map[*endpoint]int{}
		for range 4000 {
			counts[u.pick(nil)]++
		}
		return counts
	}
	for _, e := range all {
		if n := count()[e]; n < 700 || n > 1300 {
			t.Errorf("%s got %d of 4000", e.address, n)
		}
	}
	all[0].active.Store(50)
	if n := count()[all[0]]; n > 500 {
		t.Errorf("the busiest got %d of 4000", n)
	}
	all[0].active.Store(0)
	for range 5 {
		u.judge(all[1], true)
	}
	if n := count()[all[1]]; n != 0 {
		t.Errorf("an endpoint that fails got %d", n)
	}
	for _, e := range all[2:] { // The floor: two of four stay in.
		for range 5 {
			u.judge(e, true)
		}
	}
	out := 0
	for _, e := range all {
		if !e.well(time.Now().UnixNano()) {
			out++
		}
	}
	if out != 2 {
		t.Errorf("%d of 4 are out, want 2", out)
	}
	for range 100 {
		if u.pick(all[0]) == all[0] {
			t.Fatal("the one that just failed was picked again")
		}
	}
	for _, e := range all {
		e.sick.Store(true)
	}
	if n := len(count()); n != 4 {
		t.Errorf("with all sick, %d are asked, want all", n)
	}
}

// TestUpstreams: shares by weight, and clients that stay where they are.
func TestUpstreams(t *testing.T) {
	fresh, legacy := newFlaky(t, "fresh", nil), newFlaky(t, "legacy", nil)
	roles := func(sticky string, a, b int) string {
		return fmt.Sprintf("trustedProxies: [127.0.0.1]\nroles:\n  shop: {sticky: %q, upstreams: [{url: %q, weight: %d}, {url: %q, weight: %d}]}\nroutes: [{prefix: /, role: shop}]\n",
			sticky, fresh.URL, a, legacy.URL, b)
	}
	e := start(t, roles("", 1, 3))
	for range 200 {
		ask(t, e, "/")
	}
	if n := fresh.requests.Load(); n < 20 || n > 90 {
		t.Errorf("a quarter of 200 are %d", n)
	}
	e = start(t, roles("client", 1, 1))
	for i := range 20 {
		from := func(r *http.Request) { r.Header.Set("X-Forwarded-For", fmt.Sprintf("192.0.2.%d", i)) }
		_, first, _ := ask(t, e, "/", from)
		for range 5 {
			if _, again, _ := ask(t, e, "/", from); again[:5] != first[:5] {
				t.Errorf("client %d got %s, then %s", i, first, again)
			}
		}
	}
	e = start(t, roles("cookie:upstream", 1, 0))
	_, body, header := ask(t, e, "/")
	if !strings.HasPrefix(body, "fresh") || !strings.HasPrefix(header.Get("Set-Cookie"), "upstream=") || strings.Contains(header.Get("Set-Cookie"), "127.0.0.1") {
		t.Errorf("%s %v", body, header)
	}
	stay := cookie("upstream=" + digest(strings.TrimPrefix(legacy.URL, "http://"))[:12])
	if _, body, header := ask(t, e, "/", stay); !strings.HasPrefix(body, "legacy") || header.Get("Set-Cookie") != "" {
		t.Errorf("who has been there before got %s %v", body, header)
	}
	if _, body, _ := ask(t, e, "/", cookie("upstream=elsewhere")); !strings.HasPrefix(body, "fresh") {
		t.Errorf("a cookie that names nobody: %s", body)
	}
}

// TestBreaker: when too much fails, the rest fails at once, and the role is tried again.
func TestBreaker(t *testing.T) {
	shop := newFlaky(t, "shop", nil)
	e := start(t, fmt.Sprintf("roles:\n  shop: {url: %q, failOn: [503], health: {break: 50}}\nroutes: [{prefix: /, role: shop}]\n", shop.URL))
	shop.fails.Store(true)
	for range 40 {
		ask(t, e, "/")
	}
	if n := shop.requests.Load(); n > 25 {
		t.Errorf("%d requests reached a role that fails", n)
	}
	eventually(t, "that the role is left alone is counted", func() bool {
		return e.metric(`shopset_proxy_role_failures_total{reason="open",role="shop"}`) != ""
	})
	shop.fails.Store(false)
	eventually(t, "the role serves again", func() bool { status, _, _ := ask(t, e, "/"); return status == http.StatusOK })
	for range 20 {
		if status, _, _ := ask(t, e, "/"); status != http.StatusOK {
			t.Fatalf("then %d", status)
		}
	}
}

// TestRetryBudget: repeated requests are a share of all.
func TestRetryBudget(t *testing.T) {
	b := &budget{percent: 20}
	spent := 0
	for range 1000 {
		b.earn()
		if b.spend() {
			spent++
		}
	}
	if spent < 200 || spent > 200+budgetDepth+1 {
		t.Errorf("%d of 1000 were sent again, want a fifth", spent)
	}
}

// TestMaxRequests: a role with enough to do gets no more.
func TestMaxRequests(t *testing.T) {
	release, entered := make(chan struct{}), make(chan struct{}, 4)
	shop := origin(t, func(http.ResponseWriter, *http.Request) { entered <- struct{}{}; <-release })
	e := start(t, toShop(shop.URL, "maxRequests: 1"))
	var group sync.WaitGroup
	group.Go(func() {
		if response, err := client(t, false).Get(e.http); err == nil {
			response.Body.Close()
		}
	})
	<-entered
	if status, _, header := ask(t, e, "/"); status != http.StatusServiceUnavailable || header.Get("Retry-After") == "" {
		t.Errorf("%d %v", status, header)
	}
	close(release)
	group.Wait()
}
