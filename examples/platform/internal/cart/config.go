package cart

import (
	"time"

	"github.com/redis/rueidis"

	"github.com/shopset/shopset/examples/platform/internal/env"
)

// Config is the configuration of the cart.
type Config struct {
	Listen         string
	AdminListen    string
	APIURL         string
	APITimeout     time.Duration
	RequestTimeout time.Duration
	RedisURL       string
	RedisTimeout   time.Duration
	CookieKeys     [][]byte
	TTL            time.Duration
}

// ReadConfig reads and checks all variables; the error has one line for each problem.
func ReadConfig(lookup func(string) string) (Config, error) {
	r := env.New(lookup)
	c := Config{
		Listen:         r.Listen("LISTEN", ":8080"),
		AdminListen:    r.Listen("ADMIN_LISTEN", ":9090"),
		APIURL:         r.HTTP("API_URL", "http://HOST:PORT of the api"),
		APITimeout:     r.Duration("API_TIMEOUT", 3*time.Second, 10*time.Millisecond, time.Minute),
		RequestTimeout: r.Duration("REQUEST_TIMEOUT", 8*time.Second, 100*time.Millisecond, time.Minute),
		RedisURL: r.Secret("REDIS_URL", "redis://[USER:PASSWORD@]HOST:PORT[/NUMBER], or rediss:// for TLS", func(value string) error {
			_, err := rueidis.ParseURL(value)
			return err
		}),
		RedisTimeout: r.Duration("REDIS_TIMEOUT", time.Second, 10*time.Millisecond, time.Minute),
		CookieKeys:   r.Keys("COOKIE_KEYS", 32),
		TTL:          r.Duration("CART_TTL", 7*24*time.Hour, time.Minute, 90*24*time.Hour),
	}
	r.Check(c.APITimeout <= c.RequestTimeout, "API_TIMEOUT is %s: want at most REQUEST_TIMEOUT, which is %s", c.APITimeout, c.RequestTimeout)
	return c, r.Err()
}
