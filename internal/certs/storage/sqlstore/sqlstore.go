// Package sqlstore is a certificate storage in a database of SQL, by database/sql. The packages beside it say
// which, and how it is opened; the statements are those that PostgreSQL and SQLite have in common.
package sqlstore

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/shopset/shopset/internal/certrecord"
	"github.com/shopset/shopset/internal/certs/storage"
)

// Dialect is what databases do differently.
type Dialect struct {
	// Bytes is the type of bytes.
	Bytes string
	// Text is the type of texts that are sorted by their bytes.
	Text string
	// Numbered placeholders ($1) instead of question marks.
	Numbered bool
	// Lock is a statement that keeps others from making the tables at the same time; it may be empty.
	Lock string
}

// Store is a storage.
type Store struct {
	db      *sql.DB
	dialect Dialect
}

var _ storage.Storage = (*Store)(nil)

// New makes the tables that are missing.
func New(ctx context.Context, db *sql.DB, dialect Dialect) (*Store, error) {
	s := &Store{db, dialect}
	err := s.transact(ctx, func(tx *tx) error {
		for _, statement := range strings.Split(dialect.Lock+";"+strings.NewReplacer("BLOB", dialect.Bytes, "KEYTEXT", dialect.Text).Replace(schema), ";") {
			if strings.TrimSpace(statement) == "" {
				continue
			}
			if _, err := tx.ExecContext(ctx, statement); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("make the tables: %w", err)
	}
	return s, nil
}

// querier is a database or a transaction whose placeholders are question marks.
type querier struct {
	base interface {
		ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
		QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
		QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
	}
	numbered bool
}

type tx = querier

func (q *querier) text(query string) string {
	if !q.numbered {
		return query
	}
	var b strings.Builder
	n := 0
	for _, c := range query {
		if c != '?' {
			b.WriteRune(c)
			continue
		}
		n++
		b.WriteByte('$')
		b.WriteString(strconv.Itoa(n))
	}
	return b.String()
}

func (q *querier) ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error) {
	return q.base.ExecContext(ctx, q.text(query), args...)
}

func (q *querier) QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error) {
	return q.base.QueryContext(ctx, q.text(query), args...)
}

func (q *querier) QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row {
	return q.base.QueryRowContext(ctx, q.text(query), args...)
}

// exec returns how many rows it changed.
func (q *querier) exec(ctx context.Context, query string, args ...any) (int64, error) {
	result, err := q.ExecContext(ctx, query, args...)
	if err != nil {
		return 0, err
	}
	return result.RowsAffected()
}

func (s *Store) q() *querier { return &querier{s.db, s.dialect.Numbered} }

func (s *Store) transact(ctx context.Context, do func(*tx) error) error {
	transaction, err := s.db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	if err := do(&tx{transaction, s.dialect.Numbered}); err != nil {
		_ = transaction.Rollback() // The first error counts.
		return err
	}
	return transaction.Commit()
}

// Apply implements storage.Storage.
func (s *Store) Apply(ctx context.Context, changes ...storage.Change) (last uint64, err error) {
	err = s.transact(ctx, func(tx *tx) error {
		for _, change := range changes {
			if last, err = apply(ctx, tx, change, time.Now()); err != nil {
				return err
			}
		}
		return nil
	})
	return last, err
}

func apply(ctx context.Context, tx *tx, change storage.Change, now time.Time) (number uint64, err error) {
	// The counter comes first: its lock puts all changes into one order.
	if err := tx.QueryRowContext(ctx, "UPDATE counter SET number = number + 1 WHERE id = 1 RETURNING number").Scan(&number); err != nil {
		return 0, err
	}
	name := nameOf(change)
	if change.IfVersion > 0 {
		var version uint64
		err := tx.QueryRowContext(ctx, "SELECT version FROM domains WHERE name = ?", name).Scan(&version)
		if err == nil && version != change.IfVersion || errors.Is(err, sql.ErrNoRows) {
			err = storage.ErrConflict
		}
		if err != nil {
			return 0, fmt.Errorf("domain %s: %w", name, err)
		}
	}
	affected := int64(1)
	switch {
	case change.PutDomain != nil:
		err = putDomain(ctx, tx, change.PutDomain, number, now)
	case change.DeleteDomain != "":
		affected, err = tx.exec(ctx, "DELETE FROM domains WHERE name = ?", name)
	case change.PutCertificate != nil:
		if affected, err = touch(ctx, tx, name, number, now); err == nil && affected > 0 {
			err = putCertificate(ctx, tx, change.PutCertificate)
		}
		if err == nil {
			err = planAnew(ctx, tx, name, now)
		}
	default:
		affected, err = tx.exec(ctx, "DELETE FROM certificates WHERE domain = ? AND kind = ?", name, string(change.DeleteCertificate.Kind))
		if err == nil && affected > 0 {
			affected, err = touch(ctx, tx, name, number, now)
		}
		if err == nil {
			err = planAnew(ctx, tx, name, now)
		}
	}
	if err == nil && affected == 0 {
		err = storage.ErrNotFound
	}
	if err == nil {
		_, err = tx.ExecContext(ctx, "INSERT INTO changes (number, name, made) VALUES (?, ?, ?)", number, name, now.UnixMilli())
	}
	if err != nil {
		return 0, fmt.Errorf("domain %s: %w", name, err)
	}
	return number, nil
}

