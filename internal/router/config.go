package router

import (
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/shopset/shopset/internal/admin"
	"github.com/shopset/shopset/internal/placement"
)

// DefaultConfigPath is where the program looks for its configuration.
const DefaultConfigPath = "/etc/shopset-router/config.yaml"

// Config is the whole configuration. What a file leaves out keeps the default.
type Config struct {
	// Admin is the address of the admin port (/healthz, /readyz, /metrics, /debug/route). Default ":9090".
	Admin string `yaml:"admin"`
	// TLS is the port whose connections begin with a ClientHello. Leave the section out to have none.
	TLS *Port `yaml:"tls"`
	// HTTP is the port of HTTP/1 without TLS. Leave the section out to have none.
	HTTP *Port `yaml:"http"`
	// Table says where the routing table comes from.
	Table Table `yaml:"table"`
	// SendProxy sends a PROXY header of version 2 to endpoints, with the client's address. Default true.
	SendProxy bool `yaml:"sendProxy"`
	// Dial bounds the wait for endpoints.
	Dial Dial `yaml:"dial"`
	// Health says how endpoints are probed.
	Health Health `yaml:"health"`
	// Failover says when hosts go to other cells.
	Failover Failover `yaml:"failover"`
	// Limits bound what clients may cost.
	Limits Limits `yaml:"limits"`
	// DrainDeadline is when connections to a drained cell, or to one that no table has any more, are cut. 0 is never. Default 5m.
	DrainDeadline time.Duration `yaml:"drainDeadline"`
	// Shutdown says how the program ends.
	Shutdown Shutdown `yaml:"shutdown"`
	// Engine moves the bytes: "epoll", with one loop for each core, or "plain", with two goroutines for each connection. Default
	// "epoll" on Linux, else "plain".
	Engine string `yaml:"engine"`
	// Loops is the number of loops of the engine "epoll". Default one for each core that the program may use.
	Loops int `yaml:"loops"`
}

// Port is one traffic port.
type Port struct {
	// Address to listen on. Default ":8443" with TLS, ":8080" without.
	Address string `yaml:"address"`
	// ProxyProtocol are the networks of load balancers whose connections begin with a PROXY header, version 1 or 2. From them, one
	// without is refused. Default none.
	ProxyProtocol []Network `yaml:"proxyProtocol"`
	// DefaultHost is where connections go that name no host; without it they are refused.
	DefaultHost string `yaml:"defaultHost"`
	// Backlog is how many connections may wait to be accepted. The kernel has a limit of its own (net.core.somaxconn). Default 4096.
	Backlog int `yaml:"backlog"`
}

// Table says where the routing table comes from, and how it is checked.
type Table struct {
	// Cache is a file that the last good table is kept in. Readers start with it, whatever else is there. Its folder must be writable.
	// Leave it out to keep none.
	Cache string `yaml:"cache"`
	// File is a file with the table that somebody else writes, like a mounted ConfigMap. Looked at five times a second.
	File string `yaml:"file"`
	// ConfigMap is NAMESPACE/NAME of a ConfigMap that is watched through the API of the cluster.
	ConfigMap string `yaml:"configMap"`
	// Key is the key in the ConfigMap. Default "routes".
	Key string `yaml:"key"`
	// Kubeconfig is a file with access to the API. Default: that of the Pod's service account.
	Kubeconfig string `yaml:"kubeconfig"`
	// PublicKeys is a PEM file with the public keys (Ed25519), one of which must have signed a table. More than one is for a change
	// of keys. It is read again when a table comes.
	PublicKeys string `yaml:"publicKeys"`
}

// Dial bounds the wait for endpoints.
type Dial struct {
	// Timeout bounds one attempt to connect. Keep it below a second, in which the kernel repeats a lost packet only to the same
	// endpoint. Default 300ms.
	Timeout time.Duration `yaml:"timeout"`
	// AnswerTimeout is how long an endpoint may take for the first byte of its answer to a ClientHello, before another one is asked.
	// Default 500ms.
	AnswerTimeout time.Duration `yaml:"answerTimeout"`
	// Replays is how often a ClientHello may be sent to one more endpoint after one got it and did not answer. Default 2.
	Replays int `yaml:"replays"`
}

// The ways to probe.
const (
	ProbeTCP  = "tcp"
	ProbeTLS  = "tls"
	ProbeHTTP = "http"
)

