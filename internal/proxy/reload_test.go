package proxy

import (
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/crypto/bcrypt"

	"github.com/shopset/shopset/internal/admin"
	"github.com/shopset/shopset/internal/testservers"
)

// reload uses another configuration, as its file would be.
func (e *edge) reload(text string) (restart []string) {
	e.t.Helper()
	config := DefaultConfig()
	config.Shutdown.Delay = 0
	ports := fmt.Sprintf("https: {address: \"127.0.0.1:0\", certificate: %q, key: %q, reload: 5ms}\nhttp: {address: \"127.0.0.1:0\", mode: serve}\n", e.certFile, e.keyFile)
	if err := admin.ParseConfig("test.yaml", []byte(ports+text), config); err != nil {
		e.t.Fatal(err)
	}
	restart, err := e.Reload(config)
	if err != nil {
		e.t.Fatal(err)
	}
	return restart
}

// TestReloadKeeps: what was learned stays where what is said of it stays the same: limits, stored pages, connections,
// endpoints that are out, roles that are left alone.
func TestReloadKeeps(t *testing.T) {
	var connections atomic.Int64
	var fails atomic.Bool
	shop := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if fails.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	}))
	shop.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			connections.Add(1)
		}
	}
	shop.Start()
	t.Cleanup(shop.Close)
	text := func(requests, bytes int, more string) string {
		return fmt.Sprintf("rateLimits: [{name: x, path: /limited, requests: %d, period: 1h}]\n", requests) +
			toShop(shop.URL, fmt.Sprintf("health: {break: 50}, store: {bytes: %dMiB}, fallback: [{stored: 1h}]", bytes)) + more
	}
	e := start(t, text(1, 10, ""))
	want := func(what, path string, want int) {
		t.Helper()
		if status, _, _ := ask(t, e, path); status != want {
			t.Errorf("%s: %s is answered with %d, want %d", what, path, status, want)
		}
	}
	want("before", "/limited", 200)
	want("before", "/page", 200)
	first := e.current.Load()
	if restart := e.reload(text(1, 10, "accessLogShare: 0.5\n")); len(restart) > 0 {
		t.Errorf("told to need a restart: %v", restart)
	}
	next := e.current.Load()
	if next == first {
		t.Fatal("the configuration was not used")
	}
	want("after a change elsewhere", "/limited", 429)
	want("after a change elsewhere", "/", 200)
	if n := connections.Load(); n != 1 {
		t.Errorf("%d connections to the shop, want the one from before", n)
	}
	if next.roles["shop"].upstreams[0] != first.roles["shop"].upstreams[0] {
		t.Error("it is forgotten how its endpoints are")
	}
	fails.Store(true)
	want("after a change elsewhere", "/page", 200)
	want("after a change elsewhere", "/limited", 429)
	next.roles["shop"].breaker.open.Store(1 << 62)
	e.reload(text(2, 20, ""))
	want("after a change of both", "/page", 503)
	want("after a change of both", "/limited", 503)
	if open := e.current.Load().roles["shop"].breaker.open.Load(); open != 1<<62 {
		t.Error("it is forgotten that the role is left alone")
	}
}

// TestReloadChangesUpstreams: where something is said of an upstream that is new, its old self ends.
func TestReloadChangesUpstreams(t *testing.T) {
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
	e := start(t, toShop(shop.URL))
	ask(t, e, "/")
	e.reload(toShop(shop.URL, "timeout: 7s"))
	eventually(t, "the old connection ends", func() bool { return open.Load() == 0 })
	if status, _, _ := ask(t, e, "/"); status != http.StatusOK {
		t.Error(status)
	}
}

// TestReloadOpensRedis: shared limits may come, go and move with a reload.
func TestReloadOpensRedis(t *testing.T) {
	one, two := testservers.NewRedis(t), testservers.NewRedis(t)
	shop := toShop(origin(t, echo("shop")).URL)
	limited := func(redis interface{ Address() string }) string {
		return fmt.Sprintf("redis: {addresses: [%q]}\nrateLimits: [{name: x, requests: 1, period: 1h, scope: shared, withoutRedis: refuse}]\n", redis.Address()) + shop
	}
	e := start(t, shop)
	for i, step := range []struct {
		config string
		want   []int
	}{{limited(one), []int{200, 429}}, {limited(one), []int{429}}, {shop, []int{200, 200}}, {limited(two), []int{200, 429}}} {
		if restart := e.reload(step.config); len(restart) > 0 {
			t.Errorf("step %d: told to need a restart: %v", i, restart)
		}
		for _, want := range step.want {
			if status, _, _ := ask(t, e, "/"); status != want {
				t.Errorf("step %d: %d, want %d", i, status, want)
			}
		}
	}
}

