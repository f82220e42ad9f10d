package certrecord

import (
	"crypto/rand"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/fxamacker/cbor/v2"
)

// Record is all that a proxy needs to know of a domain.
type Record struct {
	// Name of the domain, in its final form; it may be a wildcard.
	Name string `cbor:"1,keyasint"`
	// Version is the number of the change that made this record.
	Version uint64 `cbor:"2,keyasint"`
	// Shop that the domain belongs to.
	Shop string `cbor:"3,keyasint,omitempty"`
	// Labels are for selection by people and programs.
	Labels map[string]string `cbor:"4,keyasint,omitempty"`
	// Options of the proxy for this domain.
	Options Options `cbor:"5,keyasint"`
	// Certificates, one of each kind at most.
	Certificates []Certificate `cbor:"6,keyasint,omitempty"`
}

// Options are what the proxy does otherwise for one domain.
type Options struct {
	// Maintenance answers with the maintenance page.
	Maintenance bool `cbor:"1,keyasint,omitempty" json:"maintenance,omitempty"`
	// Allow are the networks (CIDR) that may come, all when empty.
	Allow []string `cbor:"2,keyasint,omitempty" json:"allow,omitempty"`
	// Upstream is the URL of an external site that gets all requests.
	Upstream string `cbor:"3,keyasint,omitempty" json:"upstream,omitempty"`
	// Plan of the shop, which limits depend on.
	Plan string `cbor:"4,keyasint,omitempty" json:"plan,omitempty"`
}

// Kind of a certificate's key.
type Kind string

// The kinds of keys. A client that can do both gets ECDSA.
const (
	ECDSA Kind = "ecdsa"
	RSA   Kind = "rsa"
)

// Certificate with its key.
type Certificate struct {
	Kind Kind `cbor:"1,keyasint"`
	// Chain in DER, the leaf first, without the root.
	Chain [][]byte `cbor:"2,keyasint"`
	// Key in PKCS #8 (RFC 5958).
	Key []byte `cbor:"3,keyasint"`
	// NotAfter of the leaf, in Unix seconds.
	NotAfter int64 `cbor:"4,keyasint"`
}

// Expires is when the certificate ends.
func (c *Certificate) Expires() time.Time { return time.Unix(c.NotAfter, 0) }

// MaxSize bounds a sealed record, in bytes. Two RSA chains with all options have less than a quarter of it.
const MaxSize = 64 << 10

// Decoding is bounded: nothing in a record is longer than the record.
var decoding = func() cbor.DecMode {
	mode, err := cbor.DecOptions{MaxArrayElements: 1024, MaxMapPairs: 1024, MaxNestedLevels: 8, DupMapKey: cbor.DupMapKeyEnforcedAPF}.DecMode()
	if err != nil {
		panic(err) // The options are constants.
	}
	return mode
}()

// Seal makes the form that is kept in Redis and sent by the API.
func Seal(keys *Keyring, r *Record) ([]byte, error) {
	plain, err := cbor.Marshal(r)
	if err != nil {
		return nil, fmt.Errorf("record %s: %w", r.Name, err)
	}
	sealed := keys.Seal(versionPrefix(r.Version), plain, r.Name)
	if len(sealed) > MaxSize {
		return nil, fmt.Errorf("record %s has %d bytes, more than %d; shorten its chain, labels or options", r.Name, len(sealed), MaxSize)
	}
	return sealed, nil
}

// Tombstone is what stays, for a while, of a domain that was deleted: so that no older record comes back.
func Tombstone(version uint64) []byte { return versionPrefix(version) }

const versionDigits = 16

func versionPrefix(version uint64) []byte {
	digits := strconv.FormatUint(version, 16)
	prefix := make([]byte, 0, versionDigits)
	for range versionDigits - len(digits) {
		prefix = append(prefix, '0')
	}
	return append(prefix, digits...)
}

// ErrDeleted says that the record is a tombstone.
var ErrDeleted = errors.New("the domain was deleted")

// Open reads a sealed record of a name, and refuses one of another name.
func Open(keys *Keyring, name string, sealed []byte) (*Record, error) {
	if len(sealed) > MaxSize {
		return nil, fmt.Errorf("record %s has %d bytes, more than %d", name, len(sealed), MaxSize)
	}
	if len(sealed) < versionDigits {
		return nil, fmt.Errorf("record %s is cut off", name)
	}
	version, err := strconv.ParseUint(string(sealed[:versionDigits]), 16, 64)
	if err != nil {
		return nil, fmt.Errorf("record %s does not begin with its version", name)
	}
	if len(sealed) == versionDigits {
		return nil, ErrDeleted
	}
	plain, err := keys.Open(sealed[versionDigits:], name)
	if err != nil {
		return nil, fmt.Errorf("record %s: %w", name, err)
	}
	r := &Record{}
	if err := decoding.Unmarshal(plain, r); err != nil {
		return nil, fmt.Errorf("record %s: %w", name, err)
	}
	if r.Name != name || r.Version != version {
		return nil, fmt.Errorf("record %s is of %s, version %d instead of %d", name, clip(r.Name), r.Version, version)
	}
	return r, nil
}

// Keys in Redis.
const (
	// ChangesKey is the stream of changes.
	ChangesKey = "shopset:certs:changes"
	recordKey  = "shopset:cert:"
	acmeKey    = "shopset:acme:"
)

// RedisKey is where the record of a name is.
func RedisKey(name string) string { return recordKey + name }

// ChallengeKey is where the key authorization of an ACME token is.
func ChallengeKey(token string) string { return acmeKey + token }

// Token makes a random text for names of leases and the like.
func Token() string { return rand.Text() }
