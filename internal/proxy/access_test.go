package proxy

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"

	"github.com/shopset/shopset/internal/testservers"
)

func writeFile(t *testing.T, path, content string) string {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestAccess(t *testing.T) {
	hash, err := bcrypt.GenerateFromPassword([]byte("secret"), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	users := writeFile(t, filepath.Join(t.TempDir(), "users"), "# who may come\nanna:"+string(hash)+"\n")
	e := start(t, fmt.Sprintf(`
trustedProxies: [127.0.0.1]
access:
- {name: office, prefix: /admin, allow: [192.0.2.0/24, "2001:db8::/32"], deny: [192.0.2.66]}
- {name: bots, denyAgents: ["(?i)badbot"], denyReferrers: ["^https?://spam\\."]}
- {name: read, prefix: /static, onlyMethods: [GET, HEAD]}
- {name: staging, hosts: ["*.staging.example"], users: %s, realm: staging}
`, users)+toShop(origin(t, echo("shop")).URL))
	for _, test := range []struct {
		method, path, host string
		header             map[string]string
		want               int
	}{
		{"GET", "/", "", nil, 200},
		{"GET", "/admin", "", map[string]string{"X-Forwarded-For": "192.0.2.1"}, 200},
		{"GET", "/admin", "", map[string]string{"X-Forwarded-For": "2001:db8::1"}, 200},
		{"GET", "/admin", "", map[string]string{"X-Forwarded-For": "192.0.2.66"}, 403},
		{"GET", "/admin/x", "", map[string]string{"X-Forwarded-For": "198.51.100.1"}, 403},
		{"GET", "//x/../admin", "", map[string]string{"X-Forwarded-For": "198.51.100.1"}, 403},
		{"GET", "/admin", "", map[string]string{"X-Forwarded-For": "192.0.2.1, 198.51.100.1"}, 403}, // The first is the client's own claim.
		{"GET", "/admin", "", map[string]string{"X-Forwarded-For": "192.0.2.1, 127.0.0.1"}, 200},
		{"GET", "/admin", "", map[string]string{"X-Forwarded-For": "192.0.2.1, junk"}, 403},
		{"GET", "/", "", map[string]string{"User-Agent": "Mozilla BadBot/1"}, 403},
		{"GET", "/", "", map[string]string{"Referer": "https://spam.example/"}, 403},
		{"POST", "/static/x", "", nil, 405},
		{"GET", "/static/x", "", nil, 200},
		{"GET", "/", "a.staging.example", nil, 401},
		{"GET", "/", "A.Staging.Example:443", nil, 401},
		{"GET", "/", "a.staging.example", map[string]string{"Authorization": "Basic YW5uYTpzZWNyZXQ="}, 200},
		{"GET", "/", "a.staging.example", map[string]string{"Authorization": "Basic YW5uYTpzZWNyZXQ="}, 200}, // Remembered.
		{"GET", "/", "a.staging.example", map[string]string{"Authorization": "Basic YW5uYTp3cm9uZw=="}, 401},
		{"GET", "/", "a.staging.example", map[string]string{"Authorization": "Basic Ym9iOnNlY3JldA=="}, 401},
	} {
		request := newRequest(t, test.method, e.http+test.path, nil)
		request.Host = test.host
		for name, value := range test.header {
			request.Header.Set(name, value)
		}
		status, body, header := do(t, client(t, false), request)
		if status != test.want {
			t.Errorf("%s %s %s %v: %d %s, want %d", test.method, test.host, test.path, test.header, status, body, test.want)
		}
		if status == 401 && header.Get("WWW-Authenticate") != `Basic realm="staging", charset="UTF-8"` || status == 405 && header.Get("Allow") != "GET, HEAD" {
			t.Errorf("%d with %v", status, header)
		}
	}
	e.wantMetric(`shopset_proxy_refused_total{rule="bots"}`, "2")
}

// TestRateLimits: each key has its own bucket, and who is over gets told when to come again.
func TestRateLimits(t *testing.T) {
	redis := testservers.NewRedis(t)
	e := start(t, fmt.Sprintf(`
trustedProxies: [127.0.0.1]
redis: {addresses: [%q]}
rateLimits:
- {name: login, prefix: /login, methods: [POST], key: [client/24, host], requests: 2, period: 1h}
- {name: everybody, prefix: /all, key: [shop], requests: 3, period: 1h, burst: 1, scope: shared}
- {name: header, prefix: /h, key: ["header:X-Api-Key", path], requests: 1, period: 1h, scope: shared, withoutRedis: refuse}
`, redis.Address())+toShop(origin(t, echo("shop")).URL))
	ask := func(method, path, from, host, key string) (int, int) {
		t.Helper()
		request := newRequest(t, method, e.http+path, nil)
		request.Host = host
		request.Header.Set("X-Forwarded-For", from)
		request.Header.Set("X-Api-Key", key)
		status, _, header := do(t, client(t, false), request)
		after, _ := strconv.Atoi(header.Get("Retry-After"))
		return status, after
	}
	type step struct {
		method, path, from, host, key string
		want                          int
	}
	for i, s := range []step{
		{"POST", "/login", "192.0.2.1", "a", "", 200}, {"POST", "/login", "192.0.2.2", "a", "", 200}, {"POST", "/login", "192.0.2.3", "a", "", 429},
		{"GET", "/login", "192.0.2.3", "a", "", 200}, {"POST", "/login", "192.0.3.1", "a", "", 200}, {"POST", "/login", "192.0.2.3", "b", "", 200},
		{"POST", "/login", "2001:db8::1", "a", "", 200}, {"POST", "/login", "2001:db8::2", "a", "", 200}, {"POST", "/login", "2001:db8::3", "a", "", 429},
		{"GET", "/all", "192.0.2.1", "a", "", 200}, {"GET", "/all", "192.0.2.2", "a", "", 429}, {"GET", "/all", "192.0.2.2", "b", "", 200},
		{"GET", "/h", "", "a", "k1", 200}, {"GET", "/h", "", "a", "k1", 429}, {"GET", "/h", "", "a", strings.Repeat("k", 5000), 200}, {"GET", "/h/2", "", "a", "k1", 200},
	} {
		status, after := ask(s.method, s.path, s.from, s.host, s.key)
		if status != s.want || status == 429 && (after < 60 || after > 3600) {
			t.Errorf("%d: %+.60v: %d, retry after %d s", i, s, status, after)
		}
	}
	// Another replica counts together with this one.
	other := start(t, fmt.Sprintf("redis: {addresses: [%q]}\nrateLimits:\n- {name: everybody, key: [shop], requests: 3, period: 1h, burst: 1, scope: shared}\n", redis.Address())+toShop(origin(t, echo("shop")).URL))
	request := newRequest(t, http.MethodGet, other.http+"/", nil)
	request.Host = "a"
	if status, _, _ := do(t, client(t, false), request); status != http.StatusTooManyRequests {
		t.Errorf("another replica: %d", status)
	}
	redis.Down(t)
	if status, _ := ask("GET", "/all", "", "c", ""); status != http.StatusOK {
		t.Errorf("without Redis, to be allowed: %d", status)
	}
	if status, _ := ask("GET", "/h", "", "a", "k9"); status != http.StatusTooManyRequests {
		t.Errorf("without Redis, to be refused: %d", status)
	}
}

// TestRedisThatSaysNothing: a request does not wait for a first connection that gets no answer.
func TestRedisThatSaysNothing(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() }) // Nobody accepts.
	others := sharedTimeout
	t.Cleanup(func() { sharedTimeout = others })
	sharedTimeout = 100 * time.Millisecond // Less than a connection may take.
	e := start(t, fmt.Sprintf("redis: {addresses: [%q]}\nrateLimits: [{name: x, requests: 1, scope: shared}]\n", listener.Addr())+toShop(origin(t, echo("shop")).URL))
	if status, _, _ := ask(t, e, "/"); status != http.StatusOK {
		t.Error(status)
	}
	if _, err := e.current.Load().redis.Client(); err == nil || !strings.Contains(err.Error(), "connecting for the first time") {
		t.Errorf("the request waited until there was no connection: %v", err)
	}
}

