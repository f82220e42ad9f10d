package platform_test

import (
	"context"
	"encoding/base64"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/shopset/shopset/examples/platform/buyer"
	"github.com/shopset/shopset/examples/platform/internal/api"
	"github.com/shopset/shopset/examples/platform/internal/cart"
	"github.com/shopset/shopset/examples/platform/internal/shop"
	"github.com/shopset/shopset/internal/admin"
	"github.com/shopset/shopset/internal/testservers"
)

// cell is the whole platform in one process, with a mux where the proxy would be.
type cell struct {
	front *httptest.Server
	// before sees each request; it may answer it, or return an answer's end to cut.
	before   atomic.Pointer[func(http.ResponseWriter, *http.Request) bool]
	postgres *testservers.Server
	redis    *testservers.Server
	admins   []*admin.Server
	options  buyer.Options
}

func environment(values map[string]string) func(string) string {
	return func(name string) string { return values[name] }
}

func start(t *testing.T) *cell {
	t.Helper()
	c := &cell{postgres: testservers.NewPostgres(t), redis: testservers.NewRedis(t)}
	for range 3 {
		c.admins = append(c.admins, admin.New())
	}
	apiConfig, err := api.ReadConfig(environment(map[string]string{"DATABASE_URL": c.postgres.URL(), "SEED_CATALOGUE": "true"}))
	must(t, err)
	apiServer, err := api.New(t.Context(), apiConfig, c.admins[0])
	must(t, err)
	apiWeb := httptest.NewServer(apiServer)
	cartConfig, err := cart.ReadConfig(environment(map[string]string{
		"API_URL": apiWeb.URL, "REDIS_URL": "redis://" + c.redis.Address(),
		"COOKIE_KEYS": base64.StdEncoding.EncodeToString(make([]byte, 32)),
	}))
	must(t, err)
	cartServer, err := cart.New(cartConfig, c.admins[1])
	must(t, err)
	shopConfig, err := shop.ReadConfig(environment(map[string]string{"API_URL": apiWeb.URL, "CACHE_DIR": t.TempDir()}))
	must(t, err)
	mux := http.NewServeMux()
	mux.Handle("/", shop.New(shopConfig, c.admins[2]))
	mux.Handle("/cart", cartServer)
	mux.Handle("/cart/", cartServer)
	c.front = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if before := c.before.Load(); before != nil && (*before)(w, r) {
			return
		}
		mux.ServeHTTP(w, r)
	}))
	c.front.EnableHTTP2 = true
	c.front.StartTLS()
	t.Cleanup(func() { c.front.Close(); apiWeb.Close(); cartServer.Close(); apiServer.Close() })
	c.options = buyer.Options{
		Shop: "shop-01.shops.example", Address: c.front.Listener.Addr().String(), Insecure: true, StepTimeout: 15 * time.Second,
	}
	c.awaitReady(t)
	return c
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (c *cell) awaitReady(t *testing.T) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for _, a := range c.admins {
		for {
			recorder := httptest.NewRecorder()
			a.ServeHTTP(recorder, httptest.NewRequest("GET", "/readyz", nil))
			if recorder.Code == 200 {
				break
			}
			if time.Now().After(deadline) {
				t.Fatal(recorder.Body.String())
			}
			time.Sleep(5 * time.Millisecond)
		}
	}
}

func (c *cell) count(t *testing.T, statement string) (n int) {
	t.Helper()
	connection, err := pgx.Connect(t.Context(), c.postgres.URL())
	must(t, err)
	defer connection.Close(context.Background())
	must(t, connection.QueryRow(t.Context(), statement).Scan(&n))
	return n
}

func TestPurchaseFromTheHomePageToTheOrderNumber(t *testing.T) {
	c := start(t)
	c.options.Quantity = 3
	receipt, err := buyer.Buy(t.Context(), c.options)
	must(t, err)
	if c.count(t, "SELECT count(*) FROM orders WHERE id = '"+receipt.Order+"' AND total_cents = "+fmt.Sprint(receipt.TotalCents)) != 1 {
		t.Errorf("the database does not have the order of %+v", receipt)
	}
	if n := c.count(t, "SELECT (1000000 - stock)::int FROM products WHERE id = "+receipt.Product); n != 3 {
		t.Errorf("%d pieces left the stock", n)
	}
	_, err = buyer.Buy(t.Context(), func() buyer.Options { o := c.options; o.Shop = "nobody.example"; return o }())
	if err == nil || !strings.Contains(err.Error(), "buyer: home: GET https://nobody.example/: status 404: There is no shop") {
		t.Errorf("unknown shop: %v", err)
	}
}

