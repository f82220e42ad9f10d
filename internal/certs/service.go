package certs

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/shopset/shopset/internal/certrecord"
	"github.com/shopset/shopset/internal/certs/storage"
)

// Service is all that can be done with domains and certificates, by whatever way it is asked.
type Service struct {
	storage storage.Storage
	keys    *certrecord.Keyring
	audit   *slog.Logger
	now     func() time.Time
	// changed is told, without waiting, of every change.
	changed func()
	// challenge is told of every challenge; an empty answer says that it is over.
	challenge func(ctx context.Context, token, keyAuthorization string)
}

// NewService makes one. audit gets a line for every change.
func NewService(s storage.Storage, keys *certrecord.Keyring, audit *slog.Logger) *Service {
	return &Service{storage: s, keys: keys, audit: audit, now: time.Now, changed: func() {},
		challenge: func(context.Context, string, string) {}}
}

// PublishTo has a publisher told of changes and challenges. It is set before the service is used.
func (s *Service) PublishTo(p *Publisher) { s.changed, s.challenge = p.Kick, p.Challenge }

// Domain is what users say and are told of a domain.
type Domain struct {
	Name    string             `json:"name"`
	Shop    string             `json:"shop"`
	Labels  map[string]string  `json:"labels,omitempty"`
	Options certrecord.Options `json:"options"`
	// Managed domains get their certificates by ACME.
	Managed bool `json:"managed"`
	// Version is the number of its last change.
	Version      uint64             `json:"version"`
	Created      time.Time          `json:"created"`
	Updated      time.Time          `json:"updated"`
	Certificates []CertificateState `json:"certificates,omitempty"`
	// Issuing says how it goes with ACME.
	Issuing *Issuing `json:"issuing,omitempty"`
}

// CertificateState is what users are told of a certificate.
type CertificateState struct {
	Kind      certrecord.Kind `json:"kind"`
	NotBefore time.Time       `json:"notBefore"`
	NotAfter  time.Time       `json:"notAfter"`
	Serial    string          `json:"serial"`
	Source    string          `json:"source"`
}

// Issuing is what users are told of the issuing of a managed domain.
type Issuing struct {
	// Next is when it is tried next: a renewal, or a first try.
	Next      time.Time `json:"next"`
	Failures  int       `json:"failures,omitempty"`
	LastError string    `json:"lastError,omitempty"`
}

var (
	shopPattern  = regexp.MustCompile(`^[a-zA-Z0-9]([a-zA-Z0-9._-]{0,61}[a-zA-Z0-9])?$`)
	labelPattern = regexp.MustCompile(`^[a-zA-Z0-9]([a-zA-Z0-9./_-]{0,61}[a-zA-Z0-9])?$`)
)

const (
	maxLabels     = 32
	maxLabelValue = 255
	maxAllow      = 256
	maxText       = 2000
)

// check brings the domain to its final form.
func (d *Domain) check() error {
	var problems Problems
	name, err := certrecord.Name(d.Name)
	if err != nil {
		problems.add("%v", err)
	}
	d.Name = name
	if !shopPattern.MatchString(d.Shop) {
		problems.add("shop %q: want up to 63 letters, digits, dots, dashes or underscores", clip(d.Shop))
	}
	if d.Options.Plan != "" && !shopPattern.MatchString(d.Options.Plan) {
		problems.add("options.plan %q: want up to 63 letters, digits, dots, dashes or underscores", clip(d.Options.Plan))
	}
	if len(d.Labels) > maxLabels {
		problems.add("labels: there are %d, more than %d", len(d.Labels), maxLabels)
	}
	for _, label := range slices.Sorted(maps.Keys(d.Labels)) {
		if !labelPattern.MatchString(label) || len(d.Labels[label]) > maxLabelValue || !utf8.ValidString(d.Labels[label]) || strings.ContainsRune(d.Labels[label], 0) {
			problems.add("label %q: want up to 63 letters, digits, dots, slashes, dashes or underscores, and a value of %d bytes of UTF-8 at most", clip(label), maxLabelValue)
		}
	}
	if len(d.Options.Allow) > maxAllow {
		problems.add("options.allow: there are %d networks, more than %d", len(d.Options.Allow), maxAllow)
	}
	for i, network := range d.Options.Allow {
		prefix, err := netip.ParsePrefix(network)
		if address, errAddress := netip.ParseAddr(network); err != nil && errAddress == nil {
			prefix, err = netip.PrefixFrom(address, address.BitLen()), nil
		}
		if err != nil {
			problems.add("options.allow[%d] %q: want a network such as 192.0.2.0/24", i, clip(network))
			continue
		}
		d.Options.Allow[i] = prefix.Masked().String()
	}
	if upstream := d.Options.Upstream; upstream != "" {
		u, err := url.Parse(upstream)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil || u.Fragment != "" || len(upstream) > maxText {
			problems.add("options.upstream %q: want http:// or https:// with a host, and neither user nor fragment", clip(upstream))
		}
	}
	if size := d.size(); size > maxDomainBytes {
		problems.add("labels and options have %d bytes, more than %d", size, maxDomainBytes)
	}
	if d.Managed && strings.HasPrefix(d.Name, "*.") {
		problems.add("%s: a wildcard cannot be managed, because HTTP-01 does not prove it; upload its certificate", d.Name)
	}
	return problems.orNil()
}

