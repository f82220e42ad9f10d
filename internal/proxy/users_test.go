package proxy

import (
	"context"
	"fmt"
	"net/http"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/crypto/bcrypt"
)

// withUsers is a proxy where anna may come.
func withUsers(t *testing.T) *edge {
	t.Helper()
	hash, err := bcrypt.GenerateFromPassword([]byte("secret"), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	file := writeFile(t, filepath.Join(t.TempDir(), "users"), "anna:"+string(hash)+"\n")
	return start(t, "trustedProxies: [127.0.0.1]\naccess: [{name: staging, users: "+file+"}]\n"+toShop(origin(t, echo("shop")).URL))
}

// as is who asks, from where.
func as(name, password, from string) func(*http.Request) {
	return func(r *http.Request) {
		r.SetBasicAuth(name, password)
		r.Header.Set("X-Forwarded-For", from)
	}
}

// TestManyLogins: while passwords are being checked a few wait for that, the others are told to come again, those that are
// known do not wait, and who leaves makes room.
func TestManyLogins(t *testing.T) {
	e := withUsers(t)
	if status, _, _ := ask(t, e, "/", as("anna", "secret", "192.0.2.1")); status != http.StatusOK {
		t.Fatal(status)
	}
	logins := e.logins
	most := int64(maxLogins + cap(logins.checking))
	for range cap(logins.checking) { // Nobody is checked from now on.
		logins.checking <- struct{}{}
	}
	var group sync.WaitGroup
	var refused, wrong atomic.Int64
	try := func(ctx context.Context, i int) {
		request, _ := http.NewRequestWithContext(ctx, http.MethodGet, e.http, nil)
		as("anna", "wrong", fmt.Sprintf("198.51.%d.1", i))(request)
		response, err := client(t, false).Do(request)
		if err != nil {
			return
		}
		response.Body.Close()
		switch response.StatusCode {
		case http.StatusServiceUnavailable:
			refused.Add(1)
		case http.StatusUnauthorized:
			wrong.Add(1)
		}
	}
	ctx, leave := context.WithCancel(t.Context())
	for i := range most + 5 {
		who := t.Context()
		if i == 0 {
			who = ctx
		}
		group.Go(func() { try(who, int(i)) })
		if i < most {
			eventually(t, "it waits", func() bool { return logins.waiting.Load() == i+1 })
		}
	}
	eventually(t, "those above the bound are told so", func() bool { return refused.Load() == 5 })
	if status, _, _ := ask(t, e, "/", as("anna", "secret", "198.51.0.1")); status != http.StatusOK {
		t.Errorf("who is known gets %d", status)
	}
	leave()
	eventually(t, "who has left does not wait", func() bool { return logins.waiting.Load() == most-1 })
	for range cap(logins.checking) {
		<-logins.checking
	}
	group.Wait()
	if wrong.Load() != most-1 || refused.Load() != 5 {
		t.Errorf("%d were checked and %d told to come again, want %d and 5", wrong.Load(), refused.Load(), most-1)
	}
}

// TestFailedLogins: a network that guesses gets no more tries, and nobody else is kept out by that.
func TestFailedLogins(t *testing.T) {
	e := withUsers(t)
	for range failedLogins { // Right ones do not count.
		if status, _, _ := ask(t, e, "/", as("anna", "secret", "192.0.2.1")); status != http.StatusOK {
			t.Fatal(status)
		}
	}
	tries := 0
	eventually(t, "somebody who guesses is refused", func() bool {
		tries++
		status, _, header := ask(t, e, "/", as("anna", fmt.Sprint(tries), fmt.Sprintf("192.0.2.%d", tries%256)))
		if status != http.StatusTooManyRequests && status != http.StatusUnauthorized {
			t.Fatal(status)
		}
		return status == http.StatusTooManyRequests && header.Get("Retry-After") != ""
	})
	if tries <= failedLogins {
		t.Errorf("refused at try %d, %d are allowed", tries, failedLogins)
	}
	e.wantMetric(`shopset_proxy_limited_total{limit="failed-logins"}`, "1")
	for _, test := range []struct {
		password, from string
		want           int
	}{{"secret", "192.0.2.7", 200}, {"wrong", "192.0.3.7", 401}, {"wrong", "2001:db8::1", 401}} {
		if status, _, _ := ask(t, e, "/", as("anna", test.password, test.from)); status != test.want {
			t.Errorf("%s from %s: %d, want %d", test.password, test.from, status, test.want)
		}
	}
}
