package proxy

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/textproto"
	"sync"
	"syscall"
	"time"
)

// direct sends requests without a body over HTTP/1.1 without TLS, and reads the answers, in the goroutine that serves the
// client. http.Transport has two goroutines for each connection, and hands every request and answer from one to the
// other; that is a third of the cost of a small page (make bench-proxy). Everything else goes through http.Transport.
//
// It keeps connections as http.Transport does: one is used again when its answer was read to its end, and only if nothing
// has come on it since, which could not be told from the answer to the next request.
type direct struct {
	dial    func(ctx context.Context, network, address string) (net.Conn, error)
	timeout time.Duration // for the first byte of an answer
	stall   time.Duration // between two reads
	keep    time.Duration // without a request
	most    int           // idle connections to each address

	mu     sync.Mutex
	idle   map[string][]*directConn // by address, the last used at the end
	closed bool
}

// directConn is one connection to an upstream.
type directConn struct {
	net.Conn
	address string
	raw     syscall.RawConn
	reader  *bufio.Reader
	request []byte
	// allowed is how many bytes may come until the headers end.
	allowed int
	since   time.Time
	bytes   bool // of an answer have come
}

// maxAnswerHeader bounds the headers of an answer.
const maxAnswerHeader = 256 << 10

var errAnswerHeader = errors.New("the upstream's headers have more than 256 KiB")

func newDirect(role *Role, dial func(ctx context.Context, network, address string) (net.Conn, error)) *direct {
	return &direct{dial: dial, timeout: role.Timeout, stall: role.StallTimeout, keep: role.IdleTimeout, most: role.IdleConnections, idle: map[string][]*directConn{}}
}

// Read bounds headers, and notes that something has come.
func (c *directConn) Read(p []byte) (int, error) {
	if c.allowed <= 0 {
		return 0, errAnswerHeader
	}
	n, err := c.Conn.Read(p)
	c.bytes = c.bytes || n > 0
	c.allowed -= n
	return n, err
}

// roundTrip sends a request to an address. A kept connection that the upstream has closed meanwhile is no failure: the
// request, which changes nothing, is sent over another.
func (d *direct) roundTrip(e *exchange, request *http.Request, address string) (*http.Response, error) {
	ctx := request.Context()
	for {
		conn := d.take(address)
		kept := conn != nil
		if !kept {
			var err error
			if conn, err = d.open(ctx, address); err != nil {
				return nil, err
			}
		}
		response, err := d.exchange(ctx, e, conn, request)
		if err == nil {
			return response, nil
		}
		_ = conn.Close()
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if !kept || conn.bytes || isTimeout(err) {
			return nil, err
		}
	}
}

