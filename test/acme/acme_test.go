// Package acme_test has certificates issued by Pebble, Let's Encrypt's test server, with everything real but its
// view of the network: all names lead to this machine.
package acme_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/letsencrypt/challtestsrv"
	"github.com/letsencrypt/pebble/v2/ca"
	"github.com/letsencrypt/pebble/v2/db"
	"github.com/letsencrypt/pebble/v2/va"
	"github.com/letsencrypt/pebble/v2/wfe"

	"github.com/shopset/shopset/internal/certrecord"
	"github.com/shopset/shopset/internal/certs"
	"github.com/shopset/shopset/internal/certs/acme"
	"github.com/shopset/shopset/internal/certs/storage"
	"github.com/shopset/shopset/internal/certs/storage/sqlite"
)

// authority is a Pebble, and what stands between it and the issuers.
type authority struct {
	server *httptest.Server
	orders atomic.Int64
	// limited has every new order refused.
	limited atomic.Bool
}

func (a *authority) directory() string { return a.server.URL + wfe.DirectoryPath }

func newAuthority(t *testing.T, httpPort int) *authority {
	t.Helper()
	t.Setenv("PEBBLE_VA_NOSLEEP", "1")
	t.Setenv("PEBBLE_WFE_NONCEREJECT", "5") // As real ones do now and then.
	dns := freeDNS(t)
	names, err := challtestsrv.New(challtestsrv.Config{DNSAddrs: []string{dns}, Log: log.New(io.Discard, "", 0)})
	if err != nil {
		t.Fatal(err)
	}
	names.SetDefaultDNSIPv4("127.0.0.1")
	names.SetDefaultDNSIPv6("")
	go names.Run()
	t.Cleanup(names.Shutdown)
	awaitDNS(t, dns)
	quiet := log.New(io.Discard, "", 0)
	store := db.NewMemoryStore()
	signer := ca.New(quiet, store, "", "ecdsa", 0, 1, map[string]ca.Profile{"default": {Description: "default"}})
	handler := wfe.New(quiet, store, va.New(quiet, httpPort, 0, false, dns, store), signer, nil, false, false, 0, 0)
	a := &authority{}
	inner := handler.Handler()
	a.server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.URL.Path, "order-plz") {
			if a.limited.Load() {
				w.Header().Set("Content-Type", "application/problem+json")
				w.Header().Set("Retry-After", "3600")
				w.Header().Set("Replay-Nonce", "x")
				w.WriteHeader(http.StatusTooManyRequests)
				fmt.Fprint(w, `{"type": "urn:ietf:params:acme:error:rateLimited", "detail": "too many"}`)
				return
			}
			w = &counting{w, &a.orders}
		}
		inner.ServeHTTP(w, r)
	}))
	t.Cleanup(a.server.Close)
	return a
}

// counting counts the orders that were taken: some requests are refused for their nonce, and repeated.
type counting struct {
	http.ResponseWriter
	orders *atomic.Int64
}

func (c *counting) WriteHeader(status int) {
	if status == http.StatusCreated {
		c.orders.Add(1)
	}
	c.ResponseWriter.WriteHeader(status)
}

// freeDNS is an address that is free for both protocols of DNS.
func freeDNS(t *testing.T) string {
	t.Helper()
	for range 100 {
		conn, err := net.ListenPacket("udp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		address := conn.LocalAddr().String()
		listener, err := net.Listen("tcp", address)
		conn.Close()
		if err == nil {
			listener.Close()
			return address
		}
	}
	t.Fatal("no port is free for UDP and TCP")
	return ""
}

// awaitDNS waits until the server, which begins by itself, takes connections: Pebble asks by TCP.
func awaitDNS(t *testing.T, address string) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; {
		conn, err := net.Dial("tcp", address)
		if err == nil {
			conn.Close()
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("the DNS server did not begin: %v", err)
		}
		<-time.After(5 * time.Millisecond)
	}
}

// world is a service with a site that answers challenges as the proxies do, and its authority.
type world struct {
	*authority
	storage storage.Storage
	service *certs.Service
	ahead   atomic.Int64
}

func newWorld(t *testing.T) *world {
	t.Helper()
	keys, err := certrecord.NewKeyring(bytes.Repeat([]byte{1}, 32))
	if err != nil {
		t.Fatal(err)
	}
	s, err := sqlite.Open(t.Context(), filepath.Join(t.TempDir(), "db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	w := &world{storage: s, service: certs.NewService(s, keys, slog.New(slog.DiscardHandler))}
	site := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		token, ok := strings.CutPrefix(r.URL.Path, "/.well-known/acme-challenge/")
		answer, err := w.service.Challenge(r.Context(), token)
		if !ok || err != nil || strings.HasPrefix(r.Host, "broken.") {
			http.NotFound(rw, r)
			return
		}
		_, _ = io.WriteString(rw, answer)
	}))
	t.Cleanup(site.Close)
	w.authority = newAuthority(t, int(netip.MustParseAddrPort(site.Listener.Addr().String()).Port()))
	slog.SetDefault(slog.New(slog.DiscardHandler))
	return w
}

func (w *world) issuer() *acme.Issuer {
	return acme.New(acme.Config{Directory: w.directory(), Email: "ops@example.org", Client: w.server.Client(), PollInterval: 10 * time.Millisecond,
		Now: func() time.Time { return time.Now().Add(time.Duration(w.ahead.Load())) }}, w.storage, w.service)
}

func (w *world) manage(t *testing.T, names ...string) {
	t.Helper()
	for _, name := range names {
		if _, err := w.service.PutDomain(t.Context(), "t", certs.Domain{Name: name, Shop: "s", Managed: true}, 0); err != nil {
			t.Fatal(err)
		}
	}
}