// Health says how endpoints are probed.
type Health struct {
	// Interval between two probes of an endpoint. Default 250ms.
	Interval time.Duration `yaml:"interval"`
	// Timeout of a probe. Default 250ms.
	Timeout time.Duration `yaml:"timeout"`
	// Fall is how many probes in a row must fail to take an endpoint down, Rise how many must pass to bring it back. Default 2, 2.
	Fall int `yaml:"fall"`
	Rise int `yaml:"rise"`
	// TLS is the probe of the port with TLS, for cells whose table tells no probe: "tls" (a hello that must be answered, if only with
	// an alert), "tcp" (a connection: finds no program that hangs), or "http". Default "tls".
	TLS string `yaml:"tls"`
	// HTTP is that of the port without TLS: "http" (a status below 500) or "tcp". Default "http".
	HTTP string `yaml:"http"`
	// Path and Host are what a probe by HTTP asks for. Default "/" and "router.probe.invalid".
	Path string `yaml:"path"`
	Host string `yaml:"host"`

	sendProxy bool
}

// Failover says when hosts go to other cells. How many cells may look dead before none is left (maxFailover) is in the table.
type Failover struct {
	// Window: if a cell goes down within this time after it began to serve the hosts of another one, those are not moved on to a third
	// one until Hold is over. So a request that kills what serves it cannot walk through all cells. Default 1m and 2m.
	Window time.Duration `yaml:"window"`
	Hold   time.Duration `yaml:"hold"`
	// SlowStart is the time in which hosts come back to a cell that came back. Default 10s.
	SlowStart time.Duration `yaml:"slowStart"`
}

// Limits bound what clients may cost.
type Limits struct {
	// Connections of all clients together; more wait in the kernel. Default: what the limit of file descriptors allows, at most 200000.
	Connections int `yaml:"connections"`
	// PerSource bounds the connections of one IPv4 address or IPv6 /64; more are closed. 0 is no limit. Default 2000.
	PerSource int `yaml:"perSource"`
	// HelloTimeout bounds the wait for a whole ClientHello or head of a request. Default 5s.
	HelloTimeout time.Duration `yaml:"helloTimeout"`
	// IdleTimeout closes connections on which nothing moves in either direction. Default 10m.
	IdleTimeout time.Duration `yaml:"idleTimeout"`
}

// Shutdown says how the program ends.
type Shutdown struct {
	// Delay is how long connections are still accepted after readiness went off. Default 5s.
	Delay time.Duration `yaml:"delay"`
	// Grace bounds the whole end, the delay included; connections that are still open then are cut. Default 25s.
	Grace time.Duration `yaml:"grace"`
}

// The engines.
const (
	EngineEpoll = "epoll"
	EnginePlain = "plain"
)