// TestLostAnswersMakeOneOrderEach cuts the connection after the work is done at a third of all
// requests: every purchase must succeed in the end and be in the database exactly once.
func TestLostAnswersMakeOneOrderEach(t *testing.T) {
	c := start(t)
	cut := func(w http.ResponseWriter, r *http.Request) bool {
		if r.Header.Get("X-Inner") != "" || rand.IntN(3) > 0 {
			return false
		}
		inner := r.Clone(r.Context())
		inner.Header.Set("X-Inner", "1")
		c.front.Config.Handler.ServeHTTP(httptest.NewRecorder(), inner)
		panic(http.ErrAbortHandler)
	}
	c.before.Store(&cut)
	c.options.Retries, c.options.RetryPause = 40, time.Millisecond
	var mu sync.Mutex
	orders := map[string]bool{}
	var wait sync.WaitGroup
	for worker := range 4 {
		wait.Go(func() {
			for range 8 {
				options := c.options
				options.Shop = fmt.Sprintf("shop-%02d.shops.example", worker+1)
				receipt, err := buyer.Buy(t.Context(), options)
				if err != nil {
					t.Error(err)
					continue
				}
				mu.Lock()
				orders[receipt.Order] = true
				mu.Unlock()
			}
		})
	}
	wait.Wait()
	if stored := c.count(t, "SELECT count(*) FROM orders"); stored != 32 || len(orders) != 32 {
		t.Errorf("32 purchases, %d order numbers, %d orders in the database", len(orders), stored)
	}
	if sold := c.count(t, "SELECT sum(1000000 - stock)::int FROM products"); sold != 32 {
		t.Errorf("32 purchases, %d pieces", sold)
	}
}

func TestLoadGoesOnWhileServersFailAndReturn(t *testing.T) {
	c := start(t)
	ctx, cancel := context.WithCancel(t.Context())
	var bought, failed atomic.Int64
	load := buyer.LoadOptions{
		Options: c.options, Workers: 4, Shops: []string{"shop-01.shops.example", "shop-02.shops.example"},
		OnPurchase: func(_ buyer.Receipt, err error) {
			if err != nil {
				failed.Add(1)
			} else {
				bought.Add(1)
			}
		},
	}
	done := make(chan buyer.Report)
	go func() { done <- buyer.Load(ctx, load) }()
	more := func(counter *atomic.Int64, what string) {
		t.Helper()
		goal, deadline := counter.Load()+5, time.Now().Add(20*time.Second)
		for counter.Load() < goal {
			if time.Now().After(deadline) {
				t.Fatalf("no more purchases %s", what)
			}
			time.Sleep(time.Millisecond)
		}
	}
	more(&bought, "at the beginning")
	for _, server := range []*testservers.Server{c.postgres, c.redis} {
		server.Down(t)
		more(&failed, "failed while "+server.Address()+" is down")
		server.Up(t)
		c.awaitReady(t)
		more(&bought, "succeeded after "+server.Address()+" is back")
	}
	cancel()
	report := <-done
	if report.Bought != int(bought.Load()) || report.Failed != int(failed.Load()) || report.Failed == 0 {
		t.Errorf("heard of %d bought and %d failed, reported: %s", bought.Load(), failed.Load(), report)
	}
	if shop := report.Shops["shop-01.shops.example"]; shop.Outage == 0 || shop.LastError == nil {
		t.Errorf("%+v", shop)
	}
	seen := map[string]bool{}
	for _, shop := range report.Shops {
		for _, order := range shop.Orders {
			seen[order] = true
		}
	}
	if len(seen) != report.Bought {
		t.Errorf("%d purchases, %d order numbers", report.Bought, len(seen))
	}
}