func (d *direct) open(ctx context.Context, address string) (*directConn, error) {
	conn, err := d.dial(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	made := &directConn{Conn: conn, address: address}
	if has, ok := conn.(syscall.Conn); ok {
		if made.raw, err = has.SyscallConn(); err != nil {
			_ = conn.Close()
			return nil, err
		}
	}
	made.reader = bufio.NewReaderSize(made, 8<<10)
	return made, nil
}

// exchange writes a request and reads the headers of its answer.
func (d *direct) exchange(ctx context.Context, e *exchange, conn *directConn, request *http.Request) (*http.Response, error) {
	conn.bytes, conn.allowed = false, maxAnswerHeader
	// Who leaves takes the request along.
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	if err := conn.SetDeadline(time.Now().Add(d.timeout)); err != nil {
		stop()
		return nil, err
	}
	if ctx.Err() != nil { // The other order would have undone it.
		stop()
		return nil, context.Cause(ctx)
	}
	conn.request = appendRequest(conn.request[:0], request)
	if _, err := conn.Write(conn.request); err != nil {
		stop()
		return nil, err
	}
	for range maxInterims + 1 {
		response, err := http.ReadResponse(conn.reader, request)
		switch {
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
			stop()
			return nil, fmt.Errorf("the upstream closed the connection without an answer: %w", err)
		case err != nil:
			stop()
			return nil, err
		case response.StatusCode == http.StatusSwitchingProtocols:
			stop()
			return nil, errors.New("the upstream switches protocols, and nobody asked for it")
		case response.StatusCode < http.StatusOK:
			_ = e.interim(response.StatusCode, textproto.MIMEHeader(response.Header))
			continue
		}
		conn.allowed = 1 << 62 // A body may be of any size.
		body := &directBody{owner: d, conn: conn, source: response.Body, e: e, stop: stop, keep: !response.Close && response.ProtoAtLeast(1, 1)}
		if response.Body == http.NoBody || response.ContentLength == 0 || request.Method == http.MethodHead {
			body.end()
		}
		response.Body = body
		return response, nil
	}
	stop()
	return nil, errors.New("the upstream sends too many interim answers")
}

// appendRequest writes a request line and headers. What is in them was checked where it came from: by net/http, or by the
// configuration.
func appendRequest(b []byte, r *http.Request) []byte {
	b = append(b, r.Method...)
	b = append(b, ' ')
	b = append(b, r.URL.RequestURI()...)
	b = append(b, " HTTP/1.1\r\nHost: "...)
	b = append(b, r.Host...)
	b = append(b, "\r\n"...)
	for name, values := range r.Header {
		switch {
		case name == "User-Agent" && len(values) == 1 && values[0] == "":
			continue
		case name == "Host" || name == "Content-Length" || name == "Transfer-Encoding":
			continue // Said already, or not to be said: there is no body.
		}
		for _, value := range values {
			b = append(b, name...)
			b = append(b, ": "...)
			b = append(b, value...)
			b = append(b, "\r\n"...)
		}
	}
	return append(b, "\r\n"...)
}

// directBody gives its connection back when it was read to its end.
type directBody struct {
	owner  *direct
	conn   *directConn // nil when it is over
	source io.ReadCloser
	e      *exchange
	stop   func() bool
	keep   bool
}

// Read implements io.Reader. Only a read that waits for the upstream has a limit.
func (b *directBody) Read(p []byte) (int, error) {
	if b.conn == nil {
		return 0, io.EOF
	}
	if b.conn.reader.Buffered() == 0 && b.e.request.Context().Err() == nil {
		_ = b.conn.SetReadDeadline(time.Now().Add(b.owner.stall))
	}
	n, err := b.source.Read(p)
	switch {
	case err == io.EOF: //nolint:errorlint // It is this very one at the end of a body.
		b.end()
	case err != nil && b.e.request.Context().Err() == nil:
		b.e.failure, b.e.problem = "broken", err
		if isTimeout(err) {
			err = errStalled
			b.e.failure, b.e.problem = "timeout", err
		}
	}
	return n, err
}

// end gives the connection back, or closes it.
func (b *directBody) end() {
	conn := b.conn
	b.conn = nil
	// A connection whose deadline was just moved by somebody who left is of no use.
	if b.stop() && b.keep && conn.reader.Buffered() == 0 {
		b.owner.put(conn)
		return
	}
	_ = conn.Close()
}

// Close ends it before its end.
func (b *directBody) Close() error {
	if b.conn == nil {
		return nil
	}
	b.stop()
	conn := b.conn
	b.conn = nil
	return conn.Close()
}

// take returns a kept connection that is still good, or nil.
func (d *direct) take(address string) *directConn {
	for {
		d.mu.Lock()
		list := d.idle[address]
		if len(list) == 0 {
			d.mu.Unlock()
			return nil
		}
		conn := list[len(list)-1]
		list[len(list)-1] = nil
		d.idle[address] = list[:len(list)-1]
		d.mu.Unlock()
		if time.Since(conn.since) < d.keep && conn.quiet() {
			return conn
		}
		_ = conn.Close()
	}
}

// quiet says whether nothing has come since the last answer, not even the end.
func (c *directConn) quiet() bool {
	if c.raw == nil {
		return false
	}
	quiet := false
	err := c.raw.Read(func(fd uintptr) bool {
		var one [1]byte
		_, _, err := syscall.Recvfrom(int(fd), one[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT) //nolint:gosec // It is a file descriptor.
		quiet = errors.Is(err, syscall.EAGAIN)
		return true
	})
	return quiet && err == nil
}

func (d *direct) put(conn *directConn) {
	conn.since = time.Now()
	// A deadline of the past would make the connection look broken.
	if conn.SetDeadline(time.Time{}) != nil {
		_ = conn.Close()
		return
	}
	d.mu.Lock()
	if !d.closed && len(d.idle[conn.address]) < d.most {
		d.idle[conn.address] = append(d.idle[conn.address], conn)
		conn = nil
	}
	d.mu.Unlock()
	if conn != nil {
		_ = conn.Close()
	}
}

// sweep closes what was idle for too long, and what belongs to addresses that are no more.
func (d *direct) sweep() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for address, list := range d.idle {
		fresh := list[:0]
		for _, conn := range list {
			if time.Since(conn.since) < d.keep && !d.closed {
				fresh = append(fresh, conn)
			} else {
				_ = conn.Close()
			}
		}
		clear(list[len(fresh):])
		if d.idle[address] = fresh; len(fresh) == 0 {
			delete(d.idle, address)
		}
	}
}

func (d *direct) close() {
	d.mu.Lock()
	d.closed = true
	d.mu.Unlock()
	d.sweep()
}
