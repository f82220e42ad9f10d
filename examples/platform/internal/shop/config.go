package shop

import (
	"path/filepath"
	"time"

	"github.com/shopset/shopset/examples/platform/internal/env"
)

// Config is the configuration of the shop.
type Config struct {
	Listen         string
	AdminListen    string
	APIURL         string
	APITimeout     time.Duration
	RequestTimeout time.Duration
	CacheDir       string
}

// ReadConfig reads and checks all variables; the error has one line for each problem.
func ReadConfig(lookup func(string) string) (Config, error) {
	r := env.New(lookup)
	c := Config{
		Listen:         r.Listen("LISTEN", ":8080"),
		AdminListen:    r.Listen("ADMIN_LISTEN", ":9090"),
		APIURL:         r.HTTP("API_URL", "http://HOST:PORT of the api"),
		APITimeout:     r.Duration("API_TIMEOUT", 3*time.Second, 10*time.Millisecond, time.Minute),
		RequestTimeout: r.Duration("REQUEST_TIMEOUT", 5*time.Second, 100*time.Millisecond, time.Minute),
		CacheDir:       r.String("CACHE_DIR", "/var/cache/shop"),
	}
	r.Check(filepath.IsAbs(c.CacheDir), "CACHE_DIR is %q: want an absolute path", c.CacheDir)
	r.Check(c.APITimeout <= c.RequestTimeout, "API_TIMEOUT is %s: want at most REQUEST_TIMEOUT, which is %s", c.APITimeout, c.RequestTimeout)
	return c, r.Err()
}
