package certrecord

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	"github.com/redis/rueidis"
)

// RedisConfig says where Redis is; it is a section of the programs' configurations.
type RedisConfig struct {
	// Addresses, host:port; several for a cluster.
	Addresses []string `yaml:"addresses"`
	Username  string   `yaml:"username"`
	// PasswordFile holds the password.
	PasswordFile string `yaml:"passwordFile"`
	// TLS speaks TLS, verified by the system's authorities or CA, a file.
	TLS bool   `yaml:"tls"`
	CA  string `yaml:"ca"`
}

// Options reads the files that the section names. field is the section's name in errors.
func (c *RedisConfig) Options(field string) (rueidis.ClientOption, error) {
	options := rueidis.ClientOption{InitAddress: c.Addresses, Username: c.Username, DisableCache: true, ConnWriteTimeout: 2 * time.Second,
		Dialer: net.Dialer{Timeout: 2 * time.Second}}
	if c.PasswordFile != "" {
		password, err := os.ReadFile(c.PasswordFile)
		if err != nil {
			return options, fmt.Errorf("%s.passwordFile: %w", field, err)
		}
		options.Password = strings.TrimSpace(string(password))
	}
	if c.TLS || c.CA != "" {
		options.TLSConfig = &tls.Config{MinVersion: tls.VersionTLS12}
		if c.CA != "" {
			pool, err := ReadPool(field+".ca", c.CA)
			if err != nil {
				return options, err
			}
			options.TLSConfig.RootCAs = pool
		}
	}
	return options, nil
}

// ReadPool reads authorities in PEM from a file. field names the setting in errors.
func ReadPool(field, path string) (*x509.CertPool, error) {
	content, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", field, err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(content) {
		return nil, fmt.Errorf("%s: %s has no certificate in PEM", field, path)
	}
	return pool, nil
}
