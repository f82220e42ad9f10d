package proxy

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"net/textproto"
	"slices"
	"strconv"
	"strings"
	"sync"
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

	mu      sync.Mutex
	flights map[string]*pageFlight
}

// page is a copy. One with a nil body only knows the headers that the real ones vary by.
type page struct {
	vary    []string
	header  http.Header
	body    []byte
	arrived time.Time
	// staleFor is how long the page lets it be served when its role fails; negative if it does not.
	staleFor time.Duration
	// fresh says that it may be used for others without asking (a positive lifetime).
	fresh bool
}

// pageFlight is a request for a page that others wait for.
type pageFlight struct {
	done chan struct{}
	page *page
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
	return &store{config: config, pages: pages, flights: map[string]*pageFlight{}}, err
}

// takes says whether a request may have to do with the store at all.
func (s *store) takes(e *exchange) bool {
	r := e.request
	if r.Method != http.MethodGet || e.body != nil || r.Header["Authorization"] != nil || r.Header["Range"] != nil || upgrade(r.Header) != "" {
		return false
	}
	for _, cookie := range r.Cookies() {
		if matches(s.config.SessionCookies, cookie.Name) {
			return false
		}
	}
	return r.Header["Cookie"] == nil || len(r.Cookies()) > 0 // What cannot be read may be a session.
}

// primaryKey never holds for two hosts: pages of one shop are never another's.
func primaryKey(e *exchange) string {
	return e.scheme() + "://" + e.host + "\x00" + e.request.URL.RequestURI()
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
func (s *store) find(e *exchange) *page {
	primary := primaryKey(e)
	first, ok := s.pages.GetIfPresent(primary)
	if !ok || len(first.vary) == 0 {
		return first
	}
	found, _ := s.pages.GetIfPresent(variantKey(primary, first.vary, e.request.Header))
	return found
}

// serveStale answers with a copy, if there is one that may be served and is not older than limit.
func (s *store) serveStale(p *pipeline, e *exchange, limit time.Duration) bool {
	if s == nil || !s.takes(e) {
		return false
	}
	found := s.find(e)
	if found == nil || found.body == nil || time.Since(found.arrived) > min(limit, found.staleFor) {
		return false
	}
	p.fellBack(e, "stored")
	p.respond(e, found.response(e.request)) //nolint:bodyclose // respond closes it.
	return true
}

// response makes an answer of a copy.
func (c *page) response(request *http.Request) *http.Response {
	header := c.header.Clone()
	header.Set("Age", strconv.Itoa(int(time.Since(c.arrived)/time.Second)))
	header.Set("Content-Length", strconv.Itoa(len(c.body)))
	return &http.Response{StatusCode: http.StatusOK, Header: header, ContentLength: int64(len(c.body)),
		Body: io.NopCloser(bytes.NewReader(c.body)), Request: request, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1}
}

// join lets a request wait for one for the same page that is under way, and answers it with that one's answer. A request
// that is the first goes on, and others wait for it.
func (s *store) join(p *pipeline, e *exchange) (done bool) {
	if !s.takes(e) {
		return false
	}
	known := s.find(e)
	if known == nil || !known.fresh {
		return false // Nothing says that one answer would do for all.
	}
	key := variantKey(primaryKey(e), known.vary, e.request.Header)
	s.mu.Lock()
	flight := s.flights[key]
	if flight == nil {
		flight = &pageFlight{done: make(chan struct{})}
		s.flights[key] = flight
		s.mu.Unlock()
		e.flight = flight
		e.atEnd(func() { s.land(key, flight, nil) })
		return false
	}
	s.mu.Unlock()
	ctx, cancel := context.WithTimeout(e.request.Context(), e.role.config.Timeout)
	defer cancel()
	select {
	case <-flight.done:
	case <-ctx.Done():
		return false
	}
	if flight.page == nil {
		return false
	}
	e.joined = true
	p.metrics.joined.WithLabelValues(e.role.name).Inc()
	p.respond(e, flight.page.response(e.request)) //nolint:bodyclose // respond closes it.
	return true
}

// land ends a flight, once.
func (s *store) land(key string, flight *pageFlight, result *page) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.flights[key] != flight {
		return
	}
	delete(s.flights, key)
	flight.page = result
	close(flight.done)
}

