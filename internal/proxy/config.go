package proxy

import (
	"net"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/shopset/shopset/internal/admin"
	"github.com/shopset/shopset/internal/certrecord"
)

// DefaultConfigPath is where the operator puts the configuration.
const DefaultConfigPath = "/etc/shopset-proxy/config.yaml"

// Config is the whole configuration. What a file leaves out keeps the default.
type Config struct {
	// Admin is the address of the admin port (/healthz, /readyz, /metrics, /connections).
	// Default ":9090".
	Admin string `yaml:"admin"`
	// HTTPS is the TLS port. Leave the section out to have none.
	HTTPS *HTTPS `yaml:"https"`
	// HTTP is the port without TLS. Leave the section out to have none.
	HTTP *HTTP `yaml:"http"`
	// TrustedProxies are the networks (CIDR or single address) whose X-Forwarded-* headers are
	// believed and extended. From anybody else they are dropped. Default none.
	TrustedProxies []Network `yaml:"trustedProxies"`
	// UnderscoreHeaders lets headers of clients pass whose names have a "_". To applications behind CGI they are the same as those
	// with "-", which the proxy sets itself. Default false.
	UnderscoreHeaders bool `yaml:"underscoreHeaders"`
	// Certificates says where certificates and options of domains come from. Leave the section out when one certificate
	// in files is all there is.
	Certificates *DomainCertificates `yaml:"certificates"`
	// Redis is for shared rate limits. Default that of certificates.
	Redis *certrecord.RedisConfig `yaml:"redis"`
	// Roles are the upstreams by name; a name is a DNS label.
	Roles map[string]Role `yaml:"roles"`
	// Routes pick the role of a request: whole paths before regular expressions before prefixes, the longest prefix
	// first.
	Routes []Route `yaml:"routes"`
	// Access refuses requests, by the first rule that does.
	Access []Access `yaml:"access"`
	// RateLimits bound how often something may be asked for; all that match count.
	RateLimits []RateLimit `yaml:"rateLimits"`
	// Maintenance is the page of shops that are being worked on.
	Maintenance Maintenance `yaml:"maintenance"`
	// Limits bound what one client may cost.
	Limits Limits `yaml:"limits"`
	// Serving says when a cell no longer serves, which routers are told.
	Serving Serving `yaml:"serving"`
	// Startup says when the program is ready.
	Startup Startup `yaml:"startup"`
	// Shutdown says how the program ends.
	Shutdown Shutdown `yaml:"shutdown"`
	// AccessLog writes one JSON line for each request to standard output. Default true.
	AccessLog bool `yaml:"accessLog"`
	// AccessLogShare is the share of requests that are written, 0 to 1; those that failed always are. Default 1.
	AccessLogShare float64 `yaml:"accessLogShare"`
	// TopShops is how many shops have metrics of their own, those with the most requests; the rest is summed. Default 20.
	TopShops int `yaml:"topShops"`
	// Reload is how often the file, and those that it names, are looked at; what changed, but for what needs a restart (see
	// docs/proxy.md), is used for new requests, and those under way stay. Default 5s.
	Reload time.Duration `yaml:"reload"`
}

// HTTPS is the port with TLS, for HTTP/1.1 and HTTP/2.
type HTTPS struct {
	// Address to listen on. Default ":8443".
	Address string `yaml:"address"`
	// Certificate is a PEM file with the certificate and its intermediates. Required, if there is no section
	// certificates; else it is for names that no record covers, and clients that name none.
	Certificate string `yaml:"certificate"`
	// Key is the PEM file of its private key.
	Key string `yaml:"key"`
	// Reload is how often both files are looked at; when they changed, new handshakes use the new
	// pair and connections stay. A pair that does not fit is reported and the old one stays.
	// Default 10s.
	Reload time.Duration `yaml:"reload"`
	// ProxyProtocol are the networks whose connections begin with a PROXY header, version 1 or 2, that tells the client's
	// address; from them, one without is refused. Default none.
	ProxyProtocol []Network `yaml:"proxyProtocol"`
}

// HTTP is the port without TLS.
type HTTP struct {
	// Address to listen on. Default ":8080".
	Address string `yaml:"address"`
	// Mode is "redirect", which sends every client to https, or "serve", which serves as on the
	// TLS port. Default "redirect".
	Mode string `yaml:"mode"`
	// RedirectPort is the port of https as clients see it. Default 443.
	RedirectPort int `yaml:"redirectPort"`
	// ProxyProtocol is as for https.
	ProxyProtocol []Network `yaml:"proxyProtocol"`
}

// The modes of HTTP.
const (
	ModeRedirect = "redirect"
	ModeServe    = "serve"
)

