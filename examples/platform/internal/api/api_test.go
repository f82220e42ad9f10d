package api_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/shopset/shopset/examples/platform/internal/api"
	"github.com/shopset/shopset/examples/platform/shopapi"
	"github.com/shopset/shopset/internal/admin"
	"github.com/shopset/shopset/internal/testservers"
)

// instance is one running api.
type instance struct {
	admin  *admin.Server
	url    string
	client *shopapi.Client
}

func start(t *testing.T, databaseURL string) *instance {
	t.Helper()
	config, err := api.ReadConfig(func(name string) string {
		return map[string]string{"DATABASE_URL": databaseURL, "SEED_CATALOGUE": "true"}[name]
	})
	if err != nil {
		t.Fatal(err)
	}
	i := &instance{admin: admin.New()}
	server, err := api.New(t.Context(), config, i.admin)
	if err != nil {
		t.Fatal(err)
	}
	web := httptest.NewServer(server)
	t.Cleanup(func() { web.Close(); server.Close() })
	i.url, i.client = web.URL, shopapi.NewClient(web.URL, 10*time.Second)
	return i
}

func (i *instance) readiness() (int, string) {
	recorder := httptest.NewRecorder()
	i.admin.ServeHTTP(recorder, httptest.NewRequest("GET", "/readyz", nil))
	return recorder.Code, recorder.Body.String()
}

func (i *instance) awaitReady(t *testing.T) *instance {
	t.Helper()
	await(t, func() error {
		if code, body := i.readiness(); code != 200 {
			return fmt.Errorf("unready: %s", body)
		}
		return nil
	})
	return i
}

