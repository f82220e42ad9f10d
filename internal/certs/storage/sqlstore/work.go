package sqlstore

import (
	"context"
	"database/sql"
	"encoding/asn1"
	"errors"
	"fmt"
	"time"

	"github.com/shopset/shopset/internal/certs/storage"
)

// splitChain is the opposite of joinChain.
func splitChain(joined []byte) ([][]byte, error) {
	var chain [][]byte
	for len(joined) > 0 {
		var der asn1.RawValue
		rest, err := asn1.Unmarshal(joined, &der)
		if err != nil {
			return nil, err
		}
		chain, joined = append(chain, der.FullBytes), rest
	}
	return chain, nil
}

// Changes implements storage.Storage.
func (s *Store) Changes(ctx context.Context, after uint64, limit int) ([]storage.Numbered, error) {
	rows, err := s.q().QueryContext(ctx, "SELECT number, name FROM changes WHERE number > ? ORDER BY number LIMIT ?", after, limit)
	if err != nil {
		return nil, fmt.Errorf("changes: %w", err)
	}
	defer rows.Close()
	var changes []storage.Numbered
	for rows.Next() {
		var c storage.Numbered
		if err := rows.Scan(&c.Number, &c.Name); err != nil {
			return nil, fmt.Errorf("changes: %w", err)
		}
		changes = append(changes, c)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("changes: %w", err)
	}
	// Numbers have no gaps, because one that is rolled back goes with its change: so the first that comes is the
	// next, unless some were forgotten. A number that was never given is of another, or an older, database.
	known := len(changes) > 0 && changes[0].Number == after+1
	if len(changes) == 0 {
		last, err := s.LastChange(ctx)
		if err != nil {
			return nil, err
		}
		known = after <= last
	}
	if !known {
		return nil, fmt.Errorf("changes after %d: %w", after, storage.ErrNotFound)
	}
	return changes, nil
}

// LastChange implements storage.Storage.
func (s *Store) LastChange(ctx context.Context) (number uint64, err error) {
	if err := s.q().QueryRowContext(ctx, "SELECT number FROM counter WHERE id = 1").Scan(&number); err != nil {
		return 0, fmt.Errorf("last change: %w", err)
	}
	return number, nil
}

// SkipChanges implements storage.Storage.
func (s *Store) SkipChanges(ctx context.Context, least uint64) (number uint64, err error) {
	if number, err = s.LastChange(ctx); err != nil || number >= least {
		return number, err
	}
	result, err := s.q().ExecContext(ctx, "UPDATE counter SET number = ? WHERE id = 1 AND number = ?", least, number)
	if err != nil {
		return 0, fmt.Errorf("skip changes: %w", err)
	}
	if n, err := result.RowsAffected(); err != nil || n == 0 {
		return 0, fmt.Errorf("skip changes: %w", errors.Join(err, storage.ErrConflict)) // Something changed just now; try again.
	}
	// A change of everything stands at the new number, so that who is before it sees the gap.
	if _, err := s.q().ExecContext(ctx, "INSERT INTO changes (number, name, made) VALUES (?, '*', ?) ON CONFLICT DO NOTHING", least, time.Now().UnixMilli()); err != nil {
		return 0, fmt.Errorf("skip changes: %w", err)
	}
	return least, nil
}

// ForgetChanges implements storage.Storage.
func (s *Store) ForgetChanges(ctx context.Context, before time.Time) error {
	_, err := s.q().ExecContext(ctx, "DELETE FROM changes WHERE made < ? AND number < (SELECT number FROM counter WHERE id = 1)", before.UnixMilli())
	return err
}

// Claim implements storage.Storage.
func (s *Store) Claim(ctx context.Context, holder string, now, until time.Time, limit int) ([]storage.Job, error) {
	rows, err := s.q().QueryContext(ctx, "SELECT domain FROM jobs WHERE due <= ? AND held_until <= ? ORDER BY due, domain LIMIT ?", now.UnixMilli(), now.UnixMilli(), limit)
	if err != nil {
		return nil, fmt.Errorf("claim jobs: %w", err)
	}
	defer rows.Close()
	var domains []string
	for rows.Next() {
		var domain string
		if err := rows.Scan(&domain); err != nil {
			return nil, fmt.Errorf("claim jobs: %w", err)
		}
		domains = append(domains, domain)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("claim jobs: %w", err)
	}
	var jobs []storage.Job
	for _, domain := range domains {
		// Whoever is first has it: the condition is asked again under the row's lock.
		affected, err := s.q().exec(ctx, "UPDATE jobs SET holder = ?, held_until = ? WHERE domain = ? AND due <= ? AND held_until <= ?",
			holder, until.UnixMilli(), domain, now.UnixMilli(), now.UnixMilli())
		if err != nil {
			return jobs, fmt.Errorf("claim the job of %s: %w", domain, err)
		}
		if affected == 0 {
			continue
		}
		job, err := s.Job(ctx, domain)
		if err != nil {
			return jobs, err
		}
		jobs = append(jobs, job)
	}
	return jobs, nil
}

