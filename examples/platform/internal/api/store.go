package api

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/shopset/shopset/examples/platform/shopapi"
)

// errNotFound says that a row does not exist.
var errNotFound = errors.New("not found")

// store is the database. It is usable once prepare has succeeded.
type store struct {
	pool *pgxpool.Pool
	seed bool
	// state is the reason why the store is not prepared yet; nil afterwards.
	state atomic.Pointer[string]
	// lost asks for another preparation; one is enough for all who ask.
	lost chan struct{}
	// answered is when the database last did what it was asked, in Unix nanoseconds; 0 after a failure.
	answered atomic.Int64
}

// warmConnections are kept open, also when nobody needs them.
const warmConnections = 4

// openStore makes the pool; it does not wait for connections.
func openStore(ctx context.Context, c Config) (*store, error) {
	config, err := pgxpool.ParseConfig(c.DatabaseURL)
	if err != nil {
		return nil, errors.New("DATABASE_URL is not valid")
	}
	config.MaxConns = int32(c.Connections)
	// For a new one PostgreSQL starts a process and checks a password that is meant to be slow to check: on a busy machine that
	// takes seconds, and no request of a new program shall be the one that waits.
	config.MinConns = min(warmConnections, config.MaxConns)
	config.MaxConnIdleTime = time.Minute
	config.MaxConnLifetime = 10 * time.Minute
	config.MaxConnLifetimeJitter = time.Minute
	config.HealthCheckPeriod = 5 * time.Second
	config.ConnConfig.ConnectTimeout = c.RequestTimeout
	parameters := config.ConnConfig.RuntimeParams
	parameters["application_name"] = "shopset-demo-api"
	// The server's own limits hold also when the client vanishes in the middle of a transaction.
	limit := fmt.Sprint(c.RequestTimeout.Milliseconds())
	parameters["statement_timeout"] = limit
	parameters["lock_timeout"] = limit
	parameters["idle_in_transaction_session_timeout"] = limit
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return nil, fmt.Errorf("database: %w", err)
	}
	s := &store{pool: pool, seed: c.Seed, lost: make(chan struct{}, 1)}
	waiting := "not connected yet"
	s.state.Store(&waiting)
	return s, nil
}

// check is the readiness check. It asks the database only when no request did lately: under full load
// the question would have to wait for a connection, and a program that is merely busy would be taken
// out of service. The question is for the tables: an empty database answers, too.
func (s *store) check(ctx context.Context) error {
	if waiting := s.state.Load(); waiting != nil {
		return errors.New(*waiting)
	}
	if time.Since(time.Unix(0, s.answered.Load())) < time.Second {
		return nil
	}
	err := tablesThere(ctx, s.pool)
	s.noteLoss(err)
	return err
}

var errTablesMissing = errors.New("tables are missing")

// tablesThere looks for the tables without a lock on any: a change of the schema makes nobody unready.
func tablesThere(ctx context.Context, q querier) error {
	tables, found := []string{"shops", "products", "orders", "order_lines", "domains"}, 0
	err := q.QueryRow(ctx, "SELECT count(to_regclass(name)) FROM unnest($1::text[]) AS name", tables).Scan(&found)
	if err == nil && found < len(tables) {
		err = errTablesMissing
	}
	return err
}

// noteLoss has the database prepared again when err says that it is another one than before.
func (s *store) noteLoss(err error) {
	if !schemaMissing(err) {
		return
	}
	waiting := "the database was replaced: " + err.Error()
	s.state.Store(&waiting)
	select {
	case s.lost <- struct{}{}:
	default:
	}
}

// shopByHost also knows the domains of customers.
func (s *store) shopByHost(ctx context.Context, host string) (shopapi.Shop, error) {
	shop, err := s.shop(ctx, "host", host)
	if errors.Is(err, errNotFound) {
		var id string
		err = s.read(ctx, func() error {
			return s.pool.QueryRow(ctx, "SELECT shop FROM domains WHERE host = $1", host).Scan(&id)
		})
		if err == nil {
			return s.shop(ctx, "id", id)
		}
	}
	return shop, err
}

func (s *store) shop(ctx context.Context, column, value string) (shopapi.Shop, error) {
	var shop shopapi.Shop
	err := s.read(ctx, func() error {
		return s.pool.QueryRow(ctx, "SELECT id, host, name, currency FROM shops WHERE "+column+" = $1", value).
			Scan(&shop.ID, &shop.Host, &shop.Name, &shop.Currency)
	})
	return shop, err
}

func (s *store) shops(ctx context.Context, after string, limit int) ([]shopapi.Shop, error) {
	return list[shopapi.Shop](ctx, s,
		"SELECT id, host, name, currency FROM shops WHERE id > $1 ORDER BY id LIMIT $2", after, limit)
}

const productColumns = `p.id, p.shop, p.name, p.description, p.category, p.price_cents, s.currency, p.stock
	FROM products p JOIN shops s ON s.id = p.shop `

