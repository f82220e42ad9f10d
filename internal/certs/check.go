package certs

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"encoding/asn1"
	"encoding/pem"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/shopset/shopset/internal/certrecord"
)

// Problems are all that is wrong with an input, a sentence each.
type Problems []string

func (p Problems) Error() string { return strings.Join(p, "; ") }

func (p *Problems) add(format string, args ...any) { *p = append(*p, fmt.Sprintf(format, args...)) }

// orNil keeps an empty list from being an error.
func (p Problems) orNil() error {
	if len(p) == 0 {
		return nil
	}
	return p
}

const (
	maxChain   = 10
	minRSABits = 2048
	// maxRSABits keeps a handshake from costing more than some milliseconds.
	maxRSABits = 4096
)

// Pair is a certificate that was checked, with its key.
type Pair struct {
	Kind certrecord.Kind
	// Chain in DER, the leaf first, without the root.
	Chain [][]byte
	// Key in PKCS #8.
	Key                 []byte
	NotBefore, NotAfter time.Time
	Serial              string
}

// CheckPair reads a chain and a key in PEM and checks that they can serve a domain, which may be a wildcard. The
// error is Problems.
func CheckPair(domain string, chainPEM, keyPEM []byte, now time.Time) (*Pair, error) {
	var problems Problems
	chain := parseChain(chainPEM, &problems)
	key := parseKey(keyPEM, &problems)
	if len(chain) == 0 {
		return nil, problems.orNil()
	}
	leaf := chain[0]
	pair := &Pair{NotBefore: leaf.NotBefore, NotAfter: leaf.NotAfter, Serial: leaf.SerialNumber.Text(16)}
	checkLeaf(leaf, domain, &problems)
	checkOrder(chain, &problems)
	for i, certificate := range chain {
		checkValid(i, certificate, now, &problems)
	}
	pair.Kind = kindOf(leaf.PublicKey, &problems)
	if key != nil {
		public, ok := key.Public().(interface{ Equal(crypto.PublicKey) bool })
		if !ok || !public.Equal(leaf.PublicKey) {
			problems.add("the key does not belong to the certificate of %s (serial %s)", subject(leaf), pair.Serial)
		}
	}
	size := 0
	for _, certificate := range chain {
		size += len(certificate.Raw)
	}
	if size > maxChainBytes {
		problems.add("the chain has %d bytes, more than %d; shorten it, or have a certificate with fewer names", size, maxChainBytes)
	}
	if len(problems) > 0 {
		return nil, problems
	}
	for i, certificate := range chain {
		if i > 0 && bytes.Equal(certificate.RawSubject, certificate.RawIssuer) {
			break // Clients have the root.
		}
		pair.Chain = append(pair.Chain, certificate.Raw)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, Problems{"the key cannot be stored: " + err.Error()}
	}
	pair.Key = der
	return pair, nil
}

func parseChain(text []byte, problems *Problems) (chain []*x509.Certificate) {
	for rest := text; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			problems.add("the certificate's PEM has a block %q, want CERTIFICATE alone", block.Type)
			continue
		}
		if len(chain) == maxChain {
			problems.add("the chain has more than %d certificates", maxChain)
			break
		}
		certificate, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			problems.add("certificate %d cannot be read: %v", len(chain)+1, err)
			return nil
		}
		chain = append(chain, certificate)
	}
	if len(chain) == 0 && len(*problems) == 0 {
		problems.add("there is no certificate: want PEM blocks that begin with -----BEGIN CERTIFICATE-----, the domain's own first")
	}
	return chain
}

func parseKey(text []byte, problems *Problems) crypto.Signer {
	block, _ := pem.Decode(text)
	for block != nil && block.Type == "EC PARAMETERS" { // openssl ecparam writes them before the key.
		_, rest := pem.Decode(text)
		text = rest
		block, _ = pem.Decode(text)
	}
	if block == nil {
		problems.add("there is no key: want a PEM block that begins with -----BEGIN PRIVATE KEY-----")
		return nil
	}
	var key any
	var err error
	switch block.Type {
	case "PRIVATE KEY":
		key, err = x509.ParsePKCS8PrivateKey(block.Bytes)
	case "RSA PRIVATE KEY":
		key, err = x509.ParsePKCS1PrivateKey(block.Bytes)
	case "EC PRIVATE KEY":
		key, err = x509.ParseECPrivateKey(block.Bytes)
	case "ENCRYPTED PRIVATE KEY":
		problems.add("the key is encrypted; take its password off: openssl pkey -in KEY -out PLAIN")
		return nil
	default:
		problems.add("the key's PEM block is %q, want PRIVATE KEY", block.Type)
		return nil
	}
	if err == nil && block.Headers["DEK-Info"] != "" {
		err = fmt.Errorf("it is encrypted")
	}
	signer, ok := key.(crypto.Signer)
	if err != nil || !ok {
		// The parser's error is of the structure alone, but a key is no place for details.
		problems.add("the key cannot be read: it is damaged, encrypted, or of a kind that TLS has not")
		return nil
	}
	return signer
}

