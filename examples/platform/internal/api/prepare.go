package api

import (
	"context"
	"embed"
	"fmt"
	"log/slog"
	"sort"
	"time"

	"github.com/jackc/pgx/v5"
)

//go:embed migrations/*.sql
var migrations embed.FS

// lockKey is the advisory lock that one replica holds while it changes the schema.
const lockKey = 0x73686f70736574 // "shopset"

// keepPrepared prepares the database at the start and whenever its tables turn out to be gone.
func (s *store) keepPrepared(ctx context.Context) {
	for {
		s.prepareUntilDone(ctx)
		select {
		case <-ctx.Done():
			return
		case <-s.lost:
		}
	}
}

// prepareUntilDone brings the schema up to date and seeds the catalogue, trying until it succeeds
// or the context ends.
func (s *store) prepareUntilDone(ctx context.Context) {
	pause := 100 * time.Millisecond
	for {
		err := s.prepare(ctx)
		if err == nil {
			slog.Info("database prepared")
			s.state.Store(nil)
			return
		}
		if ctx.Err() != nil {
			return
		}
		waiting := "not prepared yet: " + err.Error()
		s.state.Store(&waiting)
		slog.Warn("database", "error", err, "again", pause.String())
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
		pause = min(pause*2, 2*time.Second)
	}
}

// prepare is one attempt. All is one transaction, so that nothing half-done is left, under an
// advisory lock that ends with it.
func (s *store) prepare(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	return pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		// The limits of ordinary requests would end a replica's wait for the others.
		for _, statement := range []string{
			"SET LOCAL statement_timeout = '60s'", "SET LOCAL lock_timeout = '60s'",
			"SET LOCAL idle_in_transaction_session_timeout = '60s'",
		} {
			if _, err := tx.Exec(ctx, statement); err != nil {
				return err
			}
		}
		if _, err := tx.Exec(ctx, "SELECT pg_advisory_xact_lock($1)", int64(lockKey)); err != nil {
			return err
		}
		if err := migrate(ctx, tx); err != nil {
			return err
		}
		// A table that is missing although its migration was applied is nothing that can be mended here.
		if err := tablesThere(ctx, tx); err != nil {
			return err
		}
		if !s.seed {
			return nil
		}
		return seed(ctx, tx)
	})
}

func migrate(ctx context.Context, tx pgx.Tx) error {
	_, err := tx.Exec(ctx, `CREATE TABLE IF NOT EXISTS schema_migrations (
		name text PRIMARY KEY, applied_at timestamptz NOT NULL DEFAULT now())`)
	if err != nil {
		return err
	}
	rows, err := tx.Query(ctx, "SELECT name FROM schema_migrations")
	if err != nil {
		return err
	}
	applied, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return err
	}
	done := map[string]bool{}
	for _, name := range applied {
		done[name] = true
	}
	files, err := migrations.ReadDir("migrations")
	if err != nil {
		return err
	}
	sort.Slice(files, func(i, j int) bool { return files[i].Name() < files[j].Name() })
	for _, file := range files {
		name := file.Name()
		if done[name] {
			continue
		}
		content, err := migrations.ReadFile("migrations/" + name)
		if err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, string(content), pgx.QueryExecModeSimpleProtocol); err != nil {
			return fmt.Errorf("migration %s: %w", name, err)
		}
		if _, err := tx.Exec(ctx, "INSERT INTO schema_migrations (name) VALUES ($1)", name); err != nil {
			return err
		}
		slog.Info("migration applied", "name", name)
	}
	return nil
}
