package proxy

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/pires/go-proxyproto"

	"github.com/shopset/shopset/internal/proxy/framing"
)

// front is one traffic port. Connections are accepted here; after TLS they go to one of two servers by their protocol,
// so that the bytes of HTTP/1.1 can be checked on their way.
type front struct {
	name       string
	listener   net.Listener
	tls        *tls.Config // nil without TLS
	handshake  time.Duration
	behind     trust // who must begin with a PROXY header
	one, two   *http.Server
	oneQ, twoQ *queue
	// shaking are handshakes under way.
	shaking sync.WaitGroup
}

func (p *Proxy) newFront(name, address string, secure *tls.Config, behind []Network, redirectPort int) (*front, error) {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("%s port: %w", name, err)
	}
	limits := p.config.Limits
	f := &front{name: name, listener: countingListener{listener, &p.connections, behind}, tls: secure, handshake: limits.HeaderTimeout, behind: behind}
	server := func() *http.Server {
		return &http.Server{
			Handler:           http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { p.current.Load().serve(w, r, redirectPort) }),
			ReadHeaderTimeout: limits.HeaderTimeout,
			IdleTimeout:       limits.IdleTimeout,
			MaxHeaderBytes:    int(limits.HeaderBytes),
			ConnContext:       connContext,
			HTTP2: &http.HTTP2Config{
				MaxConcurrentStreams: limits.Streams,
				SendPingTimeout:      limits.IdleTimeout,
				PingTimeout:          limits.HeaderTimeout,
				WriteByteTimeout:     limits.StallTimeout,
			},
			// Every scanner of the internet causes these lines.
			ErrorLog: slog.NewLogLogger(slog.Default().With("port", name).Handler(), slog.LevelDebug),
		}
	}
	f.one, f.oneQ = server(), newQueue(listener.Addr())
	f.one.Protocols = &http.Protocols{}
	f.one.Protocols.SetHTTP1(true)
	if secure != nil {
		f.two, f.twoQ = server(), newQueue(listener.Addr())
		f.two.TLSConfig = secure
	}
	return f, nil
}

// serve accepts until the listener is closed, and serves until both servers are shut down.
func (f *front) serve() error {
	ended := make(chan error, 2)
	go func() { ended <- f.one.Serve(f.oneQ) }()
	servers := 1
	if f.two != nil {
		servers++
		go func() { ended <- f.two.Serve(f.twoQ) }()
	}
	f.accept()
	f.shaking.Wait() // Each ends in time.
	f.oneQ.Close()
	if f.two != nil {
		f.twoQ.Close()
	}
	var err error
	for range servers {
		if failure := <-ended; failure != nil && !errors.Is(failure, http.ErrServerClosed) && !errors.Is(failure, net.ErrClosed) {
			err = failure
		}
	}
	return err
}

func (f *front) accept() {
	pause := 5 * time.Millisecond
	for {
		conn, err := f.listener.Accept()
		switch {
		case err == nil:
			pause = 5 * time.Millisecond
			f.hand(conn.(*clientConn))
		case errors.Is(err, net.ErrClosed):
			return
		default: // Out of files, mostly: it passes.
			slog.Warn("a connection was not accepted", "port", f.name, "error", err)
			time.Sleep(pause)
			pause = min(2*pause, time.Second)
		}
	}
}

// hand gives a connection to its server.
func (f *front) hand(conn *clientConn) {
	if f.tls == nil {
		f.oneQ.put(&checkedConn{Conn: conn})
		return
	}
	f.shaking.Go(func() {
		secure := tls.Server(conn, f.tls)
		ctx, cancel := context.WithTimeout(context.Background(), f.handshake)
		defer cancel()
		if err := secure.HandshakeContext(ctx); err != nil {
			slog.Debug("handshake failed", "port", f.name, "error", err)
			secure.Close()
			return
		}
		state := secure.ConnectionState()
		conn.secure, conn.tls = secure, &state
		if state.NegotiatedProtocol == "h2" {
			f.twoQ.put(secure)
			return
		}
		f.oneQ.put(&checkedConn{Conn: secure})
	})
}

// shutdown ends the port when what is under way has ended.
func (f *front) shutdown(ctx context.Context) error {
	f.listener.Close()
	shaken := make(chan struct{})
	go func() { f.shaking.Wait(); close(shaken) }()
	select {
	case <-shaken: // Who came before the end is served.
	case <-ctx.Done():
	}
	if f.two == nil {
		return f.one.Shutdown(ctx)
	}
	two := make(chan error, 1)
	go func() { two <- f.two.Shutdown(ctx) }()
	return cmp.Or(f.one.Shutdown(ctx), <-two)
}

func (f *front) close() {
	f.listener.Close()
	f.one.Close()
	if f.two != nil {
		f.two.Close()
	}
}

// queue is a listener of connections that were accepted elsewhere.
type queue struct {
	conns   chan net.Conn
	ended   chan struct{}
	once    sync.Once
	address net.Addr
}

func newQueue(address net.Addr) *queue {
	return &queue{conns: make(chan net.Conn, 64), ended: make(chan struct{}), address: address}
}

func (q *queue) put(conn net.Conn) {
	select {
	case q.conns <- conn:
	case <-q.ended:
		conn.Close()
	}
}

