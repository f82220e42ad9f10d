package routetable

import (
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
)

// KeyID names a public key: the first eight bytes of its SHA-256.
func KeyID(key ed25519.PublicKey) string {
	sum := sha256.Sum256(key)
	return hex.EncodeToString(sum[:8])
}

// maxPEM bounds what is read of keys.
const maxPEM = 64 << 10

// ParsePublicKeys reads the keys that routers trust: blocks "PUBLIC KEY" in PEM (RFC 8410), one or several.
func ParsePublicKeys(text []byte) ([]ed25519.PublicKey, error) {
	if len(text) > maxPEM {
		return nil, fmt.Errorf("the public keys have %d bytes, more than %d", len(text), maxPEM)
	}
	var keys []ed25519.PublicKey
	for {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			break
		}
		if block.Type != "PUBLIC KEY" {
			return nil, fmt.Errorf("the public keys have a block %q; only PUBLIC KEY belongs there", clip(block.Type))
		}
		parsed, err := x509.ParsePKIXPublicKey(block.Bytes)
		key, isEd25519 := parsed.(ed25519.PublicKey)
		if err != nil || !isEd25519 {
			return nil, fmt.Errorf("public key %d is no Ed25519 key", len(keys)+1)
		}
		if keys = append(keys, key); len(keys) > MaxKeys {
			return nil, fmt.Errorf("there are more than %d public keys", MaxKeys)
		}
	}
	if len(keys) == 0 {
		return nil, errors.New("there is no block PUBLIC KEY in the public keys")
	}
	return keys, nil
}

// MarshalPublicKeys is what ParsePublicKeys reads.
func MarshalPublicKeys(keys ...ed25519.PublicKey) ([]byte, error) {
	var text []byte
	for _, key := range keys {
		der, err := x509.MarshalPKIXPublicKey(key)
		if err != nil {
			return nil, err
		}
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})...)
	}
	return text, nil
}

// ParsePrivateKey reads one block "PRIVATE KEY" in PEM. The error holds nothing of it.
func ParsePrivateKey(text []byte) (ed25519.PrivateKey, error) {
	if len(text) > maxPEM {
		return nil, fmt.Errorf("the private key has more than %d bytes", maxPEM)
	}
	block, _ := pem.Decode(text)
	if block == nil || block.Type != "PRIVATE KEY" {
		return nil, errors.New("there is no block PRIVATE KEY in the private key")
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	key, isEd25519 := parsed.(ed25519.PrivateKey)
	if err != nil || !isEd25519 {
		return nil, errors.New("the private key is no Ed25519 key in PKCS #8")
	}
	return key, nil
}

// MarshalPrivateKey is what ParsePrivateKey reads.
func MarshalPrivateKey(key ed25519.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}