// TestReloadTells names what a reload does not change.
func TestReloadTells(t *testing.T) {
	shop := toShop("http://127.0.0.1:1")
	e := start(t, shop)
	got := e.reload(shop + "limits: {headerBytes: 8KiB, bodyBytes: 1MiB, headerTimeout: 1s, streams: 3}\ntopShops: 3\n")
	if want := []string{"limits.headerBytes", "limits.headerTimeout", "limits.streams", "topShops"}; !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

// TestReloadFollowsFiles: a file that the configuration names is looked at, too; one that cannot be used is tried again.
func TestReloadFollowsFiles(t *testing.T) {
	folder := t.TempDir()
	hash := func(password string) string {
		h, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.MinCost)
		if err != nil {
			t.Fatal(err)
		}
		return "anna:" + string(h) + "\n"
	}
	users, static, pages := filepath.Join(folder, "users"), filepath.Join(folder, "text"), filepath.Join(folder, "pages")
	writeFile(t, users, hash("one"))
	writeFile(t, static, "first")
	writeFile(t, filepath.Join(pages, "default.html"), "sorry")
	path := writeFile(t, filepath.Join(folder, "config.yaml"), fmt.Sprintf(`
http: {address: "127.0.0.1:0", mode: serve}
reload: 1ms
shutdown: {delay: 0s}
trustedProxies: [127.0.0.1]
access: [{name: staging, prefix: /in, users: %s}]
roles:
  text: {static: {file: %s}}
  gone: {url: "http://127.0.0.1:1", fallback: [{page: %s}]}
routes: [{prefix: /, role: text}, {prefix: /gone, role: gone}]
`, users, static, pages))
	config, err := Load(path)
	if err != nil {
		t.Fatal(err)
	}
	e := &edge{t: t, admin: admin.New(), log: &lockedBuffer{}}
	if e.Proxy, err = New(config, e.admin, e.log); err != nil {
		t.Fatal(err)
	}
	e.Follow(path)
	e.http = "http://" + e.Addresses()[0].String()
	served := make(chan error, 1)
	go func() { served <- e.Serve() }()
	t.Cleanup(func() {
		e.Shutdown(t.Context())
		<-served
	})
	tries := 0
	in := func(password string) int {
		tries++ // Each from elsewhere: wrong passwords are limited.
		status, _, _ := ask(t, e, "/in", as("anna", password, fmt.Sprintf("10.%d.%d.1", tries/256, tries%256)))
		return status
	}
	body := func(path string) string { _, body, _ := ask(t, e, path); return body }
	if in("one") != 200 || body("/") != "first" || body("/gone") != "sorry" {
		t.Fatal("it does not serve")
	}
	writeFile(t, static, "second")
	eventually(t, "the text is new", func() bool { return body("/") == "second" })
	writeFile(t, filepath.Join(pages, "de.html"), "leider")
	eventually(t, "there is another page", func() bool {
		_, body, _ := ask(t, e, "/gone", speaks("de"))
		return body == "leider"
	})
	writeFile(t, users+".new", hash("two"))
	if err := os.Rename(users+".new", users); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the password is new", func() bool { return in("two") == 200 })
	if got := in("one"); got != 401 {
		t.Errorf("the old password: %d", got)
	}
	const failed = `shopset_proxy_config_reloads_total{result="failed"}`
	if err := os.Remove(users); err != nil {
		t.Fatal(err)
	}
	e.wantMetric(failed, "1")
	if got := in("two"); got != 200 {
		t.Errorf("without the file, the old one stays: %d", got)
	}
	writeFile(t, users+".new", hash("three"))
	if err := os.Rename(users+".new", users); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it was tried again", func() bool { return in("three") == 200 })
	e.wantMetric(failed, "1")
	if strings.Contains(e.log.String(), "three") {
		t.Error("the log has a password")
	}
}
