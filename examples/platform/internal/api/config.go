package api

import (
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/shopset/shopset/examples/platform/internal/env"
)

// Config is the configuration of the api.
type Config struct {
	Listen         string
	AdminListen    string
	DatabaseURL    string
	Seed           bool
	RequestTimeout time.Duration
	Connections    int
}

// ReadConfig reads and checks all variables; the error has one line for each problem.
func ReadConfig(lookup func(string) string) (Config, error) {
	r := env.New(lookup)
	c := Config{
		Listen:      r.Listen("LISTEN", ":8080"),
		AdminListen: r.Listen("ADMIN_LISTEN", ":9090"),
		DatabaseURL: r.Secret("DATABASE_URL", "postgres://USER:PASSWORD@HOST:PORT/DATABASE", func(value string) error {
			_, err := pgxpool.ParseConfig(value)
			return err
		}),
		Seed:           r.Bool("SEED_CATALOGUE", false),
		RequestTimeout: r.Duration("REQUEST_TIMEOUT", 2500*time.Millisecond, 100*time.Millisecond, time.Minute),
		Connections:    r.Int("DATABASE_CONNECTIONS", 16, 1, 200),
	}
	return c, r.Err()
}
