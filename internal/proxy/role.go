package proxy

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// role is a Role at work.
type role struct {
	name      string
	config    Role
	upstreams []*upstream
	weights   int

	active  *atomic.Int64
	budget  *budget
	breaker *breaker

	requestHeaders, responseHeaders headerFilter
	rewrite                         *Rewrite
	static                          string
	fallbacks                       []fallbackStep
	store                           *store
	retried                         func()
}

// newRole makes one. before is the role of that name in the configuration in use, nil for none: what is known of its upstreams,
// and its pages, are taken over where what is said of them stays the same.
func newRole(name string, config Role, retried func(), before *role) (*role, error) {
	r := &role{name: name, config: config, retried: retried, requestHeaders: newHeaderFilter(config.RequestHeaders),
		responseHeaders: newHeaderFilter(config.ResponseHeaders), active: &atomic.Int64{},
		budget: &budget{percent: int64(*config.Retries)}, breaker: &breaker{percent: int64(config.Health.Break)}}
	for i, target := range config.targets() {
		u, err := newUpstream(&config, target, true)
		if err != nil {
			return nil, fmt.Errorf("role %s, upstreams[%d]: %w", name, i, err)
		}
		for _, other := range r.upstreams {
			if other.name == u.name {
				u.name = fmt.Sprintf("%s-%d", u.name, i)
			}
		}
		r.upstreams = append(r.upstreams, before.kept(u))
		r.weights += u.weight
	}
	if w := config.Rewrite; w != nil {
		rewrite := *w
		if w.Regexp != "" {
			rewrite.pattern = regexp.MustCompile(w.Regexp)
		}
		r.rewrite = &rewrite
	}
	if s := config.Static; s != nil {
		r.static = s.Body
		if s.File != "" {
			content, err := os.ReadFile(s.File)
			if err != nil {
				return nil, fmt.Errorf("role %s: static: %w", name, err)
			}
			r.static = string(content)
		}
	}
	r.carry(before)
	if config.Store != nil && r.store == nil {
		store, err := newStore(config.Store)
		if err != nil {
			return nil, fmt.Errorf("role %s: store: %w", name, err)
		}
		r.store = store
	}
	return r, nil
}

// close ends what is idle; requests under way end by themselves.
func (r *role) close() {
	for _, u := range r.upstreams {
		u.close()
	}
}

// errFull says that a role has as many requests as it may, errOpen that it failed too often.
var (
	errFull = errors.New("the role has as many requests under way as it may")
	errOpen = errors.New("the role failed too often and is left alone for a moment")
)

// refusedPause is before the third attempt at a connection. A Service of Kubernetes whose Pods change refuses connections for as
// long as the node has not heard of that.
const refusedPause = 100 * time.Millisecond

// roundTrip sends a request, and sends it once more, elsewhere if possible, when that is safe and may help; and a third
// time, a moment later, when both connections were refused.
//
// http.Transport already repeats requests that met a kept connection which the upstream closed at
// that moment. What is left are new connections: one to a Pod that is gone is refused, one to a Pod
// that is just stopping is closed without an answer.
func (r *role) roundTrip(e *exchange, request *http.Request) (*http.Response, error) {
	if !r.breaker.allows() {
		return nil, errOpen
	}
	if n := r.active.Add(1); r.config.MaxRequests > 0 && n > int64(r.config.MaxRequests) {
		r.active.Add(-1)
		return nil, errFull
	}
	e.atEnd(func() { r.active.Add(-1) })
	r.budget.earn()
	u := r.pickUpstream(e)
	target := u.pick(nil)
	response, err := r.once(e, request, u, target)
	if err != nil && repeatable(e, request, err) && r.budget.spend() {
		first := err
		e.retried = true
		r.retried()
		target = u.pick(target)
		response, err = r.once(e, request, u, target)
		// This one is not charged for: no upstream has had anything of it yet.
		if refused(first) && refused(err) && !isTimeout(err) && repeatable(e, request, err) && e.wait(refusedPause) {
			r.retried()
			response, err = r.once(e, request, u, u.pick(target))
		}
	}
	if e.blameless() {
		r.breaker.tell(err != nil || r.failsOn(response.StatusCode))
	}
	return response, err
}

// failsOn says whether a status counts as a failure of the role.
func (r *role) failsOn(status int) bool { return slices.Contains(r.config.FailOn, status) }

func (r *role) once(e *exchange, request *http.Request, u *upstream, target *endpoint) (*http.Response, error) {
	address := *u.base
	address.Host = target.address
	address.Path, address.RawPath = joinPaths(u.base.Path, u.base.EscapedPath(), request.URL.Path, request.URL.EscapedPath())
	address.RawQuery = request.URL.RawQuery
	attempt := *request
	attempt.URL = &address
	if u.host != "" {
		attempt.Host = u.host
	}
	if request.Body != nil {
		// The transport closes a body also when it has sent nothing. It is closed at the end, so that until
		// then it can be sent once more.
		attempt.Body = keptBody{e.body}
	}
	target.active.Add(1)
	e.atEnd(func() { target.active.Add(-1) })
	e.interims.open()
	var response *http.Response
	var err error
	if u.direct != nil && request.Body == nil && safe(request.Method) && request.Header["Upgrade"] == nil {
		response, err = u.direct.roundTrip(e, &attempt, target.address)
	} else {
		ctx := httptrace.WithClientTrace(request.Context(), &httptrace.ClientTrace{Got1xxResponse: e.interim})
		response, err = u.transport.RoundTrip(attempt.WithContext(ctx))
	}
	e.interims.close()
	if e.blameless() {
		u.judge(target, err != nil || response.StatusCode >= 502 && response.StatusCode <= 504)
		if refused(err) {
			u.lookAgain()
		}
	}
	e.endpoint = target.address
	return response, err
}