func nameOf(change storage.Change) string {
	switch {
	case change.PutDomain != nil:
		return change.PutDomain.Name
	case change.PutCertificate != nil:
		return change.PutCertificate.Domain
	case change.DeleteCertificate != nil:
		return change.DeleteCertificate.Domain
	}
	return change.DeleteDomain
}

// planAnew has a managed domain looked at: the certificate that its plan was made for is another now, or none.
func planAnew(ctx context.Context, tx *tx, name string, now time.Time) error {
	_, err := tx.ExecContext(ctx, "UPDATE jobs SET due = ? WHERE domain = ?", now.UnixMilli(), name)
	return err
}

func touch(ctx context.Context, tx *tx, name string, number uint64, now time.Time) (int64, error) {
	return tx.exec(ctx, "UPDATE domains SET version = ?, updated = ? WHERE name = ?", number, now.UnixMilli(), name)
}

func putDomain(ctx context.Context, tx *tx, d *storage.Domain, number uint64, now time.Time) error {
	labels, err := json.Marshal(d.Labels)
	if err != nil {
		return err
	}
	options, err := json.Marshal(d.Options)
	if err != nil {
		return err
	}
	managed := 0
	if d.Managed {
		managed = 1
	}
	steps := []struct {
		query string
		args  []any
	}{
		{`INSERT INTO domains (name, shop, labels, options, managed, created, updated, version) VALUES (?, ?, ?, ?, ?, ?, ?, ?)
			ON CONFLICT (name) DO UPDATE SET shop = excluded.shop, labels = excluded.labels, options = excluded.options,
			managed = excluded.managed, updated = excluded.updated, version = excluded.version`,
			[]any{d.Name, d.Shop, string(labels), string(options), managed, now.UnixMilli(), now.UnixMilli(), number}},
		{"DELETE FROM labels WHERE domain = ?", []any{d.Name}},
	}
	for label, value := range d.Labels {
		steps = append(steps, struct {
			query string
			args  []any
		}{"INSERT INTO labels (domain, label, value) VALUES (?, ?, ?)", []any{d.Name, label, value}})
	}
	job := "DELETE FROM jobs WHERE domain = ?"
	args := []any{d.Name}
	if d.Managed {
		job = "INSERT INTO jobs (domain, due, failures, last_error, holder, held_until) VALUES (?, ?, 0, '', '', 0) ON CONFLICT (domain) DO NOTHING"
		args = append(args, now.UnixMilli())
	}
	steps = append(steps, struct {
		query string
		args  []any
	}{job, args})
	for _, step := range steps {
		if _, err := tx.ExecContext(ctx, step.query, step.args...); err != nil {
			return err
		}
	}
	return nil
}

func putCertificate(ctx context.Context, tx *tx, c *storage.Certificate) error {
	_, err := tx.ExecContext(ctx, `INSERT INTO certificates (domain, kind, chain, sealed_key, not_before, not_after, serial, source)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (domain, kind) DO UPDATE SET chain = excluded.chain, sealed_key = excluded.sealed_key,
		not_before = excluded.not_before, not_after = excluded.not_after, serial = excluded.serial, source = excluded.source`,
		c.Domain, string(c.Kind), joinChain(c.Chain), c.SealedKey, c.NotBefore.UnixMilli(), c.NotAfter.UnixMilli(), c.Serial, c.Source)
	return err
}

// joinChain puts certificates one after the other: DER tells its own length.
func joinChain(chain [][]byte) []byte {
	var joined []byte
	for _, der := range chain {
		joined = append(joined, der...)
	}
	return joined
}

