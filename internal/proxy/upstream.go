package proxy

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"time"
)

// upstream is one base URL, with all endpoints that its name stands for.
type upstream struct {
	name      string // for logs
	base      *url.URL
	host      string // the Host header, empty for the client's
	weight    int
	config    Upstream
	settings  upstreamSettings
	roots     *x509.CertPool // nil for the system's
	health    Health
	stop      context.CancelFunc // ends run; nil before
	transport *http.Transport
	direct    *direct // nil where http.Transport does everything
	endpoints atomic.Pointer[[]*endpoint]
	lookup    func(ctx context.Context, host string) ([]netip.Addr, error)
	reached   atomic.Bool   // once took a connection
	again     chan struct{} // has the name looked up before its time
}

// upstreamSettings are those of a role that are for its upstreams.
type upstreamSettings struct {
	connect, timeout, stall, idle time.Duration
	idleConnections               int
	health                        Health
}

// endpoint is one address of an upstream.
type endpoint struct {
	address string // host:port, as it is dialed
	active  atomic.Int64
	// failures in a row of requests, ejected until (Unix nanoseconds) and how often it was.
	failures  atomic.Int32
	ejected   atomic.Int64
	ejections atomic.Int32
	// sick is what active checks say, after some that failed in a row.
	sick         atomic.Bool
	failedChecks atomic.Int32
}

func (e *endpoint) well(now int64) bool { return !e.sick.Load() && now >= e.ejected.Load() }

// newUpstream makes one. local says that addresses of this machine and of private networks may be reached, which is so for
// all but the sites that domain records name.
func newUpstream(role *Role, config Upstream, local bool) (*upstream, error) {
	base, err := url.Parse(config.URL)
	if err != nil {
		return nil, err
	}
	u := &upstream{name: base.Host, base: base, weight: *config.Weight, config: config, health: role.Health,
		settings: upstreamSettings{role.ConnectTimeout, role.Timeout, role.StallTimeout, role.IdleTimeout, role.IdleConnections, role.Health},
		again:    make(chan struct{}, 1),
		lookup: func(ctx context.Context, host string) ([]netip.Addr, error) {
			return net.DefaultResolver.LookupNetIP(ctx, "ip", host)
		}}
	switch config.Host {
	case HostClient:
	case HostUpstream:
		u.host = base.Host
	default:
		u.host = config.Host
	}
	u.endpoints.Store(&[]*endpoint{{address: hostPort(base, base.Hostname())}})
	transport, err := newTransport(role, config, base, local)
	if err != nil {
		return nil, err
	}
	u.transport, u.roots = transport, transport.TLSClientConfig.RootCAs
	if base.Scheme == "http" && config.Protocol == ProtocolHTTP1 {
		u.direct = newDirect(role, transport.DialContext)
	}
	return u, nil
}

// hostPort is where an address of a base URL takes connections.
func hostPort(base *url.URL, host string) string {
	port := base.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[base.Scheme]
	}
	return net.JoinHostPort(host, port)
}

// close ends what runs beside requests, and what is idle; requests under way end by themselves.
func (u *upstream) close() {
	if u.stop != nil {
		u.stop()
	}
	u.transport.CloseIdleConnections()
	if u.direct != nil {
		u.direct.close()
	}
}

// run looks the name up and checks the endpoints until the context ends. Until greeted it tries to reach one.
func (u *upstream) run(ctx context.Context, greeted time.Time) {
	_, err := netip.ParseAddr(u.base.Hostname())
	names := err != nil
	resolve, check := time.NewTicker(u.config.Resolve), time.NewTicker(u.health.Interval)
	defer resolve.Stop()
	defer check.Stop()
	var looked time.Time
	u.greet(ctx, greeted, names)
	if names {
		u.resolve(ctx)
	}
	for {
		select {
		case <-ctx.Done():
			return
		case <-u.again:
			if names && time.Since(looked) > greetPause {
				u.resolve(ctx)
				looked = time.Now()
			}
		case <-resolve.C:
			if names {
				u.resolve(ctx)
				looked = time.Now()
			}
		case <-check.C:
			if u.direct != nil {
				u.direct.sweep()
			}
			if u.health.Path != "" {
				u.checkAll(ctx)
			}
		}
	}
}

