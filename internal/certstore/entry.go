package certstore

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"math/big"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/shopset/shopset/internal/certrecord"
)

// Domain is what the proxy knows of a domain besides its certificates.
type Domain struct {
	// Name of the record: a wildcard for names below one.
	Name   string
	Shop   string
	Labels map[string]string
	// Options are never nil, and never changed.
	Options *certrecord.Options
	// Allow are the networks of Options.Allow.
	Allow []netip.Prefix
}

// noOptions are those of nearly all domains.
var noOptions = &certrecord.Options{}

// entry is a record in memory. It does not change, but for its marks.
type entry struct {
	domain     *Domain
	ecdsa, rsa *tls.Certificate
	// ecdsaEnds and rsaEnds are when they do, in Unix seconds; scheme is what a client must know for the first.
	ecdsaEnds, rsaEnds int64
	scheme             tls.SignatureScheme
	version            uint64
	// ends is when the first of the certificates does, in Unix seconds; zero without.
	ends int64
	// changed is the number of a change that made it old; zero while none did.
	changed atomic.Uint64
	// epoch of the store when it was read.
	epoch uint32
	cost  int32
	// checked is when a source confirmed it, in the store's seconds.
	checked uint32
	// uses counts, up to maxUses, since the cache looked last.
	uses atomic.Uint32
	// refreshed is when it was last asked for in the background, in the store's seconds.
	refreshed atomic.Uint32
	// inMain says in which queue it is, dropped that it counts no more; guarded by the shard's lock.
	inMain, dropped bool
}

func (e *entry) name() string { return e.domain.Name }

var errNoCertificate = errors.New("the domain has no certificate")

// pick chooses by what the client can do; one that has ended only if there is no other.
func (e *entry) pick(hello *tls.ClientHelloInfo, now int64) (certificate *tls.Certificate, ended bool, err error) {
	switch {
	case e.ecdsa != nil && (e.rsa == nil || supportsECDSA(hello, e.scheme) && (e.ecdsaEnds > now || e.rsaEnds <= now)):
		return e.ecdsa, e.ecdsaEnds <= now, nil
	case e.rsa != nil:
		return e.rsa, e.rsaEnds <= now, nil
	}
	return nil, true, errNoCertificate
}

// supportsECDSA says whether a client can do ECDSA on the curve of a scheme, as far as it says so itself.
func supportsECDSA(hello *tls.ClientHelloInfo, wanted tls.SignatureScheme) bool {
	if len(hello.SignatureSchemes) > 0 { // TLS 1.2 and later (RFC 8446, 4.2.3).
		able := false
		for _, scheme := range hello.SignatureSchemes {
			able = able || scheme == wanted || scheme == tls.ECDSAWithSHA1 && !slices.Contains(hello.SupportedVersions, tls.VersionTLS13)
		}
		if !able {
			return false
		}
	}
	for _, version := range hello.SupportedVersions {
		if version == tls.VersionTLS13 {
			return true // Its suites do not name the kind of signature.
		}
	}
	curve := len(hello.SupportedCurves) == 0
	for _, c := range hello.SupportedCurves {
		curve = curve || c == tls.CurveP256 && wanted == tls.ECDSAWithP256AndSHA256 || c == tls.CurveP384 && wanted == tls.ECDSAWithP384AndSHA384
	}
	if !curve {
		return false
	}
	for _, suite := range hello.CipherSuites {
		switch suite {
		case tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
			tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA,
			tls.TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA, tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA256:
			return true
		}
	}
	return false
}

// schemeOf is the signature that a certificate's key makes in TLS 1.3.
func schemeOf(certificate *tls.Certificate) tls.SignatureScheme {
	if signer, ok := certificate.PrivateKey.(crypto.Signer); ok {
		if key, ok := signer.Public().(*ecdsa.PublicKey); ok && key.Curve == elliptic.P384() {
			return tls.ECDSAWithP384AndSHA384
		}
	}
	return tls.ECDSAWithP256AndSHA256
}

// Costs of what is in memory, in bytes, as measured (TestMemory).
const (
	entryCost       = 300
	certificateCost = 176
	ecdsaKeyCost    = 510
	rsaKeyCost      = 2600
)

