package certs_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/shopset/shopset/internal/certrecord"
	"github.com/shopset/shopset/internal/certs"
	"github.com/shopset/shopset/internal/certs/certstest"
)

func must[T any](value T, err error) T {
	if err != nil {
		panic(err)
	}
	return value
}

// TestCheckPair: each thing that can be wrong has its own sentence.
func TestCheckPair(t *testing.T) {
	ca, other := certstest.New(t), certstest.New(t)
	key := certstest.NewKey(t)
	keyPEM := certstest.KeyPEM(t, key)
	issue := func(edit func(*x509.Certificate)) *x509.Certificate {
		template := certstest.Template("shop.example", "*.shop.example")
		edit(template)
		return ca.Issue(t, template, key)
	}
	good := issue(func(*x509.Certificate) {})
	with := func(key crypto.Signer) ([]byte, []byte) {
		return ca.Chain(t, ca.Issue(t, certstest.Template("shop.example"), key)), certstest.KeyPEM(t, key)
	}
	weakChain, weakKey := with(must(rsa.GenerateKey(rand.Reader, 1024)))
	smallChain, smallKey := with(must(ecdsa.GenerateKey(elliptic.P224(), rand.Reader)))
	_, edKey := must2(ed25519.GenerateKey(rand.Reader))
	edChain, edKeyPEM := with(edKey)
	rsaChain, rsaKeyPEM := with(certstest.RSAKey(t))
	ecKey := pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: must(x509.MarshalECPrivateKey(key.(*ecdsa.PrivateKey)))})
	hour := time.Hour
	for name, test := range map[string]struct {
		domain     string
		chain, key []byte
		want       string
	}{
		"good":            {"shop.example", ca.Chain(t, good), keyPEM, ""},
		"a wildcard":      {"*.shop.example", ca.Chain(t, good), keyPEM, ""},
		"a name below":    {"a.shop.example", ca.Chain(t, good), keyPEM, ""},
		"with the root":   {"shop.example", certstest.PEM(good, ca.Intermediate, ca.Root), keyPEM, ""},
		"alone":           {"shop.example", certstest.PEM(good), keyPEM, ""},
		"RSA":             {"shop.example", rsaChain, rsaKeyPEM, ""},
		"a key in SEC 1":  {"shop.example", ca.Chain(t, good), append([]byte("-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n"), ecKey...), ""},
		"another name":    {"other.example", ca.Chain(t, good), keyPEM, "the certificate is for shop.example, *.shop.example, not for other.example"},
		"too deep":        {"a.b.shop.example", ca.Chain(t, good), keyPEM, "not for a.b.shop.example"},
		"no wildcard":     {"*.other.example", ca.Chain(t, good), keyPEM, "not for *.other.example"},
		"another key":     {"shop.example", ca.Chain(t, good), certstest.KeyPEM(t, certstest.NewKey(t)), "the key does not belong to the certificate of shop.example (serial "},
		"nothing":         {"shop.example", nil, nil, "there is no certificate: want PEM blocks"},
		"no key":          {"shop.example", ca.Chain(t, good), []byte("x"), "there is no key: want a PEM block"},
		"the key in it":   {"shop.example", append(ca.Chain(t, good), keyPEM...), keyPEM, `has a block "PRIVATE KEY"`},
		"encrypted":       {"shop.example", ca.Chain(t, good), pem.EncodeToMemory(&pem.Block{Type: "ENCRYPTED PRIVATE KEY", Bytes: []byte{1}}), "the key is encrypted; take its password off"},
		"a damaged key":   {"shop.example", ca.Chain(t, good), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte{1}}), "the key cannot be read"},
		"damaged":         {"shop.example", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte{1}}), keyPEM, "certificate 1 cannot be read"},
		"wrong order":     {"shop.example", certstest.PEM(good, ca.Root, ca.Intermediate), keyPEM, "the order is wrong: certificate 3, of test intermediate, must come directly after certificate 1"},
		"authority first": {"shop.example", certstest.PEM(ca.Intermediate, good), keyPEM, "the first certificate, of test intermediate, is an authority's"},
		"another chain":   {"shop.example", certstest.PEM(good, other.Intermediate), keyPEM, "did not sign certificate 1, of shop.example, and no other does; its issuer is CN=test intermediate"},
		"expired":         {"shop.example", ca.Chain(t, issue(func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-hour / 2) })), keyPEM, "certificate 1, of shop.example, expired on "},
		"not yet":         {"shop.example", ca.Chain(t, issue(func(c *x509.Certificate) { c.NotBefore = time.Now().Add(hour) })), keyPEM, "is not valid before"},
		"for clients":     {"shop.example", ca.Chain(t, issue(func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} })), keyPEM, "is not for servers"},
		"must staple": {"shop.example", ca.Chain(t, issue(func(c *x509.Certificate) {
			c.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 1, 24}, Value: []byte{0x30, 3, 2, 1, 5}}}
		})), keyPEM, "demands a stapled OCSP answer"},
		"weak RSA":         {"shop.example", weakChain, weakKey, "the key is weak: RSA with 1024 bits"},
		"weak ECDSA":       {"shop.example", smallChain, smallKey, "the key is weak: ECDSA on P-224"},
		"Ed25519":          {"shop.example", edChain, edKeyPEM, "neither RSA nor ECDSA"},
		"a leaf as issuer": {"shop.example", certstest.PEM(good, good), keyPEM, "is no authority's"},
		"too long":         {"shop.example", bytes.Repeat(certstest.PEM(ca.Root), 11), keyPEM, "more than 10 certificates"},
	} {
		pair, err := certs.CheckPair(test.domain, test.chain, test.key, time.Now())
		var problems certs.Problems
		switch {
		case test.want == "":
			if err != nil || pair.NotAfter.IsZero() || pair.Serial == "" || len(pair.Key) == 0 || len(pair.Chain) > 2 || (pair.Kind == certrecord.RSA) != (name == "RSA") {
				t.Errorf("%s: %+v %v", name, pair, err)
			}
		case !errors.As(err, &problems) || !strings.Contains(err.Error(), test.want):
			t.Errorf("%s: %v, want %q", name, err, test.want)
		}
	}
	// All at once.
	_, err := certs.CheckPair("other.example", ca.Chain(t, issue(func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-hour / 2) })), weakKey, time.Now())
	var problems certs.Problems
	if !errors.As(err, &problems) || len(problems) != 3 {
		t.Errorf("want the name, the date and the key at once: %v", err)
	}
}

func must2[A, B any](a A, b B, err error) (A, B) {
	if err != nil {
		panic(err)
	}
	return a, b
}

// FuzzCheckPair: whatever comes, there is an answer.
func FuzzCheckPair(f *testing.F) {
	ca := certstest.New(f)
	chain, key := ca.Pair(f, "shop.example")
	f.Add(chain, key)
	f.Add(key, chain)
	f.Fuzz(func(t *testing.T, chain, key []byte) {
		if pair, err := certs.CheckPair("shop.example", chain, key, time.Now()); (pair == nil) == (err == nil) {
			t.Errorf("%v %v", pair, err)
		}
	})
}
