package routetable

import (
	"bytes"
	"compress/gzip"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
)

const (
	// MaxEnvelope bounds a signed table: a ConfigMap holds 1 MiB.
	MaxEnvelope = 900 << 10
	// MaxContent bounds its JSON.
	MaxContent = 16 << 20
	// compressFrom is the size of JSON from which it is compressed. Below, people can read it as it is.
	compressFrom = 256 << 10
	// MaxKeys bounds the keys that are trusted at a time.
	MaxKeys = 16
)

// The first line has the signature of all that follows it. The second one is signed too: it says what the bytes are, so
// that a signature of something else can never pass for one of a table.
const (
	signatureLine = "shopset-routes-signature 1 "
	plainLine     = "shopset-routes 1 json\n"
	gzipLine      = "shopset-routes 1 gzip\n"
)

// ErrSignature is the kind of error for a table that no trusted key has signed.
var ErrSignature = errors.New("the routing table is not signed by a trusted key")

// Sign validates a table and makes the bytes to publish.
func Sign(t *Table, key ed25519.PrivateKey) ([]byte, error) {
	if len(key) != ed25519.PrivateKeySize {
		return nil, errors.New("the key to sign with is no Ed25519 key")
	}
	if err := t.Validate(); err != nil {
		return nil, fmt.Errorf("the routing table cannot be published:\n%w", err)
	}
	content, err := encode(t.Canonical())
	if err != nil {
		return nil, fmt.Errorf("encode the routing table: %w", err)
	}
	if len(content) > MaxContent {
		return nil, fmt.Errorf("the routing table has %d bytes, more than %d; use fewer pins or Pods of the edge, or several fleets", len(content), MaxContent)
	}
	signed := append([]byte(plainLine), content...)
	if len(content) >= compressFrom {
		if signed, err = compress(content); err != nil {
			return nil, err
		}
	}
	public, _ := key.Public().(ed25519.PublicKey)
	envelope := fmt.Appendf(nil, "%s%s %s\n", signatureLine, KeyID(public), base64.StdEncoding.EncodeToString(ed25519.Sign(key, signed)))
	if envelope = append(envelope, signed...); len(envelope) > MaxEnvelope {
		return nil, fmt.Errorf("the routing table has %d bytes when compressed, more than %d; use fewer pins or Pods of the edge, or several fleets",
			len(envelope), MaxEnvelope)
	}
	return envelope, nil
}

func compress(content []byte) ([]byte, error) {
	text := bytes.NewBufferString(gzipLine)
	writer := gzip.NewWriter(text)
	_, err := writer.Write(content)
	if err = errors.Join(err, writer.Close()); err != nil {
		return nil, fmt.Errorf("compress the routing table: %w", err)
	}
	return text.Bytes(), nil
}

// Open checks the signature by any of the trusted keys, and then everything else, and gives the table.
func Open(envelope []byte, trusted []ed25519.PublicKey) (*Table, error) {
	signed, err := verify(envelope, trusted)
	if err != nil {
		return nil, err
	}
	content, err := unpack(signed)
	if err != nil {
		return nil, err
	}
	t := &Table{}
	if err := json.Unmarshal(content, t); err != nil {
		return nil, fmt.Errorf("the routing table is signed, but is no JSON of the known form: %w", err)
	}
	if err := t.Validate(); err != nil {
		return nil, fmt.Errorf("the routing table is signed, but cannot be used:\n%w", err)
	}
	return t, nil
}

// SignedBy is the id of the key that a signed table names; empty if it is none. It checks nothing.
func SignedBy(envelope []byte) string {
	line, _, _ := bytes.Cut(envelope, []byte("\n"))
	rest, isOurs := strings.CutPrefix(string(line[:min(len(line), 256)]), signatureLine)
	if id, _, found := strings.Cut(rest, " "); isOurs && found {
		return id
	}
	return ""
}

func verify(envelope []byte, trusted []ed25519.PublicKey) (signed []byte, err error) {
	if len(envelope) > MaxEnvelope {
		return nil, fmt.Errorf("the routing table has %d bytes, more than %d", len(envelope), MaxEnvelope)
	}
	line, signed, found := bytes.Cut(envelope, []byte("\n"))
	rest, isOurs := strings.CutPrefix(string(line[:min(len(line), 256)]), signatureLine)
	id, encoded, two := strings.Cut(rest, " ")
	signature, err := base64.StdEncoding.Strict().DecodeString(encoded)
	if !found || !isOurs || !two || err != nil || len(signature) != ed25519.SignatureSize {
		return nil, errors.New("this is no signed routing table: its first line is not \"" + signatureLine + "KEY SIGNATURE\"")
	}
	var known []string
	for _, key := range trusted {
		if len(key) != ed25519.PublicKeySize {
			continue
		}
		if known = append(known, KeyID(key)); KeyID(key) == id && ed25519.Verify(key, signed, signature) {
			return signed, nil
		}
	}
	if slices.Contains(known, id) {
		return nil, fmt.Errorf("%w: its bytes are not those that key %s signed", ErrSignature, clip(id))
	}
	return nil, fmt.Errorf("%w: it names key %q, and trusted are %s; mount the fleet's current public keys", ErrSignature, clip(id), listKeys(known))
}

func listKeys(ids []string) string {
	if len(ids) == 0 {
		return "none"
	}
	return strings.Join(ids, ", ")
}

func unpack(signed []byte) ([]byte, error) {
	if content, isPlain := bytes.CutPrefix(signed, []byte(plainLine)); isPlain {
		return content, nil
	}
	packed, isGzip := bytes.CutPrefix(signed, []byte(gzipLine))
	if !isGzip {
		line, _, _ := bytes.Cut(signed, []byte("\n"))
		return nil, fmt.Errorf("the routing table is of a kind that this program does not know, %q; use the release that wrote it", clip(string(line)))
	}
	reader, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		return nil, fmt.Errorf("the routing table is signed, but not compressed as it says: %w", err)
	}
	content, err := io.ReadAll(io.LimitReader(reader, MaxContent+1))
	if err != nil {
		return nil, fmt.Errorf("the routing table is signed, but not compressed as it says: %w", err)
	}
	if len(content) > MaxContent {
		return nil, fmt.Errorf("the routing table has more than %d bytes", MaxContent)
	}
	return content, nil
}
