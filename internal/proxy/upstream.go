package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"
)

// role is an upstream at work.
type role struct {
	name      string
	base      *url.URL
	config    Role
	transport *http.Transport
	retried   func()
}

func newRole(name string, config Role, retried func()) (*role, error) {
	base, err := url.Parse(config.URL)
	if err != nil {
		return nil, fmt.Errorf("role %s: %w", name, err)
	}
	dialer := &net.Dialer{Timeout: config.ConnectTimeout, KeepAlive: 15 * time.Second}
	return &role{name: name, base: base, config: config, retried: retried, transport: &http.Transport{
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			conn, err := dialer.DialContext(ctx, network, address)
			if err != nil {
				return nil, err
			}
			return upstreamConn{conn, config.StallTimeout}, nil
		},
		DisableCompression:    true, // what the client asked for is what it gets
		MaxIdleConns:          config.IdleConnections,
		MaxIdleConnsPerHost:   config.IdleConnections,
		IdleConnTimeout:       config.IdleTimeout,
		TLSHandshakeTimeout:   config.ConnectTimeout,
		ResponseHeaderTimeout: config.Timeout,
		ExpectContinueTimeout: time.Second,
		WriteBufferSize:       16 << 10,
		ReadBufferSize:        16 << 10,
	}}, nil
}

// upstreamConn bounds how long an upstream may take nothing of what is sent to it.
type upstreamConn struct {
	net.Conn
	stall time.Duration
}

func (c upstreamConn) Write(p []byte) (int, error) {
	_ = c.SetWriteDeadline(time.Now().Add(c.stall))
	return c.Conn.Write(p)
}

// RoundTrip sends a request, and sends it once more when that is safe and may help.
//
// http.Transport already repeats requests that met a kept connection which the upstream closed at
// that moment. What is left are new connections: one to a Pod that is gone is refused, one to a Pod
// that is just stopping is closed without an answer.
func (r *role) RoundTrip(request *http.Request) (*http.Response, error) {
	response, err := r.once(request)
	if err != nil && repeatable(request, err) {
		exchangeOf(request.Context()).retried = true
		r.retried()
		response, err = r.once(request)
	}
	return response, err
}

func (r *role) once(request *http.Request) (*http.Response, error) {
	if request.Body == nil {
		return r.transport.RoundTrip(request)
	}
	// The transport closes a body also when it has sent nothing. The body is closed by the
	// ReverseProxy at the end, so that until then it can be sent once more.
	keep := *request
	keep.Body = struct {
		io.Reader
		io.Closer
	}{request.Body, io.NopCloser(nil)}
	return r.transport.RoundTrip(&keep)
}

// hideKeys keeps http.Transport from repeating what an upstream may have seen: by a header of the client
// it would take a POST for safe. It looks for these names in this spelling; to upstreams all are the same.
func hideKeys(header http.Header) {
	for _, name := range []string{"Idempotency-Key", "X-Idempotency-Key"} {
		if values, ok := header[name]; ok {
			delete(header, name)
			header[strings.ToLower(name)] = values
		}
	}
}

// repeatable says whether a failed request may be sent once more.
func repeatable(request *http.Request, err error) bool {
	if request.Context().Err() != nil {
		return false
	}
	var operation *net.OpError
	if errors.As(err, &operation) && operation.Op == "dial" {
		return request.Body == nil || !exchangeOf(request.Context()).body.started()
	}
	if request.Body != nil || isTimeout(err) {
		return false
	}
	switch request.Method {
	case http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace:
		return true
	}
	return false
}

func isTimeout(err error) bool {
	var timeout net.Error
	return errors.Is(err, context.DeadlineExceeded) || (errors.As(err, &timeout) && timeout.Timeout())
}

// errStalled ends an answer whose upstream stopped in the middle.
var errStalled = errors.New("the upstream stopped sending in the middle of its answer")

// stallGuard closes an answer's body when a read takes too long, and notes why an answer broke off.
type stallGuard struct {
	io.ReadCloser
	exchange *exchange
	limit    time.Duration
	timer    *time.Timer

	mu      sync.Mutex
	reading bool
	stalled bool
}

func newStallGuard(e *exchange, body io.ReadCloser, limit time.Duration) *stallGuard {
	g := &stallGuard{ReadCloser: body, exchange: e, limit: limit}
	g.timer = time.AfterFunc(limit, g.expire)
	g.timer.Stop()
	return g
}

func (g *stallGuard) expire() {
	g.mu.Lock()
	g.stalled = g.reading
	stalled := g.stalled
	g.mu.Unlock()
	if stalled {
		g.ReadCloser.Close()
	}
}

func (g *stallGuard) set(reading bool) (stalled bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.reading = reading
	return g.stalled
}

func (g *stallGuard) Read(p []byte) (int, error) {
	g.set(true)
	g.timer.Reset(g.limit)
	n, err := g.ReadCloser.Read(p)
	g.timer.Stop()
	stalled := g.set(false)
	if err != nil && err != io.EOF && g.exchange.request.Context().Err() == nil {
		g.exchange.failure, g.exchange.problem = "broken", err
		if stalled {
			err = errStalled
			g.exchange.failure, g.exchange.problem = "timeout", err
		}
	}
	return n, err
}

func (g *stallGuard) Close() error {
	g.timer.Stop()
	return g.ReadCloser.Close()
}
