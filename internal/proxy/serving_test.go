package proxy

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// judged is a serving whose clock the test has.
func judged() (*serving, *time.Time) {
	now := time.Unix(1_800_000_000, 0)
	config := DefaultConfig().Serving
	return newServing(config, func() time.Time { return now }), &now
}

func shopNames(n int) []string {
	names := make([]string, n)
	for i := range names {
		names[i] = fmt.Sprintf("shop-%d.example", i)
	}
	return names
}

func TestServing(t *testing.T) {
	all := shopNames(40)
	for _, test := range []struct {
		name  string
		shops []string
		fails func(shop, request int) bool
		want  bool
	}{
		{"all is well", all, func(int, int) bool { return false }, true},
		{"all fail", all, func(int, int) bool { return true }, false},
		{"half of the requests of all shops", all, func(_, request int) bool { return request%2 == 0 }, false},
		{"a few of all shops", all, func(_, request int) bool { return request%10 == 9 }, true},
		{"one of four shops", all, func(shop, _ int) bool { return shop%4 == 0 }, true},
		{"two shops are all that is asked for", all[:2], func(int, int) bool { return true }, true},
		{"one shop with most of the traffic", append(shopNames(3), strings.Fields(strings.Repeat("shop-0.example ", 100))...),
			func(shop, _ int) bool { return shop != 1 && shop != 2 }, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			s, _ := judged()
			for request := range 20 {
				for i, shop := range test.shops {
					s.note(shop, test.fails(i, request))
				}
			}
			if problem := s.problem(); (problem == "") != test.want {
				t.Errorf("serves = %v (%s), want %v", problem == "", problem, test.want)
			}
		})
	}
}

// TestServingHolds: a cell that fails again soon is left alone for longer each time, and what it did before is forgotten.
func TestServingHolds(t *testing.T) {
	s, now := judged()
	fail := func() {
		for _, shop := range shopNames(10) {
			s.note(shop, true)
		}
	}
	for i, seconds := range []int{10, 20, 40, 80, 160, 160, 160} {
		fail()
		if got := s.problem(); got != "6 of 6 requests in 5s failed, of 6 of 6 shops" {
			t.Fatalf("time %d: the problem is %q", i, got)
		}
		*now = now.Add(time.Duration(seconds)*time.Second - 1)
		if s.problem() == "" {
			t.Errorf("time %d: it serves before %d s are over", i, seconds)
		}
		*now = now.Add(1)
		if s.problem() != "" {
			t.Errorf("time %d: it does not serve after %d s", i, seconds)
		}
	}
	*now = now.Add(time.Hour)
	fail()
	if *now = now.Add(10 * time.Second); s.problem() != "" {
		t.Error("an hour later it is still held for what was")
	}
}

// TestServingWindow: what is longer ago than the window does not count.
func TestServingWindow(t *testing.T) {
	s, now := judged()
	s.note("shop-1.example", true)
	s.note("shop-2.example", true)
	*now = now.Add(3 * time.Second) // The other half.
	s.note("shop-4.example", false)
	s.note("shop-5.example", false)
	s.note("shop-6.example", false)
	*now = now.Add(3 * time.Second) // The first is over.
	s.note("shop-3.example", true)
	s.note("shop-1.example", true)
	if problem := s.problem(); problem != "" {
		t.Errorf("two failing shops of five: %s", problem)
	}
	for range 4 {
		s.note("shop-2.example", true)
	}
	if problem := s.problem(); problem != "6 of 9 requests in 5s failed, of 3 of 6 shops" {
		t.Errorf("three failing shops of six: %q", problem)
	}
}

// TestServingSinceASecond: what went well before is no excuse for what fails since, when that is long enough to be no accident.
func TestServingSinceASecond(t *testing.T) {
	s, now := judged()
	all := func(failed bool) {
		for _, shop := range shopNames(10) {
			s.note(shop, failed)
		}
		*now = now.Add(100 * time.Millisecond)
	}
	for range 100 { // Ten seconds of much traffic.
		all(false)
	}
	for moment := range 20 {
		all(true)
		serves := s.problem() == ""
		if moment < 9 && !serves {
			t.Fatalf("it does not serve after %d ms: %s", 100*moment, s.problem())
		}
		if !serves {
			if moment > 12 || !strings.Contains(s.reason, "of 10 of 10 shops") {
				t.Errorf("after %d ms: %s", 100*moment, s.reason)
			}
			return
		}
	}
	t.Error("it serves, and everything fails")
}

// TestServingIsTold: a proxy most of whose shops fail tells routers that ask, and then the clients that it had before.
func TestServingIsTold(t *testing.T) {
	var broken atomic.Bool
	shop := origin(t, func(w http.ResponseWriter, _ *http.Request) {
		if broken.Load() {
			w.WriteHeader(http.StatusInternalServerError)
		}
	})
	e := start(t, "serving: {hold: 1h}\n"+toShop(shop.URL))
	c := client(t, false)
	told := func(host string) bool {
		request := newRequest(t, http.MethodGet, e.http+"/", nil)
		request.Host = host
		response, err := c.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		_ = response.Body.Close() // It is empty: the connection is used again.
		return response.Close
	}
	serving := func(path string) (int, string) {
		answer := httptest.NewRecorder()
		e.admin.ServeHTTP(answer, httptest.NewRequest(http.MethodGet, path, nil))
		return answer.Code, strings.TrimSpace(answer.Body.String())
	}
	if code, text := serving("/serving"); code != http.StatusOK || text != "ok" {
		t.Errorf("at first: %d %s", code, text)
	}
	broken.Store(true)
	for _, host := range shopNames(7) {
		if told(host) {
			t.Error("a client is told to go before any router knows")
		}
	}
	e.wantMetric("shopset_proxy_serving", "0")
	if code, text := serving("/serving"); code != http.StatusServiceUnavailable || text != "6 of 6 requests in 5s failed, of 6 of 6 shops" {
		t.Errorf("with all shops broken: %d %s", code, text)
	}
	if code, text := serving("/readyz"); code != http.StatusOK {
		t.Errorf("the proxy is not ready: %s", text)
	}
	if !told("shop-1.example") {
		t.Error("a client that was there before is not told to go")
	}
	for range 2 {
		if told("shop-1.example") {
			t.Error("a client that came in spite of it is told to go")
		}
	}
}
