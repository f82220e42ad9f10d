package proxy

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"runtime/debug"
	"strconv"
	"strings"
	"time"
)

// pipeline serves requests: one exchange after the other through the phases named in doc.go.
type pipeline struct {
	limits    *Limits
	trusted   trust
	routes    routes
	forwarder *httputil.ReverseProxy
	metrics   *metrics
	access    *slog.Logger // nil when nothing is to be logged
	draining  func() bool
	// redirectPort is the port of https on a port that only redirects, 0 on the others.
	redirectPort int
}

func (p *pipeline) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	e := p.accept(w, r)
	defer p.finish(e)
	switch {
	case !p.admit(e):
	case p.redirectPort != 0:
		redirect(e, p.redirectPort)
	case p.find(e):
		p.forwarder.ServeHTTP(e, e.request)
	}
}

func (p *pipeline) accept(w http.ResponseWriter, r *http.Request) *exchange {
	e := newExchange(w, r, p.limits)
	if e.conn != nil {
		e.conn.begin()
	}
	if p.leaving(e) && r.Header.Get("Upgrade") == "" {
		w.Header().Set("Connection", "close") // HTTP/2 makes a GOAWAY of it
	}
	return e
}

// leaving says whether the connection ends with this exchange.
func (p *pipeline) leaving(e *exchange) bool {
	return p.draining() || (e.conn != nil && e.start.Sub(e.conn.since) > p.limits.ConnectionAge)
}

func (p *pipeline) admit(e *exchange) bool {
	switch r := e.request; {
	case r.Method == http.MethodConnect || r.Method == http.MethodTrace:
		errorPage(e, http.StatusMethodNotAllowed)
	case r.ContentLength > int64(p.limits.BodyBytes):
		errorPage(e, http.StatusRequestEntityTooLarge)
	default:
		return true
	}
	return false
}

func (p *pipeline) find(e *exchange) bool {
	if e.role = p.routes.find(e.request.URL.Path); e.role == nil {
		errorPage(e, http.StatusNotFound)
		return false
	}
	return true
}

// newForwarder makes the phase that talks to upstreams.
func newForwarder(trusted trust, tunnels *tunnels, errorLog *slog.Logger) *httputil.ReverseProxy {
	return &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(exchangeOf(r.In.Context()).role.base)
			r.Out.Host = r.In.Host
			r.Out.URL.RawQuery = r.In.URL.RawQuery // also when it is odd: this proxy reads no query
			setForwarded(r.In, r.Out, trusted)
			hideKeys(r.Out.Header)
		},
		Transport:    toRole{},
		BufferPool:   newBufferPool(),
		ErrorLog:     slog.NewLogLogger(errorLog.Handler(), slog.LevelDebug),
		ErrorHandler: func(_ http.ResponseWriter, r *http.Request, err error) { failed(exchangeOf(r.Context()), err) },
		ModifyResponse: func(response *http.Response) error {
			e := exchangeOf(response.Request.Context())
			if response.StatusCode == http.StatusSwitchingProtocols {
				e.status = response.StatusCode // the connection is taken over, nothing else says it
				if upstream, ok := response.Body.(io.ReadWriteCloser); ok {
					response.Body = tunnels.open(upstream, e.limits)
				}
				return nil
			}
			response.Body = newStallGuard(e, response.Body, e.role.config.StallTimeout)
			return nil
		},
	}
}

// toRole sends a request to the role that was found for it.
type toRole struct{}

func (toRole) RoundTrip(request *http.Request) (*http.Response, error) {
	return exchangeOf(request.Context()).role.RoundTrip(request)
}

