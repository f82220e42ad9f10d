package proxy

import (
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// Role is what serves requests: upstreams, a redirect, or a fixed answer.
type Role struct {
	// URL is the base of the only upstream: scheme, host, optional port and path, like "http://shop:8080". Short for
	// upstreams with one entry.
	URL string `yaml:"url"`
	// Upstreams share the requests by weight.
	Upstreams []Upstream `yaml:"upstreams"`
	// Sticky keeps a client with the upstream it got first: "cookie:NAME" or "client" (by its address). Default none.
	Sticky Sticky `yaml:"sticky"`
	// Redirect answers with a redirect instead.
	Redirect *Redirect `yaml:"redirect"`
	// Static answers with a fixed text or file instead.
	Static *Static `yaml:"static"`

	// ConnectTimeout bounds a new connection to the upstream. Default 2s.
	ConnectTimeout time.Duration `yaml:"connectTimeout"`
	// Timeout bounds the wait for the first byte of the answer once the request is sent. Default 30s.
	Timeout time.Duration `yaml:"timeout"`
	// StallTimeout cuts an upstream that neither sends nor takes a byte in the middle of a request.
	// Default 60s.
	StallTimeout time.Duration `yaml:"stallTimeout"`
	// IdleTimeout is how long a connection without a request is kept. Keep it below the upstream's
	// own. Default 30s.
	IdleTimeout time.Duration `yaml:"idleTimeout"`
	// IdleConnections is how many such connections are kept to each endpoint. Default 256.
	IdleConnections int `yaml:"idleConnections"`
	// BodyBytes bounds a request body instead of limits.bodyBytes.
	BodyBytes Size `yaml:"bodyBytes"`

	// Rewrite changes the path.
	Rewrite *Rewrite `yaml:"rewrite"`
	// RequestHeaders are changed on the way to the upstream, in this order.
	RequestHeaders []HeaderChange `yaml:"requestHeaders"`
	// ResponseHeaders are changed on the way to the client, in this order.
	ResponseHeaders []HeaderChange `yaml:"responseHeaders"`
	// RequestCookies and ResponseCookies filter cookies.
	RequestCookies  *CookieFilter `yaml:"requestCookies"`
	ResponseCookies *CookieFilter `yaml:"responseCookies"`
	// Compress answers that are not, as the client accepts it: zstd, br, gzip. Default false.
	Compress bool `yaml:"compress"`

	// Upgrades are the protocols that a connection may be switched to. Default websocket alone.
	Upgrades []string `yaml:"upgrades"`

	// Health says when an endpoint of the upstreams gets no requests.
	Health Health `yaml:"health"`
	// Retries bounds how many of the requests, in percent, are sent a second time. Default 20.
	Retries *int `yaml:"retries"`
	// MaxRequests is how many requests may be under way to the role; more fail at once. Default 0, no bound.
	MaxRequests int `yaml:"maxRequests"`
	// Fallback says what is tried, in this order, when the role fails.
	Fallback []Fallback `yaml:"fallback"`
	// FailOn are the answers of the role that count as a failure besides none at all. Default 502, 503, 504 with a
	// fallback, none without.
	FailOn []int `yaml:"failOn"`
	// Store keeps copies of pages, for the fallback "stored", and joins requests for the same page. Default none.
	Store *Store `yaml:"store"`
}

// Upstream is one of several that share a role's requests.
type Upstream struct {
	// URL is the base, like "http://shop:8080". Required.
	URL string `yaml:"url"`
	// Weight is its share of the requests. Default 1; 0 takes none but those that stick to it.
	Weight *int `yaml:"weight"`
	// Host is the Host header that it gets: "client" for the client's own, "upstream" for that of the URL, or a
	// name. Default client for http, upstream for https.
	Host string `yaml:"host"`
	// Protocol is http1, http2 (over TLS; over http: without, with prior knowledge) or auto. Default http1 for http,
	// auto for https.
	Protocol string `yaml:"protocol"`
	// ServerName is asked for and verified in TLS. Default the host of the URL.
	ServerName string `yaml:"serverName"`
	// CA verifies the upstream, a file; the system's authorities when empty.
	CA string `yaml:"ca"`
	// Resolve is how often the name is looked up again. Default 5s.
	Resolve time.Duration `yaml:"resolve"`
}

// Redirect sends the client elsewhere.
type Redirect struct {
	// To is the target, with variables: "https://www.${host}${uri}". Required.
	To Text `yaml:"to"`
	// Status is 301, 302, 303, 307 or 308. Default 302.
	Status int `yaml:"status"`
}

// Static is a fixed answer.
type Static struct {
	// Status of the answer. Default 200.
	Status int `yaml:"status"`
	// Type is the Content-Type. Default "text/html; charset=utf-8".
	Type string `yaml:"type"`
	// Body is the text; File names a file with it instead.
	Body string `yaml:"body"`
	File string `yaml:"file"`
}

// Rewrite changes the path that the upstream gets.
type Rewrite struct {
	// Strip takes a prefix away, in whole segments.
	Strip string `yaml:"strip"`
	// Regexp and Replace change the path (RE2; $1 in Replace).
	Regexp  string `yaml:"regexp"`
	Replace string `yaml:"replace"`
	// Add puts a prefix in front, after the others.
	Add string `yaml:"add"`

	pattern *regexp.Regexp
}

// Health says when an endpoint is left alone.
type Health struct {
	// Path is asked for at every endpoint, every Interval; an answer of 2xx or 3xx within Timeout is healthy. Without
	// it endpoints are judged by the requests alone.
	Path     string        `yaml:"path"`
	Interval time.Duration `yaml:"interval"`
	Timeout  time.Duration `yaml:"timeout"`
	// Failures in a row, of checks or of requests, that take an endpoint out; each counts for itself. Default 5.
	Failures int `yaml:"failures"`
	// Eject is for how long at first, and longer each time up to ten times that. Default 5s.
	Eject time.Duration `yaml:"eject"`
	// Floor is how many of the endpoints that pass their checks, in percent, stay in however their requests go. Those that fail
	// their checks are out, unless all do. Default 50.
	Floor *int `yaml:"floor"`
	// Break fails all requests at once, for a second, when this share of the last ones failed, in percent; at least
	// 20 in 10 s count. Default 0, never.
	Break int `yaml:"break"`
}

// Fallback is one thing that is tried when a role fails; exactly one field is set.
type Fallback struct {
	// Role serves instead, if the request can be sent again.
	Role string `yaml:"role"`
	// Stored serves a copy of the page if there is one that is no older than this, as far as the page allows it.
	Stored time.Duration `yaml:"stored"`
	// Page is a folder of static pages: LANGUAGE.html, and default.html. The status stays that of the failure.
	Page string `yaml:"page"`
}

// Store keeps copies of pages in memory.
type Store struct {
	// Bytes bounds all copies of the role; those under way may take a quarter as much, or one page. Default 64MiB.
	Bytes Size `yaml:"bytes"`
	// PageBytes bounds one. Default 1MiB.
	PageBytes Size `yaml:"pageBytes"`
	// SessionCookies are cookies of the client whose presence means that the page may be its own: nothing is stored or
	// served from the store. So does a Cookie header that RFC 6265 does not allow. Patterns as in cookie filters. Default
	// ["*"]: any cookie does.
	SessionCookies []string `yaml:"sessionCookies"`
}

// Sticky is how a client is known again.
type Sticky struct {
	// Cookie is the name of the cookie; Client goes by the client's address.
	Cookie string
	Client bool
}

// UnmarshalYAML implements yaml.Unmarshaler.
func (s *Sticky) UnmarshalYAML(node *yaml.Node) error {
	if name, ok := strings.CutPrefix(node.Value, "cookie:"); ok && isToken(name) {
		s.Cookie = name
		return nil
	}
	if s.Client = node.Value == "client"; !s.Client && node.Value != "" {
		return lineError(node, "%q keeps no client: want cookie:NAME or client", node.Value)
	}
	return nil
}

func (r *Role) fill() {
	fallback(&r.ConnectTimeout, 2*time.Second)
	fallback(&r.Timeout, 30*time.Second)
	fallback(&r.StallTimeout, time.Minute)
	fallback(&r.IdleTimeout, 30*time.Second)
	fallback(&r.IdleConnections, 256)
	if r.Upgrades == nil {
		r.Upgrades = []string{"websocket"}
	}
	fallback(&r.Retries, new(20))
	fallback(&r.Health.Interval, 2*time.Second)
	fallback(&r.Health.Timeout, time.Second)
	fallback(&r.Health.Failures, 5)
	fallback(&r.Health.Eject, 5*time.Second)
	fallback(&r.Health.Floor, new(50))
	if len(r.FailOn) == 0 && len(r.Fallback) > 0 {
		r.FailOn = []int{http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout}
	}
	for i := range r.Upstreams {
		u := &r.Upstreams[i]
		https := strings.HasPrefix(u.URL, "https:")
		fallback(&u.Weight, new(1))
		fallback(&u.Resolve, 5*time.Second)
		fallback(&u.Host, map[bool]string{false: HostClient, true: HostUpstream}[https])
		fallback(&u.Protocol, map[bool]string{false: ProtocolHTTP1, true: ProtocolAuto}[https])
	}
	if r.Redirect != nil {
		fallback(&r.Redirect.Status, http.StatusFound)
	}
	if r.Static != nil {
		fallback(&r.Static.Status, http.StatusOK)
		fallback(&r.Static.Type, "text/html; charset=utf-8")
	}
	if r.Store != nil {
		fallback(&r.Store.Bytes, 64<<20)
		fallback(&r.Store.PageBytes, 1<<20)
		if r.Store.SessionCookies == nil {
			r.Store.SessionCookies = []string{"*"}
		}
	}
}

// targets are the upstreams, also of a role that has the short form.
func (r *Role) targets() []Upstream {
	if r.URL == "" {
		return r.Upstreams
	}
	short := Role{Upstreams: []Upstream{{URL: r.URL}}}
	short.fill()
	return short.Upstreams
}

// The values of Upstream.Host and Upstream.Protocol.
const (
	HostClient    = "client"
	HostUpstream  = "upstream"
	ProtocolHTTP1 = "http1"
	ProtocolHTTP2 = "http2"
	ProtocolAuto  = "auto"
)

func (c *Config) roleProblems(p *problems) {
	if len(c.Roles) == 0 {
		p.add("roles", "want at least one role, like shop: {url: \"http://shop:8080\"}")
	}
	for _, name := range c.roleNames() {
		role, at := c.Roles[name], "roles."+name
		if !roleName.MatchString(name) {
			p.add(at, "the name of a role is lower-case letters, digits and dashes, at most 63")
		}
		role.problems(p, at)
		for i, f := range role.Fallback {
			f.problems(p, fmt.Sprintf("%s.fallback[%d]", at, i), name, c, &role)
		}
	}
}

func (r *Role) problems(p *problems, at string) {
	kinds := 0
	for _, there := range []bool{r.URL != "", len(r.Upstreams) > 0, r.Redirect != nil, r.Static != nil} {
		if there {
			kinds++
		}
	}
	if kinds == 0 {
		p.add(at+".url", "is missing: want a base URL, like \"http://shop:8080\"; or upstreams, redirect, static")
	} else if kinds > 1 {
		p.add(at, "wants one of url, upstreams, redirect and static")
	}
	if r.URL != "" {
		p.baseURL(at+".url", r.URL)
	}
	weight := 0
	for i, u := range r.Upstreams {
		u.problems(p, fmt.Sprintf("%s.upstreams[%d]", at, i))
		weight += *u.Weight
	}
	if len(r.Upstreams) > 0 && weight == 0 {
		p.add(at+".upstreams", "want a weight above 0 for one of them")
	}
	p.positive(at+".connectTimeout", r.ConnectTimeout)
	p.positive(at+".timeout", r.Timeout)
	p.positive(at+".stallTimeout", r.StallTimeout)
	p.positive(at+".idleTimeout", r.IdleTimeout)
	if r.IdleConnections < 1 {
		p.add(at+".idleConnections", "want at least 1")
	}
	if r.MaxRequests < 0 {
		p.add(at+".maxRequests", "want 0, for no bound, or more")
	}
	p.percent(at+".retries", *r.Retries)
	p.percent(at+".health.floor", *r.Health.Floor)
	p.percent(at+".health.break", r.Health.Break)
	p.positive(at+".health.interval", r.Health.Interval)
	p.positive(at+".health.timeout", r.Health.Timeout)
	p.positive(at+".health.eject", r.Health.Eject)
	if r.Health.Failures < 1 {
		p.add(at+".health.failures", "want at least 1")
	}
	if r.Health.Path != "" && !strings.HasPrefix(r.Health.Path, "/") {
		p.add(at+".health.path", "want a path that starts with /")
	}
	for i, status := range r.FailOn {
		if status < 400 || status > 599 {
			p.add(fmt.Sprintf("%s.failOn[%d]", at, i), "want a status from 400 to 599")
		}
	}
	r.answerProblems(p, at)
	r.filterProblems(p, at)
}

// answerProblems are those of roles without upstreams.
func (r *Role) answerProblems(p *problems, at string) {
	if r.Redirect != nil {
		if !slices.Contains([]int{301, 302, 303, 307, 308}, r.Redirect.Status) {
			p.add(at+".redirect.status", "want 301, 302, 303, 307 or 308")
		}
		if r.Redirect.To.source == "" {
			p.add(at+".redirect.to", "is missing: want a URL, like https://www.${host}${uri}")
		}
	}
	if r.Static != nil {
		if r.Static.Status < 200 || r.Static.Status > 599 {
			p.add(at+".static.status", "want a status from 200 to 599")
		}
		if r.Static.Body != "" && r.Static.File != "" {
			p.add(at+".static", "wants body or file")
		}
	}
}

// filterProblems are those of what changes requests and answers.
func (r *Role) filterProblems(p *problems, at string) {
	if w := r.Rewrite; w != nil {
		if w.Regexp != "" {
			if _, err := regexp.Compile(w.Regexp); err != nil {
				p.add(at+".rewrite.regexp", err.Error())
			}
		}
		for _, field := range []struct{ name, value string }{{"strip", w.Strip}, {"add", w.Add}} {
			if field.value != "" && (!strings.HasPrefix(field.value, "/") || cleanPath(field.value) != strings.TrimSuffix(field.value, "/")) {
				p.add(at+".rewrite."+field.name, "want a clean path that starts with /")
			}
		}
	}
	for i := range r.RequestHeaders {
		r.RequestHeaders[i].problems(p, fmt.Sprintf("%s.requestHeaders[%d]", at, i))
	}
	for i := range r.ResponseHeaders {
		r.ResponseHeaders[i].problems(p, fmt.Sprintf("%s.responseHeaders[%d]", at, i))
	}
	r.RequestCookies.problems(p, at+".requestCookies", false)
	r.ResponseCookies.problems(p, at+".responseCookies", true)
	if r.Store != nil {
		p.atLeast(at+".store.bytes", r.Store.Bytes, 1<<20)
		p.atLeast(at+".store.pageBytes", r.Store.PageBytes, 1<<10)
		patternProblems(p, at+".store.sessionCookies", r.Store.SessionCookies)
	}
}

func (u *Upstream) problems(p *problems, at string) {
	p.baseURL(at+".url", u.URL)
	if *u.Weight < 0 || *u.Weight > 1000 {
		p.add(at+".weight", "want 0 to 1000")
	}
	p.oneOf(at+".protocol", u.Protocol, ProtocolHTTP1, ProtocolHTTP2, ProtocolAuto)
	if parsed, err := url.Parse("//" + u.Host); err != nil || parsed.Host != u.Host {
		p.add(at+".host", "want client, upstream or a host name")
	}
	if u.CA != "" && strings.HasPrefix(u.URL, "http:") {
		p.add(at+".ca", "is of no use without https")
	}
	p.positive(at+".resolve", u.Resolve)
}

func (f *Fallback) problems(p *problems, at, own string, c *Config, r *Role) {
	kinds := 0
	for _, there := range []bool{f.Role != "", f.Stored != 0, f.Page != ""} {
		if there {
			kinds++
		}
	}
	if kinds != 1 {
		p.add(at, "wants one of role, stored and page")
	}
	if _, ok := c.Roles[f.Role]; f.Role != "" && (!ok || f.Role == own) {
		p.add(at+".role", "there is no other role "+strconv.Quote(f.Role))
	}
	if f.Stored < 0 {
		p.add(at+".stored", "want a time above 0, like 24h")
	}
	if f.Stored > 0 && r.Store == nil {
		p.add(at+".stored", "needs a store: add store: {} to the role")
	}
}
