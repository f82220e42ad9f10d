package certstore_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/shopset/shopset/internal/certrecord"
	"github.com/shopset/shopset/internal/certs"
	"github.com/shopset/shopset/internal/certs/certstest"
	"github.com/shopset/shopset/internal/certstore"
)

func TestHandshakes(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	w.register("a.example", "b.example", "*.shop.example", "own.shop.example", "xn--bcher-kva.example")
	w.published()
	w.followed(true)
	w.serves("a.example")
	w.serves("A.Example")
	if d, err := w.domain("bücher.example"); err != nil || d.Name != "xn--bcher-kva.example" {
		t.Errorf("got %+v %v", d, err)
	}
	wildcard := w.serves("x.shop.example")
	if again := w.serves("y.shop.example"); again != wildcard {
		t.Error("another certificate for another name below the wildcard")
	}
	if own := w.serves("own.shop.example"); own == wildcard {
		t.Error("the wildcard hides a domain of its own")
	}
	for _, name := range []string{"none.example", "x.y.shop.example", "shop.example"} {
		if _, err := w.handshake(name); err == nil {
			t.Errorf("%s is served", name)
		}
		w.unknown(name)
	}
	if d, err := w.domain("x.shop.example"); err != nil || d.Name != "*.shop.example" || d.Shop != "shop-of-shop.example" {
		t.Errorf("got %+v %v", d, err)
	}
	for _, name := range []string{"localhost", "192.0.2.1", "", "*.shop.example"} {
		if _, err := w.store.GetCertificate(&tls.ClientHelloInfo{ServerName: name}); !errors.Is(err, certstore.ErrNoName) {
			t.Errorf("%q: %v", name, err)
		}
	}
	if w.apiCalls.Load() != 3 {
		t.Errorf("the API was asked %d times, want once for each unknown name", w.apiCalls.Load())
	}
}

// TestChangesArrive: whatever changes is served within a moment, without anybody asking the sources on purpose.
func TestChangesArrive(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	w.register("a.example", "*.shop.example")
	w.published()
	w.followed(true)
	served := func(name string, differs string) (serial string) {
		t.Helper()
		eventually(t, func() (err error) {
			if serial, err = w.handshake(name); err == nil && serial == differs {
				err = fmt.Errorf("%s: still the old certificate", name)
			}
			return err
		})
		return serial
	}
	gone := func(name string) {
		t.Helper()
		eventually(t, func() error {
			if _, err := w.handshake(name); err == nil {
				return fmt.Errorf("%s is still served", name)
			}
			return nil
		})
	}
	old, oldWild := w.serves("a.example"), w.serves("x.shop.example")
	w.renew("a.example")
	served("a.example", old)
	w.renew("*.shop.example")
	served("x.shop.example", oldWild)
	// A name that was unknown, and one that a wildcard covered, get their own.
	w.unknown("new.example")
	w.register("new.example", "x.shop.example")
	served("new.example", "")
	served("x.shop.example", w.serves("y.shop.example"))
	if err := w.service.DeleteDomain(t.Context(), "t", "x.shop.example", 0); err != nil {
		t.Fatal(err)
	}
	served("x.shop.example", "none")
	// A wildcard that comes serves the names below it that were unknown.
	w.unknown("a.late.example")
	w.register("*.late.example")
	served("a.late.example", "")
	// Revoked and deleted.
	if err := w.service.DeleteCertificate(t.Context(), "t", "a.example", certrecord.ECDSA, 0); err != nil {
		t.Fatal(err)
	}
	gone("a.example")
	if err := w.service.DeleteDomain(t.Context(), "t", "*.shop.example", 0); err != nil {
		t.Fatal(err)
	}
	gone("x.shop.example")
	if _, err := w.service.PutDomain(t.Context(), "t", certs.Domain{Name: "new.example", Shop: "other"}, 0); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error {
		if d, err := w.domain("new.example"); err != nil || d.Shop != "other" {
			return fmt.Errorf("%+v %w", d, err)
		}
		return nil
	})
}

// TestOptionsAlone: a domain whose record has no certificate is served with the wildcard's.
func TestOptionsAlone(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	w.register("*.shop.example")
	for _, name := range []string{"own.shop.example", "other.example"} {
		if _, err := w.service.PutDomain(t.Context(), "t", certs.Domain{Name: name, Shop: "own", Options: certrecord.Options{Maintenance: true}}, 0); err != nil {
			t.Fatal(err)
		}
	}
	w.published()
	w.followed(true)
	w.serves("own.shop.example")
	if d, err := w.domain("own.shop.example"); err != nil || !d.Options.Maintenance || d.Shop != "own" {
		t.Errorf("got %+v %v", d, err)
	}
	if _, err := w.handshake("other.example"); err == nil {
		t.Error("a domain without any certificate is served")
	}
}

