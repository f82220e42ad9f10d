package router

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/shopset/shopset/internal/admin"
	"github.com/shopset/shopset/internal/routetable"
)

const patience = 20 * time.Second

func TestMain(m *testing.M) {
	if len(os.Args) == 3 && os.Args[1] == "hanging-endpoint" {
		hangingEndpoint(os.Args[2])
		return
	}
	slog.SetDefault(slog.New(slog.DiscardHandler))
	os.Exit(m.Run())
}

// eachEngine runs a test with every engine there is.
func eachEngine(t *testing.T, test func(t *testing.T, engine string)) {
	engines := []string{EnginePlain}
	if defaultEngine != EnginePlain {
		engines = append(engines, defaultEngine)
	}
	for _, engine := range engines {
		t.Run(engine, func(t *testing.T) { test(t, engine) })
	}
}

func eventually(t *testing.T, what string, check func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !check(); {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", patience, what)
		}
		<-time.After(2 * time.Millisecond)
	}
}

// backend is an endpoint of a cell: what it does with a connection is up to the test. Probes are answered, unless deaf.
type backend struct {
	listener net.Listener
	address  netip.AddrPort
	serve    func(conn net.Conn, first *proxied)
	mu       sync.Mutex
	seen     int
}

// proxied is what a connection began with.
type proxied struct {
	client, called netip.AddrPort
	rest           []byte // what came with the header
}

func newBackend(t *testing.T, serve func(conn net.Conn, first *proxied)) *backend {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b := &backend{listener: l, address: l.Addr().(*net.TCPAddr).AddrPort(), serve: serve}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go b.handle(conn)
		}
	}()
	return b
}

func (b *backend) handle(conn net.Conn) {
	defer conn.Close()
	buffer := make([]byte, 0, 70<<10)
	first := &proxied{}
	for {
		n, err := conn.Read(buffer[len(buffer):cap(buffer)])
		if err != nil {
			return
		}
		buffer = buffer[:len(buffer)+n]
		length, client, called, err := proxyHeader(buffer)
		if err != nil {
			return
		}
		if length == 0 {
			continue
		}
		first.client, first.called, first.rest = client, called, buffer[length:]
		break
	}
	if !first.client.IsValid() { // A probe.
		_, _ = conn.Write([]byte("HTTP/1.1 200 OK\r\n\r\n"))
		return
	}
	b.mu.Lock()
	b.seen++
	b.mu.Unlock()
	b.serve(conn, first)
}

func (b *backend) count() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.seen
}

// say answers with a name, then sends back what comes, and ends when the client does.
func say(name string) func(net.Conn, *proxied) {
	return func(conn net.Conn, first *proxied) {
		fmt.Fprintf(conn, "%s %s\n", name, first.client)
		_, _ = io.Copy(conn, conn)
	}
}

// fleet is a signed table in a file, and who signs it.
type fleet struct {
	t       *testing.T
	table   routetable.Table
	private ed25519.PrivateKey
	file    string
	keys    string
}

func newFleet(t *testing.T, cells map[string][]*backend) *fleet {
	t.Helper()
	folder := t.TempDir()
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	keys, err := routetable.MarshalPublicKeys(public)
	if err != nil {
		t.Fatal(err)
	}
	f := &fleet{t: t, private: private, file: filepath.Join(folder, "table"), keys: filepath.Join(folder, "keys.pem")}
	if err := os.WriteFile(f.keys, keys, 0o600); err != nil {
		t.Fatal(err)
	}
	f.table = routetable.Table{Format: routetable.Format, Fleet: "shops/test", Epoch: 1, Created: time.Now(), MaxFailover: 60}
	for name, backends := range cells {
		cell := routetable.Cell{Name: name, State: routetable.Active, Weight: 100}
		for _, b := range backends {
			cell.Endpoints.HTTPS = append(cell.Endpoints.HTTPS, b.address)
			cell.Endpoints.HTTP = append(cell.Endpoints.HTTP, b.address)
		}
		f.table.Cells = append(f.table.Cells, cell)
	}
	f.table = *f.table.Canonical()
	f.publish()
	return f
}

// envelope signs the table as it is.
func (f *fleet) envelope() []byte {
	f.t.Helper()
	envelope, err := routetable.Sign(&f.table, f.private)
	if err != nil {
		f.t.Fatal(err)
	}
	return envelope
}

// publish writes the next version.
func (f *fleet) publish() {
	f.t.Helper()
	f.table.Version++
	f.write(f.envelope())
}

func (f *fleet) write(envelope []byte) {
	f.t.Helper()
	if err := os.WriteFile(f.file+".tmp", envelope, 0o600); err != nil {
		f.t.Fatal(err)
	}
	if err := os.Rename(f.file+".tmp", f.file); err != nil {
		f.t.Fatal(err)
	}
}