// Limits bound what a client may cost.
type Limits struct {
	// HeaderBytes bounds the request line and all headers; more is answered with 431. Default 64KiB.
	HeaderBytes Size `yaml:"headerBytes"`
	// BodyBytes bounds a request body; more is answered with 413. Default 32MiB.
	BodyBytes Size `yaml:"bodyBytes"`
	// HeaderTimeout bounds the TLS handshake and, anew, the headers of a request. Default 10s.
	HeaderTimeout time.Duration `yaml:"headerTimeout"`
	// BodyTimeout bounds a whole request body. Default 5m.
	BodyTimeout time.Duration `yaml:"bodyTimeout"`
	// StallTimeout cuts a client that neither sends a byte of its body nor takes one of the answer.
	// Default 30s.
	StallTimeout time.Duration `yaml:"stallTimeout"`
	// IdleTimeout closes a connection without a request. Default 60s.
	IdleTimeout time.Duration `yaml:"idleTimeout"`
	// ConnectionAge ends a connection, after the answer that follows, so that clients spread again
	// and a drained ShopSet becomes idle. Default 5m.
	ConnectionAge time.Duration `yaml:"connectionAge"`
	// UpgradedIdleTimeout ends a connection that was upgraded, like a WebSocket, when nothing passes in
	// either direction. Default 5m.
	UpgradedIdleTimeout time.Duration `yaml:"upgradedIdleTimeout"`
	// UpgradedAge ends an upgraded connection at that age, so that a drained ShopSet becomes idle. The
	// client has to connect again. Default 1h.
	UpgradedAge time.Duration `yaml:"upgradedAge"`
	// Streams is how many requests an HTTP/2 connection may have under way. Default 250.
	Streams int `yaml:"streams"`
}

// Shutdown says how the program ends.
type Shutdown struct {
	// Delay is how long connections are still accepted after readiness went off, with every answer
	// ending its connection: the time that Kubernetes takes to send new clients elsewhere.
	// Default 5s.
	Delay time.Duration `yaml:"delay"`
	// Grace bounds the whole end, the delay included. Keep it below the Pod's
	// terminationGracePeriodSeconds. Default 25s.
	Grace time.Duration `yaml:"grace"`
}

// DefaultConfig is what a file starts from.
func DefaultConfig() *Config {
	return &Config{
		Admin:     admin.DefaultAddress,
		AccessLog: true, AccessLogShare: 1, TopShops: 20, Reload: 5 * time.Second,
		Limits: Limits{
			HeaderBytes: 64 << 10, BodyBytes: 32 << 20,
			HeaderTimeout: 10 * time.Second, BodyTimeout: 5 * time.Minute,
			StallTimeout: 30 * time.Second, IdleTimeout: time.Minute,
			ConnectionAge: 5 * time.Minute, Streams: 250,
			UpgradedIdleTimeout: 5 * time.Minute, UpgradedAge: time.Hour,
		},
		Serving:  Serving{Share: 50, Shops: 3, Requests: 6, Window: 5 * time.Second, Hold: 10 * time.Second},
		Startup:  Startup{Wait: 15 * time.Second},
		Shutdown: Shutdown{Delay: 5 * time.Second, Grace: 25 * time.Second},
	}
}

// Load reads and checks the file at path.
func Load(path string) (*Config, error) {
	config := DefaultConfig()
	if err := admin.ReadConfig(path, config); err != nil {
		return nil, err
	}
	config.fill()
	return config, nil
}

// fill sets the defaults of the optional sections.
func (c *Config) fill() {
	if c.HTTPS != nil {
		fallback(&c.HTTPS.Address, ":8443")
		fallback(&c.HTTPS.Reload, 10*time.Second)
	}
	if c.HTTP != nil {
		fallback(&c.HTTP.Address, ":8080")
		fallback(&c.HTTP.Mode, ModeRedirect)
		fallback(&c.HTTP.RedirectPort, 443)
	}
	if c.Certificates != nil {
		c.Certificates.fill()
	}
	c.Maintenance.fill()
	for i := range c.RateLimits {
		c.RateLimits[i].fill()
	}
	for name, role := range c.Roles {
		role.fill()
		c.Roles[name] = role
	}
}

func fallback[T comparable](value *T, standard T) {
	var zero T
	if *value == zero {
		*value = standard
	}
}

var roleName = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)