// failed answers a request that got no answer from its role.
func failed(e *exchange, err error) {
	e.problem = err
	if e.body != nil {
		if bodyErr := e.body.failed(); bodyErr != nil {
			e.problem = bodyErr
			errorPage(e, bodyStatus(bodyErr))
			return
		}
	}
	var operation *net.OpError
	switch {
	case e.request.Context().Err() != nil:
		e.status = statusClientGone // nobody is there to read an answer
		return
	case errors.As(err, &operation) && operation.Op == "dial":
		e.failure = "connect"
	case isTimeout(err):
		e.failure = "timeout"
	default:
		e.failure = "broken"
	}
	if isTimeout(err) {
		errorPage(e, http.StatusGatewayTimeout)
		return
	}
	errorPage(e, http.StatusBadGateway)
}

// statusClientGone is written to the log when the client left before its answer, as nginx does.
const statusClientGone = 499

// bodyStatus is the answer to a client whose body could not be read.
func bodyStatus(err error) int {
	switch {
	case errors.Is(err, errBodyTooLarge):
		return http.StatusRequestEntityTooLarge
	case isTimeout(err):
		return http.StatusRequestTimeout
	}
	return http.StatusBadRequest
}

// errorPage is the proxy's own short answer.
func errorPage(e *exchange, status int) {
	text := strconv.Itoa(status) + " " + http.StatusText(status)
	page := "<!doctype html><title>" + text + "</title><h1>" + text + "</h1>\n"
	header := e.Header()
	header.Set("Content-Type", "text/html; charset=utf-8")
	header.Set("Content-Length", strconv.Itoa(len(page)))
	header.Set("Cache-Control", "no-store")
	if e.body != nil {
		header.Set("Connection", "close") // the rest of the body is of no use to anybody
	}
	e.WriteHeader(status)
	if e.request.Method != http.MethodHead {
		_, _ = io.WriteString(e, page) // who is gone needs no page
	}
	_ = e.FlushError() // before a slow client is waited for
}

// finish runs after every exchange, also when the answer was cut in the middle.
func (p *pipeline) finish(e *exchange) {
	broken := recover()
	if err, _ := broken.(error); broken != nil && !errors.Is(err, http.ErrAbortHandler) {
		slog.Error("panic while serving a request", "panic", broken, "stack", string(debug.Stack()))
	}
	if e.body != nil {
		e.body.Close()
	}
	if e.status != http.StatusSwitchingProtocols {
		e.patience()
	}
	if e.conn != nil {
		e.conn.end()
	}
	if broken != nil && e.failure == "" && e.problem == nil {
		e.problem = errors.New("the answer was cut: client or upstream went away")
	}
	if e.status == 0 {
		e.status = http.StatusOK
		if broken != nil {
			e.status = http.StatusInternalServerError
		}
	}
	elapsed := time.Since(e.start)
	p.metrics.observe(e, elapsed)
	if p.access != nil {
		p.access.LogAttrs(context.Background(), slog.LevelInfo, "request", accessLine(e, elapsed)...)
	}
	if broken != nil {
		panic(broken) // net/http ends the connection; the client must not take the answer for whole
	}
}

// accessLine is what the access log says of an exchange. Queries, cookies and authorization stay
// out: they hold keys.
func accessLine(e *exchange, elapsed time.Duration) []slog.Attr {
	r := e.request
	line := []slog.Attr{
		slog.String("client", peer(r.RemoteAddr).String()),
		slog.String("host", r.Host),
		slog.String("method", r.Method),
		slog.String("path", r.URL.Path),
		slog.String("proto", r.Proto),
		slog.Bool("tls", r.TLS != nil),
		slog.Int("status", e.status),
		slog.Int64("bytes", e.bytes),
		slog.Float64("ms", float64(elapsed.Microseconds())/1000),
		slog.String("agent", strings.ToValidUTF8(r.UserAgent(), "?")),
	}
	if e.role != nil {
		line = append(line, slog.String("role", e.role.name))
	}
	if e.retried {
		line = append(line, slog.Bool("retried", true))
	}
	if e.failure != "" {
		line = append(line, slog.String("failure", e.failure))
	}
	if e.problem != nil {
		line = append(line, slog.String("error", e.problem.Error()))
	}
	return line
}