func (f *fleet) cell(name string) *routetable.Cell {
	for i := range f.table.Cells {
		if f.table.Cells[i].Name == name {
			return &f.table.Cells[i]
		}
	}
	f.t.Fatalf("no cell %s", name)
	return nil
}

// host returns one whose list of cells begins with the given ones.
func (f *fleet) host(order ...string) string {
	f.t.Helper()
	function, err := f.table.Function()
	if err != nil {
		f.t.Fatal(err)
	}
	for i := range 100000 {
		host := fmt.Sprintf("shop-%d.example", i)
		list := function.Place(host, nil)
		fits := len(list) >= len(order)
		for j := 0; fits && j < len(order); j++ {
			fits = f.table.Cells[list[j]].Name == order[j]
		}
		if fits {
			return host
		}
	}
	f.t.Fatalf("no host for %v", order)
	return ""
}

// testRouter is a Router under test.
type testRouter struct {
	*Router
	t      *testing.T
	server *admin.Server
}

func startRouter(t *testing.T, f *fleet, engine string, change func(*Config)) *testRouter {
	t.Helper()
	config := DefaultConfig()
	config.TLS, config.HTTP = &Port{Address: "127.0.0.1:0"}, &Port{Address: "127.0.0.1:0"}
	config.Table.File, config.Table.PublicKeys = f.file, f.keys
	config.Engine, config.Loops = engine, 2
	config.Shutdown = Shutdown{Delay: time.Millisecond, Grace: 10 * time.Second}
	config.Health.Interval = 50 * time.Millisecond
	// On a machine that is busy with other things an endpoint may be slow: only tests of that shall notice.
	config.Health.Timeout, config.Dial.Timeout, config.Dial.AnswerTimeout = patience, patience, patience
	if change != nil {
		change(config)
	}
	if problems := config.Problems(); len(problems) > 0 {
		t.Fatal(problems)
	}
	r := &testRouter{t: t, server: admin.New()}
	var err error
	if r.Router, err = New(config, r.server, nil); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	return r
}

func (r *testRouter) address(k kind) string { return r.Addresses[k].String() }

// metric is the sum of all series of a name whose labels have the text in them.
func (r *testRouter) metric(name, labels string) float64 {
	r.t.Helper()
	recorder := httptest.NewRecorder()
	r.server.ServeHTTP(recorder, httptest.NewRequest("GET", "/metrics", nil))
	sum := 0.0
	for line := range strings.Lines(recorder.Body.String()) {
		series, text, ok := strings.Cut(strings.TrimSpace(line), " ")
		if ok && (series == name || strings.HasPrefix(series, name+"{")) && strings.Contains(series, labels) {
			var value float64
			if _, err := fmt.Sscan(text, &value); err == nil {
				sum += value
			}
		}
	}
	return sum
}

func (r *testRouter) explain(host string) explanation {
	r.t.Helper()
	recorder := httptest.NewRecorder()
	r.server.ServeHTTP(recorder, httptest.NewRequest("GET", "/debug/route?host="+host, nil))
	var x explanation
	if err := json.Unmarshal(recorder.Body.Bytes(), &x); err != nil {
		r.t.Fatalf("%v: %s", err, recorder.Body)
	}
	return x
}

// state of a cell for a host, as /debug/route tells it.
func (r *testRouter) state(host, cell string) string {
	for _, c := range r.explain(host).Cells {
		if c.Name == cell {
			return c.State
		}
	}
	return ""
}

// connect opens a connection and sends the ClientHello of a host.
func (r *testRouter) connect(host string) *net.TCPConn {
	r.t.Helper()
	conn, err := net.Dial("tcp", r.address(kindTLS))
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(patience))
	if _, err := conn.Write(hello(r.t, &tls.Config{ServerName: host, InsecureSkipVerify: true})); err != nil {
		r.t.Fatal(err)
	}
	return conn.(*net.TCPConn)
}

// line reads up to the end of a line.
func line(t *testing.T, conn net.Conn) string {
	t.Helper()
	text, err := tryLine(conn)
	if err != nil {
		t.Fatalf("after %q: %v", text, err)
	}
	return text
}

func tryLine(conn net.Conn) (string, error) {
	var text bytes.Buffer
	one := make([]byte, 1)
	for {
		if _, err := io.ReadFull(conn, one); err != nil {
			return text.String(), err
		}
		if one[0] == '\n' {
			return text.String(), nil
		}
		text.WriteByte(one[0])
	}
}

// served is the cell that answers a host now, and the client that it was told.
func (r *testRouter) served(host string) (cell, client string) {
	r.t.Helper()
	conn := r.connect(host)
	defer conn.Close()
	cell, client, _ = strings.Cut(line(r.t, conn), " ")
	if client != conn.LocalAddr().String() {
		r.t.Fatalf("the cell was told the client %s instead of %s", client, conn.LocalAddr())
	}
	return cell, client
}
