package shop_test

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/shopset/shopset/examples/platform/internal/shop"
	"github.com/shopset/shopset/examples/platform/shopapi"
	"github.com/shopset/shopset/internal/admin"
)

// fakeAPI answers as the api does; the whole purchase is tested against the real one elsewhere.
type fakeAPI struct {
	*httptest.Server
	name  atomic.Value
	price atomic.Int64
	stock atomic.Int64
	down  atomic.Bool
}

func notFound(w http.ResponseWriter) {
	w.WriteHeader(http.StatusNotFound)
	json.NewEncoder(w).Encode(map[string]shopapi.Problem{"error": {Code: shopapi.CodeNotFound, Message: "not found"}})
}

func newAPI(t testing.TB) *fakeAPI {
	f := &fakeAPI{}
	f.name.Store("Kettle")
	f.price.Store(1234)
	f.stock.Store(5)
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/shops", func(w http.ResponseWriter, _ *http.Request) { json.NewEncoder(w).Encode(shopapi.ShopPage{}) })
	product := func(shop string, n int) shopapi.Product {
		return shopapi.Product{ID: int64(1000 + n), Shop: shop, Name: f.name.Load().(string), Description: "It <b>boils</b>. {$secret}",
			Category: "Home", PriceCents: f.price.Load(), Currency: "EUR", Stock: f.stock.Load()}
	}
	mux.HandleFunc("GET /v1/hosts/{host}", func(w http.ResponseWriter, r *http.Request) {
		id, _, _ := strings.Cut(r.PathValue("host"), ".")
		if !strings.HasPrefix(id, "shop-") {
			notFound(w)
			return
		}
		json.NewEncoder(w).Encode(shopapi.Shop{ID: id, Host: r.PathValue("host"), Name: "Alder & <Books>", Currency: "EUR"})
	})
	mux.HandleFunc("GET /v1/shops/{shop}/products", func(w http.ResponseWriter, r *http.Request) {
		page := shopapi.ProductPage{Next: "1020"}
		for n := 1; n <= 20; n++ {
			page.Products = append(page.Products, product(r.PathValue("shop"), n))
		}
		json.NewEncoder(w).Encode(page)
	})
	mux.HandleFunc("GET /v1/shops/{shop}/products/{id}", func(w http.ResponseWriter, r *http.Request) {
		n, _ := strconv.Atoi(r.PathValue("id"))
		if n < 1001 || n > 1020 {
			notFound(w)
			return
		}
		json.NewEncoder(w).Encode(product(r.PathValue("shop"), n-1000))
	})
	f.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if f.down.Load() {
			w.WriteHeader(503)
			return
		}
		mux.ServeHTTP(w, r)
	}))
	t.Cleanup(f.Close)
	return f
}

type program struct {
	http.Handler
	admin *admin.Server
}

func start(t testing.TB, api *fakeAPI, dir string) *program {
	config, err := shop.ReadConfig(func(name string) string {
		return map[string]string{"API_URL": api.URL, "CACHE_DIR": dir}[name]
	})
	if err != nil {
		t.Fatal(err)
	}
	a := admin.New()
	return &program{shop.New(config, a), a}
}

func (p *program) get(host, path string) (int, string) {
	recorder := httptest.NewRecorder()
	request := httptest.NewRequest("GET", path, nil)
	request.Host = host
	p.ServeHTTP(recorder, request)
	return recorder.Code, recorder.Body.String()
}

// metric returns the sum of the samples of a metric whose labels hold the text.
func (p *program) metric(name, labels string) (sum float64) {
	recorder := httptest.NewRecorder()
	p.admin.ServeHTTP(recorder, httptest.NewRequest("GET", "/metrics", nil))
	for _, line := range strings.Split(recorder.Body.String(), "\n") {
		series, value, _ := strings.Cut(line, " ")
		if (series == name || strings.HasPrefix(series, name+"{")) && strings.Contains(series, labels) {
			n, _ := strconv.ParseFloat(value, 64)
			sum += n
		}
	}
	return sum
}

const host = "shop-01.shops.example"

func TestPages(t *testing.T) {
	p := start(t, newAPI(t), t.TempDir())
	for _, test := range []struct {
		host, path string
		code       int
		want       string
	}{
		{host, "/", 200, `href="/products/1001"`},
		{host, "/", 200, `<title>All products – Alder &amp; &lt;Books&gt;</title>`},
		{host, "/?after=1020", 200, `href="/?after=1020"`},
		{host, "/?after=x", 404, "does not exist"},
		{"SHOP-01.shops.example:8443", "/", 200, "Kettle"},
		{host, "/products/1001", 200, `<form class="buy" method="post" action="/cart/add"><input type="hidden" name="product" value="1001">`},
		{host, "/products/1001", 200, `It &lt;b&gt;boils&lt;/b&gt;. {$secret}`},
		{host, "/products/1001", 200, "12.34 EUR"},
		{host, "/products/9999", 404, "does not exist"},
		{host, "/products/..%2f", 404, "does not exist"},
		{host, "/nothing/here", 404, "does not exist"},
		{"nobody.example", "/", 404, "There is no shop at this address."},
		{"../../etc", "/", 404, "There is no shop"},
		{host, "/assets/style.css", 200, ".product{"},
	} {
		if code, body := p.get(test.host, test.path); code != test.code || !strings.Contains(body, test.want) {
			t.Errorf("%s%s: got %d %s", test.host, test.path, code, body)
		}
	}
}