// maxDomainBytes bounds labels and options, and maxChainBytes a chain, so that a record is always below certrecord.MaxSize.
const (
	maxDomainBytes = 16 << 10
	maxChainBytes  = 16 << 10
)

func (d *Domain) size() (total int) {
	for label, value := range d.Labels {
		total += len(label) + len(value)
	}
	for _, network := range d.Options.Allow {
		total += len(network)
	}
	return total + len(d.Options.Upstream)
}

// PutDomain registers a domain, or replaces what is known of it but for its certificates. ifVersion, unless zero,
// is the version that it must have. It returns the domain as it is now.
func (s *Service) PutDomain(ctx context.Context, who string, d Domain, ifVersion uint64) (*Domain, error) {
	if err := d.check(); err != nil {
		return nil, err
	}
	stored := &storage.Domain{Name: d.Name, Shop: d.Shop, Labels: d.Labels, Options: d.Options, Managed: d.Managed}
	if err := s.apply(ctx, who, "put domain", []any{"domain", d.Name, "shop", d.Shop, "managed", d.Managed, "options", d.Options},
		storage.Change{PutDomain: stored, IfVersion: ifVersion}); err != nil {
		return nil, err
	}
	return s.Domain(ctx, d.Name)
}

func (s *Service) apply(ctx context.Context, who, action string, facts []any, changes ...storage.Change) error {
	number, err := s.storage.Apply(ctx, changes...)
	if err != nil {
		return err
	}
	s.audit.Info("audit", append([]any{"who", who, "action", action, "change", number}, facts...)...)
	s.changed()
	return nil
}

// Domain returns what is known of a domain.
func (s *Service) Domain(ctx context.Context, name string) (*Domain, error) {
	stored, certificates, err := s.storage.Domain(ctx, name)
	if err != nil {
		return nil, err
	}
	d := domainOf(stored)
	for _, c := range certificates {
		d.Certificates = append(d.Certificates, CertificateState{c.Kind, c.NotBefore.UTC(), c.NotAfter.UTC(), c.Serial, c.Source})
	}
	if d.Managed {
		job, err := s.storage.Job(ctx, name)
		if err != nil && !errors.Is(err, storage.ErrNotFound) {
			return nil, err
		}
		if err == nil {
			d.Issuing = &Issuing{job.Due.UTC(), job.Failures, job.LastError}
		}
	}
	return d, nil
}

func domainOf(d *storage.Domain) *Domain {
	return &Domain{Name: d.Name, Shop: d.Shop, Labels: d.Labels, Options: d.Options, Managed: d.Managed, Version: d.Version,
		Created: d.Created.UTC(), Updated: d.Updated.UTC()}
}

// Domains returns a page, without certificates.
func (s *Service) Domains(ctx context.Context, query storage.Query) ([]Domain, error) {
	stored, err := s.storage.Domains(ctx, query)
	if err != nil {
		return nil, err
	}
	domains := make([]Domain, len(stored))
	for i := range stored {
		domains[i] = *domainOf(&stored[i])
	}
	return domains, nil
}

// DeleteDomain forgets a domain and its certificates.
func (s *Service) DeleteDomain(ctx context.Context, who, name string, ifVersion uint64) error {
	return s.apply(ctx, who, "delete domain", []any{"domain", name}, storage.Change{DeleteDomain: name, IfVersion: ifVersion})
}