// load makes an entry of a record. Everything that costs is done here.
func (i *interner) load(record *certrecord.Record) (*entry, error) {
	domain := &Domain{Name: record.Name, Shop: record.Shop, Labels: record.Labels, Options: noOptions}
	if o := record.Options; o.Maintenance || len(o.Allow) > 0 || o.Upstream != "" || o.Plan != "" {
		domain.Options = &o
	}
	e := &entry{domain: domain, version: record.Version}
	cost := entryCost + 2*len(record.Name) + len(record.Shop) + len(record.Options.Upstream) + len(record.Options.Plan)
	for label, value := range record.Labels {
		cost += 2*len(label) + 2*len(value) + 64
	}
	for _, network := range record.Options.Allow {
		prefix, err := netip.ParsePrefix(network)
		if err != nil {
			return nil, fmt.Errorf("options of %s: %w", record.Name, err) // To leave it out would let in everybody.
		}
		domain.Allow = append(domain.Allow, prefix)
		cost += len(network) + 64
	}
	for n := range record.Certificates {
		c := &record.Certificates[n]
		certificate, size, err := i.certificate(c, record.Name)
		if err != nil {
			return nil, fmt.Errorf("%s certificate of %s: %w", c.Kind, record.Name, err)
		}
		cost += size
		switch c.Kind {
		case certrecord.ECDSA:
			e.ecdsa, e.ecdsaEnds, e.scheme = certificate, c.NotAfter, schemeOf(certificate)
		case certrecord.RSA:
			e.rsa, e.rsaEnds = certificate, c.NotAfter
		default:
			return nil, fmt.Errorf("certificate of %s: kind %q is not known", record.Name, c.Kind)
		}
		if e.ends == 0 || c.NotAfter < e.ends {
			e.ends = c.NotAfter
		}
	}
	e.cost = int32(cost) //nolint:gosec // A record has 64 KiB at most.
	return e, nil
}

func (i *interner) certificate(c *certrecord.Certificate, name string) (*tls.Certificate, int, error) {
	if len(c.Chain) == 0 {
		return nil, 0, errors.New("it is empty")
	}
	leaf, err := x509.ParseCertificate(c.Chain[0])
	if err != nil {
		return nil, 0, err
	}
	if !covers(leaf, name) {
		return nil, 0, fmt.Errorf("it is for %s, not for %s", strings.Join(leaf.DNSNames, ", "), name)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(c.Key)
	if err != nil {
		return nil, 0, errors.New("its key cannot be read")
	}
	key, ok := parsed.(crypto.Signer)
	if !ok {
		return nil, 0, errors.New("its key cannot sign")
	}
	if public, ok := key.Public().(interface{ Equal(crypto.PublicKey) bool }); !ok || !public.Equal(leaf.PublicKey) {
		return nil, 0, errors.New("its key belongs to another certificate")
	}
	cost := certificateCost + len(c.Chain[0]) + 24*len(c.Chain)
	switch key := key.(type) {
	case *ecdsa.PrivateKey:
		cost += ecdsaKeyCost
		for _, number := range []**big.Int{&key.X, &key.Y, &key.D} { //nolint:staticcheck // The values stay, in less memory; nobody has used the key yet.
			*number = new(big.Int).SetBits(slices.Clip(append([]big.Word(nil), (*number).Bits()...))) // Parsing leaves room to grow.
		}
	case *rsa.PrivateKey:
		cost += rsaKeyCost
		key.Precompute()
	}
	// A chain of exactly its length; the leaf in bytes of its own, so that the record goes.
	certificate := &tls.Certificate{Certificate: make([][]byte, len(c.Chain)), PrivateKey: key}
	certificate.Certificate[0] = append(make([]byte, 0, len(c.Chain[0])), c.Chain[0]...)
	for n, der := range c.Chain[1:] {
		certificate.Certificate[n+1] = i.bytes(der)
	}
	return certificate, cost, nil
}

func covers(leaf *x509.Certificate, name string) bool {
	if !strings.HasPrefix(name, "*.") {
		return leaf.VerifyHostname(name) == nil
	}
	for _, own := range leaf.DNSNames {
		if strings.EqualFold(own, name) {
			return true
		}
	}
	return false
}

// interner keeps one copy of the intermediates, which many certificates have in common.
type interner struct {
	mu    sync.Mutex
	known map[[sha256.Size]byte][]byte
}

// maxIntermediates bounds what it knows. There are some hundred authorities in the world; who has others is
// forgotten, which costs a copy, nothing else.
const maxIntermediates = 4096

func newInterner() *interner { return &interner{known: map[[sha256.Size]byte][]byte{}} }

// bytes returns the one copy of an intermediate, which nobody may change.
func (i *interner) bytes(der []byte) []byte {
	sum := sha256.Sum256(der)
	i.mu.Lock()
	defer i.mu.Unlock()
	if known := i.known[sum]; known != nil {
		return known
	}
	if len(i.known) >= maxIntermediates {
		clear(i.known)
	}
	copied := append(make([]byte, 0, len(der)), der...)
	i.known[sum] = copied
	return copied
}

// clock counts seconds since the store began, which fit into 32 bits.
type clock struct {
	began time.Time
	now   func() time.Time
}

func (c *clock) seconds() uint32 { return uint32(c.now().Sub(c.began) / time.Second) }
