package cart_test

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/rueidis"

	"github.com/shopset/shopset/examples/platform/internal/cart"
	"github.com/shopset/shopset/internal/admin"
	"github.com/shopset/shopset/internal/testservers"
)

func key(letter byte) string {
	return base64.StdEncoding.EncodeToString([]byte(strings.Repeat(string(letter), 32)))
}

type program struct {
	http.Handler
	admin *admin.Server
}

func start(t *testing.T, api *fakeAPI, redis, keys string) *program {
	t.Helper()
	p := launch(t, api, redis, keys)
	p.awaitReady(t)
	return p
}

func launch(t *testing.T, api *fakeAPI, redis, keys string) *program {
	t.Helper()
	config, err := cart.ReadConfig(func(name string) string {
		return map[string]string{"API_URL": api.URL, "REDIS_URL": "redis://" + redis, "COOKIE_KEYS": keys}[name]
	})
	if err != nil {
		t.Fatal(err)
	}
	a := admin.New()
	server, err := cart.New(config, a)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Close)
	return &program{server, a}
}

func (p *program) readiness() (int, string) {
	recorder := httptest.NewRecorder()
	p.admin.ServeHTTP(recorder, httptest.NewRequest("GET", "/readyz", nil))
	return recorder.Code, recorder.Body.String()
}