// mustStaple is the TLS feature extension (RFC 7633).
var mustStaple = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 1, 24}

func checkLeaf(leaf *x509.Certificate, domain string, problems *Problems) {
	if leaf.IsCA {
		problems.add("the first certificate, of %s, is an authority's; the domain's own comes first", subject(leaf))
	}
	if len(leaf.ExtKeyUsage)+len(leaf.UnknownExtKeyUsage) > 0 && !slices.Contains(leaf.ExtKeyUsage, x509.ExtKeyUsageServerAuth) && !slices.Contains(leaf.ExtKeyUsage, x509.ExtKeyUsageAny) {
		problems.add("the certificate is not for servers (extended key usage)")
	}
	for _, extension := range leaf.Extensions {
		if extension.Id.Equal(mustStaple) {
			problems.add("the certificate demands a stapled OCSP answer, which is not served; have it issued without \"must staple\"")
		}
	}
	covers := false
	if strings.HasPrefix(domain, "*.") {
		covers = slices.ContainsFunc(leaf.DNSNames, func(name string) bool { return strings.EqualFold(name, domain) })
	} else {
		covers = leaf.VerifyHostname(domain) == nil
	}
	if !covers {
		problems.add("the certificate is for %s, not for %s", names(leaf), domain)
	}
}

func checkOrder(chain []*x509.Certificate, problems *Problems) {
	for i, certificate := range chain[:len(chain)-1] {
		if certificate.CheckSignatureFrom(chain[i+1]) == nil {
			continue
		}
		right := slices.IndexFunc(chain, func(other *x509.Certificate) bool {
			return other != certificate && certificate.CheckSignatureFrom(other) == nil
		})
		if right < 0 {
			problems.add("certificate %d, of %s, did not sign certificate %d, of %s, and no other does; its issuer is %s",
				i+2, subject(chain[i+1]), i+1, subject(certificate), certificate.Issuer)
		} else {
			problems.add("the order is wrong: certificate %d, of %s, must come directly after certificate %d, which it signed", right+1, subject(chain[right]), i+1)
		}
		return // What follows from it is no help.
	}
}

func checkValid(i int, certificate *x509.Certificate, now time.Time, problems *Problems) {
	switch {
	case now.After(certificate.NotAfter):
		problems.add("certificate %d, of %s, expired on %s", i+1, subject(certificate), certificate.NotAfter.UTC().Format(time.DateTime))
	case now.Before(certificate.NotBefore):
		problems.add("certificate %d, of %s, is not valid before %s", i+1, subject(certificate), certificate.NotBefore.UTC().Format(time.DateTime))
	}
	root := bytes.Equal(certificate.RawSubject, certificate.RawIssuer)
	switch certificate.SignatureAlgorithm {
	case x509.MD2WithRSA, x509.MD5WithRSA, x509.SHA1WithRSA, x509.DSAWithSHA1, x509.ECDSAWithSHA1:
		if !root { // Nobody looks at a root's own signature.
			problems.add("certificate %d, of %s, is signed with %s, which clients refuse", i+1, subject(certificate), certificate.SignatureAlgorithm)
		}
	}
	if i > 0 && !certificate.IsCA {
		problems.add("certificate %d, of %s, is no authority's", i+1, subject(certificate))
	}
}

func kindOf(public any, problems *Problems) certrecord.Kind {
	switch key := public.(type) {
	case *rsa.PublicKey:
		switch bits := key.N.BitLen(); {
		case bits < minRSABits:
			problems.add("the key is weak: RSA with %d bits, want %d at least", bits, minRSABits)
		case bits > maxRSABits:
			problems.add("the key is RSA with %d bits; more than %d make handshakes slow", bits, maxRSABits)
		}
		return certrecord.RSA
	case *ecdsa.PublicKey:
		switch key.Curve {
		case elliptic.P224():
			problems.add("the key is weak: ECDSA on P-224, want P-256 or P-384")
		case elliptic.P521():
			problems.add("the key is ECDSA on P-521, which browsers do not all know; want P-256 or P-384")
		}
		return certrecord.ECDSA
	}
	problems.add("the key is neither RSA nor ECDSA, which browsers want")
	return ""
}

func subject(certificate *x509.Certificate) string {
	if name := certificate.Subject.CommonName; name != "" {
		return name
	}
	return names(certificate)
}

func names(certificate *x509.Certificate) string {
	const most = 5
	list := certificate.DNSNames
	switch {
	case len(list) == 0:
		return "no name"
	case len(list) > most:
		return strings.Join(list[:most], ", ") + fmt.Sprintf(" and %d others", len(list)-most)
	}
	return strings.Join(list, ", ")
}
