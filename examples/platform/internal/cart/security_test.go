package cart_test

import (
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"testing"

	"github.com/shopset/shopset/examples/platform/internal/cart"
	"github.com/shopset/shopset/internal/testservers"
)

func TestKeyRotation(t *testing.T) {
	api, redis := newAPI(t), testservers.Redis(t)
	old, both, renewed := start(t, api, redis, key('a')), start(t, api, redis, key('b')+","+key('a')), start(t, api, redis, key('b'))
	v := &person{host: host}
	v.add(t, old, 1001, 1)
	oldCookie := v.cookie
	if lines, _ := v.look(t, renewed); lines != "" {
		t.Fatal("a cookie of a key that is not known any more was taken")
	}
	if lines, _ := v.look(t, both); lines != "1001x1" || v.cookie == oldCookie {
		t.Fatalf("the old key has to verify and the new one has to sign: %s %s", lines, v.cookie)
	}
	if lines, _ := v.look(t, renewed); lines != "1001x1" {
		t.Fatal("the cookie was not signed with the new key")
	}
}

func TestTamperedCookies(t *testing.T) {
	p := start(t, newAPI(t), testservers.Redis(t), key('a'))
	v := &person{host: host}
	v.add(t, p, 1001, 1)
	good := v.cookie
	name, value, _ := strings.Cut(good, "=")
	session, mac, _ := strings.Cut(value, ".")
	for _, bad := range []string{
		name + "=", name + "=" + session, name + "=" + session + ".", name + "=." + mac,
		name + "=" + session[1:] + "A." + mac, name + "=" + value + "A", name + "=" + value[:len(value)-1],
		name + "=" + strings.ToLower(session) + "." + mac, name + "={x}." + mac, strings.TrimPrefix(good, "__Host-"),
	} {
		v.cookie = bad
		if lines, _ := v.look(t, p); lines != "" {
			t.Errorf("%s was taken", bad)
		}
	}
	neighbour := &person{host: "shop-02.shops.example", cookie: good}
	if lines, _ := neighbour.look(t, p); lines != "" {
		t.Error("the cookie of another shop was taken")
	}
	v.cookie = good
	if lines, _ := v.look(t, p); lines != "1001x1" {
		t.Error("the good cookie was refused")
	}
	fresh := (&person{host: host}).request(p, "POST", "/cart/add", url.Values{"product": {"1001"}, "quantity": {"1"}})
	cookie := fresh.Header().Get("Set-Cookie")
	for _, want := range []string{"__Host-cart=", "Path=/", "HttpOnly", "Secure", "SameSite=Lax", "Max-Age=604800"} {
		if !strings.Contains(cookie, want) || strings.Contains(cookie, "Domain") {
			t.Errorf("%s is missing in %s", want, cookie)
		}
	}
}

func TestFormsOfOtherSites(t *testing.T) {
	p := start(t, newAPI(t), testservers.Redis(t), key('a'))
	form := url.Values{"product": {"1001"}, "quantity": {"1"}}
	for _, test := range []struct {
		header map[string]string
		code   int
	}{
		{map[string]string{"Sec-Fetch-Site": "cross-site"}, 403},
		{map[string]string{"Sec-Fetch-Site": "same-site"}, 403},
		{map[string]string{"Origin": "https://shop-02.shops.example"}, 403},
		{map[string]string{"Origin": "null"}, 403},
		{map[string]string{"Sec-Fetch-Site": "same-origin"}, 303},
		{map[string]string{"Origin": "https://" + host}, 303},
		{nil, 303},
	} {
		for _, path := range []string{"/cart/add", "/cart/update"} {
			v := &person{host: host, header: test.header}
			if answer := v.request(p, "POST", path, form); answer.Code != test.code {
				t.Errorf("%s with %v: %d", path, test.header, answer.Code)
			}
		}
	}
}

