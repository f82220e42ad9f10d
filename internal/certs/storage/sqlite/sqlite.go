// Package sqlite is a certificate storage in a file, for one program at a time on one machine.
package sqlite

import (
	"context"
	"database/sql"
	"fmt"
	"net/url"
	"os"
	"path/filepath"

	_ "modernc.org/sqlite" // The driver.

	"github.com/shopset/shopset/internal/certs/storage/sqlstore"
)

// Open opens the file, or makes it, with a mode that nobody else can read.
func Open(ctx context.Context, path string) (*sqlstore.Store, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("sqlite: %w", err)
	}
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("sqlite: %w", err)
	}
	_ = file.Close() // Nothing was written.
	// A transaction takes the write lock when it begins: one that takes it later may have to be repeated.
	options := url.Values{"_txlock": {"immediate"}, "_pragma": {"busy_timeout(10000)", "journal_mode(WAL)", "synchronous(FULL)", "foreign_keys(1)"}}
	db, err := sql.Open("sqlite", "file:"+(&url.URL{Path: path}).EscapedPath()+"?"+options.Encode())
	if err != nil {
		return nil, fmt.Errorf("sqlite: %w", err)
	}
	db.SetMaxOpenConns(8)
	store, err := sqlstore.New(ctx, db, sqlstore.Dialect{Bytes: "BLOB", Text: "TEXT"})
	if err != nil {
		_ = db.Close() // The first error counts.
		return nil, fmt.Errorf("sqlite %s: %w", path, err)
	}
	return store, nil
}
