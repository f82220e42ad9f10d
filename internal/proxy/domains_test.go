package proxy

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/rueidis"

	"github.com/shopset/shopset/internal/certrecord"
	"github.com/shopset/shopset/internal/certs"
	"github.com/shopset/shopset/internal/certs/certstest"
	"github.com/shopset/shopset/internal/certs/storage/sqlite"
	"github.com/shopset/shopset/internal/testservers"
)

// domains are a real certificate API and a real Redis that it publishes to.
type domains struct {
	t         *testing.T
	ca        *certstest.Authority
	service   *certs.Service
	publisher *certs.Publisher
	redis     *testservers.Server
	api       *httptest.Server
	// section is the YAML that leads a proxy there.
	section string
}

func newDomains(t *testing.T) *domains {
	t.Helper()
	folder := t.TempDir()
	write := func(name, content string) string {
		path := filepath.Join(folder, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	keyring := write("keys", base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{7}, 32)))
	keys, err := certrecord.ReadKeyring(keyring)
	if err != nil {
		t.Fatal(err)
	}
	db, err := sqlite.Open(t.Context(), filepath.Join(folder, "db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	d := &domains{t: t, ca: certstest.New(t), redis: testservers.NewRedis(t), service: certs.NewService(db, keys, slog.New(slog.DiscardHandler))}
	client := certrecord.NewRedis(rueidis.ClientOption{InitAddress: []string{d.redis.Address()}, DisableCache: true})
	t.Cleanup(client.Close)
	d.publisher = certs.NewPublisher(d.service, client)
	d.service.PublishTo(d.publisher)
	sum := sha256.Sum256([]byte("token"))
	clients, err := certs.ReadClients(write("clients", "proxy reader token "+hex.EncodeToString(sum[:])))
	if err != nil {
		t.Fatal(err)
	}
	d.api = httptest.NewServer(certs.NewAPI(d.service, clients).Handler())
	t.Cleanup(d.api.Close)
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	var group sync.WaitGroup
	group.Go(func() { d.publisher.Run(ctx) })
	t.Cleanup(func() { cancel(); group.Wait() })
	d.section = fmt.Sprintf("certificates:\n  keyring: %s\n  redis: {addresses: [%q]}\n  api: {url: %q, tokenFile: %s}\n",
		keyring, d.redis.Address(), d.api.URL, write("token", "token\n"))
	return d
}

func (d *domains) put(domain certs.Domain) {
	d.t.Helper()
	if _, err := d.service.PutDomain(d.t.Context(), "test", domain, 0); err != nil {
		d.t.Fatal(err)
	}
}

func (d *domains) certify(name string) {
	d.t.Helper()
	chain, key := d.ca.Pair(d.t, name)
	if err := d.service.PutCertificate(d.t.Context(), "test", name, "upload", 0, chain, key); err != nil {
		d.t.Fatal(err)
	}
}

// visitor is a client that finds every host at the proxy and trusts the authority of the domains.
func (d *domains) visitor(e *edge) *http.Client {
	transport := &http.Transport{ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{RootCAs: d.ca.Pool(), ClientSessionCache: tls.NewLRUClientSessionCache(8)},
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, network, e.Addresses()[0].String())
		}}
	d.t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: testPatience}
}

// TestDomains: certificates and options come from the certificate API by way of Redis, and change within a moment.
func TestDomains(t *testing.T) {
	d := newDomains(t)
	d.put(certs.Domain{Name: "shoes.example", Shop: "shoes", Labels: map[string]string{"language": "de"}})
	d.certify("shoes.example")
	e := start(t, d.section+fmt.Sprintf(`
trustedProxies: [127.0.0.1]
roles:
  shop: {url: %q, requestHeaders: [{set: x-shop, to: "${shop} ${plan} ${label:language}"}]}
routes: [{prefix: /, role: shop}]
`, origin(t, mirror).URL))
	visitor := d.visitor(e)
	visit := func(from string) (int, string, error) {
		request := newRequest(t, http.MethodGet, "https://shoes.example/", nil)
		request.Header.Set("X-Forwarded-For", from)
		response, err := visitor.Do(request)
		if err != nil {
			return 0, "", err
		}
		defer response.Body.Close()
		body, err := io.ReadAll(response.Body)
		return response.StatusCode, string(body), err
	}
	status, body, err := visit("")
	if err != nil || status != http.StatusOK || !strings.Contains(body, `"X-Shop":["shoes  de"]`) {
		t.Fatalf("%d %s %v", status, body, err)
	}
	if response, err := visitor.Get("https://nobody.example/"); err == nil {
		response.Body.Close()
		t.Error("an unknown name got a certificate that covers it")
	}
	wait := func(what string, want int, from string) {
		t.Helper()
		eventually(t, what, func() bool { status, _, err := visit(from); return err == nil && status == want })
	}
	d.put(certs.Domain{Name: "shoes.example", Shop: "shoes", Options: certrecord.Options{Maintenance: true, Allow: []string{"192.0.2.0/24"}}})
	wait("the shop is being worked on", http.StatusServiceUnavailable, "198.51.100.1")
	wait("who works on it sees it", http.StatusOK, "192.0.2.1")
	explained := func(client, want string) {
		t.Helper()
		if page := e.page(http.MethodGet, "/debug/routes?url=https://shoes.example/&client="+client); !strings.Contains(page, want+"\n") {
			t.Errorf("no %q for %s in\n%s", want, client, page)
		}
	}
	explained("198.51.100.1", "maintenance: refuses with 503")
	explained("192.0.2.1", "maintenance: lets it pass")
	d.put(certs.Domain{Name: "shoes.example", Shop: "shoes", Options: certrecord.Options{Allow: []string{"192.0.2.0/24"}}})
	wait("only some may come", http.StatusForbidden, "198.51.100.1")
	wait("and these do", http.StatusOK, "192.0.2.1")
	explained("198.51.100.1", "domain: its allow-list refuses with 403")
	explained("192.0.2.1", "domain: its allow-list lets it pass")
	d.put(certs.Domain{Name: "shoes.example", Shop: "shoes", Options: certrecord.Options{Upstream: "http://127.0.0.1:1"}})
	wait("a record cannot lead into this network", http.StatusBadGateway, "198.51.100.1")
	eventually(t, "the log says why", func() bool { return strings.Contains(e.log.String(), "127.0.0.1 is no address of the internet") })
	d.put(certs.Domain{Name: "shoes.example", Shop: "shoes"})
	wait("all is as it was", http.StatusOK, "198.51.100.1")
	// Both sources are away: whoever is known is served.
	d.redis.Down(t)
	d.api.Close()
	d.visitor(e).CloseIdleConnections()
	visitor = d.visitor(e)
	wait("the shop is served without Redis and the API", http.StatusOK, "198.51.100.1")
}