// Problems implements admin.Validator.
func (c *Config) Problems() []admin.Problem {
	c.fill()
	var p problems
	p.address("admin", c.Admin)
	if c.HTTPS == nil && c.HTTP == nil {
		p.add("", "no port to serve: add a section https or http")
	}
	if c.HTTPS != nil {
		p.address("https.address", c.HTTPS.Address)
		if c.Certificates == nil || c.HTTPS.Certificate != "" || c.HTTPS.Key != "" {
			p.required("https.certificate", c.HTTPS.Certificate, "the path of a PEM file")
			p.required("https.key", c.HTTPS.Key, "the path of a PEM file")
		}
		p.positive("https.reload", c.HTTPS.Reload)
	}
	if c.HTTP != nil {
		p.address("http.address", c.HTTP.Address)
		if c.HTTP.Mode != ModeRedirect && c.HTTP.Mode != ModeServe {
			p.add("http.mode", "want redirect or serve, not "+strconv.Quote(c.HTTP.Mode))
		}
		if c.HTTP.RedirectPort < 1 || c.HTTP.RedirectPort > 65535 {
			p.add("http.redirectPort", "want a port between 1 and 65535")
		}
	}
	if c.Certificates != nil {
		c.Certificates.problems(&p)
	}
	c.roleProblems(&p)
	c.routeProblems(&p)
	for i := range c.Access {
		c.Access[i].problems(&p, "access["+strconv.Itoa(i)+"]")
	}
	names := map[string]bool{}
	for i := range c.RateLimits {
		l, at := &c.RateLimits[i], "rateLimits["+strconv.Itoa(i)+"]"
		l.problems(&p, at, c.redis() != nil)
		if names[l.Name] {
			p.add(at+".name", strconv.Quote(l.Name)+" is there twice")
		}
		names[l.Name] = true
	}
	if c.Maintenance.Status < 200 || c.Maintenance.Status > 599 {
		p.add("maintenance.status", "want a status from 200 to 599")
	}
	if c.AccessLogShare < 0 || c.AccessLogShare > 1 {
		p.add("accessLogShare", "want a share from 0 to 1")
	}
	if c.TopShops < 0 || c.TopShops > 1000 {
		p.add("topShops", "want 0 to 1000")
	}
	p.positive("reload", c.Reload)
	if c.Redis != nil && len(c.Redis.Addresses) == 0 {
		p.add("redis.addresses", "is empty: want host:port")
	}

	p.atLeast("limits.headerBytes", c.Limits.HeaderBytes, 4<<10)
	p.atLeast("limits.bodyBytes", c.Limits.BodyBytes, 0)
	p.positive("limits.headerTimeout", c.Limits.HeaderTimeout)
	p.positive("limits.bodyTimeout", c.Limits.BodyTimeout)
	p.positive("limits.stallTimeout", c.Limits.StallTimeout)
	p.positive("limits.idleTimeout", c.Limits.IdleTimeout)
	p.positive("limits.connectionAge", c.Limits.ConnectionAge)
	p.positive("limits.upgradedIdleTimeout", c.Limits.UpgradedIdleTimeout)
	p.positive("limits.upgradedAge", c.Limits.UpgradedAge)
	if c.Limits.Streams < 1 {
		p.add("limits.streams", "want at least 1")
	}
	c.Serving.problems(&p)
	if c.Startup.Wait < 0 {
		p.add("startup.wait", "want a time of 0s or more")
	}
	p.positive("shutdown.grace", c.Shutdown.Grace)
	if c.Shutdown.Delay < 0 || c.Shutdown.Delay >= c.Shutdown.Grace {
		p.add("shutdown.delay", "want a time from 0s to less than shutdown.grace ("+c.Shutdown.Grace.String()+")")
	}
	return p
}

// redis is where shared limits are, nil if nowhere.
func (c *Config) redis() *certrecord.RedisConfig {
	if c.Redis == nil && c.Certificates != nil {
		return c.Certificates.Redis
	}
	return c.Redis
}

func (c *Config) roleNames() []string {
	names := make([]string, 0, len(c.Roles))
	for name := range c.Roles {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// problems collects what is wrong.
type problems []admin.Problem

func (p *problems) add(path, message string) {
	*p = append(*p, admin.Problem{Path: path, Message: message})
}

func (p *problems) required(path, value, want string) {
	if value == "" {
		p.add(path, "is missing: want "+want)
	}
}

func (p *problems) positive(path string, d time.Duration) {
	if d <= 0 {
		p.add(path, "want a time above 0, like 10s")
	}
}

func (p *problems) percent(path string, value int) {
	if value < 0 || value > 100 {
		p.add(path, "want 0 to 100 percent")
	}
}

func (p *problems) oneOf(path, value string, known ...string) {
	if !slices.Contains(known, value) {
		p.add(path, "want one of "+strings.Join(known, ", ")+", not "+strconv.Quote(value))
	}
}

func (p *problems) atLeast(path string, size, least Size) {
	if size < least {
		p.add(path, "want at least "+strconv.FormatInt(int64(least), 10)+" bytes")
	}
}

func (p *problems) address(path, value string) {
	host, port, err := net.SplitHostPort(value)
	number, portErr := strconv.ParseUint(port, 10, 16)
	_, ipErr := netip.ParseAddr(host)
	if err != nil || portErr != nil || number > 65535 || (host != "" && host != "localhost" && ipErr != nil) {
		p.add(path, "want an address to listen on, like \":8443\", not "+strconv.Quote(value))
	}
}

func (p *problems) baseURL(path, value string) {
	const want = "want a base URL, like \"http://shop:8080\""
	if value == "" {
		p.add(path, "is missing: "+want)
		return
	}
	u, err := url.Parse(value)
	switch {
	case err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Hostname() == "":
		p.add(path, want+", not "+strconv.Quote(value))
	case u.User != nil || u.RawQuery != "" || u.Fragment != "" || u.ForceQuery:
		p.add(path, want+", without user, query and fragment")
	}
}