// Domain implements storage.Storage.
func (s *Store) Domain(ctx context.Context, name string) (*storage.Domain, []storage.Certificate, error) {
	// One statement each; a change between them shows in the version, which the caller compares where it matters:
	// the certificates are never older than the domain.
	d, err := scanDomain(s.q().QueryRowContext(ctx, "SELECT "+domainColumns+" FROM domains WHERE name = ?", name))
	if errors.Is(err, sql.ErrNoRows) {
		err = storage.ErrNotFound
	}
	if err != nil {
		return nil, nil, fmt.Errorf("domain %s: %w", name, err)
	}
	certificates, err := s.certificates(ctx, "WHERE domain = ? ORDER BY kind", name)
	if err != nil {
		return nil, nil, fmt.Errorf("certificates of %s: %w", name, err)
	}
	return d, certificates, nil
}

const domainColumns = "name, shop, labels, options, managed, created, updated, version"

func scanDomain(row interface{ Scan(...any) error }) (*storage.Domain, error) {
	var d storage.Domain
	var labels, options string
	var managed, created, updated int64
	if err := row.Scan(&d.Name, &d.Shop, &labels, &options, &managed, &created, &updated, &d.Version); err != nil {
		return nil, err
	}
	d.Managed, d.Created, d.Updated = managed != 0, time.UnixMilli(created), time.UnixMilli(updated)
	return &d, errors.Join(json.Unmarshal([]byte(labels), &d.Labels), json.Unmarshal([]byte(options), &d.Options))
}

func (s *Store) certificates(ctx context.Context, where string, args ...any) ([]storage.Certificate, error) {
	rows, err := s.q().QueryContext(ctx, "SELECT domain, kind, chain, sealed_key, not_before, not_after, serial, source FROM certificates "+where, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var certificates []storage.Certificate
	for rows.Next() {
		var c storage.Certificate
		var kind string
		var chain []byte
		var notBefore, notAfter int64
		if err := rows.Scan(&c.Domain, &kind, &chain, &c.SealedKey, &notBefore, &notAfter, &c.Serial, &c.Source); err != nil {
			return nil, err
		}
		c.Kind, c.NotBefore, c.NotAfter = certrecord.Kind(kind), time.UnixMilli(notBefore), time.UnixMilli(notAfter)
		if c.Chain, err = splitChain(chain); err != nil {
			return nil, fmt.Errorf("%s certificate of %s: %w", kind, c.Domain, err)
		}
		certificates = append(certificates, c)
	}
	return certificates, rows.Err()
}

// Domains implements storage.Storage.
func (s *Store) Domains(ctx context.Context, query storage.Query) ([]storage.Domain, error) {
	where, args := "name > ?", []any{query.After}
	if query.Shop != "" {
		where, args = where+" AND shop = ?", append(args, query.Shop)
	}
	if query.LabelKey != "" {
		where += " AND name IN (SELECT domain FROM labels WHERE label = ? AND value = ?)"
		args = append(args, query.LabelKey, query.LabelVal)
	}
	rows, err := s.q().QueryContext(ctx, "SELECT "+domainColumns+" FROM domains WHERE "+where+" ORDER BY name LIMIT ?", append(args, query.Limit)...)
	if err != nil {
		return nil, fmt.Errorf("list domains: %w", err)
	}
	defer rows.Close()
	var domains []storage.Domain
	for rows.Next() {
		d, err := scanDomain(rows)
		if err != nil {
			return nil, fmt.Errorf("list domains: %w", err)
		}
		domains = append(domains, *d)
	}
	return domains, rows.Err()
}

// Certificates implements storage.Storage.
func (s *Store) Certificates(ctx context.Context, after, last string) ([]storage.Certificate, error) {
	certificates, err := s.certificates(ctx, "WHERE domain > ? AND domain <= ? ORDER BY domain, kind", after, last)
	if err != nil {
		return nil, fmt.Errorf("list certificates: %w", err)
	}
	return certificates, nil
}

// Expiring implements storage.Storage.
func (s *Store) Expiring(ctx context.Context, now time.Time) (late, expired int64, err error) {
	err = s.q().QueryRowContext(ctx, "SELECT COUNT(*), COALESCE(SUM(CASE WHEN not_after <= ? THEN 1 ELSE 0 END), 0) FROM certificates WHERE "+lateFrom+" <= ?",
		now.UnixMilli(), now.UnixMilli()).Scan(&late, &expired)
	if err != nil {
		return 0, 0, fmt.Errorf("count certificates near their end: %w", err)
	}
	return late, expired, nil
}

// Ping implements storage.Storage.
func (s *Store) Ping(ctx context.Context) error {
	_, err := s.LastChange(ctx)
	return err
}

// Close implements storage.Storage.
func (s *Store) Close() error { return s.db.Close() }
