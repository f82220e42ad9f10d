package certrecord

import (
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/crypto/chacha20poly1305"
)

// Keyring holds the key-encryption keys: the first seals, all open.
type Keyring struct {
	keys []ringKey
}

type ringKey struct {
	id     [idBytes]byte
	aead   cipher.AEAD
	secret []byte
}

const (
	idBytes = 4
	// secretBytes is the size of a key: 256 bits.
	secretBytes = 32
)

// ErrUnknownKey says that something was sealed with a key that is not in the ring.
var ErrUnknownKey = errors.New("is sealed with a key that is not in the keyring")

// NewKeyring makes one of keys of 32 bytes; the first seals.
func NewKeyring(secrets ...[]byte) (*Keyring, error) {
	if len(secrets) == 0 {
		return nil, errors.New("the keyring has no key")
	}
	ring := &Keyring{}
	for i, secret := range secrets {
		if len(secret) != secretBytes {
			return nil, fmt.Errorf("key %d of the keyring has %d bytes, want %d", i+1, len(secret), secretBytes)
		}
		aead, err := chacha20poly1305.NewX(secret)
		if err != nil {
			return nil, err
		}
		key := ringKey{aead: aead, secret: secret}
		sum := sha256.Sum256(append([]byte("shopset key id"), secret...))
		copy(key.id[:], sum[:])
		for _, other := range ring.keys {
			if other.id == key.id {
				return nil, fmt.Errorf("key %d of the keyring is there twice", i+1)
			}
		}
		ring.keys = append(ring.keys, key)
	}
	return ring, nil
}

// ReadKeyring reads a file with one key per line, in base64, the one that seals first; empty lines and those
// that begin with # do not count. `head -c 32 /dev/urandom | base64` makes one.
func ReadKeyring(path string) (*Keyring, error) {
	content, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("keyring: %w", err)
	}
	var secrets [][]byte
	for i, line := range strings.Split(string(content), "\n") {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		secret, err := base64.StdEncoding.DecodeString(line)
		if err != nil || len(secret) != secretBytes {
			return nil, fmt.Errorf("keyring %s line %d: want %d bytes in base64, as `head -c %d /dev/urandom | base64` makes them", path, i+1, secretBytes, secretBytes)
		}
		secrets = append(secrets, secret)
	}
	ring, err := NewKeyring(secrets...)
	if err != nil {
		return nil, fmt.Errorf("keyring %s: %w", path, err)
	}
	return ring, nil
}

// Seal appends the sealed form of a text to prefix. What it is for, its context, must be given again to open it.
func (k *Keyring) Seal(prefix, plain []byte, context string) []byte {
	key := &k.keys[0]
	nonce := make([]byte, key.aead.NonceSize())
	_, _ = rand.Read(nonce) // It never fails (crypto/rand).
	prefix = append(prefix, key.id[:]...)
	prefix = append(prefix, nonce...)
	return key.aead.Seal(prefix, nonce, plain, []byte(context))
}

// Open is the opposite of Seal.
func (k *Keyring) Open(sealed []byte, context string) ([]byte, error) {
	key, rest := k.of(sealed)
	if key == nil {
		return nil, ErrUnknownKey
	}
	size := key.aead.NonceSize()
	if len(rest) < size {
		return nil, errors.New("is cut off")
	}
	plain, err := key.aead.Open(nil, rest[:size], rest[size:], []byte(context))
	if err != nil {
		return nil, fmt.Errorf("does not open: it was changed, or belongs to something else than %s", context)
	}
	return plain, nil
}

func (k *Keyring) of(sealed []byte) (key *ringKey, rest []byte) {
	for i := range k.keys {
		if len(sealed) >= idBytes && [idBytes]byte(sealed) == k.keys[i].id {
			return &k.keys[i], sealed[idBytes:]
		}
	}
	return nil, nil
}

// IsCurrent says whether something is sealed with the key that seals now.
func (k *Keyring) IsCurrent(sealed []byte) bool {
	key, _ := k.of(sealed)
	return key == &k.keys[0]
}

// CurrentID names the key that seals, for marks in a database; it tells nothing of the key.
func (k *Keyring) CurrentID() []byte { return k.keys[0].id[:] }

// TicketPeriod is how long one session ticket key encrypts. Tickets are accepted for two periods.
const TicketPeriod = 12 * time.Hour

// TicketKeys are the session ticket keys (RFC 8446, 4.6.1) of a moment for tls.Config.SetSessionTicketKeys: the
// first encrypts. They are derived (HKDF, RFC 5869) from the keyring and the time, so that all proxies with the
// same keyring have the same, whatever else is down, and resumption works across Pods. Next come those of the
// period before and after, so that clocks may differ, and those of older keys of the ring.
func (k *Keyring) TicketKeys(now time.Time) ([][32]byte, error) {
	period := now.Unix() / int64(TicketPeriod/time.Second)
	var keys [][32]byte
	for _, at := range []int64{period, period - 1, period + 1} {
		for i := range k.keys {
			derived, err := hkdf.Key(sha256.New, k.keys[i].secret, nil, fmt.Sprintf("shopset session ticket %d", at), 32)
			if err != nil {
				return nil, err
			}
			keys = append(keys, [32]byte(derived))
		}
	}
	return keys, nil
}
