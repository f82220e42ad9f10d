package cart_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/shopset/shopset/examples/platform/shopapi"
)

// fakeAPI keeps orders by key as the api does, and fails on demand. The real one is used in the
// tests of the whole platform.
type fakeAPI struct {
	*httptest.Server
	mu     sync.Mutex
	orders map[string]shopapi.Order
	lines  map[string]string
	// mode is what happens to orders: "", "down", "lost" (placed, answer cut), "strange" (placed, answered by somebody in between), "refused".
	mode string
	// price of everything.
	price int64
	// during runs while an order is under way.
	during func()
}

func newAPI(t *testing.T) *fakeAPI {
	f := &fakeAPI{orders: map[string]shopapi.Order{}, lines: map[string]string{}, price: 150}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/shops", func(w http.ResponseWriter, _ *http.Request) { json.NewEncoder(w).Encode(shopapi.ShopPage{}) })
	mux.HandleFunc("GET /v1/hosts/{host}", func(w http.ResponseWriter, r *http.Request) {
		id, rest, _ := strings.Cut(r.PathValue("host"), ".")
		if rest != "shops.example" {
			problem(w, 404, shopapi.Problem{Code: shopapi.CodeNotFound, Message: "not found"})
			return
		}
		json.NewEncoder(w).Encode(shopapi.Shop{ID: id, Host: r.PathValue("host"), Name: "<Alder>", Currency: "EUR"})
	})
	product := func(id int64) shopapi.Product {
		f.mu.Lock()
		defer f.mu.Unlock()
		return shopapi.Product{ID: id, Name: fmt.Sprintf("<script>%d</script>", id), PriceCents: f.price, Currency: "EUR", Stock: 9}
	}
	mux.HandleFunc("GET /v1/shops/{shop}/products", func(w http.ResponseWriter, r *http.Request) {
		var page shopapi.ProductPage
		for _, text := range strings.Split(r.URL.Query().Get("ids"), ",") {
			if id, _ := strconv.ParseInt(text, 10, 64); id < 2000 {
				page.Products = append(page.Products, product(id))
			}
		}
		json.NewEncoder(w).Encode(page)
	})
	mux.HandleFunc("GET /v1/shops/{shop}/products/{id}", func(w http.ResponseWriter, r *http.Request) {
		id, _ := strconv.ParseInt(r.PathValue("id"), 10, 64)
		if id > 2000 {
			problem(w, 404, shopapi.Problem{Code: shopapi.CodeNotFound, Message: "not found"})
			return
		}
		json.NewEncoder(w).Encode(product(id))
	})
	mux.HandleFunc("GET /v1/shops/{shop}/orders/{id}", func(w http.ResponseWriter, r *http.Request) {
		f.mu.Lock()
		defer f.mu.Unlock()
		for _, order := range f.orders {
			if order.ID == r.PathValue("id") {
				json.NewEncoder(w).Encode(order)
				return
			}
		}
		problem(w, 404, shopapi.Problem{Code: shopapi.CodeNotFound, Message: "not found"})
	})
	mux.HandleFunc("POST /v1/orders", f.place)
	f.Server = httptest.NewServer(mux)
	t.Cleanup(f.Close)
	return f
}

func (f *fakeAPI) set(mode string, during func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.mode, f.during = mode, during
}

func (f *fakeAPI) setPrice(cents int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.price = cents
}

func problem(w http.ResponseWriter, status int, p shopapi.Problem) {
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(map[string]shopapi.Problem{"error": p})
}

func (f *fakeAPI) place(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	mode, during := f.mode, f.during
	f.mu.Unlock()
	if during != nil {
		during()
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	var request shopapi.OrderRequest
	json.NewDecoder(r.Body).Decode(&request)
	key, lines := r.Header.Get(shopapi.KeyHeader), fmt.Sprint(request.Lines)
	if order, known := f.orders[key]; known && mode != "down" {
		if f.lines[key] != lines {
			problem(w, 422, shopapi.Problem{Code: shopapi.CodeKeyReused, Message: "reused", Order: order.ID})
			return
		}
		confirm(w, mode, order)
		return
	}
	switch mode {
	case "down":
		w.WriteHeader(503)
		return
	case "refused":
		problem(w, 409, shopapi.Problem{Code: shopapi.CodeOutOfStock, Message: "The <kettle> is out of stock"})
		return
	}
	order := shopapi.Order{ID: fmt.Sprintf("ORDER%021d", len(f.orders)), Shop: request.Shop, Currency: "EUR"}
	for _, line := range request.Lines {
		order.Lines = append(order.Lines, shopapi.OrderLine{Product: line.Product, Quantity: line.Quantity, UnitCents: f.price})
		order.TotalCents += f.price * int64(line.Quantity)
	}
	if request.ExpectedTotalCents != nil && *request.ExpectedTotalCents != order.TotalCents {
		problem(w, 409, shopapi.Problem{Code: shopapi.CodePriceChanged, Message: "another total"})
		return
	}
	order.ID = strings.NewReplacer("0", "A", "1", "B", "8", "C", "9", "D").Replace(order.ID)
	f.orders[key], f.lines[key] = order, lines
	confirm(w, mode, order)
}

// confirm says that an order is placed, if the mode lets it.
func confirm(w http.ResponseWriter, mode string, order shopapi.Order) {
	switch mode {
	case "lost":
		panic(http.ErrAbortHandler)
	case "strange":
		http.Error(w, "404 page not found", http.StatusNotFound)
	default:
		w.WriteHeader(201)
		json.NewEncoder(w).Encode(order)
	}
}

func (f *fakeAPI) placed() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []string
	for _, lines := range f.lines {
		out = append(out, lines)
	}
	return out
}