// TestUnknownHosts are served, or refused if the configuration says so.
func TestUnknownHosts(t *testing.T) {
	d := newDomains(t)
	shop := toShop(origin(t, echo("shop")).URL)
	for more, want := range map[string]int{"": http.StatusOK, "  unknownHosts: refuse\n": http.StatusMisdirectedRequest} {
		e := start(t, d.section+more+shop)
		request := newRequest(t, http.MethodGet, e.https+"/", nil)
		request.Host = "nobody.example"
		c := client(t, false)
		c.Transport.(*http.Transport).TLSClientConfig.ServerName = "first.example" // The certificate in the files.
		if status, body, _ := do(t, c, request); status != want {
			t.Errorf("%q: %d %s, want %d", more, status, body, want)
		}
	}
}

// TestWithoutRecord: when nobody can say what a host's record is, it is served or refused, as was said, and that is counted.
func TestWithoutRecord(t *testing.T) {
	for then, want := range map[string]int{HostsServe: http.StatusOK, HostsRefuse: http.StatusServiceUnavailable} {
		d := newDomains(t)
		d.put(certs.Domain{Name: "shoes.example", Shop: "shoes", Options: certrecord.Options{Maintenance: true}})
		e := start(t, d.section+"  withoutRecord: "+then+"\n"+toShop(origin(t, echo("shop")).URL))
		d.redis.Down(t)
		d.api.Close()
		status, body, header := ask(t, e, "/", func(r *http.Request) { r.Host = "shoes.example" })
		if status != want || (header.Get("Retry-After") != "") != (want == http.StatusServiceUnavailable) {
			t.Errorf("%s: %d %s %v, want %d", then, status, body, header, want)
		}
		e.wantMetric(`shopset_proxy_without_record_total{then="`+then+`"}`, "1")
	}
}

// TestChallenges: an ACME authority gets its answer on the plain port, also while Redis is away; what is no challenge goes
// to the shop.
func TestChallenges(t *testing.T) {
	d := newDomains(t)
	e := start(t, d.section+toShop(origin(t, echo("shop")).URL))
	ask := func(token string) (int, string) {
		request := newRequest(t, http.MethodGet, e.http+"/.well-known/acme-challenge/"+token, nil)
		request.Host = "new.example"
		status, body, _ := do(t, client(t, false), request)
		return status, body
	}
	if err := d.service.PutChallenge(t.Context(), "token-1", "token-1.thumb"); err != nil {
		t.Fatal(err)
	}
	if status, body := ask("token-1"); status != http.StatusOK || body != "token-1.thumb" {
		t.Errorf("%d %q", status, body)
	}
	if status, body := ask("token-2"); status != http.StatusOK || !strings.Contains(body, "shop") {
		t.Errorf("%d %q", status, body)
	}
	d.redis.Down(t)
	if err := d.service.PutChallenge(t.Context(), "token-3", "token-3.thumb"); err != nil {
		t.Fatal(err)
	}
	if status, body := ask("token-3"); status != http.StatusOK || body != "token-3.thumb" {
		t.Errorf("without Redis: %d %q", status, body)
	}
	if err := d.service.PutChallenge(t.Context(), "token-4", "not its own"); err != nil {
		t.Fatal(err)
	}
	if _, body := ask("token-4"); strings.Contains(body, "not its own") {
		t.Errorf("an answer that is none for its token: %q", body)
	}
}

// TestResumptionAcrossProxies: a session of one replica goes on at another.
func TestResumptionAcrossProxies(t *testing.T) {
	d := newDomains(t)
	d.put(certs.Domain{Name: "shoes.example", Shop: "shoes"})
	d.certify("shoes.example")
	shop := toShop(origin(t, echo("shop")).URL)
	one, two := start(t, d.section+shop), start(t, d.section+shop)
	sessions := tls.NewLRUClientSessionCache(1)
	connect := func(e *edge) bool {
		conn, err := tls.Dial("tcp", e.Addresses()[0].String(), &tls.Config{ServerName: "shoes.example", RootCAs: d.ca.Pool(), ClientSessionCache: sessions})
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(testPatience))
		fmt.Fprintf(conn, "GET / HTTP/1.1\r\nHost: shoes.example\r\nConnection: close\r\n\r\n")
		if _, err := io.ReadAll(conn); err != nil { // The ticket comes before the answer.
			t.Fatal(err)
		}
		return conn.ConnectionState().DidResume
	}
	if connect(one) || !connect(two) {
		t.Error("the session of one proxy did not go on at the other")
	}
}