// await polls until the condition holds.
func await(t *testing.T, condition func() error) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for {
		err := condition()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func execute(t *testing.T, url, statement string) {
	t.Helper()
	connection, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer connection.Close(context.Background())
	if _, err := connection.Exec(t.Context(), statement); err != nil {
		t.Fatal(err)
	}
}

func one(t *testing.T, url, statement string) int64 {
	t.Helper()
	return scan[int64](t, url, statement)
}

func scan[T any](t *testing.T, url, statement string) (value T) {
	t.Helper()
	connection, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer connection.Close(context.Background())
	if err := connection.QueryRow(t.Context(), statement).Scan(&value); err != nil {
		t.Fatal(err)
	}
	return value
}

func order(product int64, quantity int) shopapi.OrderRequest {
	return shopapi.OrderRequest{Shop: "shop-01", Lines: []shopapi.LineRequest{{Product: product, Quantity: quantity}}}
}

func TestNoPieceIsSoldTwice(t *testing.T) {
	url := testservers.Postgres(t)
	// Two replicas: no lock inside a process may be what protects the stock.
	replicas := []*instance{start(t, url).awaitReady(t), start(t, url).awaitReady(t)}
	one(t, url, "UPDATE products SET stock = 10 WHERE id = 1001 RETURNING id")

	var sold, refused atomic.Int64
	var wait sync.WaitGroup
	for buyer := range 100 {
		wait.Go(func() {
			var failure *shopapi.Error
			var err error
			for range 20 { // A hundred at once may be too many for a while; who asks again must not get two.
				failure = nil
				_, err = replicas[buyer%2].client.PlaceOrder(t.Context(), fmt.Sprint("buyer-", buyer), order(1001, 1))
				if !errors.As(err, &failure) || failure.Status != http.StatusServiceUnavailable {
					break
				}
			}
			switch {
			case err == nil:
				sold.Add(1)
			case failure != nil && failure.Status == 409 && failure.Problem.Code == shopapi.CodeOutOfStock && failure.Problem.Product == 1001:
				refused.Add(1)
			default:
				t.Errorf("buyer %d: %v", buyer, err)
			}
		})
	}
	wait.Wait()
	if sold.Load() != 10 || refused.Load() != 90 {
		t.Errorf("sold %d, refused %d", sold.Load(), refused.Load())
	}
	if n := one(t, url, "SELECT count(*) FROM orders"); n != 10 {
		t.Errorf("%d orders", n)
	}
	if n := one(t, url, "SELECT stock FROM products WHERE id = 1001"); n != 0 {
		t.Errorf("stock %d", n)
	}
}

func TestPurchasesOfTheSameProductsInAnyOrderDoNotBlockEachOther(t *testing.T) {
	url := testservers.Postgres(t)
	i := start(t, url).awaitReady(t)
	var wait sync.WaitGroup
	for buyer := range 60 {
		wait.Go(func() {
			request := shopapi.OrderRequest{Shop: "shop-01"}
			for n := range 6 {
				product := int64(1001 + n)
				if buyer%2 == 1 {
					product = int64(1006 - n)
				}
				request.Lines = append(request.Lines, shopapi.LineRequest{Product: product, Quantity: 1})
			}
			if _, err := i.client.PlaceOrder(t.Context(), fmt.Sprint(buyer), request); err != nil {
				t.Error(err)
			}
		})
	}
	wait.Wait()
	if n := one(t, url, "SELECT sum(1000000 - stock)::bigint FROM products"); n != 60*6 {
		t.Errorf("%d pieces left the stock", n)
	}
	if n := one(t, url, "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"); n != 0 {
		t.Errorf("%d deadlocks", n)
	}
}

func TestAnotherTotalThanExpectedBuysNothing(t *testing.T) {
	url := testservers.Postgres(t)
	i := start(t, url).awaitReady(t)
	price := one(t, url, "SELECT price_cents FROM products WHERE id = 1001")
	request, wrong, right := order(1001, 2), 2*price+1, 2*price
	request.ExpectedTotalCents = &wrong
	_, err := i.client.PlaceOrder(t.Context(), "k", request)
	var failure *shopapi.Error
	if !errors.As(err, &failure) || failure.Status != 409 || failure.Problem.Code != shopapi.CodePriceChanged {
		t.Fatalf("got %v", err)
	}
	if n := one(t, url, "SELECT stock + 2 * (SELECT count(*) FROM orders) FROM products WHERE id = 1001"); n != 1_000_000 {
		t.Errorf("stock and orders: %d", n)
	}
	// The same key is free for the purchase at the price that is so.
	request.ExpectedTotalCents = &right
	placed, err := i.client.PlaceOrder(t.Context(), "k", request)
	if err != nil || placed.TotalCents != right {
		t.Fatalf("got %+v %v", placed, err)
	}
	// An order that exists is repeated as it is.
	request.ExpectedTotalCents = &wrong
	if again, err := i.client.PlaceOrder(t.Context(), "k", request); err != nil || again.ID != placed.ID {
		t.Errorf("got %+v %v", again, err)
	}
}

func TestARepeatedPurchaseIsOneOrder(t *testing.T) {
	url := testservers.Postgres(t)
	i := start(t, url).awaitReady(t)
	var mu sync.Mutex
	answers := map[string]int{}
	var wait sync.WaitGroup
	for range 20 {
		wait.Go(func() {
			code, body := i.post(t, "same", `{"shop":"shop-01","lines":[{"product":1002,"quantity":1},{"product":1001,"quantity":2}]}`)
			mu.Lock()
			defer mu.Unlock()
			answers[fmt.Sprint(code, " ", body)]++
		})
	}
	wait.Wait()
	if len(answers) != 1 || one(t, url, "SELECT count(*) FROM orders") != 1 {
		t.Fatalf("one order was wanted, the answers are %v", answers)
	}
	// The same purchase in other words is the same purchase; another one is not.
	code, _ := i.post(t, "same", `{"lines":[{"product":1001,"quantity":1},{"product":1001,"quantity":1},{"product":1002,"quantity":1}],"shop":"shop-01"}`)
	if code != 201 {
		t.Errorf("the same purchase in other words: %d", code)
	}
	code, body := i.post(t, "same", `{"shop":"shop-01","lines":[{"product":1001,"quantity":2}]}`)
	id := `"order":"` + scan[string](t, url, "SELECT id FROM orders") + `"`
	if code != 422 || !strings.Contains(body, shopapi.CodeKeyReused) || !strings.Contains(body, id) {
		t.Errorf("another purchase with the same key: %d %s", code, body)
	}
	code, body = i.post(t, "same", `{"shop":"shop-02","lines":[{"product":2001,"quantity":2}]}`)
	if code != 422 || !strings.Contains(body, shopapi.CodeKeyReused) || strings.Contains(body, id) {
		t.Errorf("another shop's purchase with the same key: %d %s", code, body)
	}
	if n := one(t, url, "SELECT stock FROM products WHERE id = 1001"); n != 999_998 {
		t.Errorf("stock %d", n)
	}
}

func (i *instance) post(t *testing.T, key, body string) (int, string) {
	t.Helper()
	request, _ := http.NewRequestWithContext(t.Context(), "POST", i.url+"/v1/orders", strings.NewReader(body))
	request.Header.Set("Content-Type", "application/json")
	if key != "" {
		request.Header.Set(shopapi.KeyHeader, key)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Error(err)
		return 0, ""
	}
	defer response.Body.Close()
	content, _ := io.ReadAll(response.Body)
	return response.StatusCode, string(content)
}

// TestALostAnswer puts something before the api that cuts the connection after the api has done its
// work, which is the worst moment.
func TestALostAnswer(t *testing.T) {
	url := testservers.Postgres(t)
	i := start(t, url).awaitReady(t)
	var cuts atomic.Int64
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		forward, _ := http.NewRequestWithContext(r.Context(), r.Method, i.url+r.URL.Path, strings.NewReader(string(body)))
		forward.Header = r.Header
		response, err := http.DefaultClient.Do(forward)
		if err != nil {
			t.Error(err)
			return
		}
		defer response.Body.Close()
		if cuts.Add(1) <= 4 {
			panic(http.ErrAbortHandler)
		}
		w.WriteHeader(response.StatusCode)
		io.Copy(w, response.Body)
	}))
	defer proxy.Close()
	client := shopapi.NewClient(proxy.URL, 10*time.Second)
	if _, err := client.PlaceOrder(t.Context(), "lost", order(1001, 1)); !shopapi.Unavailable(err) {
		t.Fatalf("all answers were cut, got %v", err)
	}
	got, err := client.PlaceOrder(t.Context(), "lost", order(1001, 1))
	if err != nil {
		t.Fatal(err)
	}
	stored, err := i.client.Order(t.Context(), "shop-01", got.ID)
	if err != nil || stored.TotalCents != got.TotalCents || !stored.CreatedAt.Equal(got.CreatedAt) {
		t.Errorf("stored %+v, answered %+v, %v", stored, got, err)
	}
	if n := one(t, url, "SELECT count(*) FROM orders"); n != 1 {
		t.Errorf("%d orders", n)
	}
}

func TestManyReplicasStartAtOnce(t *testing.T) {
	url := testservers.Postgres(t)
	var replicas []*instance
	for range 6 {
		replicas = append(replicas, start(t, url))
	}
	for _, i := range replicas {
		i.awaitReady(t)
	}
	if shops, products := one(t, url, "SELECT count(*) FROM shops"), one(t, url, "SELECT count(*) FROM products"); shops != 50 || products != 1000 {
		t.Fatalf("%d shops, %d products", shops, products)
	}
	one(t, url, "UPDATE products SET stock = 7 WHERE id = 1001 RETURNING id")
	start(t, url).awaitReady(t)
	if n := one(t, url, "SELECT stock FROM products WHERE id = 1001"); n != 7 {
		t.Fatalf("a new replica changed the stock to %d", n)
	}
}