func TestAllShopsHaveThemesThatCompileAndDiffer(t *testing.T) {
	p := start(t, newAPI(t), t.TempDir())
	styles := map[string]bool{}
	for n := 1; n <= 50; n++ {
		host := fmt.Sprintf("shop-%02d.shops.example", n)
		if code, body := p.get(host, "/products/1001"); code != 200 {
			t.Fatal(code, body)
		}
		_, style := p.get(host, "/assets/style.css")
		styles[style] = true
	}
	if len(styles) < 30 {
		t.Errorf("50 shops share %d style sheets", len(styles))
	}
}

func TestWarmPagesAreTheSameAndReadFiles(t *testing.T) {
	api, dir := newAPI(t), t.TempDir()
	cold := start(t, api, dir)
	_, first := cold.get(host, "/")
	_, second := cold.get(host, "/")
	if first != second {
		t.Error("the second page differs from the first")
	}
	if n := cold.metric("shopset_shop_compile_seconds_count", ""); n != 1 {
		t.Errorf("compiled %v times", n)
	}
	// Another Pod with a copy of the folder compiles nothing.
	copied := filepath.Join(t.TempDir(), "copy")
	if err := os.CopyFS(copied, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	warm := start(t, api, copied)
	if _, third := warm.get(host, "/"); third != first {
		t.Error("the page from the copied cache differs")
	}
	if misses := warm.metric("shopset_shop_cache_misses_total", ""); misses != 0 {
		t.Errorf("%v misses over a copied cache", misses)
	}
	if hits := warm.metric("shopset_shop_cache_hits_total", `kind="fragment"`); hits != 20 {
		t.Errorf("%v fragments from the cache", hits)
	}
}

func TestAChangedProductIsShownAtOnce(t *testing.T) {
	api := newAPI(t)
	p := start(t, api, t.TempDir())
	p.get(host, "/products/1001")
	api.price.Store(999)
	api.name.Store(`"><script>alert(1)</script>`)
	_, body := p.get(host, "/products/1001")
	if !strings.Contains(body, "9.99 EUR") || strings.Contains(body, "<script>") {
		t.Error(body)
	}
	api.stock.Store(0)
	if _, body := p.get(host, "/products/1001"); !strings.Contains(body, "Sold out") || strings.Contains(body, "<form") {
		t.Error(body)
	}
}

func TestTornFilesAreMadeAnew(t *testing.T) {
	api, dir := newAPI(t), t.TempDir()
	p := start(t, api, dir)
	_, want := p.get(host, "/")
	files := 0
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		files++
		info, _ := entry.Info()
		return os.Truncate(path, info.Size()/2)
	})
	if err != nil || files < 25 {
		t.Fatalf("%d files, %v", files, err)
	}
	if code, got := p.get(host, "/"); code != 200 || got != want {
		t.Errorf("over torn files: %d", code)
	}
	if n := p.metric("shopset_shop_cache_misses_total", `reason="torn"`); n < 20 {
		t.Errorf("%v torn files were noticed", n)
	}
	before := p.metric("shopset_shop_cache_misses_total", "")
	if _, got := p.get(host, "/"); got != want || p.metric("shopset_shop_cache_misses_total", "") != before {
		t.Error("the torn files were not replaced")
	}
}

func TestWithoutAUsableFolder(t *testing.T) {
	api := newAPI(t)
	_, want := start(t, api, t.TempDir()).get(host, "/")
	blocked := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(blocked, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	p := start(t, api, blocked)
	for range 2 {
		if code, got := p.get(host, "/"); code != 200 || got != want {
			t.Errorf("got %d", code)
		}
	}
	if n := p.metric("shopset_shop_cache_writable", ""); n != 0 {
		t.Errorf("writable is %v", n)
	}
	if n := p.metric("shopset_shop_compile_seconds_count", ""); n != 2 {
		t.Errorf("two requests compiled %v times", n)
	}
}

func TestManyAtOnceCompileOnce(t *testing.T) {
	p := start(t, newAPI(t), t.TempDir())
	var wait sync.WaitGroup
	for range 30 {
		wait.Go(func() {
			if code, _ := p.get(host, "/products/1001"); code != 200 {
				t.Error(code)
			}
		})
	}
	wait.Wait()
	if n := p.metric("shopset_shop_compile_seconds_count", ""); n != 1 {
		t.Errorf("30 requests compiled %v times", n)
	}
}

func TestWithoutTheAPI(t *testing.T) {
	api := newAPI(t)
	p := start(t, api, t.TempDir())
	api.down.Store(true)
	if code, body := p.get(host, "/"); code != 503 || !strings.Contains(body, "cannot be reached") {
		t.Errorf("unknown shop: %d %s", code, body)
	}
	api.down.Store(false)
	p.get(host, "/")
	api.down.Store(true)
	if code, body := p.get(host, "/"); code != 503 || !strings.Contains(body, "Back in a moment – Alder") {
		t.Errorf("known shop: %d %s", code, body)
	}
	api.down.Store(false)
	if code, _ := p.get(host, "/"); code != 200 {
		t.Errorf("the api is back: %d", code)
	}
}

func TestConfig(t *testing.T) {
	_, err := shop.ReadConfig(func(name string) string {
		return map[string]string{"CACHE_DIR": "cache", "API_TIMEOUT": "10s"}[name]
	})
	want := `API_URL is not set: want http://HOST:PORT of the api
CACHE_DIR is "cache": want an absolute path
API_TIMEOUT is 10s: want at most REQUEST_TIMEOUT, which is 5s`
	if err == nil || err.Error() != want {
		t.Errorf("got %v", err)
	}
}