// maxEndpoints bounds what a name may stand for.
const maxEndpoints = 1000

// resolve looks the name up. What cannot be looked up stays as it was.
func (u *upstream) resolve(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	addresses, err := u.lookup(ctx, u.base.Hostname())
	if err != nil || len(addresses) == 0 {
		if ctx.Err() == nil {
			slog.Debug("an upstream's name cannot be looked up, its endpoints stay", "upstream", u.name, "error", err)
		}
		return
	}
	have := *u.endpoints.Load()
	byAddress := make(map[string]*endpoint, len(have))
	for _, e := range have {
		byAddress[e.address] = e
	}
	var next []*endpoint
	seen := map[string]bool{}
	for _, address := range addresses[:min(len(addresses), maxEndpoints)] {
		text := hostPort(u.base, address.Unmap().String())
		if seen[text] {
			continue
		}
		seen[text] = true
		if byAddress[text] == nil {
			byAddress[text] = &endpoint{address: text}
		}
		next = append(next, byAddress[text])
	}
	slices.SortFunc(next, func(a, b *endpoint) int { return strings.Compare(a.address, b.address) })
	if !slices.Equal(next, have) {
		u.endpoints.Store(&next)
	}
}

// lookAgain has the name looked up soon: an address that takes no connection may be that of a Service or Pod that is gone.
func (u *upstream) lookAgain() {
	select {
	case u.again <- struct{}{}:
	default: // It is asked for already.
	}
}

// checkAll asks every endpoint for its health.
func (u *upstream) checkAll(ctx context.Context) {
	endpoints := *u.endpoints.Load()
	done := make(chan struct{}, len(endpoints))
	for _, e := range endpoints {
		go func() {
			defer func() { done <- struct{}{} }()
			well := u.checkOne(ctx, e)
			if ctx.Err() != nil {
				return
			}
			switch {
			case well:
				if e.sick.Swap(false) {
					slog.Info("an endpoint is well again", "upstream", u.name, "endpoint", e.address)
				}
				e.failedChecks.Store(0)
			case e.failedChecks.Add(1) >= int32(u.health.Failures): //nolint:gosec // A small number.
				if !e.sick.Swap(true) {
					slog.Warn("an endpoint fails its checks", "upstream", u.name, "endpoint", e.address)
				}
			}
		}()
	}
	for range endpoints {
		<-done
	}
}

func (u *upstream) checkOne(ctx context.Context, e *endpoint) bool {
	ctx, cancel := context.WithTimeout(ctx, u.health.Timeout)
	defer cancel()
	target := *u.base
	target.Host, target.Path = e.address, u.health.Path
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, target.String(), nil)
	if err != nil {
		return false
	}
	request.Host = u.base.Host
	request.Header.Set("User-Agent", "shopset-proxy health")
	response, err := u.transport.RoundTrip(request)
	if err != nil {
		return false
	}
	_, _ = io.CopyN(io.Discard, response.Body, 64<<10) // Else the connection cannot be used again.
	_ = response.Body.Close()
	return response.StatusCode >= 200 && response.StatusCode < 400
}

// pick chooses an endpoint: of two at random the one with fewer requests under way. not is one that just failed.
func (u *upstream) pick(not *endpoint) *endpoint {
	endpoints := *u.endpoints.Load()
	if len(endpoints) == 1 {
		return endpoints[0]
	}
	candidates := u.candidates(endpoints)
	if i := slices.Index(candidates, not); i >= 0 && len(candidates) > 1 {
		candidates = slices.Delete(slices.Clone(candidates), i, i+1)
	}
	a, b := candidates[rand.IntN(len(candidates))], candidates[rand.IntN(len(candidates))] //nolint:gosec // No secret.
	if b.active.Load() < a.active.Load() {
		return b
	}
	return a
}

