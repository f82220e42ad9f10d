package proxy

import (
	"context"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/maypok86/otter/v2"
)

// store keeps copies of a role's pages (RFC 9111, as a shared cache), for two uses: a page whose role fails is served
// from its copy, and requests for the same page that come while one is under way wait for that one's answer. Pages are
// never served from it otherwise.
type store struct {
	config *Store
	// pages are by primaryKey, with the names of the headers that they vary by, and by variantKey.
	pages *otter.Cache[string, *page]
	// held is how many bytes copies take that are not in pages yet.
	held atomic.Int64

	mu      sync.Mutex
	flights map[string]*pageFlight
	copies  map[string]bool // under way, by variantKey
}

// pageFlight is a request for a page that others wait for.
type pageFlight struct {
	key  string
	done chan struct{}
	// page is nil when it is not for others; variant is whom it is for.
	page    *page
	variant string
}

func newStore(config *Store) (*store, error) {
	pages, err := otter.New(&otter.Options[string, *page]{
		MaximumWeight: uint64(config.Bytes), //nolint:gosec // It is positive.
		Weigher: func(key string, p *page) uint32 {
			size := 512 + 2*len(key) + len(p.body)
			for name, values := range p.header {
				size += len(name) + 32
				for _, value := range values {
					size += len(value) + 16
				}
			}
			return uint32(size) //nolint:gosec // Pages are bounded.
		},
	})
	return &store{config: config, pages: pages, flights: map[string]*pageFlight{}, copies: map[string]bool{}}, err
}

// takes says whether a request may have to do with the store at all.
func (s *store) takes(e *exchange) bool {
	r := e.request
	return r.Method == http.MethodGet && e.body == nil && r.Header["Authorization"] == nil && r.Header["Range"] == nil &&
		upgrade(r.Header) == "" && !s.inSession(r.Header)
}

// inSession says whether a request may be that of somebody: by the name of a cookie, or because not every reader would find
// the same cookies in it (RFC 6265, 4.2.1). An upstream may find a session where a strict parser finds nothing.
func (s *store) inSession(header http.Header) bool {
	some := false
	for pair := range cookiePairs(header) {
		name, value, found := strings.Cut(pair, "=")
		if !found || !isToken(name) || !isCookieValue(value) || matches(s.config.SessionCookies, name) {
			return true
		}
		some = true
	}
	return header["Cookie"] != nil && !some
}

// noStore says whether a request forbids to store its answer (RFC 9111, 5.2.1.5).
func noStore(header http.Header) bool {
	_, there := directives(header["Cache-Control"])["no-store"]
	return there
}

// primaryKey holds all that an upstream writes into a page's links: it never holds for two hosts, and not for a host that
// came with another port or, by a trusted proxy's word, from another site.
func primaryKey(e *exchange, trusted trust) string {
	proto, host := asked(e.request, trusted)
	return e.scheme() + "\x00" + proto + "://" + strings.ToLower(host) + "\x00" + strings.ToLower(e.request.Host) + "\x00" + e.request.URL.RequestURI()
}

func variantKey(primary string, vary []string, header http.Header) string {
	var b strings.Builder
	b.WriteString(primary)
	for _, name := range vary {
		b.WriteByte(0)
		value := strings.Join(header[name], ",")
		if len(value) > 64 {
			value = digest(value)
		}
		b.WriteString(value)
	}
	return b.String()
}

// find returns the copy for a request.
func (s *store) find(primary string, header http.Header) *page {
	first, ok := s.pages.GetIfPresent(primary)
	if !ok || len(first.vary) == 0 {
		return first
	}
	found, _ := s.pages.GetIfPresent(variantKey(primary, first.vary, header))
	return found
}

// serveStale answers with a copy, if there is one that may be served and is not older than limit.
func (s *store) serveStale(p *pipeline, e *exchange, limit time.Duration) bool {
	if s == nil || !s.takes(e) {
		return false
	}
	found := s.find(primaryKey(e, p.trusted), e.request.Header)
	if found == nil || found.body == nil || found.age() > min(limit, found.staleFor) {
		return false
	}
	p.fellBack(e, "stored")
	p.respond(e, found.response(e.request)) //nolint:bodyclose // respond closes it.
	return true
}

// joinFor bounds the wait for another one's answer: who waits has asked nobody yet.
const joinFor = 5 * time.Second

// join lets a request wait for one for the same page that is under way, and answers it with that one's answer. A request
// that is the first goes on, and others wait for it.
func (s *store) join(p *pipeline, e *exchange) (done bool) {
	header := e.request.Header
	if !s.takes(e) || noStore(header) {
		return false
	}
	primary := primaryKey(e, p.trusted)
	known := s.find(primary, header)
	if known == nil || !known.fresh {
		return false // Nothing says that one answer would do for all.
	}
	key := variantKey(primary, known.vary, header)
	s.mu.Lock()
	flight := s.flights[key]
	if flight == nil {
		flight = &pageFlight{key: key, done: make(chan struct{})}
		s.flights[key] = flight
		s.mu.Unlock()
		e.flight = flight
		e.atEnd(func() { s.land(flight, nil, "") })
		return false
	}
	s.mu.Unlock()
	ctx, cancel := context.WithTimeout(e.request.Context(), min(joinFor, e.role.config.Timeout))
	defer cancel()
	select {
	case <-flight.done:
	case <-ctx.Done():
		return false
	}
	if flight.page == nil || flight.variant != variantKey(primary, flight.page.vary, header) {
		return false // It varies by more than before.
	}
	e.joined = true
	p.metrics.joined.WithLabelValues(e.role.name).Inc()
	p.respond(e, flight.page.response(e.request)) //nolint:bodyclose // respond closes it.
	return true
}

// land ends a flight, once.
func (s *store) land(flight *pageFlight, result *page, variant string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if flight == nil || s.flights[flight.key] != flight {
		return
	}
	delete(s.flights, flight.key)
	flight.page, flight.variant = result, variant
	close(flight.done)
}
