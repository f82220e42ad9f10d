package api_test

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/shopset/shopset/examples/platform/internal/api"
	"github.com/shopset/shopset/examples/platform/shopapi"
	"github.com/shopset/shopset/internal/testservers"
)

func TestWrongInput(t *testing.T) {
	i := start(t, testservers.Postgres(t)).awaitReady(t)
	var many []string
	for n := range 51 {
		many = append(many, fmt.Sprintf(`{"product":%d,"quantity":1}`, 1001+n))
	}
	line := func(product, quantity string) string {
		return fmt.Sprintf(`{"shop":"shop-01","lines":[{"product":%s,"quantity":%s}]}`, product, quantity)
	}
	for _, test := range []struct {
		name, key, body string
		code            int
		want            string
	}{
		{"no key", "", line("1001", "1"), 400, "Idempotency-Key is required"},
		{"long key", strings.Repeat("k", 129), line("1001", "1"), 400, "1 to 128"},
		{"spaces in the key", "a b", line("1001", "1"), 400, "visible ASCII"},
		{"no JSON", "k", `shop`, 400, "the body is no order"},
		{"empty body", "k", ``, 400, "the body is no order"},
		{"two values", "k", line("1001", "1") + "{}", 400, "more than one"},
		{"a price from the client", "k", `{"shop":"shop-01","lines":[{"product":1001,"quantity":1,"unitCents":1}]}`, 400, "unitCents"},
		{"no lines", "k", `{"shop":"shop-01","lines":[]}`, 400, "lines: there are 0, want 1 to 50"},
		{"too many lines", "k", `{"shop":"shop-01","lines":[` + strings.Join(many, ",") + `]}`, 400, "lines: there are 51"},
		{"quantity 0", "k", line("1001", "0"), 400, "lines[0].quantity: 0, want 1 to 99"},
		{"negative quantity", "k", line("1001", "-1"), 400, "lines[0].quantity: -1"},
		{"quantity 100", "k", line("1001", "100"), 400, "lines[0].quantity: 100"},
		{"100 over two lines", "k", `{"shop":"shop-01","lines":[{"product":1001,"quantity":50},{"product":1001,"quantity":50}]}`, 400, "100 times in all"},
		{"huge quantity", "k", line("1001", "99999999999999999999"), 400, "the body is no order"},
		{"half a piece", "k", line("1001", "0.5"), 400, "the body is no order"},
		{"product 0", "k", line("0", "1"), 400, "lines[0].product: 0"},
		{"unknown product", "k", line("999999", "1"), 422, "no product 999999"},
		{"product of another shop", "k", line("2001", "1"), 422, "no product 2001"},
		{"unknown shop", "k", `{"shop":"shop-99","lines":[{"product":1001,"quantity":1}]}`, 422, "no shop shop-99"},
		{"SQL as shop", "k", `{"shop":"' OR 1=1 --","lines":[{"product":1001,"quantity":1}]}`, 400, "no shop's id"},
		{"large body", "k", `{"shop":"` + strings.Repeat("a", 20<<10) + `"}`, 413, "larger than"},
	} {
		t.Run(test.name, func(t *testing.T) {
			if code, body := i.post(t, test.key, test.body); code != test.code || !strings.Contains(body, test.want) {
				t.Errorf("got %d %s", code, body)
			}
		})
	}
}

func TestReading(t *testing.T) {
	i := start(t, testservers.Postgres(t)).awaitReady(t)
	for _, test := range []struct {
		path string
		code int
		want string
	}{
		{"/v1/hosts/shop-07.shops.example", 200, `"id":"shop-07"`},
		{"/v1/hosts/SHOP-07.shops.example:443", 200, `"id":"shop-07"`},
		{"/v1/hosts/d-00042.customers.example", 200, `"id":"shop-43"`},
		{"/v1/hosts/nobody.example", 404, "not_found"},
		{"/v1/shops?limit=2", 200, `"next":"shop-02"`},
		{"/v1/shops?limit=101", 400, "limit"},
		{"/v1/shops?after=%27", 400, "after"},
		{"/v1/shops/shop-01/products?limit=3&after=1019", 200, `"id":1020`},
		{"/v1/shops/shop-01/products?limit=x", 400, "limit"},
		{"/v1/shops/shop-01/products?after=-1", 400, "after"},
		{"/v1/shops/shop-01/products?ids=1001,2001,1003", 200, `"id":1003`},
		{"/v1/shops/shop-01/products?ids=1001,x", 400, "ids"},
		{"/v1/shops/shop-01/products?ids=" + strings.Repeat("1,", 50) + "1", 400, "ids: there are 51"},
		{"/v1/shops/shop-99/products", 404, "not_found"},
		{"/v1/shops/shop-01/products/1001", 200, `"currency":"EUR"`},
		{"/v1/shops/shop-01/products/2001", 404, "not_found"},
		{"/v1/shops/shop-01/products/0x1", 404, "not_found"},
		{"/v1/shops/shop-01/orders/AAAAAAAAAAAAAAAAAAAAAAAAAA", 404, "not_found"},
		{"/v1/shops/shop-01/orders/..%2F..", 404, "not_found"},
		{"/", 404, "nothing at this path"},
	} {
		response, err := http.Get(i.url + test.path)
		if err != nil {
			t.Fatal(err)
		}
		content, _ := io.ReadAll(response.Body)
		response.Body.Close()
		if response.StatusCode != test.code || !strings.Contains(string(content), test.want) {
			t.Errorf("%s: got %d %s", test.path, response.StatusCode, content)
		}
	}
	seen, after := 0, ""
	for {
		page, err := i.client.Products(t.Context(), "shop-03", after, 7)
		if err != nil {
			t.Fatal(err)
		}
		seen += len(page.Products)
		if after = page.Next; after == "" {
			break
		}
	}
	if seen != api.SeedProductsPerShop {
		t.Errorf("the pages hold %d products", seen)
	}
	if _, err := i.client.Product(t.Context(), "shop-01", 2001); !shopapi.NotFound(err) {
		t.Errorf("product of another shop: %v", err)
	}
}