// candidates are the endpoints that may be asked. Those that fail their checks are out, unless all do: it is more likely that
// the judge errs. Of the others no more are out than the floor allows, however their requests went.
func (u *upstream) candidates(endpoints []*endpoint) []*endpoint {
	now := time.Now().UnixNano()
	passing := 0
	chosen := make([]*endpoint, 0, 16)
	for _, e := range endpoints {
		if e.sick.Load() {
			continue
		}
		passing++
		if e.well(now) {
			chosen = append(chosen, e)
		}
	}
	switch {
	case passing == 0:
		return endpoints
	case len(chosen) > 0 && len(chosen)*100 >= *u.health.Floor*passing:
		return chosen
	}
	return slices.DeleteFunc(slices.Clone(endpoints), func(e *endpoint) bool { return e.sick.Load() })
}

// judge notes how a request to an endpoint went.
func (u *upstream) judge(e *endpoint, failed bool) {
	if !failed {
		if e.failures.Load() != 0 {
			e.failures.Store(0)
		}
		if e.ejections.Load() > 0 && time.Now().UnixNano() > e.ejected.Load()+int64(u.health.Eject) {
			e.ejections.Store(0)
		}
		return
	}
	if e.failures.Add(1) < int32(u.health.Failures) { //nolint:gosec // A small number.
		return
	}
	now, out, passing := time.Now().UnixNano(), 0, 0
	for _, other := range *u.endpoints.Load() {
		if other != e && other.sick.Load() {
			continue
		}
		passing++
		if other == e || !other.well(now) {
			out++
		}
	}
	if out*100 > (100-*u.health.Floor)*passing {
		return
	}
	times := min(e.ejections.Add(1), 10)
	e.ejected.Store(now + int64(times)*int64(u.health.Eject))
	e.failures.Store(0)
	slog.Warn("an endpoint failed too often and gets no requests for a while", "upstream", u.name, "endpoint", e.address, "for", time.Duration(times)*u.health.Eject)
}

// mark stands for the upstream in cookies that keep a client there: its name is nobody's business outside.
func (u *upstream) mark() string { return digest(u.name)[:12] }

// pickUpstream chooses among a role's upstreams by weight, and keeps clients that are to be kept.
func (r *role) pickUpstream(e *exchange) *upstream {
	if len(r.upstreams) == 1 {
		return r.upstreams[0]
	}
	switch sticky := &r.config.Sticky; {
	case sticky.Client:
		// The same in all replicas, and after every change of the configuration.
		sum := sha256.Sum256([]byte(r.name + "\x00" + networkOf(e.client, 32)))
		return r.byWeight(int(binary.BigEndian.Uint64(sum[:]) % uint64(r.weights))) //nolint:gosec // Less than weights.
	case sticky.Cookie != "":
		if cookie, err := e.request.Cookie(sticky.Cookie); err == nil {
			for _, u := range r.upstreams {
				if u.mark() == cookie.Value {
					return u
				}
			}
		}
		chosen := r.byWeight(rand.IntN(r.weights)) //nolint:gosec // No secret.
		e.stick = &http.Cookie{Name: sticky.Cookie, Value: chosen.mark(), Path: "/", HttpOnly: true, Secure: e.request.TLS != nil, SameSite: http.SameSiteLaxMode}
		return chosen
	}
	return r.byWeight(rand.IntN(r.weights)) //nolint:gosec // No secret.
}

func (r *role) byWeight(n int) *upstream {
	for _, u := range r.upstreams {
		if n -= u.weight; n < 0 {
			return u
		}
	}
	return r.upstreams[0]
}
