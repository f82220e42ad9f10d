package proxy

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/netip"
	"net/textproto"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/shopset/shopset/internal/admin"
)

// patience bounds every wait of a test that should end at once.
const testPatience = 20 * time.Second

func init() { sharedTimeout = 2 * time.Second }

// edge is a real proxy on real ports.
type edge struct {
	*Proxy
	t        *testing.T
	admin    *admin.Server
	https    string
	http     string
	certFile string
	keyFile  string
	log      *lockedBuffer
	served   chan error
}

type lockedBuffer struct {
	mu sync.Mutex
	bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.Buffer.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.Buffer.String()
}

// start runs a proxy; more is YAML that is added to the ports.
func start(t *testing.T, more string) *edge {
	t.Helper()
	directory := t.TempDir()
	e := &edge{t: t, admin: admin.New(), log: &lockedBuffer{}, served: make(chan error, 1),
		certFile: filepath.Join(directory, "tls.crt"), keyFile: filepath.Join(directory, "tls.key")}
	writeCertificate(t, e.certFile, e.keyFile, "first.example")
	if !strings.Contains(more, "\nhttp:") {
		more += "\nhttp: {address: \"127.0.0.1:0\", mode: serve}\n"
	}
	config := DefaultConfig()
	config.Shutdown.Delay, config.Startup.Wait = 0, 0
	text := fmt.Sprintf("https: {address: \"127.0.0.1:0\", certificate: %q, key: %q, reload: 5ms}\n%s\n", e.certFile, e.keyFile, more)
	if err := admin.ParseConfig("test.yaml", []byte(text), config); err != nil {
		t.Fatal(err)
	}
	proxy, err := New(config, e.admin, e.log)
	if err != nil {
		t.Fatal(err)
	}
	e.Proxy = proxy
	e.https = "https://" + proxy.Addresses()[0].String()
	e.http = "http://" + proxy.Addresses()[1].String()
	go func() { e.served <- proxy.Serve() }()
	t.Cleanup(func() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel() // whatever a test left under way is cut
		proxy.Shutdown(ctx)
		if err := <-e.served; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	return e
}

// toShop is the YAML of a proxy with one role.
func toShop(url string, more ...string) string {
	return fmt.Sprintf("roles:\n  shop: {url: %q%s}\nroutes:\n- {prefix: /, role: shop}\n", url, strings.Join(append([]string{""}, more...), ", "))
}

func origin(t *testing.T, handler http.HandlerFunc) *httptest.Server {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	return server
}

// client speaks HTTP/1.1 or HTTP/2 and believes every certificate.
func client(t *testing.T, h2 bool) *http.Client {
	t.Helper()
	transport := &http.Transport{
		TLSClientConfig:   &tls.Config{InsecureSkipVerify: true},
		ForceAttemptHTTP2: h2, DisableCompression: true,
	}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: testPatience,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

func do(t *testing.T, c *http.Client, request *http.Request) (int, string, http.Header) {
	t.Helper()
	response, err := c.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, string(body), response.Header
}

func newRequest(t *testing.T, method, url string, body io.Reader) *http.Request {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, url, body)
	if err != nil {
		t.Fatal(err)
	}
	return request
}

// raw opens a connection and writes text to it.
func raw(t *testing.T, address, text string) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(address, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(testPatience))
	if _, err := io.WriteString(conn, text); err != nil {
		t.Fatal(err)
	}
	return conn
}

// eventually waits until what holds becomes true.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	end := time.Now().Add(testPatience)
	for !holds() {
		if time.Now().After(end) {
			t.Fatalf("not within %s: %s", testPatience, what)
		}
		<-time.After(time.Millisecond)
	}
}

// metric returns the value of one line of /metrics, like `name{label="x"}`, "" when it is missing.
func (e *edge) metric(line string) string {
	recorder := httptest.NewRecorder()
	e.admin.ServeHTTP(recorder, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	for text := range strings.Lines(recorder.Body.String()) {
		if value, ok := strings.CutPrefix(text, line+" "); ok {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// page asks the admin port.
func (e *edge) page(method, path string) string {
	recorder := httptest.NewRecorder()
	e.admin.ServeHTTP(recorder, httptest.NewRequest(method, path, nil))
	return strings.TrimSpace(recorder.Body.String())
}

func writeCertificate(t *testing.T, certFile, keyFile, name string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for file, block := range map[string]*pem.Block{
		certFile: {Type: "CERTIFICATE", Bytes: der}, keyFile: {Type: "PRIVATE KEY", Bytes: keyDER},
	} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// withHints counts answers of 103.
func withHints(t *testing.T, count *int) context.Context {
	return httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{Got1xxResponse: func(code int, _ textproto.MIMEHeader) error {
		if code == http.StatusEarlyHints {
			*count++
		}
		return nil
	}})
}

// addressed is a connection that seems to come from an address.
type addressed struct{ net.Conn }

func (addressed) RemoteAddr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 1} }

// everybody is a network that holds all addresses of IPv4.
var everybody = trust{Network{netip.MustParsePrefix("0.0.0.0/0")}}

func pemOf(certificate *x509.Certificate) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate.Raw}))
}

func newTestRegistry() *prometheus.Registry { return prometheus.NewRegistry() }

// wantMetric waits for a value: metrics are counted when an exchange is over, which is after its client has the answer.
func (e *edge) wantMetric(line, want string) {
	e.t.Helper()
	eventually(e.t, line+" is "+want, func() bool { return e.metric(line) == want })
}
