package proxy

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// connections counts the clients' connections on all traffic ports.
type connections struct {
	open   atomic.Int64
	active atomic.Int64
}

// ServeHTTP answers {"open": N, "active": N}: how many there are, and how many of them have a
// request under way (a WebSocket has one for as long as it lives).
func (c *connections) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(struct {
		Open   int64 `json:"open"`
		Active int64 `json:"active"`
	}{c.open.Load(), c.active.Load()})
}

// countingListener counts what it accepts until it is closed, whoever closes it.
type countingListener struct {
	net.Listener
	connections *connections
	behind      trust
}

func (l countingListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	l.connections.open.Add(1)
	return &clientConn{Conn: withProxyHeader(conn, l.behind), connections: l.connections, since: time.Now()}, nil
}

// clientConn is one connection of a client.
type clientConn struct {
	net.Conn
	connections *connections
	secure      *tls.Conn            // set before it is served; nil without TLS
	tls         *tls.ConnectionState // as secure
	since       time.Time
	once        sync.Once
	requests    atomic.Int64
}

func (c *clientConn) Close() error {
	c.once.Do(func() { c.connections.open.Add(-1) })
	return c.Conn.Close()
}

// CloseWrite lets net/http end a refused request so that the client can still read why.
func (c *clientConn) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil
}

// begin and end enclose a request; a connection with several of them is one active connection.
func (c *clientConn) begin() {
	if c.requests.Add(1) == 1 {
		c.connections.active.Add(1)
	}
}

func (c *clientConn) end() {
	if c.requests.Add(-1) == 0 {
		c.connections.active.Add(-1)
	}
}

type connKey struct{}

// connContext makes the connection known to its requests.
func connContext(ctx context.Context, conn net.Conn) context.Context {
	if checked, ok := conn.(*checkedConn); ok {
		conn = checked.Conn
	}
	if secure, ok := conn.(*tls.Conn); ok {
		conn = secure.NetConn()
	}
	return context.WithValue(ctx, connKey{}, conn)
}

func connOf(ctx context.Context) *clientConn {
	conn, _ := ctx.Value(connKey{}).(*clientConn)
	return conn
}
