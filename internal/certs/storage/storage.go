// Package storage is where shopset-certs keeps domains and certificates: one interface, and the conformance suite
// storagetest that all its implementations (sqlite, postgres) must pass.
//
// Every change of what a proxy sees of a domain gets a number. Numbers rise in the order of commits: who has
// seen change n and asks for those after it misses none. Private keys come here sealed; nothing here can open
// them.
package storage

import (
	"context"
	"errors"
	"time"

	"github.com/shopset/shopset/internal/certrecord"
)

var (
	// ErrNotFound says that there is no such domain, certificate or value.
	ErrNotFound = errors.New("not found")
	// ErrConflict says that it is not, or no longer, as the caller thinks.
	ErrConflict = errors.New("changed in the meantime")
)

// Domain is what is known of a domain, but for its certificates.
type Domain struct {
	// Name in its final form (certrecord.Name).
	Name    string
	Shop    string
	Labels  map[string]string
	Options certrecord.Options
	// Managed domains get their certificates by ACME.
	Managed bool
	// Created and Updated are set by the storage, to milliseconds.
	Created, Updated time.Time
	// Version is the number of the last change of it or its certificates, set by the storage.
	Version uint64
}

// Certificate of a domain; there is one of each kind at most.
type Certificate struct {
	Domain string
	Kind   certrecord.Kind
	// Chain in DER, the leaf first.
	Chain [][]byte
	// SealedKey is the private key in PKCS #8, sealed for "key DOMAIN".
	SealedKey           []byte
	NotBefore, NotAfter time.Time
	Serial              string
	// Source is where it is from: upload, import or acme.
	Source string
}

// Change is one that Apply makes; exactly one field is set.
type Change struct {
	PutDomain *Domain
	// DeleteDomain takes its certificates and job along.
	DeleteDomain string
	// PutCertificate replaces that of the same kind. Its domain must be there.
	PutCertificate *Certificate
	// DeleteCertificate names domain and kind.
	DeleteCertificate *Certificate
	// IfVersion, unless zero, is the version that the domain must have.
	IfVersion uint64
}

// Numbered is a change that was made.
type Numbered struct {
	Number uint64
	Name   string
}

// Query selects domains.
type Query struct {
	// After is the last name of the page before.
	After string
	// Limit of the page, which must be positive.
	Limit int
	// Shop and Label (a key and a value), unless empty, must be those of the domain.
	Shop               string
	LabelKey, LabelVal string
}

// Job is a managed domain that needs a certificate.
type Job struct {
	Domain string
	// Due is when.
	Due time.Time
	// Failures in a row, and the last one's reason.
	Failures  int
	LastError string
}

// Storage keeps everything. All methods may be called by several programs and goroutines at once.
type Storage interface {
	// Apply makes all changes or none, each with a number of its own in their order, and returns the last. A
	// domain that is put for the first time with Managed set gets a job that is due now; without, it loses it.
	// ErrNotFound and ErrConflict are told with the domain's name.
	Apply(ctx context.Context, changes ...Change) (last uint64, err error)
	// Domain returns a domain with its certificates, RSA last, or ErrNotFound.
	Domain(ctx context.Context, name string) (*Domain, []Certificate, error)
	// Domains returns a page, sorted by name.
	Domains(ctx context.Context, query Query) ([]Domain, error)
	// Certificates returns those of a page's domains, sorted by domain: after is the last name of the page before,
	// last that of this page.
	Certificates(ctx context.Context, after, last string) ([]Certificate, error)
	// Expiring counts the certificates that are late, because more than five sixths of their time are over (a managed one
	// is renewed after four), and of those the ones whose time is over.
	Expiring(ctx context.Context, now time.Time) (late, expired int64, err error)

	// Changes returns those after a number, in order. ErrNotFound says that some of them are forgotten.
	Changes(ctx context.Context, after uint64, limit int) ([]Numbered, error)
	// LastChange is the number of the last change, zero before the first.
	LastChange(ctx context.Context) (uint64, error)
	// SkipChanges has numbers go on behind at least this one, if they do not yet, with a change of "*" there, and returns the last
	// number. ErrConflict when something changed meanwhile.
	SkipChanges(ctx context.Context, least uint64) (uint64, error)
	// ForgetChanges drops the changes made before a time, but never the last one.
	ForgetChanges(ctx context.Context, before time.Time) error

	// Claim gives up to limit jobs that are due to a holder, alone, until a time. Those that another
	// holder has are free again when its time is over.
	Claim(ctx context.Context, holder string, now, until time.Time, limit int) ([]Job, error)
	// Finish plans a claimed job anew, and frees it. ErrConflict says that the holder has lost it.
	Finish(ctx context.Context, holder string, job Job) error
	// Job returns that of a domain, or ErrNotFound.
	Job(ctx context.Context, domain string) (Job, error)

	// Value returns what PutValue has put, unless it has expired by now: ErrNotFound.
	Value(ctx context.Context, key string, now time.Time) ([]byte, error)
	// PutValue keeps a value until a time, for ever if that is zero.
	PutValue(ctx context.Context, key string, value []byte, expires time.Time) error
	// DeleteValue drops one; that there is none is no error.
	DeleteValue(ctx context.Context, key string) error
	// Lease gives a name to a holder until a time, unless another has it now. A holder may renew its own.
	Lease(ctx context.Context, name, holder string, now, until time.Time) (bool, error)

	// SealedOtherwise returns certificates, after domain and kind of the last one, whose key does not begin
	// with prefix.
	SealedOtherwise(ctx context.Context, prefix []byte, after *Certificate, limit int) ([]Certificate, error)
	// Reseal replaces a sealed key, if it is still the old one: ErrConflict. It is no change.
	Reseal(ctx context.Context, certificate *Certificate, sealed []byte) error

	// Ping says whether the storage works.
	Ping(ctx context.Context) error
	Close() error
}
