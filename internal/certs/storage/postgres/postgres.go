// Package postgres is a certificate storage in PostgreSQL, which many programs may use at once.
package postgres

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"

	"github.com/shopset/shopset/internal/certs/storage/sqlstore"
)

// Open connects to a database, by its URL or the fields that libpq knows.
func Open(ctx context.Context, address string) (*sqlstore.Store, error) {
	config, err := pgx.ParseConfig(address)
	if err != nil {
		return nil, fmt.Errorf("postgres: %w", err)
	}
	db := stdlib.OpenDB(*config)
	db.SetMaxOpenConns(16)
	db.SetMaxIdleConns(16)
	db.SetConnMaxLifetime(time.Hour)
	store, err := sqlstore.New(ctx, db, sqlstore.Dialect{Bytes: "BYTEA", Text: `TEXT COLLATE "C"`, Numbered: true, Lock: fmt.Sprintf("SELECT pg_advisory_xact_lock(%d)", tablesLock)})
	if err != nil {
		_ = db.Close()
		return nil, fmt.Errorf("postgres: %w", err)
	}
	return store, nil
}

// tablesLock is held while tables are made: CREATE TABLE IF NOT EXISTS fails when two do it at once. Any number
// that nobody else takes.
const tablesLock = 7_310_590_143
