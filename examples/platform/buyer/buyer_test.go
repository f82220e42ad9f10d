package buyer_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/shopset/shopset/examples/platform/buyer"
)

// pages is a shop of constant pages by path; "" stands for what is not there.
func pages(t *testing.T, content map[string]string) buyer.Options {
	t.Helper()
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		page, ok := content[r.Method+" "+r.URL.Path]
		if !ok {
			http.Error(w, "<h1>Nothing</h1>  here", http.StatusNotFound)
			return
		}
		fmt.Fprint(w, page)
	}))
	t.Cleanup(server.Close)
	return buyer.Options{Shop: "shop.example", Address: server.Listener.Addr().String(), Insecure: true}
}

func TestErrorsSayWhichStepFailedAndHow(t *testing.T) {
	const home, product = `<a href="/products/1">a</a>`, `<form action="/cart/add"><input name="product" value="1"></form>`
	for _, test := range []struct {
		name    string
		content map[string]string
		want    string
	}{
		{"no home page", nil, "buyer: home: GET https://shop.example/: status 404: Nothing here"},
		{"no products", map[string]string{"GET /": "empty"}, "buyer: home: GET https://shop.example/: status 200: there is no link to a product: empty"},
		{"no form", map[string]string{"GET /": home, "GET /products/1": "sold out"},
			"buyer: product: GET https://shop.example/products/1: status 200: there is no form to put the product into the cart: sold out"},
		{"nothing in the cart", map[string]string{"GET /": home, "GET /products/1": product, "POST /cart/add": "", "GET /cart": "Your cart is empty."},
			"buyer: cart: GET https://shop.example/cart: status 200: the cart does not hold the product in the quantity that was put in: Your cart is empty."},
		{"style sheet of another site", map[string]string{"GET /": `<link rel="stylesheet" href="//evil.example/x.css">`},
			"buyer: style: GET https://shop.example//evil.example/x.css: the page leads to another site"},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := buyer.Buy(t.Context(), pages(t, test.content))
			if err == nil || err.Error() != test.want {
				t.Errorf("got  %v\nwant %s", err, test.want)
			}
			var failure *buyer.Error
			if !errors.As(err, &failure) || failure.Shop != "shop.example" {
				t.Errorf("%#v", err)
			}
		})
	}
	if _, err := buyer.Buy(t.Context(), buyer.Options{Shop: "a/b"}); err == nil || err.Error() != `buyer: "a/b" is no host name of a shop` {
		t.Error(err)
	}
}

func TestRetriesOnlyWhatMayPass(t *testing.T) {
	var requests atomic.Int64
	code := http.StatusBadGateway
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		requests.Add(1)
		w.WriteHeader(code)
	}))
	defer server.Close()
	options := buyer.Options{Shop: "shop.example", Address: server.Listener.Addr().String(), Insecure: true, Retries: 3, RetryPause: time.Millisecond}
	if _, err := buyer.Buy(t.Context(), options); requests.Load() != 4 || err == nil || !strings.HasSuffix(err.Error(), "status 502 (4 attempts)") {
		t.Errorf("%d requests, %v", requests.Load(), err)
	}
	code = http.StatusForbidden
	requests.Store(0)
	if _, err := buyer.Buy(t.Context(), options); requests.Load() != 1 || err == nil {
		t.Errorf("%d requests, %v", requests.Load(), err)
	}
	// Without Insecure the certificate has to be good.
	options.Insecure, options.Retries = false, 0
	if _, err := buyer.Buy(t.Context(), options); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Error(err)
	}
}

func TestLoadReportsPerShop(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	var failures atomic.Int64
	report := buyer.Load(ctx, buyer.LoadOptions{
		Options: pages(t, nil), Shops: []string{"a.example", "b.example"}, Workers: 3,
		OnPurchase: func(_ buyer.Receipt, err error) {
			if err != nil && failures.Add(1) == 20 {
				cancel()
			}
		},
	})
	a, b := report.Shops["a.example"], report.Shops["b.example"]
	if report.Failed < 20 || a.Failed+b.Failed != report.Failed || a.Failed == 0 || b.Failed == 0 || a.Outage == 0 || report.Err() == nil {
		t.Errorf("%+v %+v %s", a, b, report)
	}
	if text := report.String(); !strings.Contains(text, "\na.example: 0 bought") || !strings.Contains(text, "status 404: Nothing here") {
		t.Error(text)
	}
}

// TestLoadInsists: a shop that fails is tried again at once, and not only when it is its turn.
func TestLoadInsists(t *testing.T) {
	shops := make([]string, 100)
	for i := range shops {
		shops[i] = fmt.Sprintf("shop-%d.example", i)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var failures atomic.Int64
	report := buyer.Load(ctx, buyer.LoadOptions{
		Options: pages(t, nil), Shops: shops, Workers: 1, Pause: time.Millisecond,
		OnPurchase: func(buyer.Receipt, error) {
			if failures.Add(1) == int64(len(shops)) { // One person alone has been at each of them at most once.
				cancel()
			}
		},
	})
	most := 0
	for _, shop := range report.Shops {
		most = max(most, shop.Failed)
	}
	if most < 2 {
		t.Error("no shop was tried again")
	}
}