// Accept implements net.Listener.
func (q *queue) Accept() (net.Conn, error) {
	select {
	case conn := <-q.conns:
		return conn, nil
	case <-q.ended:
	}
	select { // What was put before the end is served.
	case conn := <-q.conns:
		return conn, nil
	default:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (q *queue) Close() error {
	q.once.Do(func() { close(q.ended) })
	return nil
}

// Addr implements net.Listener.
func (q *queue) Addr() net.Addr { return q.address }

// checkedConn gives net/http only requests that can be read in one way; see package framing. What cannot is replaced by
// bytes that net/http answers with 400, and the connection ends.
type checkedConn struct {
	net.Conn
	mu      sync.Mutex
	checker framing.Checker
	poison  string
	refused bool
}

// refusal is a header line, or the rest of any line, that no reader takes for good.
const refusal = "\x00\r\n\r\n"

func (c *checkedConn) Read(p []byte) (int, error) {
	if c.refused {
		if c.poison == "" {
			return 0, io.EOF
		}
		n := copy(p, c.poison)
		c.poison = c.poison[n:]
		return n, nil
	}
	n, err := c.Conn.Read(p)
	if n == 0 {
		return n, err
	}
	c.mu.Lock()
	good, wrong := c.checker.Check(p[:n])
	c.mu.Unlock()
	if wrong == nil {
		return n, err
	}
	slog.Debug("a request that can be read in several ways", "client", c.RemoteAddr().String(), "problem", wrong)
	c.refused, c.poison = true, refusal
	if good == 0 {
		return c.Read(p)
	}
	return good, nil
}

// through lets everything pass from here on.
func (c *checkedConn) through() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.checker.Through()
}

// CloseWrite lets net/http end a refused request so that the client can still read why.
func (c *checkedConn) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil
}

// unambiguous says whether a request of HTTP/2 holds nothing that an upstream with HTTP/1.1 could take for the framing of
// the connection (RFC 9113, 8.2.2). net/http takes care of names and values.
func unambiguous(r *http.Request) bool {
	if r.ProtoMajor != 2 {
		return true
	}
	for _, name := range []string{"Connection", "Keep-Alive", "Proxy-Connection", "Transfer-Encoding", "Upgrade"} {
		if _, there := r.Header[name]; there {
			return false
		}
	}
	if slices.ContainsFunc(r.Header["Te"], func(value string) bool { return !strings.EqualFold(value, "trailers") }) {
		return false
	}
	// A length that the body does not have (8.1.1); net/http counts only bodies that there are.
	if lengths := r.Header["Content-Length"]; len(lengths) > 1 || len(lengths) == 1 && r.ContentLength <= 0 && lengths[0] != "0" {
		return false
	}
	// A second name of the host, which an upstream could take for the first (8.3.1).
	if hosts := r.Header["Host"]; len(hosts) > 1 || len(hosts) == 1 && hosts[0] != r.Host {
		return false
	}
	return isHost(r.Host) && (r.URL.Path == "*" || strings.HasPrefix(r.URL.Path, "/")) && !strings.ContainsFunc(r.URL.RawQuery, func(c rune) bool {
		// What ends a request line, or a query (RFC 3986, 3.4); all else is sent on as it came.
		return c <= ' ' || c == '"' || c == '#' || c >= 0x7f
	})
}

// isHost says whether a text is a host with or without a port: a name, an IPv4 address, or an IPv6 address in brackets.
func isHost(text string) bool {
	name := text
	if i := strings.LastIndexByte(text, ':'); i >= 0 && !strings.HasSuffix(text, "]") {
		if name = text[:i]; len(text)-i > 6 || strings.Trim(text[i+1:], "0123456789") != "" {
			return false
		}
	}
	if inner, ok := strings.CutPrefix(name, "["); ok {
		inner, ok = strings.CutSuffix(inner, "]")
		address, err := netip.ParseAddr(inner)
		return ok && err == nil && address.Is6() && address.Zone() == ""
	}
	return name != "" && len(name) <= 253 && !strings.ContainsFunc(name, func(c rune) bool {
		return (c|0x20 < 'a' || c|0x20 > 'z') && (c < '0' || c > '9') && c != '-' && c != '.' && c != '_'
	})
}

// withProxyHeader reads the PROXY header (versions 1 and 2) of those who must send one.
func withProxyHeader(conn net.Conn, behind trust) net.Conn {
	if len(behind) == 0 || !behind.contains(peer(conn.RemoteAddr().String())) {
		return conn
	}
	return proxyproto.NewConn(conn, proxyproto.WithPolicy(proxyproto.REQUIRE), proxyproto.SetReadHeaderTimeout(5*time.Second),
		proxyproto.ValidateHeader(namesClient))
}

// namesClient refuses headers that name a client without an address: rules that deny networks would not hold for it. One of
// LOCAL comes from the peer itself.
func namesClient(header *proxyproto.Header) error {
	if tcp := header.TransportProtocol; header.Command != proxyproto.LOCAL && tcp != proxyproto.TCPv4 && tcp != proxyproto.TCPv6 {
		return errors.New("the PROXY header does not name a client of TCP")
	}
	return nil
}