func TestWrongInput(t *testing.T) {
	p := start(t, newAPI(t), testservers.Redis(t), key('a'))
	v := &person{host: host}
	for _, test := range []struct {
		path, form string
		code       int
	}{
		{"/cart/add", "product=1001&quantity=0", 400},
		{"/cart/add", "product=1001&quantity=-1", 400},
		{"/cart/add", "product=1001&quantity=100", 400},
		{"/cart/add", "product=1001&quantity=1e1", 400},
		{"/cart/add", "product=1001&quantity=99999999999999999999", 400},
		{"/cart/add", "product=1001", 400},
		{"/cart/add", "product=gen&quantity=1", 400},
		{"/cart/add", "product=0&quantity=1", 400},
		{"/cart/add", "product=-5&quantity=1", 400},
		{"/cart/add", "product=99999999999999999999&quantity=1", 400},
		{"/cart/add", "product=3001&quantity=1", 404},
		{"/cart/add", "product=%zz&quantity=1", 400},
		{"/cart/add", "product=1001&quantity=1&x=" + strings.Repeat("x", 5<<10), 413},
		{"/cart/update", "product=1001&quantity=-1", 400},
		{"/cart/checkout", "", 400},
		{"/cart/checkout", "token=" + strings.Repeat("A", 25), 400},
		{"/cart/checkout", "token=" + strings.Repeat("a", 26), 400},
		{"/cart/checkout", "token=" + strings.Repeat("A", 26), 303},
		{"/cart/nothing", "", 404},
	} {
		request := httptest.NewRequest("POST", test.path, strings.NewReader(test.form))
		request.Host = host
		request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		recorder := httptest.NewRecorder()
		p.ServeHTTP(recorder, request)
		if recorder.Code != test.code || len(recorder.Result().Cookies()) > 0 {
			t.Errorf("%s %.60s: %d", test.path, test.form, recorder.Code)
		}
	}
	stranger := &person{host: "nobody.example"}
	if answer := stranger.request(p, "GET", "/cart", nil); answer.Code != 404 {
		t.Errorf("unknown shop: %d", answer.Code)
	}
	for _, path := range []string{"/cart/orders/x", "/cart/orders/" + strings.Repeat("A", 26), "/cart/orders/..%2f..%2fshops"} {
		if answer := v.request(p, "GET", path, nil); answer.Code != 404 {
			t.Errorf("%s: %d", path, answer.Code)
		}
	}
}

func TestACartIsBounded(t *testing.T) {
	p := start(t, newAPI(t), testservers.Redis(t), key('a'))
	v := &person{host: host}
	for n := range 50 {
		v.add(t, p, 1001+n, 1)
	}
	if answer := v.request(p, "POST", "/cart/add", url.Values{"product": {"1900"}, "quantity": {"1"}}); answer.Code != 409 {
		t.Errorf("51st line: %d", answer.Code)
	}
	v.add(t, p, 1001, 98)
	if answer := v.request(p, "POST", "/cart/add", url.Values{"product": {"1001"}, "quantity": {"1"}}); answer.Code != 409 {
		t.Errorf("100th piece: %d", answer.Code)
	}
	v.request(p, "POST", "/cart/update", url.Values{"product": {"1500"}, "quantity": {"5"}})
	for n := 1; n < 50; n++ {
		v.request(p, "POST", "/cart/update", url.Values{"product": {strconv.Itoa(1001 + n)}, "quantity": {"0"}})
	}
	if lines, _ := v.look(t, p); lines != "1001x99" {
		t.Error(lines)
	}
	body := v.request(p, "GET", "/cart", nil).Body.String()
	if strings.Contains(body, "<script>") || !strings.Contains(body, "&lt;script&gt;") || strings.Contains(body, "<Alder>") {
		t.Error("names are not escaped:", body)
	}
}

func TestConfig(t *testing.T) {
	_, err := cart.ReadConfig(func(name string) string {
		return map[string]string{"REDIS_URL": "redis:/hunter2", "COOKIE_KEYS": "hunter2", "CART_TTL": "1s"}[name]
	})
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{"API_URL is not set", "REDIS_URL is not valid", "COOKIE_KEYS: key 1", "CART_TTL is \"1s\""} {
		if !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s is missing in, or a secret is in: %v", want, err)
		}
	}
}