// PutCertificate checks a certificate and its key, in PEM, and gives them to a domain. source says where they
// are from; ifVersion is the version that the domain must have, zero for any.
func (s *Service) PutCertificate(ctx context.Context, who, domain, source string, ifVersion uint64, chainPEM, keyPEM []byte) error {
	pair, err := CheckPair(domain, chainPEM, keyPEM, s.now())
	if err != nil {
		return err
	}
	c := s.seal(domain, source, pair)
	return s.apply(ctx, who, "put certificate", []any{"domain", domain, "kind", c.Kind, "serial", c.Serial, "source", source, "notAfter", c.NotAfter.UTC()},
		storage.Change{PutCertificate: c, IfVersion: ifVersion})
}

func (s *Service) seal(domain, source string, pair *Pair) *storage.Certificate {
	return &storage.Certificate{Domain: domain, Kind: pair.Kind, Chain: pair.Chain, SealedKey: s.keys.Seal(nil, pair.Key, keyContext(domain)),
		NotBefore: pair.NotBefore, NotAfter: pair.NotAfter, Serial: pair.Serial, Source: source}
}

func keyContext(domain string) string { return "key " + domain }

// DeleteCertificate takes a domain's certificate of a kind away, as when it was revoked. ifVersion is as for PutCertificate.
func (s *Service) DeleteCertificate(ctx context.Context, who, domain string, kind certrecord.Kind, ifVersion uint64) error {
	return s.apply(ctx, who, "delete certificate", []any{"domain", domain, "kind", kind},
		storage.Change{DeleteCertificate: &storage.Certificate{Domain: domain, Kind: kind}, IfVersion: ifVersion})
}

// Record returns that of exactly this name.
func (s *Service) Record(ctx context.Context, name string) (*certrecord.Record, error) {
	d, certificates, err := s.storage.Domain(ctx, name)
	if err != nil {
		return nil, err
	}
	return s.record(d, certificates)
}

func (s *Service) record(d *storage.Domain, certificates []storage.Certificate) (*certrecord.Record, error) {
	record := &certrecord.Record{Name: d.Name, Version: d.Version, Shop: d.Shop, Labels: d.Labels, Options: d.Options}
	for _, c := range certificates {
		key, err := s.keys.Open(c.SealedKey, keyContext(d.Name))
		if err != nil {
			return nil, fmt.Errorf("the key of %s %w", d.Name, err)
		}
		record.Certificates = append(record.Certificates, certrecord.Certificate{Kind: c.Kind, Chain: c.Chain, Key: key, NotAfter: c.NotAfter.Unix()})
	}
	return record, nil
}

// Lookup returns the record that serves a name: its own, or that of the wildcard that covers it.
func (s *Service) Lookup(ctx context.Context, name string) (*certrecord.Record, error) {
	record, err := s.Record(ctx, name)
	if wildcard := certrecord.Wildcard(name); errors.Is(err, storage.ErrNotFound) && wildcard != "" {
		if record, errWildcard := s.Record(ctx, wildcard); !errors.Is(errWildcard, storage.ErrNotFound) {
			return record, errWildcard
		}
	}
	return record, err
}

// Rotate seals all keys in the database with the first key of the keyring, and returns how many it was not yet.
func (s *Service) Rotate(ctx context.Context) (resealed int, err error) {
	const page = 500
	after := &storage.Certificate{}
	for {
		certificates, err := s.storage.SealedOtherwise(ctx, s.keys.CurrentID(), after, page)
		if err != nil {
			return resealed, err
		}
		for i := range certificates {
			c := &certificates[i]
			after = c
			plain, err := s.keys.Open(c.SealedKey, keyContext(c.Domain))
			if err != nil {
				return resealed, fmt.Errorf("the key of %s %w", c.Domain, err)
			}
			switch err := s.storage.Reseal(ctx, c, s.keys.Seal(nil, plain, keyContext(c.Domain))); {
			case errors.Is(err, storage.ErrConflict): // It was replaced just now, by one that is sealed with the new key.
			case err != nil:
				return resealed, err
			default:
				resealed++
			}
		}
		if len(certificates) < page {
			return resealed, nil
		}
	}
}

func clip(text string) string {
	if len(text) > 100 {
		return strings.ToValidUTF8(text[:100], "") + "…"
	}
	return text
}