// blameless says that the client is still there and its body was good, so that a failure is the upstream's.
func (e *exchange) blameless() bool {
	return e.request.Context().Err() == nil && (e.body == nil || e.body.failed() == nil)
}

// keptBody is read and never closed.
type keptBody struct{ *clientBody }

func (keptBody) Close() error { return nil }

// interims guards the writer while the transport may pass on such an answer by itself.
type interims struct {
	mu   sync.Mutex
	shut bool
	sent int
}

// maxInterims bounds how many one request may get.
const maxInterims = 16

func (i *interims) open()  { i.set(false) }
func (i *interims) close() { i.set(true) }

func (i *interims) set(shut bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.shut = shut
}

// interim passes on answers like 103 Early Hints (RFC 8297).
func (e *exchange) interim(code int, header textproto.MIMEHeader) error {
	if code == http.StatusContinue || code == http.StatusSwitchingProtocols {
		return nil
	}
	e.interims.mu.Lock()
	defer e.interims.mu.Unlock()
	if e.interims.shut || e.interims.sent == maxInterims {
		return nil
	}
	e.interims.sent++
	own := e.Header()
	before := own.Clone()
	for name, values := range header {
		own[name] = values
	}
	e.patience()
	e.WriteHeader(code)
	e.rest()
	clear(own)
	maps.Copy(own, before)
	return nil
}

// joinPaths puts the path of a request behind that of a base URL, decoded and as it was escaped.
func joinPaths(base, baseEscaped, path, escaped string) (string, string) {
	if base == "" || base == "/" {
		return path, escaped
	}
	return strings.TrimSuffix(base, "/") + path, strings.TrimSuffix(baseEscaped, "/") + escaped
}

// wait says whether the client is still there after a time.
func (e *exchange) wait(d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-e.request.Context().Done():
		return false
	}
}

// repeatable says whether a failed request may be sent once more.
func repeatable(e *exchange, request *http.Request, err error) bool {
	if e.request.Context().Err() != nil {
		return false
	}
	if refused(err) {
		return request.Body == nil || !e.body.started()
	}
	if request.Body != nil || isTimeout(err) {
		return false
	}
	return safe(request.Method)
}

// refused says that no connection came about, so that nothing was sent.
func refused(err error) bool {
	var operation *net.OpError
	return errors.As(err, &operation) && operation.Op == "dial"
}

// safe says whether a method changes nothing (RFC 9110, 9.2.1).
func safe(method string) bool {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace:
		return true
	}
	return false
}

// budget bounds repeated requests to a share of all: when everything fails, twice the load helps nobody.
type budget struct {
	percent int64
	spent   atomic.Int64
}

// budgetDepth is how many repetitions may come at once.
const budgetDepth = 20

func (b *budget) earn() {
	for {
		spent := b.spent.Load()
		if spent <= 0 || b.spent.CompareAndSwap(spent, max(0, spent-b.percent)) {
			return
		}
	}
}

func (b *budget) spend() bool {
	if b.percent == 0 {
		return false
	}
	if b.spent.Add(100) > 100*budgetDepth {
		b.spent.Add(-100)
		return false
	}
	return true
}

// breaker fails everything at once for a moment, when too much of the last ten seconds failed.
type breaker struct {
	percent int64
	slots   [breakerSlots]breakerSlot
	// open until, in Unix nanoseconds; zero when it is closed.
	open atomic.Int64
}

type breakerSlot struct{ second, all, failed atomic.Int64 }

const (
	breakerSlots   = 10
	breakerLeast   = 20
	breakerOpenFor = time.Second
)

// allows says whether a request may be tried. When the time is over, one is, and tells.
func (b *breaker) allows() bool {
	if b.percent == 0 {
		return true
	}
	open := b.open.Load()
	if open == 0 {
		return true
	}
	now := time.Now().UnixNano()
	return now >= open && b.open.CompareAndSwap(open, now+int64(breakerOpenFor))
}

func (b *breaker) tell(failed bool) {
	if b.percent == 0 {
		return
	}
	now := time.Now()
	if b.open.Load() != 0 {
		if !failed {
			for i := range b.slots {
				b.slots[i].second.Store(0)
			}
			b.open.Store(0)
		}
		return
	}
	second := now.Unix()
	slot := &b.slots[second%breakerSlots]
	if old := slot.second.Load(); old != second && slot.second.CompareAndSwap(old, second) {
		slot.all.Store(0)
		slot.failed.Store(0)
	}
	slot.all.Add(1)
	if !failed {
		return
	}
	slot.failed.Add(1)
	var all, bad int64
	for i := range b.slots {
		if second-b.slots[i].second.Load() < breakerSlots {
			all += b.slots[i].all.Load()
			bad += b.slots[i].failed.Load()
		}
	}
	if all >= breakerLeast && bad*100 >= b.percent*all {
		b.open.Store(now.UnixNano() + int64(breakerOpenFor))
	}
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

// reasonOf names why a role failed, for metrics and headers.
func reasonOf(err error) string {
	var operation *net.OpError
	var certificate *tls.CertificateVerificationError
	switch {
	case errors.Is(err, errFull):
		return "full"
	case errors.Is(err, errOpen):
		return "open"
	case errors.As(err, &certificate):
		return "certificate"
	case errors.As(err, &operation) && operation.Op == "dial":
		return "connect"
	case isTimeout(err), errors.Is(err, context.DeadlineExceeded):
		return "timeout"
	}
	return "broken"
}
