package proxy

import (
	"errors"
	"log/slog"
	"net/http"
	"runtime/debug"
	"slices"
	"strconv"
	"time"

	"github.com/shopset/shopset/internal/certstore"
)

// pipeline serves requests: one exchange after the other through the phases named in doc.go. It is made of one
// configuration and never changed; a new configuration is a new pipeline.
type pipeline struct {
	config           *Config
	limits           *Limits
	trusted          trust
	domains          *certstore.Store // nil without
	refuseUnknown    bool
	refuseWithout    bool // whose record nobody can tell
	rules            []*accessRule
	limiters         []*limiter
	maintenancePages *pages
	roles            map[string]*role
	externals        *externals
	routes           *routes
	tunnels          *tunnels
	buffers          *bufferPool
	metrics          *metrics
	accessLog        *accessLog // nil when nothing is to be logged
	draining         func() bool
	serving          *serving
	// bodyLimit is the most that any role takes.
	bodyLimit int64
	redis     *sharedRedis // nil without
}

// phases of a request; the first that has answered ends it.
var phases = []func(p *pipeline, e *exchange) (done bool){
	(*pipeline).admit,
	(*pipeline).answerChallenge,
	(*pipeline).redirectToHTTPS,
	(*pipeline).tenant,
	(*pipeline).access,
	(*pipeline).maintenance,
	(*pipeline).limit,
	(*pipeline).find,
}

// serve serves a request. redirectPort is the port of https on a port that only redirects, 0 on the others.
func (p *pipeline) serve(w http.ResponseWriter, r *http.Request, redirectPort int) {
	e := p.accept(w, r)
	e.redirectPort = redirectPort
	defer p.finish(e)
	for _, phase := range phases {
		if phase(p, e) {
			return
		}
	}
	p.forward(e)
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
	return p.draining() || e.conn != nil && (e.start.Sub(e.conn.since) > p.limits.ConnectionAge || p.serving.leaves(e.conn.since))
}

var errAmbiguous = errors.New("the request could be taken for another one in HTTP/1.1")

// admit refuses what cannot be served.
func (p *pipeline) admit(e *exchange) (done bool) {
	switch r := e.request; {
	case r.Method == http.MethodConnect || r.Method == http.MethodTrace:
		errorPage(e, http.StatusMethodNotAllowed)
	case !isToken(r.Method):
		errorPage(e, http.StatusBadRequest)
	case r.ProtoMajor == 1 && r.Host != "" && !isHost(r.Host):
		e.Header().Set("Connection", "close")
		errorPage(e, http.StatusBadRequest)
	case p.looped(e):
		errorPage(e, http.StatusLoopDetected)
	case r.ContentLength > p.bodyLimit:
		errorPage(e, http.StatusRequestEntityTooLarge)
	case !unambiguous(r):
		// Who sends this means no good: there is no answer to it but the end (RFC 9113, 8.1.1).
		e.status, e.problem = http.StatusBadRequest, errAmbiguous
		if e.conn != nil && e.conn.secure != nil {
			_ = e.conn.secure.Close()
		}
		panic(http.ErrAbortHandler)
	default:
		return false
	}
	return true
}

// find finds the role: of the site that the domain's record names, else of the first route that matches.
func (p *pipeline) find(e *exchange) (done bool) {
	if e.domain != nil && e.domain.Options.Upstream != "" {
		if e.role = p.externals.role(e.domain.Options.Upstream); e.role != nil {
			return false
		}
		errorPage(e, http.StatusBadGateway)
		return true
	}
	route := p.routes.find(e.request, e.host, e.path, e.domain)
	if route == nil {
		errorPage(e, http.StatusNotFound)
		return true
	}
	e.role = route.role
	return false
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
	e.answer(status, "text/html; charset=utf-8", "<!doctype html><title>"+text+"</title><h1>"+text+"</h1>\n")
}

// finish runs after every exchange, also when the answer was cut in the middle.
func (p *pipeline) finish(e *exchange) {
	broken := recover()
	if err, _ := broken.(error); broken != nil && !errors.Is(err, http.ErrAbortHandler) {
		slog.Error("panic while serving a request", "panic", broken, "stack", string(debug.Stack()))
	}
	e.dropEncoder()
	if e.body != nil {
		e.body.Close()
	}
	for _, end := range slices.Backward(e.ends) {
		end()
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
	if e.role != nil && p.roles[e.role.name] == e.role && e.status != statusClientGone {
		p.serving.note(e.host, e.failing())
	}
	if p.accessLog != nil && p.logged(e) {
		p.accessLog.write(e, elapsed)
	}
	if broken != nil {
		panic(broken) // net/http ends the connection; the client must not take the answer for whole
	}
}