// DefaultConfig is what a file starts from.
func DefaultConfig() *Config {
	return &Config{
		Admin: admin.DefaultAddress, SendProxy: true, Engine: defaultEngine,
		Table:         Table{Key: "routes"},
		Dial:          Dial{Timeout: 300 * time.Millisecond, AnswerTimeout: 500 * time.Millisecond, Replays: 2},
		Health:        Health{Interval: 250 * time.Millisecond, Timeout: 250 * time.Millisecond, Fall: 2, Rise: 2, TLS: ProbeTLS, HTTP: ProbeHTTP, Path: "/", Host: "router.probe.invalid"},
		Failover:      Failover{Window: time.Minute, Hold: 2 * time.Minute, SlowStart: 10 * time.Second},
		Limits:        Limits{Connections: maxClients(), PerSource: 2000, HelloTimeout: 5 * time.Second, IdleTimeout: 10 * time.Minute},
		DrainDeadline: 5 * time.Minute,
		Shutdown:      Shutdown{Delay: 5 * time.Second, Grace: 25 * time.Second},
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

// fill sets what depends on other fields.
func (c *Config) fill() {
	for port, address := range map[*Port]string{c.TLS: ":8443", c.HTTP: ":8080"} {
		if port == nil {
			continue
		}
		if port.Address == "" {
			port.Address = address
		}
		if port.Backlog == 0 {
			port.Backlog = 4096
		}
		if host, err := placement.Normalise(port.DefaultHost); err == nil {
			port.DefaultHost = host // It is placed as a client's would be.
		}
	}
	if c.Loops == 0 {
		c.Loops = runtime.GOMAXPROCS(0)
	}
	c.Health.sendProxy = c.SendProxy
}

// Problems implements admin.Validator.
func (c *Config) Problems() []admin.Problem {
	c.fill()
	var p []admin.Problem
	bad := func(wrong bool, path, message string) {
		if wrong {
			p = append(p, admin.Problem{Path: path, Message: message})
		}
	}
	const wantAddress = "want an address to listen on, like \":8443\""
	bad(!isAddress(c.Admin), "admin", wantAddress)
	bad(c.TLS == nil && c.HTTP == nil, "", "no port to serve: add a section tls or http")
	for name, port := range map[string]*Port{"tls": c.TLS, "http": c.HTTP} {
		if port != nil {
			bad(!isAddress(port.Address), name+".address", wantAddress)
			bad(port.Backlog < 1 || port.Backlog > 1<<20, name+".backlog", "want 1 to 1048576")
			_, err := placement.Normalise(port.DefaultHost)
			bad(port.DefaultHost != "" && err != nil, name+".defaultHost", "want a host name")
		}
	}
	bad(c.Table.Cache == "" && c.Table.File == "" && c.Table.ConfigMap == "", "table", "no source: want file, configMap or cache")
	bad(c.Table.File != "" && c.Table.File == c.Table.Cache, "table.cache", "must be another file than table.file, which somebody else writes")
	bad(c.Table.ConfigMap != "" && strings.Count(c.Table.ConfigMap, "/") != 1, "table.configMap", "want NAMESPACE/NAME")
	bad(c.Table.PublicKeys == "", "table.publicKeys", "is missing: want a PEM file")
	for path, d := range map[string]time.Duration{"dial.timeout": c.Dial.Timeout, "dial.answerTimeout": c.Dial.AnswerTimeout,
		"health.timeout": c.Health.Timeout, "failover.window": c.Failover.Window, "failover.hold": c.Failover.Hold, "failover.slowStart": c.Failover.SlowStart,
		"limits.helloTimeout": c.Limits.HelloTimeout, "limits.idleTimeout": c.Limits.IdleTimeout, "shutdown.grace": c.Shutdown.Grace} {
		bad(d <= 0, path, "want a time above 0, like 10s")
	}
	bad(c.Health.Interval < 10*time.Millisecond, "health.interval", "want at least 10ms")
	bad(c.Dial.Replays < 0 || c.Dial.Replays >= maxTries, "dial.replays", "want 0 to "+strconv.Itoa(maxTries-1))
	bad(c.Health.Fall < 1, "health.fall", "want at least 1")
	bad(c.Health.Rise < 1, "health.rise", "want at least 1")
	bad(!slices.Contains([]string{ProbeTCP, ProbeTLS, ProbeHTTP}, c.Health.TLS), "health.tls", "want tls, tcp or http")
	bad(!slices.Contains([]string{ProbeTCP, ProbeHTTP}, c.Health.HTTP), "health.http", "want http or tcp")
	bad(!strings.HasPrefix(c.Health.Path, "/") || strings.ContainsAny(c.Health.Path, " \r\n"), "health.path", "want a path, like /healthz")
	bad(strings.ContainsAny(c.Health.Host, " \r\n"), "health.host", "want a host name")
	bad(c.Limits.Connections < 1, "limits.connections", "want at least 1")
	bad(c.Limits.Connections > descriptorClients(), "limits.connections", fmt.Sprintf("is more than the limit of file descriptors allows, %d: raise that (ulimit -n)", descriptorClients()))
	bad(c.Limits.PerSource < 0, "limits.perSource", "want 0 or more")
	bad(c.DrainDeadline < 0, "drainDeadline", "want 0s or more")
	bad(c.Shutdown.Delay < 0 || c.Shutdown.Delay >= c.Shutdown.Grace, "shutdown.delay", "want a time from 0s to less than shutdown.grace ("+c.Shutdown.Grace.String()+")")
	bad(c.Engine != EnginePlain && c.Engine != defaultEngine, "engine", "want "+strings.Join(slices.Compact([]string{defaultEngine, EnginePlain}), " or "))
	bad(c.Loops < 1 || c.Loops > 256, "loops", "want 1 to 256")
	return p
}

func isAddress(value string) bool {
	host, port, err := net.SplitHostPort(value)
	_, portErr := strconv.ParseUint(port, 10, 16)
	_, ipErr := netip.ParseAddr(host)
	return err == nil && portErr == nil && (host == "" || host == "localhost" || ipErr == nil)
}

// Network is one in a configuration: a CIDR or a single address.
type Network struct{ netip.Prefix }

// UnmarshalYAML implements yaml.Unmarshaler.
func (n *Network) UnmarshalYAML(node *yaml.Node) error {
	prefix, err := netip.ParsePrefix(node.Value)
	if err != nil {
		address, addressErr := netip.ParseAddr(node.Value)
		if addressErr != nil {
			return lineError(node, "%q is no network: want one like 10.0.0.0/8 or an address", node.Value)
		}
		prefix = netip.PrefixFrom(address, address.BitLen())
	}
	n.Prefix = prefix.Masked()
	return nil
}

// lineError is an error that the decoder collects with all others instead of ending at it.
func lineError(node *yaml.Node, format string, arguments ...any) error {
	return &yaml.TypeError{Errors: []string{fmt.Sprintf("line %d: ", node.Line) + fmt.Sprintf(format, arguments...)}}
}

// reservedDescriptors are for probes, the admin port, logs and pipes.
const reservedDescriptors = 1024

// descriptorClients is how many clients the limit of file descriptors allows: each has two.
func descriptorClients() int { return max(1, (descriptorLimit()-reservedDescriptors)/2) }

func maxClients() int { return min(descriptorClients(), 200_000) }