// TestKinds: who can do ECDSA gets it.
func TestKinds(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	w.register("a.example")
	key := certstest.RSAKey(t)
	if err := w.service.PutCertificate(t.Context(), "t", "a.example", "upload", 0, w.ca.Chain(t, w.ca.Issue(t, certstest.Template("a.example"), key)), certstest.KeyPEM(t, key)); err != nil {
		t.Fatal(err)
	}
	w.published()
	w.followed(true)
	for name, test := range map[string]struct {
		edit func(*tls.Config)
		rsa  bool
	}{
		"TLS 1.3": {func(*tls.Config) {}, false},
		"TLS 1.2": {func(c *tls.Config) { c.MaxVersion = tls.VersionTLS12 }, false},
		"RSA suites": {func(c *tls.Config) {
			c.MaxVersion, c.CipherSuites = tls.VersionTLS12, []uint16{tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256}
		}, true},
		"ECDSA suites": {func(c *tls.Config) {
			c.MaxVersion, c.CipherSuites = tls.VersionTLS12, []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256}
		}, false},
	} {
		var rsa bool
		if _, err := w.handshake("a.example", test.edit, func(c *tls.Config) {
			c.VerifyConnection = func(state tls.ConnectionState) error {
				rsa = state.PeerCertificates[0].PublicKeyAlgorithm.String() == "RSA"
				return nil
			}
		}); err != nil || rsa != test.rsa {
			t.Errorf("%s: RSA %v, %v", name, rsa, err)
		}
	}
	// What a client says about itself, without a handshake.
	for name, test := range map[string]struct {
		hello tls.ClientHelloInfo
		rsa   bool
	}{
		"says nothing":     {tls.ClientHelloInfo{}, true},
		"RSA schemes only": {tls.ClientHelloInfo{SignatureSchemes: []tls.SignatureScheme{tls.PSSWithSHA256}, SupportedVersions: []uint16{tls.VersionTLS13}}, true},
		"another curve": {tls.ClientHelloInfo{SignatureSchemes: []tls.SignatureScheme{tls.ECDSAWithP256AndSHA256}, SupportedVersions: []uint16{tls.VersionTLS12},
			SupportedCurves: []tls.CurveID{tls.CurveP521}, CipherSuites: []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256}}, true},
	} {
		test.hello.ServerName = "a.example"
		certificate, err := w.store.GetCertificate(&test.hello)
		if err != nil {
			t.Fatal(err)
		}
		_, rsa := certificate.PrivateKey.(interface{ Size() int })
		if rsa != test.rsa {
			t.Errorf("%s: RSA %v", name, rsa)
		}
	}
}

