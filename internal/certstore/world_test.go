package certstore_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/rueidis"

	"github.com/shopset/shopset/internal/certrecord"
	"github.com/shopset/shopset/internal/certs"
	"github.com/shopset/shopset/internal/certs/certstest"
	"github.com/shopset/shopset/internal/certs/storage/sqlite"
	"github.com/shopset/shopset/internal/certstore"
	"github.com/shopset/shopset/internal/testservers"
)

func TestMain(m *testing.M) {
	slog.SetDefault(slog.New(slog.DiscardHandler)) // Failing sources are what is tested.
	os.Exit(m.Run())
}

// world is a real Redis and a real API, each behind a way that can fail, and the store of a proxy.
type world struct {
	t         testing.TB
	ca        *certstest.Authority
	keys      *certrecord.Keyring
	redis     *testservers.Server
	direct    rueidis.Client
	service   *certs.Service
	publisher *certs.Publisher
	// redisWay and apiWay are how the store reaches them.
	redisWay, apiWay *way
	apiCalls         atomic.Int64
	// lies is what the API answers instead, if anything.
	lies  atomic.Pointer[http.HandlerFunc]
	store *certstore.Store
}

const token = "token"

func options(address string) rueidis.ClientOption {
	return rueidis.ClientOption{InitAddress: []string{address}, DisableCache: true, Dialer: net.Dialer{Timeout: 300 * time.Millisecond},
		ConnWriteTimeout: 300 * time.Millisecond, DisableRetry: true}
}

func redisAt(t testing.TB, address string) *certrecord.Redis {
	t.Helper()
	r := certrecord.NewRedis(options(address))
	t.Cleanup(r.Close)
	return r
}

func newWorld(t testing.TB, edit func(*certstore.Config)) *world {
	t.Helper()
	keys, err := certrecord.NewKeyring(bytes.Repeat([]byte{1}, 32))
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, ca: certstest.New(t), keys: keys, redis: testservers.NewRedis(t)}
	if w.direct, err = rueidis.NewClient(options(w.redis.Address())); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.direct.Close)
	db, err := sqlite.Open(t.Context(), filepath.Join(t.TempDir(), "db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	w.service = certs.NewService(db, keys, slog.New(slog.DiscardHandler))
	w.publisher = certs.NewPublisher(w.service, redisAt(t, w.redis.Address()))
	w.service.PublishTo(w.publisher)
	clients := filepath.Join(t.TempDir(), "clients")
	sum := sha256.Sum256([]byte(token))
	if err := os.WriteFile(clients, []byte("proxy reader token "+hex.EncodeToString(sum[:])), 0o600); err != nil {
		t.Fatal(err)
	}
	known, err := certs.ReadClients(clients)
	if err != nil {
		t.Fatal(err)
	}
	api := certs.NewAPI(w.service, known).Handler()
	server := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/v1/records/") {
			w.apiCalls.Add(1)
			if lie := w.lies.Load(); lie != nil {
				(*lie)(rw, r)
				return
			}
		}
		api.ServeHTTP(rw, r)
	}))
	t.Cleanup(server.Close)
	w.redisWay, w.apiWay = newWay(t, w.redis.Address()), newWay(t, server.Listener.Addr().String())
	config := certstore.Config{Redis: redisAt(t, w.redisWay.address), Keys: keys, RedisTimeout: 100 * time.Millisecond, APITimeout: 300 * time.Millisecond,
		API: &certstore.API{URL: "http://" + w.apiWay.address, Token: token, Client: &http.Client{Transport: &http.Transport{}}}}
	if edit != nil {
		edit(&config)
	}
	if w.store, err = certstore.New(config); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	var group sync.WaitGroup
	group.Go(func() { w.publisher.Run(ctx) })
	go w.store.Run(ctx) // It ends a moment later: Redis is waited for.
	t.Cleanup(func() { cancel(); group.Wait() })
	return w
}

// register puts a domain with a certificate for it.
func (w *world) register(names ...string) {
	w.t.Helper()
	for _, name := range names {
		if _, err := w.service.PutDomain(w.t.Context(), "t", certs.Domain{Name: name, Shop: "shop-of-" + strings.TrimPrefix(name, "*.")}, 0); err != nil {
			w.t.Fatal(err)
		}
		w.renew(name)
	}
}

// renew gives a domain a new certificate.
func (w *world) renew(name string) {
	w.t.Helper()
	chain, key := w.ca.Pair(w.t, name)
	if err := w.service.PutCertificate(w.t.Context(), "t", name, "upload", 0, chain, key); err != nil {
		w.t.Fatal(err)
	}
}

// published waits until Redis has everything.
func (w *world) published() {
	w.t.Helper()
	eventually(w.t, func() error {
		if lag, err := w.publisher.Lag(w.t.Context()); lag > 0 || err != nil {
			return fmt.Errorf("redis lags by %d: %w", lag, err)
		}
		return nil
	})
}

// followed waits until the store follows changes.
func (w *world) followed(want bool) {
	w.t.Helper()
	eventually(w.t, func() error {
		if w.store.Followed() != want {
			return fmt.Errorf("changes are followed: %v", !want)
		}
		return nil
	})
}

func eventually(t testing.TB, check func() error) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// handshake does a real one and returns the serial of the certificate, which must be valid for the name.
func (w *world) handshake(name string, edit ...func(*tls.Config)) (serial string, err error) {
	here, there := net.Pipe()
	defer here.Close()
	defer there.Close()
	deadline := time.Now().Add(5 * time.Second)
	_ = here.SetDeadline(deadline)
	_ = there.SetDeadline(deadline)
	go func() {
		server := tls.Server(there, &tls.Config{GetCertificate: w.store.GetCertificate, MinVersion: tls.VersionTLS12})
		_ = server.Handshake() // The client tells.
		_ = there.Close()
	}()
	config := &tls.Config{ServerName: name, RootCAs: w.ca.Pool(), MinVersion: tls.VersionTLS12}
	for _, e := range edit {
		e(config)
	}
	conn := tls.Client(here, config)
	if err := conn.HandshakeContext(context.Background()); err != nil {
		return "", err
	}
	return conn.ConnectionState().PeerCertificates[0].SerialNumber.Text(16), nil
}

// serves wants a handshake to succeed.
func (w *world) serves(name string) (serial string) {
	w.t.Helper()
	serial, err := w.handshake(name)
	if err != nil {
		w.t.Errorf("%s: %v", name, err)
	}
	return serial
}

// unknown wants the store to know no such domain.
func (w *world) unknown(name string) {
	w.t.Helper()
	if _, err := w.domain(name); err != certstore.ErrUnknown { //nolint:errorlint // It is documented to be this one.
		w.t.Errorf("%s: %v, want that it is unknown", name, err)
	}
}

func (w *world) domain(name string) (*certstore.Domain, error) {
	return w.store.Domain(w.t.Context(), name, netip.MustParseAddr("192.0.2.1"))
}
