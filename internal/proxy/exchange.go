package proxy

import (
	"errors"
	"io"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"github.com/shopset/shopset/internal/certstore"
)

// exchange is one request on its way through the phases, with what they found out. It is also the
// ResponseWriter of the later phases.
type exchange struct {
	http.ResponseWriter
	control *http.ResponseController
	request *http.Request
	limits  *Limits
	conn    *clientConn // nil in tests without a real listener
	body    *clientBody // nil when the request has none
	start   time.Time

	host      string            // of the request, in lower case, without a port
	path      string            // decoded and clean
	client    netip.Addr        // as far as trusted proxies tell
	domain    *certstore.Domain // nil when it has no record
	requestID string            // by id()

	role     *role        // nil until found
	endpoint string       // that was asked last
	fallback string       // what was answered instead of the role's own
	refused  string       // which rule refused it
	joined   bool         // answered by the answer of another request
	flight   *pageFlight  // others wait for this one
	stick    *http.Cookie // keeps the client with an upstream
	interims interims
	// redirectPort is the port of https on a port that only redirects, 0 on the others.
	redirectPort int
	encoder      encoder // nil when nothing is to be compressed
	encoders     *sync.Pool
	ends         []func()
	endsRoom     [3]func() // for most

	failure string // why the role failed, one of the reasons of the metric
	problem error  // details for the log
	retried bool

	status int
	bytes  int64
}

func newExchange(w http.ResponseWriter, r *http.Request, limits *Limits) *exchange {
	e := &exchange{
		ResponseWriter: w, control: http.NewResponseController(w), limits: limits,
		conn: connOf(r.Context()), start: time.Now(),
	}
	if r.TLS == nil && e.conn != nil && e.conn.tls != nil {
		r.TLS = e.conn.tls
	}
	e.request = r
	e.ends = e.endsRoom[:0]
	if r.Body == nil || r.Body == http.NoBody || r.ContentLength == 0 { // HTTP/2 has a reader also for no body.
		return e
	}
	// The server looks at its own request for whether the body was read to its end: the connection ends if not.
	own := *r
	e.request = &own
	e.body = &clientBody{exchange: e, source: r.Body, end: e.start.Add(limits.BodyTimeout), left: int64(limits.BodyBytes)}
	own.Body = e.body
	return e
}

// Unwrap is for http.ResponseController.
func (e *exchange) Unwrap() http.ResponseWriter { return e.ResponseWriter }

func (e *exchange) WriteHeader(status int) {
	if status >= 200 || status == http.StatusSwitchingProtocols {
		e.status = status
	}
	e.ResponseWriter.WriteHeader(status)
}

// atEnd has something done when the exchange is over.
func (e *exchange) atEnd(do func()) { e.ends = append(e.ends, do) }

// Write takes what the client gets, to be compressed or as it is.
func (e *exchange) Write(p []byte) (int, error) {
	if e.encoder != nil {
		return e.encoder.Write(p)
	}
	return e.writeOut(p)
}

// writeOut gives the client some time to take what it gets.
func (e *exchange) writeOut(p []byte) (int, error) {
	if e.status == 0 {
		e.status = http.StatusOK
	}
	e.patience()
	n, err := e.ResponseWriter.Write(p)
	e.rest()
	e.bytes += int64(n)
	return n, err
}

// FlushError is for http.ResponseController.
func (e *exchange) FlushError() error {
	if e.encoder != nil {
		if err := e.encoder.Flush(); err != nil {
			return err
		}
	}
	e.patience()
	defer e.rest()
	return e.control.Flush()
}

// patience bounds the next write. The one set at the end of an exchange is for what the server
// flushes after the handler.
func (e *exchange) patience() {
	e.control.SetWriteDeadline(time.Now().Add(e.limits.StallTimeout))
}

// rest ends patience where a deadline does harm between two writes: HTTP/2 resets the stream.
func (e *exchange) rest() {
	if e.request.ProtoMajor == 2 {
		e.control.SetWriteDeadline(time.Time{})
	}
}

// errBodyTooLarge is what reading a body above the limit ends with.
var errBodyTooLarge = errors.New("request body too large")

// clientBody is a request body with limits on its size, on the whole time and on the time between
// two reads. It remembers its own failure, so that a bad client is not blamed on an upstream.
//
// The connection to an upstream may still read from it when the exchange is over. From Close on
// it therefore touches no deadline: by then the connection belongs to the next request.
type clientBody struct {
	exchange *exchange
	source   io.ReadCloser
	end      time.Time

	mu      sync.Mutex
	left    int64
	read    bool
	reading bool // at this moment
	ended   bool
	closed  bool
	failure error
	// atEnd is called when all was read, before who reads is told; nil for nobody.
	atEnd func()
}

func (b *clientBody) Read(p []byte) (int, error) {
	b.mu.Lock()
	if b.closed {
		b.mu.Unlock()
		return 0, http.ErrBodyReadAfterClose
	}
	b.read, b.reading = true, true
	left := b.left
	b.deadline()
	b.mu.Unlock()

	if int64(len(p)) > left+1 {
		p = p[:left+1]
	}
	n, err := b.source.Read(p)
	if int64(n) > left {
		n, err = int(left), errBodyTooLarge
	}

	b.mu.Lock()
	defer b.mu.Unlock()
	b.left -= int64(n)
	b.reading = false
	if b.closed {
		return n, err
	}
	if err == io.EOF || b.exchange.request.ProtoMajor == 2 {
		// At the end of the body the server begins to watch the connection, and that wait has no
		// limit. In HTTP/2 a deadline ends the body also when nobody reads it.
		b.exchange.control.SetReadDeadline(time.Time{})
	}
	switch err {
	case nil:
	case io.EOF:
		b.ended = true
		if b.atEnd != nil {
			b.atEnd()
		}
	default:
		b.failure = err
	}
	return n, err
}

func (b *clientBody) deadline() {
	deadline := time.Now().Add(b.exchange.limits.StallTimeout)
	if deadline.After(b.end) {
		deadline = b.end
	}
	b.exchange.control.SetReadDeadline(deadline)
}

func (b *clientBody) Close() error {
	b.mu.Lock()
	switch {
	case b.ended || b.closed:
	case isTimeout(b.failure):
		b.exchange.control.SetReadDeadline(time.Now())
	case b.reading: // Somebody still reads for an upstream that has answered; the end of the answer waits for that.
		b.exchange.control.SetReadDeadline(time.Now().Add(linger))
	default:
		b.deadline() // the server reads a small rest, so that the client sees the answer
	}
	b.closed = true
	b.mu.Unlock()
	return b.source.Close()
}

// allow sets another bound of its size, before it is read.
func (b *clientBody) allow(bytes int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.left = bytes
}

// linger is how long a client that sends what nobody needs may go on, so that it reads its answer.
const linger = time.Second

// over says whether all was read.
func (b *clientBody) over() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.ended
}

// started says whether a part was read, which cannot be read again.
func (b *clientBody) started() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.read
}

// failed returns why the client's body could not be read, nil when that is not the problem.
func (b *clientBody) failed() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.failure
}
