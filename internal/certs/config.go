package certs

import (
	"net"
	"net/url"
	"strings"

	"github.com/shopset/shopset/internal/admin"
	"github.com/shopset/shopset/internal/certrecord"
)

// Config is that of the program shopset-certs.
type Config struct {
	// Listen is the address of the API. Default ":8443".
	Listen string `yaml:"listen"`
	// Admin is the address of the admin port. Default ":9090".
	Admin string `yaml:"admin"`
	// TLS of the API. Without it the API speaks plain HTTP, which is for this machine alone.
	TLS *TLSConfig `yaml:"tls"`
	// Storage is sqlite:PATH or postgres://…; default sqlite:/var/lib/shopset-certs/certs.db.
	Storage string `yaml:"storage"`
	// Keyring is the file of the key-encryption keys; see certrecord.ReadKeyring.
	Keyring string `yaml:"keyring"`
	// Clients is the file of who may come; see ReadClients.
	Clients string `yaml:"clients"`
	// Redis that the proxies read. Without it they ask the API.
	Redis *certrecord.RedisConfig `yaml:"redis"`
	// ACME issues certificates of managed domains.
	ACME *ACMEConfig `yaml:"acme"`
}

// TLSConfig are files in PEM.
type TLSConfig struct {
	Certificate string `yaml:"certificate"`
	Key         string `yaml:"key"`
	// ClientCA signs the certificates of clients; without it they come with tokens.
	ClientCA string `yaml:"clientCA"`
}

// ACMEConfig says which authority issues.
type ACMEConfig struct {
	// Directory is the URL of the authority's directory.
	Directory string `yaml:"directory"`
	Email     string `yaml:"email"`
	// Roots that its own certificate is verified with, a file; the system's when empty.
	Roots string `yaml:"roots"`
	// Parallel is how many certificates are issued at once. Default 4.
	Parallel int `yaml:"parallel"`
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}

// DefaultConfig is what a file leaves out.
func DefaultConfig() *Config {
	return &Config{Listen: ":8443", Storage: "sqlite:/var/lib/shopset-certs/certs.db"}
}

// Problems implements admin.Validator.
func (c *Config) Problems() []admin.Problem {
	var problems []admin.Problem
	add := func(path, message string) { problems = append(problems, admin.Problem{Path: path, Message: message}) }
	if c.Keyring == "" {
		add("keyring", "is missing: want a file with a line of 32 bytes in base64, as `head -c 32 /dev/urandom | base64` makes it")
	}
	if c.Clients == "" {
		add("clients", "is missing: want a file that names who may come")
	}
	kind, _, _ := strings.Cut(c.Storage, ":")
	if kind != "sqlite" && kind != "postgres" && kind != "postgresql" {
		add("storage", "is neither sqlite:PATH nor postgres://…")
	}
	if host, _, err := net.SplitHostPort(c.Listen); c.TLS == nil && err == nil && host != "localhost" && !loopback(host) {
		add("tls", "is missing: without it keys and tokens would pass in plain text, which is for a listen address of the loopback alone")
	}
	if c.TLS != nil && (c.TLS.Certificate == "" || c.TLS.Key == "") {
		add("tls", "wants certificate and key")
	}
	if c.Redis != nil && len(c.Redis.Addresses) == 0 {
		add("redis.addresses", "is empty: want host:port")
	}
	if c.ACME != nil {
		if u, err := url.Parse(c.ACME.Directory); err != nil || u.Scheme != "https" || u.Host == "" {
			add("acme.directory", "is no https:// URL of an authority's directory")
		}
		if c.ACME.Parallel < 0 || c.ACME.Parallel > 64 {
			add("acme.parallel", "is out of range: want 1 to 64")
		}
	}
	return problems
}