// copying is an answer on its way into the store.
type copying struct {
	store   *store
	primary string
	request http.Header
	page    *page
	flight  *pageFlight
	length  int64
	over    bool
}

// storing begins to copy an answer that may be stored, and returns nil for others.
func (p *pipeline) storing(e *exchange, response *http.Response) *copying {
	s := e.role.store
	if s == nil || e.joined || e.fallback != "" || !s.takes(e) || response.StatusCode != http.StatusOK || response.ContentLength > int64(s.config.PageBytes) {
		return nil
	}
	made := newPage(response.Header)
	if made == nil {
		return nil
	}
	return &copying{store: s, primary: primaryKey(e), request: e.request.Header, page: made, flight: e.flight, length: response.ContentLength}
}

// newPage reads what an answer's headers allow; nil if it must not be stored.
func newPage(header http.Header) *page {
	control := directives(header["Cache-Control"])
	has := func(names ...string) bool {
		return slices.ContainsFunc(names, func(name string) bool { _, there := control[name]; return there })
	}
	if has("no-store", "private") || header["Set-Cookie"] != nil || header["Trailer"] != nil {
		return nil
	}
	var vary []string
	for _, line := range header["Vary"] {
		for name := range strings.SplitSeq(line, ",") {
			if name = textproto.CanonicalMIMEHeaderKey(strings.TrimSpace(name)); name == "*" || name == "Cookie" || name == "Authorization" {
				return nil
			} else if name != "" && !slices.Contains(vary, name) {
				vary = append(vary, name)
			}
		}
	}
	slices.Sort(vary)
	made := &page{vary: vary, header: header.Clone(), body: []byte{}, arrived: time.Now(), staleFor: time.Duration(1<<63 - 1)}
	lifetime, there := seconds(control, "s-maxage")
	if !there {
		lifetime, _ = seconds(control, "max-age")
	}
	made.fresh = lifetime > 0 && !has("no-cache")
	if allowed, there := seconds(control, "stale-if-error"); there { // RFC 5861.
		made.staleFor = lifetime + allowed
	} else if has("no-cache", "must-revalidate", "proxy-revalidate", "s-maxage") { // RFC 9111, 4.2.4.
		made.staleFor = lifetime
		if has("no-cache") {
			made.staleFor = -1
		}
	}
	return made
}

// directives of Cache-Control, in lower case.
func directives(lines []string) map[string]string {
	result := map[string]string{}
	for _, line := range lines {
		for part := range strings.SplitSeq(line, ",") {
			name, value, _ := strings.Cut(strings.TrimSpace(part), "=")
			if name != "" {
				result[strings.ToLower(name)] = strings.Trim(value, "\"")
			}
		}
	}
	return result
}

func seconds(control map[string]string, name string) (time.Duration, bool) {
	value, there := control[name]
	n, err := strconv.ParseUint(value, 10, 31)
	return time.Duration(n) * time.Second, there && err == nil //nolint:gosec // 31 bits.
}

func (c *copying) add(p []byte) {
	if c.over = c.over || len(c.page.body)+len(p) > int(c.store.config.PageBytes); c.over {
		c.page.body = nil
		return
	}
	c.page.body = append(c.page.body, p...)
}

// drop ends a copy of an answer that broke off.
func (c *copying) drop() { c.over = true }

// keep stores a whole answer.
func (c *copying) keep() {
	if c.over || c.length >= 0 && c.length != int64(len(c.page.body)) {
		return
	}
	key := variantKey(c.primary, c.page.vary, c.request)
	if len(c.page.vary) > 0 {
		c.store.pages.Set(c.primary, &page{vary: c.page.vary, fresh: c.page.fresh})
	}
	c.store.pages.Set(key, c.page)
	if c.flight != nil {
		c.store.land(key, c.flight, c.page)
	}
}