func (p *program) awaitReady(t *testing.T) {
	t.Helper()
	deadline := time.Now().Add(15 * time.Second)
	for {
		code, body := p.readiness()
		if code == 200 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(body)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// person is a browser without redirects; the requests may go to any replica.
type person struct {
	host   string
	cookie string
	header map[string]string
}

func (v *person) request(p http.Handler, method, path string, form url.Values) *httptest.ResponseRecorder {
	request := httptest.NewRequest(method, path, strings.NewReader(form.Encode()))
	request.Host = v.host
	if form != nil {
		request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	if v.cookie != "" {
		request.Header.Set("Cookie", v.cookie)
	}
	for name, value := range v.header {
		request.Header.Set(name, value)
	}
	recorder := httptest.NewRecorder()
	p.ServeHTTP(recorder, request)
	for _, cookie := range recorder.Result().Cookies() {
		v.cookie = cookie.Name + "=" + cookie.Value
	}
	return recorder
}

func (v *person) add(t *testing.T, p http.Handler, product, quantity int) {
	t.Helper()
	answer := v.request(p, "POST", "/cart/add", url.Values{"product": {strconv.Itoa(product)}, "quantity": {strconv.Itoa(quantity)}})
	if answer.Code != 303 || answer.Header().Get("Location") != "/cart" {
		t.Fatal(answer.Code, answer.Body)
	}
}

var (
	formField = regexp.MustCompile(`name="(token|lines|total)" value="([A-Za-z0-9]*)"`)
	lineRow   = regexp.MustCompile(`data-product="(\d+)" data-quantity="(\d+)"`)
)

// look returns what the cart's page shows, as product x quantity, and the checkout's form.
func (v *person) look(t *testing.T, p http.Handler) (lines string, checkout url.Values) {
	t.Helper()
	answer := v.request(p, "GET", "/cart", nil)
	if answer.Code != 200 {
		t.Fatal(answer.Code, answer.Body)
	}
	body := answer.Body.String()
	for _, m := range lineRow.FindAllStringSubmatch(body, -1) {
		lines += m[1] + "x" + m[2] + " "
	}
	for _, m := range formField.FindAllStringSubmatch(body, -1) {
		if checkout == nil {
			checkout = url.Values{}
		}
		checkout.Set(m[1], m[2])
	}
	return strings.TrimSpace(lines), checkout
}

func (v *person) checkout(p http.Handler, form url.Values) (int, string) {
	answer := v.request(p, "POST", "/cart/checkout", form)
	return answer.Code, answer.Header().Get("Location")
}

const host = "shop-01.shops.example"

func TestCheckoutAndDoubleSubmit(t *testing.T) {
	api, redis := newAPI(t), testservers.Redis(t)
	replicas := []*program{start(t, api, redis, key('a')), start(t, api, redis, key('a'))}
	v := &person{host: host}
	v.add(t, replicas[0], 1001, 2)
	v.add(t, replicas[1], 1002, 1)
	lines, form := v.look(t, replicas[0])
	if lines != "1001x2 1002x1" {
		t.Fatal(lines)
	}
	var mu sync.Mutex
	locations := map[string]int{}
	var wait sync.WaitGroup
	for n := range 20 {
		wait.Go(func() {
			twin := *v
			code, location := twin.checkout(replicas[n%2], form)
			mu.Lock()
			defer mu.Unlock()
			locations[fmt.Sprint(code, " ", location)]++
		})
	}
	wait.Wait()
	if len(locations) != 1 || len(api.placed()) != 1 || api.placed()[0] != "[{1001 2} {1002 1}]" {
		t.Fatalf("answers %v, orders %v", locations, api.placed())
	}
	if lines, form := v.look(t, replicas[1]); lines != "" || form != nil {
		t.Errorf("the cart holds %s after the purchase", lines)
	}
	// The same form again, much later, with something new in the cart: the same order, and the new
	// things stay.
	v.add(t, replicas[0], 1003, 1)
	code, location := v.checkout(replicas[0], form)
	if locations[fmt.Sprint(code, " ", location)] != 20 {
		t.Errorf("got %d %s", code, location)
	}
	if lines, _ := v.look(t, replicas[0]); lines != "1003x1" || len(api.placed()) != 1 {
		t.Errorf("cart %s, orders %v", lines, api.placed())
	}
	page := v.request(replicas[0], "GET", location, nil)
	if page.Code != 200 || !strings.Contains(page.Body.String(), `data-order="`) {
		t.Error(page.Code, page.Body)
	}
}

func TestALostAnswerIsOneOrderWhateverIsAddedMeanwhile(t *testing.T) {
	api := newAPI(t)
	p := start(t, api, testservers.Redis(t), key('a'))
	v := &person{host: host}
	v.add(t, p, 1001, 2)
	_, form := v.look(t, p)
	api.set("down", nil)
	if code, _ := v.checkout(p, form); code != 503 || len(api.placed()) != 0 {
		t.Fatalf("api down: %d", code)
	}
	api.set("lost", nil)
	if code, _ := v.checkout(p, form); code != 503 || len(api.placed()) != 1 {
		t.Fatalf("answers lost: %d", code)
	}
	api.set("strange", nil)
	if code, _ := v.checkout(p, form); code != 503 || len(api.placed()) != 1 {
		t.Fatalf("answers that are not the api's: %d", code)
	}
	if lines, _ := v.look(t, p); lines != "1001x2" {
		t.Fatalf("the cart was not kept: %s", lines)
	}
	v.add(t, p, 1001, 1)
	v.add(t, p, 1002, 5)
	lines, form := v.look(t, p)
	if lines != "1001x3 1002x5" {
		t.Fatal(lines)
	}
	api.set("", nil)
	code, location := v.checkout(p, form)
	if code != 303 || !strings.HasPrefix(location, "/cart/orders/") {
		t.Fatal(code, location)
	}
	if placed := api.placed(); len(placed) != 1 || placed[0] != "[{1001 2}]" {
		t.Errorf("orders %v", placed)
	}
	if lines, _ := v.look(t, p); lines != "1001x1 1002x5" {
		t.Errorf("after the purchase the cart holds %s", lines)
	}
	_, form = v.look(t, p)
	if code, _ := v.checkout(p, form); code != 303 || len(api.placed()) != 2 {
		t.Errorf("the rest: %d, orders %v", code, api.placed())
	}
}

func TestWhatIsAddedDuringAPurchaseStays(t *testing.T) {
	api := newAPI(t)
	p := start(t, api, testservers.Redis(t), key('a'))
	v := &person{host: host}
	v.add(t, p, 1001, 1)
	_, form := v.look(t, p)
	api.set("", func() { twin := *v; twin.add(t, p, 1002, 1) })
	if code, _ := v.checkout(p, form); code != 303 {
		t.Fatal(code)
	}
	if lines, _ := v.look(t, p); lines != "1002x1" {
		t.Errorf("the cart holds %q", lines)
	}
}

func TestARefusedPurchaseKeepsTheCart(t *testing.T) {
	api := newAPI(t)
	p := start(t, api, testservers.Redis(t), key('a'))
	v := &person{host: host}
	v.add(t, p, 1001, 2)
	_, form := v.look(t, p)
	api.set("refused", nil)
	answer := v.request(p, "POST", "/cart/checkout", form)
	if answer.Code != 409 || !strings.Contains(answer.Body.String(), "The &lt;kettle&gt; is out of stock") {
		t.Fatal(answer.Code, answer.Body)
	}
	v.request(p, "POST", "/cart/update", url.Values{"product": {"1001"}, "quantity": {"1"}})
	api.set("", nil)
	_, form = v.look(t, p)
	if code, _ := v.checkout(p, form); code != 303 || len(api.placed()) != 1 || api.placed()[0] != "[{1001 1}]" {
		t.Errorf("%d, orders %v", code, api.placed())
	}
}

// TestNothingIsBoughtThatWasNotShown changes the cart or a price between the page and the click.
func TestNothingIsBoughtThatWasNotShown(t *testing.T) {
	api := newAPI(t)
	p := start(t, api, testservers.Redis(t), key('a'))
	v := &person{host: host}
	v.add(t, p, 1001, 1)
	for name, change := range map[string]func(){
		"one more":        func() { v.add(t, p, 1001, 1) },
		"another product": func() { v.add(t, p, 999, 1) },
		"another quantity": func() {
			v.request(p, "POST", "/cart/update", url.Values{"product": {"1001"}, "quantity": {"9"}})
		},
		"a form of an earlier release": func() {},
	} {
		_, form := v.look(t, p)
		change()
		if name == "a form of an earlier release" {
			form = url.Values{"token": form["token"]}
		}
		if code, location := v.checkout(p, form); code != 303 || location != "/cart?notice=changed" || len(api.placed()) != 0 {
			t.Errorf("%s: %d %s, orders %v", name, code, location, api.placed())
		}
	}
	v.request(p, "POST", "/cart/update", url.Values{"product": {"1001"}, "quantity": {"2"}})
	_, form := v.look(t, p)
	api.setPrice(175)
	answer := v.request(p, "POST", "/cart/checkout", form)
	if answer.Code != 409 || !strings.Contains(answer.Body.String(), "price has changed") || len(api.placed()) != 0 {
		t.Fatalf("another price: %d %s, orders %v", answer.Code, answer.Body, api.placed())
	}
	_, form = v.look(t, p)
	if code, _ := v.checkout(p, form); code != 303 || len(api.placed()) != 1 {
		t.Errorf("after a look at the new price: %d, orders %v", code, api.placed())
	}
}

// TestAKeyThatRedisForgot has a purchase of which the api knows and Redis does not any more.
func TestAKeyThatRedisForgot(t *testing.T) {
	api, server := newAPI(t), testservers.NewRedis(t)
	p := start(t, api, server.Address(), key('a'))
	redis, err := rueidis.NewClient(rueidis.ClientOption{InitAddress: []string{server.Address()}, DisableCache: true})
	if err != nil {
		t.Fatal(err)
	}
	defer redis.Close()
	v := &person{host: host}
	v.add(t, p, 1001, 2)
	_, form := v.look(t, p)
	api.set("lost", nil)
	if code, _ := v.checkout(p, form); code != 503 || len(api.placed()) != 1 {
		t.Fatalf("%d, orders %v", code, api.placed())
	}
	pending, err := redis.Do(t.Context(), redis.B().Keys().Pattern("*:pending").Build()).AsStrSlice()
	if err != nil || len(pending) != 1 {
		t.Fatal(pending, err)
	}
	// This one looks as if an earlier release had begun it: without a total.
	text, err := redis.Do(t.Context(), redis.B().Get().Key(pending[0]).Build()).ToString()
	if err != nil || !strings.HasSuffix(text, "\n300\n1001 2") {
		t.Fatalf("%q %v", text, err)
	}
	text = strings.Replace(text, "\n300", "", 1)
	if err := redis.Do(t.Context(), redis.B().Set().Key(pending[0]).Value(text).Build()).Error(); err != nil {
		t.Fatal(err)
	}
	if code, _ := v.checkout(p, form); code != 503 || len(api.placed()) != 1 {
		t.Fatalf("an earlier release's purchase: %d, orders %v", code, api.placed())
	}
	// What is added keeps the cart, and with it the purchase under way.
	if err := redis.Do(t.Context(), redis.B().Expire().Key(pending[0]).Seconds(60).Build()).Error(); err != nil {
		t.Fatal(err)
	}
	v.add(t, p, 1001, 1)
	if left, err := redis.Do(t.Context(), redis.B().Ttl().Key(pending[0]).Build()).AsInt64(); err != nil || left <= 60 {
		t.Errorf("the purchase under way ends in %d s: %v", left, err)
	}
	if err := redis.Do(t.Context(), redis.B().Del().Key(pending[0]).Build()).Error(); err != nil {
		t.Fatal(err)
	}
	api.set("", nil)
	_, form = v.look(t, p)
	code, location := v.checkout(p, form)
	if code != 303 || !strings.HasPrefix(location, "/cart/orders/") || len(api.placed()) != 1 {
		t.Fatalf("%d %s, orders %v", code, location, api.placed())
	}
	lines, form := v.look(t, p)
	if lines != "1001x1" {
		t.Errorf("the cart holds %q", lines)
	}
	if code, _ := v.checkout(p, form); code != 303 || len(api.placed()) != 2 {
		t.Errorf("the rest: %d, orders %v", code, api.placed())
	}
}

func TestRedisDownAndBack(t *testing.T) {
	api, server := newAPI(t), testservers.NewRedis(t)
	server.Down(t)
	p := launch(t, api, server.Address(), key('a'))
	v := &person{host: host}
	if code, body := p.readiness(); code != 503 || !strings.HasPrefix(body, "redis: ") {
		t.Fatal(code, body)
	}
	if answer := v.request(p, "POST", "/cart/add", url.Values{"product": {"1001"}, "quantity": {"1"}}); answer.Code != 503 {
		t.Fatal(answer.Code)
	}
	server.Up(t)
	p.awaitReady(t)
	v.add(t, p, 1001, 1)
	_, form := v.look(t, p)

	// Redis fails between the order and the emptying of the cart: the next try gets the same order.
	api.set("", func() { server.Down(t) })
	if code, _ := v.checkout(p, form); code != 303 {
		t.Fatal(code)
	}
	api.set("", nil)
	if answer := v.request(p, "GET", "/cart", nil); answer.Code != 503 || !strings.Contains(answer.Body.String(), "Nothing is lost") {
		t.Fatal(answer.Code)
	}
	if code, _ := p.readiness(); code != 503 {
		t.Fatal(code)
	}
	server.Up(t)
	p.awaitReady(t)
	if lines, _ := v.look(t, p); lines != "1001x1" {
		t.Fatal(lines)
	}
	if code, _ := v.checkout(p, form); code != 303 || len(api.placed()) != 1 {
		t.Errorf("%d, orders %v", code, api.placed())
	}
	if lines, _ := v.look(t, p); lines != "" {
		t.Error(lines)
	}
}