// TestConcurrentLimit counts what is under way.
func TestConcurrentLimit(t *testing.T) {
	release := make(chan struct{})
	entered := make(chan struct{}, 10)
	shop := origin(t, func(http.ResponseWriter, *http.Request) { entered <- struct{}{}; <-release })
	e := start(t, "rateLimits: [{name: few, key: [client], concurrent: 2}]\n"+toShop(shop.URL))
	var group sync.WaitGroup
	for range 2 {
		group.Go(func() {
			if response, err := client(t, false).Get(e.http); err == nil {
				response.Body.Close()
			}
		})
		<-entered
	}
	if status, _, _ := do(t, client(t, false), newRequest(t, http.MethodGet, e.http, nil)); status != http.StatusTooManyRequests {
		t.Errorf("the third: %d", status)
	}
	close(release)
	group.Wait()
	eventually(t, "there is room again", func() bool {
		status, _, _ := do(t, client(t, false), newRequest(t, http.MethodGet, e.http, nil))
		return status == http.StatusOK
	})
}

// TestLimiterForgets: many keys take no more memory than was allowed, and those in use stay.
func TestLimiterForgets(t *testing.T) {
	config := RateLimit{Name: "x", Requests: 1, Period: time.Hour, Keys: 640, Key: []string{"path"}}
	config.fill()
	limiters, err := newLimiters([]RateLimit{config}, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 20000 {
		if _, over := limiters[0].take(&exchange{path: fmt.Sprint("/", i), request: newRequest(t, http.MethodGet, "http://a/", nil)}); over {
			t.Fatalf("key %d is over the limit at once", i)
		}
	}
	size := 0
	for i := range limiters[0].shards {
		size += len(limiters[0].shards[i].full)
	}
	if size > 2*640 {
		t.Errorf("%d keys are remembered, 640 are allowed", size)
	}
}

// TestMaintenancePages: in the shop's language, else the client's.
func TestPages(t *testing.T) {
	folder := t.TempDir()
	writeFile(t, filepath.Join(folder, "default.html"), "english")
	writeFile(t, filepath.Join(folder, "de.html"), "deutsch")
	writeFile(t, filepath.Join(folder, "pt-BR.html"), "brasil")
	p, err := readPages(folder)
	if err != nil {
		t.Fatal(err)
	}
	for accept, want := range map[string]string{"": "english", "de-AT,en;q=0.5": "deutsch", "pt-BR": "brasil", "ja": "english", "fr, de;q=0.1": "deutsch", "%%": "english"} {
		request := newRequest(t, http.MethodGet, "http://a/", nil)
		request.Header.Set("Accept-Language", accept)
		if got := p.choose(&exchange{request: request}); got != want {
			t.Errorf("%q: %s, want %s", accept, got, want)
		}
	}
	for name, content := range map[string]string{"no-default": "", "not a language": "x"} {
		bad := t.TempDir()
		if content != "" {
			writeFile(t, filepath.Join(bad, "default.html"), "x")
		}
		writeFile(t, filepath.Join(bad, name+".html"), "x")
		if _, err := readPages(bad); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}
