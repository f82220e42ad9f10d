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
	// Roles are the upstreams by name; a name is a DNS label.
	Roles map[string]Role `yaml:"roles"`
	// Routes pick the role of a request; the longest prefix that matches wins, whatever the order.
	Routes []Route `yaml:"routes"`
	// Limits bound what one client may cost.
	Limits Limits `yaml:"limits"`
	// Shutdown says how the program ends.
	Shutdown Shutdown `yaml:"shutdown"`
	// AccessLog writes one JSON line for each request to standard output. Default true.
	AccessLog bool `yaml:"accessLog"`
}

// HTTPS is the port with TLS, for HTTP/1.1 and HTTP/2.
type HTTPS struct {
	// Address to listen on. Default ":8443".
	Address string `yaml:"address"`
	// Certificate is a PEM file with the certificate and its intermediates. Required.
	Certificate string `yaml:"certificate"`
	// Key is the PEM file of its private key. Required.
	Key string `yaml:"key"`
	// Reload is how often both files are looked at; when they changed, new handshakes use the new
	// pair and connections stay. A pair that does not fit is reported and the old one stays.
	// Default 10s.
	Reload time.Duration `yaml:"reload"`
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
}

// The modes of HTTP.
const (
	ModeRedirect = "redirect"
	ModeServe    = "serve"
)

// Role is one upstream.
type Role struct {
	// URL is the base: scheme, host, optional port and path, like "http://shop:8080". Required.
	URL string `yaml:"url"`
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
	// IdleConnections is how many such connections are kept. Default 256.
	IdleConnections int `yaml:"idleConnections"`
}

// Route sends the paths under a prefix to a role.
type Route struct {
	// Prefix matches whole segments: "/cart" is for /cart and /cart/1, not for /cartoon. Paths are
	// compared decoded and without dot segments; what is forwarded is what the client sent.
	Prefix string `yaml:"prefix"`
	// Role is the name of one of the roles.
	Role string `yaml:"role"`
}

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
		AccessLog: true,
		Limits: Limits{
			HeaderBytes: 64 << 10, BodyBytes: 32 << 20,
			HeaderTimeout: 10 * time.Second, BodyTimeout: 5 * time.Minute,
			StallTimeout: 30 * time.Second, IdleTimeout: time.Minute,
			ConnectionAge: 5 * time.Minute, Streams: 250,
			UpgradedIdleTimeout: 5 * time.Minute, UpgradedAge: time.Hour,
		},
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
	for name, role := range c.Roles {
		fallback(&role.ConnectTimeout, 2*time.Second)
		fallback(&role.Timeout, 30*time.Second)
		fallback(&role.StallTimeout, time.Minute)
		fallback(&role.IdleTimeout, 30*time.Second)
		fallback(&role.IdleConnections, 256)
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
		p.required("https.certificate", c.HTTPS.Certificate, "the path of a PEM file")
		p.required("https.key", c.HTTPS.Key, "the path of a PEM file")
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
	c.roleProblems(&p)
	c.routeProblems(&p)

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
	p.positive("shutdown.grace", c.Shutdown.Grace)
	if c.Shutdown.Delay < 0 || c.Shutdown.Delay >= c.Shutdown.Grace {
		p.add("shutdown.delay", "want a time from 0s to less than shutdown.grace ("+c.Shutdown.Grace.String()+")")
	}
	return p
}

func (c *Config) roleProblems(p *problems) {
	if len(c.Roles) == 0 {
		p.add("roles", "want at least one role, like shop: {url: \"http://shop:8080\"}")
	}
	for _, name := range c.roleNames() {
		role, at := c.Roles[name], "roles."+name
		if !roleName.MatchString(name) {
			p.add(at, "the name of a role is lower-case letters, digits and dashes, at most 63")
		}
		p.baseURL(at+".url", role.URL)
		p.positive(at+".connectTimeout", role.ConnectTimeout)
		p.positive(at+".timeout", role.Timeout)
		p.positive(at+".stallTimeout", role.StallTimeout)
		p.positive(at+".idleTimeout", role.IdleTimeout)
		if role.IdleConnections < 1 {
			p.add(at+".idleConnections", "want at least 1")
		}
	}
}

func (c *Config) routeProblems(p *problems) {
	if len(c.Routes) == 0 {
		p.add("routes", "want at least one route, like {prefix: /, role: shop}")
	}
	seen := map[string]int{}
	for i, route := range c.Routes {
		at := "routes[" + strconv.Itoa(i) + "]"
		clean := cleanPath(route.Prefix)
		switch {
		case !strings.HasPrefix(route.Prefix, "/"):
			p.add(at+".prefix", "want a path that starts with /, not "+strconv.Quote(route.Prefix))
		case clean != route.Prefix && clean+"/" != route.Prefix:
			p.add(at+".prefix", "no request matches "+strconv.Quote(route.Prefix)+": write "+strconv.Quote(clean))
		default:
			if first, ok := seen[clean]; ok {
				p.add(at+".prefix", "routes["+strconv.Itoa(first)+"] has the same prefix")
			} else {
				seen[clean] = i
			}
		}
		if _, ok := c.Roles[route.Role]; !ok {
			p.add(at+".role", "there is no role "+strconv.Quote(route.Role)+": want one of "+strings.Join(c.roleNames(), ", "))
		}
	}
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