func (w *world) domain(t *testing.T, name string) *certs.Domain {
	t.Helper()
	d, err := w.service.Domain(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func once(t *testing.T, i *acme.Issuer) int {
	t.Helper()
	n, err := i.Once(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestIssueAndRenew(t *testing.T) {
	w := newWorld(t)
	issuer := w.issuer()
	w.manage(t, "shop.example")
	if n := once(t, issuer); n != 1 {
		t.Fatalf("%d jobs", n)
	}
	d := w.domain(t, "shop.example")
	if len(d.Certificates) != 1 || d.Certificates[0].Source != "acme" || d.Issuing.LastError != "" {
		t.Fatalf("got %+v, %+v", d.Certificates, d.Issuing)
	}
	first := d.Certificates[0]
	life := first.NotAfter.Sub(first.NotBefore)
	if d.Issuing.Next.Before(first.NotBefore.Add(life*2/3)) || d.Issuing.Next.After(first.NotBefore.Add(life*7/10)) {
		t.Errorf("renewed at %s, of %s to %s", d.Issuing.Next, first.NotBefore, first.NotAfter)
	}
	record, err := w.service.Record(t.Context(), "shop.example")
	if err != nil || len(record.Certificates[0].Chain) < 2 {
		t.Errorf("record %+v %v", record, err)
	}
	if n := once(t, issuer); n != 0 {
		t.Errorf("%d jobs right after", n)
	}
	w.ahead.Store(int64(time.Until(d.Issuing.Next.Add(time.Second))))
	if n := once(t, w.issuer()); n != 1 { // Another replica, with the account of the first.
		t.Fatalf("%d jobs when it is due", n)
	}
	if again := w.domain(t, "shop.example").Certificates[0]; again.Serial == first.Serial {
		t.Error("it was not renewed")
	}
}

// TestFailures: the reason is told, the next try comes later each time, and other domains do not suffer.
func TestFailures(t *testing.T) {
	w := newWorld(t)
	w.manage(t, "broken.example", "shop.example")
	waits := []time.Duration{time.Minute, 2 * time.Minute, 4 * time.Minute}
	for i, wait := range waits {
		once(t, w.issuer())
		issuing := w.domain(t, "broken.example").Issuing
		now := time.Now().Add(time.Duration(w.ahead.Load()))
		left := issuing.Next.Sub(now)
		if issuing.Failures != i+1 || !strings.Contains(issuing.LastError, "broken.example") || left < wait-10*time.Second || left > wait*5/4+10*time.Second {
			t.Errorf("failure %d: next in %s: %+v", i+1, left, issuing)
		}
		w.ahead.Add(int64(left + time.Second))
	}
	if d := w.domain(t, "shop.example"); len(d.Certificates) != 1 {
		t.Errorf("the other domain: %+v", d.Issuing)
	}
}

// TestRateLimit: when the authority says when it may be asked again, those domains are not asked for before, and others wait for
// a moment: whose limit it is cannot be told.
func TestRateLimit(t *testing.T) {
	w := newWorld(t)
	w.manage(t, "a.example", "b.example")
	issuer := w.issuer()
	w.limited.Store(true)
	once(t, issuer)
	for _, name := range []string{"a.example", "b.example"} {
		if issuing := w.domain(t, name).Issuing; issuing.Failures > 1 || !strings.Contains(issuing.LastError, "too") || time.Until(issuing.Next) < 59*time.Minute {
			t.Errorf("%s: %+v", name, issuing)
		}
	}
	w.manage(t, "c.example")
	w.limited.Store(false)
	if n := once(t, issuer); n != 0 || w.orders.Load() > 0 {
		t.Errorf("%d jobs and %d orders before the time", n, w.orders.Load())
	}
	w.ahead.Store(int64(62 * time.Minute))
	for range 2 {
		once(t, issuer)
	}
	for _, name := range []string{"a.example", "b.example", "c.example"} {
		if d := w.domain(t, name); len(d.Certificates) != 1 {
			t.Errorf("%s: %+v", name, d.Issuing)
		}
	}
}

// TestReplicas: of several issuers one alone works on each domain.
func TestReplicas(t *testing.T) {
	w := newWorld(t)
	const domains = 6
	for i := range domains {
		w.manage(t, fmt.Sprintf("d%d.example", i))
	}
	var group sync.WaitGroup
	for range 3 {
		issuer := w.issuer()
		group.Go(func() {
			for {
				if n, err := issuer.Once(context.WithoutCancel(t.Context())); n == 0 || err != nil {
					if err != nil {
						t.Error(err)
					}
					return
				}
			}
		})
	}
	group.Wait()
	for i := range domains {
		if d := w.domain(t, fmt.Sprintf("d%d.example", i)); len(d.Certificates) != 1 {
			t.Errorf("%s: %+v", d.Name, d.Issuing)
		}
	}
	if n := w.orders.Load(); n != domains {
		t.Errorf("%d orders for %d domains", n, domains)
	}
}

// TestAuthorityIsAway: nothing is lost, and it is told.
func TestAuthorityIsAway(t *testing.T) {
	w := newWorld(t)
	w.manage(t, "shop.example")
	w.server.Close()
	if _, err := w.issuer().Once(t.Context()); err == nil || !strings.Contains(err.Error(), "account at the authority") {
		t.Errorf("got %v", err)
	}
	if issuing := w.domain(t, "shop.example").Issuing; issuing.Failures != 0 {
		t.Errorf("the domain is to blame: %+v", issuing)
	}
}
