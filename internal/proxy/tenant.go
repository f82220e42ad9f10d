package proxy

import (
	"errors"
	"net"
	"net/http"
	"net/netip"
	"strings"

	"github.com/shopset/shopset/internal/certstore"
)

// tenant finds the domain that a request is for, and who asks.
func (p *pipeline) tenant(e *exchange) (done bool) {
	e.host = hostOf(e.request.Host)
	e.path = cleanPath(e.request.URL.Path)
	e.client = p.clientOf(e.request)
	if given := e.request.Header["X-Request-Id"]; len(given) == 1 && len(p.trusted) > 0 && p.trusted.contains(peer(e.request.RemoteAddr)) && isID(given[0]) {
		e.requestID = given[0]
	}
	if p.domains == nil {
		return false
	}
	domain, err := p.domains.Domain(e.request.Context(), e.host, e.client)
	switch {
	case errors.Is(err, certstore.ErrRefused): // Nobody knows what may be done here, and this one has asked for too much.
		e.refused = "unknown hosts"
		e.Header().Set("Retry-After", "60")
		errorPage(e, http.StatusTooManyRequests)
		return true
	case err == nil:
		e.domain = domain
	case errors.Is(err, certstore.ErrUnknown) && p.refuseUnknown && e.request.TLS != nil:
		e.refused = "unknown host"
		errorPage(e, http.StatusMisdirectedRequest)
		return true
	case !errors.Is(err, certstore.ErrUnknown) && e.request.Context().Err() == nil:
		return p.withoutRecord(e)
	}
	return false
}

// withoutRecord decides when nobody can say what the domain's options are: its record is in memory of who has served it
// before.
func (p *pipeline) withoutRecord(e *exchange) (done bool) {
	if !p.refuseWithout {
		p.metrics.withoutRecord.WithLabelValues(HostsServe).Inc()
		return false
	}
	p.metrics.withoutRecord.WithLabelValues(HostsRefuse).Inc()
	e.refused = "without record"
	e.Header().Set("Retry-After", "5")
	errorPage(e, http.StatusServiceUnavailable)
	return true
}

// hostOf is a Host header in lower case, without port and the dot at its end.
func hostOf(host string) string {
	if i := strings.LastIndexByte(host, ':'); i >= 0 && strings.IndexByte(host[i:], ']') < 0 {
		host = host[:i]
	}
	host = strings.TrimSuffix(host, ".")
	for i := range len(host) {
		if c := host[i]; 'A' <= c && c <= 'Z' {
			return strings.ToLower(host)
		}
	}
	return host
}

// clientOf is the address of the client: of the peer, or what the trusted ones among those before it say, from the last
// to the first that is not trusted.
func (p *pipeline) clientOf(r *http.Request) netip.Addr {
	from := peer(r.RemoteAddr)
	if len(p.trusted) == 0 || !p.trusted.contains(from) {
		return from
	}
	values := r.Header["X-Forwarded-For"]
	for i := len(values) - 1; i >= 0; i-- {
		chain := strings.Split(values[i], ",")
		for j := len(chain) - 1; j >= 0; j-- {
			text := strings.TrimSpace(chain[j])
			address, err := netip.ParseAddr(text)
			if host, _, splitErr := net.SplitHostPort(text); err != nil && splitErr == nil {
				address, err = netip.ParseAddr(host)
			}
			if err != nil {
				return from // What is before cannot be believed either.
			}
			from = address.Unmap().WithZone("")
			if !p.trusted.contains(from) {
				return from
			}
		}
	}
	return from
}

func (e *exchange) shop() string {
	if e.domain == nil {
		return ""
	}
	return e.domain.Shop
}

func (e *exchange) scheme() string {
	if e.request.TLS != nil {
		return "https"
	}
	return "http"
}