// Job implements storage.Storage.
func (s *Store) Job(ctx context.Context, domain string) (storage.Job, error) {
	job := storage.Job{Domain: domain}
	var due int64
	err := s.q().QueryRowContext(ctx, "SELECT due, failures, last_error FROM jobs WHERE domain = ?", domain).Scan(&due, &job.Failures, &job.LastError)
	if errors.Is(err, sql.ErrNoRows) {
		err = storage.ErrNotFound
	}
	if err != nil {
		return storage.Job{}, fmt.Errorf("job of %s: %w", domain, err)
	}
	job.Due = time.UnixMilli(due)
	return job, nil
}

// Finish implements storage.Storage.
func (s *Store) Finish(ctx context.Context, holder string, job storage.Job) error {
	affected, err := s.q().exec(ctx, "UPDATE jobs SET due = ?, failures = ?, last_error = ?, holder = '', held_until = 0 WHERE domain = ? AND holder = ?",
		job.Due.UnixMilli(), job.Failures, job.LastError, job.Domain, holder)
	if err == nil && affected == 0 {
		err = storage.ErrConflict
	}
	if err != nil {
		return fmt.Errorf("job of %s: %w", job.Domain, err)
	}
	return nil
}

// Value implements storage.Storage.
func (s *Store) Value(ctx context.Context, key string, now time.Time) (value []byte, err error) {
	err = s.q().QueryRowContext(ctx, "SELECT value FROM keyed_values WHERE name = ? AND (expires = 0 OR expires > ?)", key, now.UnixMilli()).Scan(&value)
	if errors.Is(err, sql.ErrNoRows) {
		err = storage.ErrNotFound
	}
	if err != nil {
		return nil, fmt.Errorf("value %s: %w", key, err)
	}
	return value, nil
}

// PutValue implements storage.Storage.
func (s *Store) PutValue(ctx context.Context, key string, value []byte, expires time.Time) error {
	at := int64(0)
	if !expires.IsZero() {
		at = expires.UnixMilli()
	}
	_, err := s.q().ExecContext(ctx, `INSERT INTO keyed_values (name, value, expires) VALUES (?, ?, ?)
		ON CONFLICT (name) DO UPDATE SET value = excluded.value, expires = excluded.expires`, key, value, at)
	if err != nil {
		return fmt.Errorf("value %s: %w", key, err)
	}
	// Those that have expired go with the next one that comes.
	_, err = s.q().ExecContext(ctx, "DELETE FROM keyed_values WHERE expires > 0 AND expires < ?", time.Now().Add(-time.Hour).UnixMilli())
	return err
}

// DeleteValue implements storage.Storage.
func (s *Store) DeleteValue(ctx context.Context, key string) error {
	_, err := s.q().ExecContext(ctx, "DELETE FROM keyed_values WHERE name = ?", key)
	return err
}

// Lease implements storage.Storage.
func (s *Store) Lease(ctx context.Context, name, holder string, now, until time.Time) (bool, error) {
	affected, err := s.q().exec(ctx, `INSERT INTO leases (name, holder, until) VALUES (?, ?, ?)
		ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, until = excluded.until WHERE leases.holder = excluded.holder OR leases.until <= ?`,
		name, holder, until.UnixMilli(), now.UnixMilli())
	if err != nil {
		return false, fmt.Errorf("lease %s: %w", name, err)
	}
	return affected > 0, nil
}

// SealedOtherwise implements storage.Storage.
func (s *Store) SealedOtherwise(ctx context.Context, prefix []byte, after *storage.Certificate, limit int) ([]storage.Certificate, error) {
	certificates, err := s.certificates(ctx, "WHERE (domain > ? OR domain = ? AND kind > ?) AND substr(sealed_key, 1, ?) <> ? ORDER BY domain, kind LIMIT ?",
		after.Domain, after.Domain, string(after.Kind), len(prefix), prefix, limit)
	if err != nil {
		return nil, fmt.Errorf("certificates by key: %w", err)
	}
	return certificates, nil
}

// Reseal implements storage.Storage.
func (s *Store) Reseal(ctx context.Context, c *storage.Certificate, sealed []byte) error {
	affected, err := s.q().exec(ctx, "UPDATE certificates SET sealed_key = ? WHERE domain = ? AND kind = ? AND sealed_key = ?", sealed, c.Domain, string(c.Kind), c.SealedKey)
	if err == nil && affected == 0 {
		err = storage.ErrConflict
	}
	if err != nil {
		return fmt.Errorf("seal the key of %s anew: %w", c.Domain, err)
	}
	return nil
}