// TestOnce: many handshakes for a name that is not in memory cost one call, and each has its own deadline.
func TestOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	w.register("a.example")
	w.published()
	w.followed(true)
	w.redisWay.set(t, hangs)
	var group sync.WaitGroup
	for range 100 {
		group.Go(func() {
			if _, err := w.domain("a.example"); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	if n := w.apiCalls.Load(); n != 1 {
		t.Errorf("the API was asked %d times", n)
	}
	w.store.Forget()
	w.apiWay.set(t, hangs)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if _, err := w.store.Domain(ctx, "a.example", netip.Addr{}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}

// TestScanner: a network that asks for many unknown names is refused without calls, others are not.
func TestScanner(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(c *certstore.Config) { c.UnknownPerHour = 20 })
	w.register("a.example", "b.example")
	w.published()
	w.followed(true)
	w.serves("a.example")
	scanner, other := netip.MustParseAddr("198.51.100.7"), netip.MustParseAddr("203.0.113.9")
	for i := range 1000 {
		if _, err := w.store.Domain(t.Context(), fmt.Sprintf("x%d.example", i), scanner); i < 20 && !errors.Is(err, certstore.ErrUnknown) || i >= 20 && !errors.Is(err, certstore.ErrRefused) {
			t.Fatal(i, err)
		}
	}
	if n := w.apiCalls.Load(); n != 20 {
		t.Errorf("the API was asked %d times, want 20", n)
	}
	if _, err := w.store.Domain(t.Context(), "b.example", scanner); !errors.Is(err, certstore.ErrRefused) {
		t.Errorf("the scanner is asked for: %v", err)
	}
	for _, name := range []string{"a.example", "b.example"} {
		if _, err := w.store.Domain(t.Context(), name, other); err != nil {
			t.Errorf("%s for others: %v", name, err)
		}
	}
	if _, err := w.store.Domain(t.Context(), "a.example", scanner); err != nil {
		t.Errorf("what is in memory, for the scanner: %v", err)
	}
	// The same unknown name again costs nothing, whoever asks.
	before := w.apiCalls.Load()
	for range 10 {
		_, _ = w.store.Domain(t.Context(), "y.example", other)
	}
	if n := w.apiCalls.Load() - before; n != 1 {
		t.Errorf("an unknown name is asked for %d times", n)
	}
}

// TestManyNetworks: beyond the rate of calls the rest is refused, and remembered by nobody.
func TestManyNetworks(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(c *certstore.Config) { c.CallsPerSecond = 5 })
	w.register("a.example")
	w.published()
	w.followed(true)
	busy := 0
	for i := range 300 {
		_, err := w.store.Domain(t.Context(), fmt.Sprintf("x%d.example", i), netip.AddrFrom4([4]byte{10, byte(i), byte(i * 7), 1}))
		if errors.Is(err, certstore.ErrBusy) {
			busy++
		}
	}
	if n := w.apiCalls.Load(); n > 30 || busy < 200 {
		t.Errorf("the API was asked %d times, %d were refused", n, busy)
	}
	eventually(t, func() error { _, err := w.domain("a.example"); return err })
}

// TestMemoryIsBounded: more domains than fit, all of which are served, in any order.
func TestMemoryIsBounded(t *testing.T) {
	t.Parallel()
	const domains, limit = 400, 200 << 10
	w := newWorld(t, func(c *certstore.Config) { c.MaxBytes = limit })
	var names []string
	for i := range domains {
		names = append(names, fmt.Sprintf("d%d.example", i))
	}
	w.register(names...)
	w.published()
	w.followed(true)
	for round := range 3 {
		for _, name := range names {
			if d, err := w.domain(name); err != nil || d.Name != name {
				t.Fatalf("round %d: %+v %v", round, d, err)
			}
			if _, bytes := w.store.Size(); bytes > limit {
				t.Fatalf("%d bytes, more than %d", bytes, limit)
			}
		}
	}
	if entries, bytes := w.store.Size(); entries < 20 || bytes < limit/2 {
		t.Errorf("%d domains of %d bytes: less than fit", entries, bytes)
	}
}

// TestResumption: a session of one proxy goes on at another.
func TestResumption(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	w.register("a.example")
	w.published()
	var servers []*tls.Config
	for range 2 {
		config := &tls.Config{GetCertificate: w.store.GetCertificate, MinVersion: tls.VersionTLS12}
		if err := w.store.TicketKeys(t.Context(), config); err != nil {
			t.Fatal(err)
		}
		servers = append(servers, config)
	}
	cache := tls.NewLRUClientSessionCache(1)
	for i, server := range servers {
		listener, err := tls.Listen("tcp", "127.0.0.1:0", server)
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			if conn, err := listener.Accept(); err == nil {
				_, _ = conn.Write([]byte("x"))
				_ = conn.Close()
			}
		}()
		conn, err := tls.Dial("tcp", listener.Addr().String(), &tls.Config{ServerName: "a.example", RootCAs: w.ca.Pool(), ClientSessionCache: cache, MinVersion: tls.VersionTLS12})
		if err != nil {
			t.Fatal(err)
		}
		_, _ = conn.Read(make([]byte, 2)) // The ticket comes with the first bytes.
		if resumed := conn.ConnectionState().DidResume; resumed != (i == 1) {
			t.Errorf("server %d: resumed %v", i, resumed)
		}
		_ = conn.Close()
		_ = listener.Close()
	}
}

// TestRefresh: near its end a certificate is asked for anew, even when nobody told of the change.
func TestRefresh(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	var ahead time.Duration
	w := newWorld(t, func(c *certstore.Config) {
		c.Now = func() time.Time { mu.Lock(); defer mu.Unlock(); return time.Now().Add(ahead) }
	})
	w.register("a.example")
	w.published()
	w.followed(true)
	old := w.serves("a.example")
	// The change is published, but nobody hears of it: the stream says nothing.
	w.redisWay.set(t, refuses)
	w.apiWay.set(t, refuses)
	w.followed(false)
	w.renew("a.example")
	w.published()
	lie := http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) { rw.WriteHeader(500) })
	w.lies.Store(&lie)
	mu.Lock()
	ahead = 85 * 24 * time.Hour
	mu.Unlock()
	if again := w.serves("a.example"); again != old {
		t.Error("it was not in memory")
	}
	w.redisWay.set(t, works)
	eventually(t, func() error {
		if w.serves("a.example") == old {
			return errors.New("still the old one")
		}
		return nil
	})
}

func TestNew(t *testing.T) {
	if _, err := certstore.New(certstore.Config{}); err == nil || !strings.Contains(err.Error(), "wants a keyring") {
		t.Errorf("got %v", err)
	}
}