func (s *store) products(ctx context.Context, shop string, after int64, limit int) ([]shopapi.Product, error) {
	return list[shopapi.Product](ctx, s,
		"SELECT "+productColumns+"WHERE p.shop = $1 AND p.id > $2 ORDER BY p.id LIMIT $3", shop, after, limit)
}

func (s *store) productsByID(ctx context.Context, shop string, ids []int64) ([]shopapi.Product, error) {
	return list[shopapi.Product](ctx, s, "SELECT "+productColumns+"WHERE p.shop = $1 AND p.id = ANY($2) ORDER BY p.id", shop, ids)
}

func (s *store) product(ctx context.Context, shop string, id int64) (shopapi.Product, error) {
	products, err := list[shopapi.Product](ctx, s, "SELECT "+productColumns+"WHERE p.shop = $1 AND p.id = $2", shop, id)
	if err == nil && len(products) == 0 {
		return shopapi.Product{}, errNotFound
	}
	if err != nil {
		return shopapi.Product{}, err
	}
	return products[0], nil
}

func list[T any](ctx context.Context, s *store, query string, arguments ...any) ([]T, error) {
	var rows []T
	err := s.read(ctx, func() error {
		result, err := s.pool.Query(ctx, query, arguments...)
		if err != nil {
			return err
		}
		rows, err = pgx.CollectRows(result, pgx.RowToStructByPos[T])
		return err
	})
	return rows, err
}

// read runs a query, and again when its connection turns out to be dead.
func (s *store) read(ctx context.Context, query func() error) error {
	err := s.retry(ctx, query)
	if errors.Is(err, pgx.ErrNoRows) {
		return errNotFound
	}
	return err
}

// attempts bounds how often a transaction is tried.
const attempts = 4

// retry runs something that is safe to repeat until it succeeds, fails for good, the attempts are
// used up or the time is.
func (s *store) retry(ctx context.Context, try func() error) error {
	if s.state.Load() != nil {
		return errNotPrepared
	}
	var err error
	for attempt := range attempts {
		if attempt > 0 {
			pause := time.Duration(rand.Int64N(int64(10*time.Millisecond) << attempt))
			select {
			case <-ctx.Done():
				return err
			case <-time.After(pause):
			}
		}
		if err = try(); err == nil || !repeatable(err) {
			break
		}
	}
	s.noteLoss(err)
	switch {
	case errors.Is(ctx.Err(), context.Canceled): // The client left, which says nothing about the database.
	case unavailable(err):
		s.answered.Store(0)
	default:
		s.answered.Store(time.Now().UnixNano())
	}
	return err
}

var errNotPrepared = errors.New("the database is not prepared yet")

// repeatable reports whether trying again may help at once: PostgreSQL chose this transaction as
// the victim, or the connection broke after it had worked. A refused connection is neither: then
// the answer is 503 at once.
func repeatable(err error) bool {
	var refused *pgconn.ConnectError
	if errors.As(err, &refused) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		return false
	}
	var answer *pgconn.PgError
	if errors.As(err, &answer) {
		switch answer.Code {
		case "40001", "40P01", "57P01", "57P02": // serialization, deadlock, server is going down
			return true
		}
		return false
	}
	return broken(err)
}

// schemaMissing reports whether tables are gone that were there: the database was replaced.
func schemaMissing(err error) bool {
	var answer *pgconn.PgError
	return errors.Is(err, errTablesMissing) ||
		errors.As(err, &answer) && (answer.Code == "42P01" || answer.Code == "3F000") // table, schema
}

// broken reports whether err is about the connection and not about what was asked.
func broken(err error) bool {
	if errors.Is(err, pgx.ErrNoRows) || errors.Is(err, errNotFound) {
		return false
	}
	var failure *failure
	return !errors.As(err, &failure) && (pgconn.SafeToRetry(err) || connectionLost(err))
}

func connectionLost(err error) bool {
	text := err.Error()
	for _, sign := range []string{"EOF", "connection reset", "broken pipe", "conn closed", "use of closed"} {
		if strings.Contains(text, sign) {
			return true
		}
	}
	return false
}

// unavailable reports whether err means that the database cannot answer now.
func unavailable(err error) bool {
	if err == nil {
		return false
	}
	var refused *pgconn.ConnectError
	if errors.As(err, &refused) {
		return true
	}
	var answer *pgconn.PgError
	if errors.As(err, &answer) && len(answer.Code) >= 2 {
		switch answer.Code[:2] {
		case "08", "40", "53", "55", "57": // connection, rollback, resources, lock timeout, intervention
			return true
		}
		return schemaMissing(err) || answer.Code == "25006" // read-only: a replica that is not promoted yet
	}
	return errors.Is(err, errNotPrepared) || errors.Is(err, errTablesMissing) ||
		errors.Is(err, context.DeadlineExceeded) || pgconn.Timeout(err) || broken(err)
}
