package tester

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"
)

// Authority signs certificates for tests.
type Authority struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
}

// Certificate and its key, as texts for files of a container or the answers of an API.
type Certificate struct {
	CertificatePEM, KeyPEM string
	NotAfter               time.Time
	pair                   tls.Certificate
}

// NewAuthority makes one that nobody else trusts.
func NewAuthority(t TB) *Authority {
	t.Helper()
	a := &Authority{}
	template := certificateTemplate("containertester authority", 24*time.Hour)
	template.IsCA, template.BasicConstraintsValid, template.KeyUsage = true, true, x509.KeyUsageCertSign
	der, key, err := a.sign(template)
	if err == nil {
		a.certificate, err = x509.ParseCertificate(der)
	}
	if err != nil {
		t.Fatalf("make an authority: %v", err)
	}
	a.key = key
	return a
}

// Pool holds the authority alone, to verify with.
func (a *Authority) Pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.certificate)
	return pool
}

// PEM is the authority's own certificate, for containers that verify.
func (a *Authority) PEM() string { return encode("CERTIFICATE", a.certificate.Raw) }

// Issue makes a certificate for names and addresses, valid for a day.
func (a *Authority) Issue(t TB, names ...string) Certificate {
	t.Helper()
	return a.IssueFor(t, 24*time.Hour, names...)
}

// IssueFor makes one that ends after some time; one that has ended before, when it is negative.
func (a *Authority) IssueFor(t TB, valid time.Duration, names ...string) Certificate {
	t.Helper()
	if len(names) == 0 {
		t.Fatalf("a certificate needs a name")
	}
	template := certificateTemplate(names[0], valid)
	template.KeyUsage = x509.KeyUsageDigitalSignature
	for _, name := range names {
		if ip := net.ParseIP(name); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, name)
		}
	}
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	der, key, err := a.sign(template)
	if err != nil {
		t.Fatalf("issue a certificate for %s: %v", names[0], err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatalf("issue a certificate for %s: %v", names[0], err)
	}
	return Certificate{encode("CERTIFICATE", der), encode("PRIVATE KEY", private), template.NotAfter,
		tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}}
}

func certificateTemplate(name string, valid time.Duration) *x509.Certificate {
	now := time.Now()
	return &x509.Certificate{SerialNumber: big.NewInt(now.UnixNano()), Subject: pkix.Name{CommonName: name},
		NotBefore: now.Add(-48 * time.Hour), NotAfter: now.Add(valid)}
}

// sign signs with the authority's key, or the first time with the new one itself.
func (a *Authority) sign(template *x509.Certificate) (der []byte, key *ecdsa.PrivateKey, err error) {
	key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	parent, signer := a.certificate, a.key
	if parent == nil {
		parent, signer = template, key
	}
	der, err = x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	return der, key, err
}

func encode(kind string, der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
}

// MockCertificateAPI hands out certificates by domain. It is a MockAP, which fails on command and records.
type MockCertificateAPI struct {
	*MockAP
	// Authority that issues the certificates.
	Authority *Authority

	mu    sync.Mutex
	known map[string]Certificate
}

// StartMockCertificateAPI starts a service that answers GET /v1/certificates/DOMAIN with the fields domain,
// certificate, privateKey (PEM) and notAfter (RFC 3339), as the API of shopset-certs, and 404 for a domain that
// it does not know. It ends with its test.
func StartMockCertificateAPI(t TB) *MockCertificateAPI {
	t.Helper()
	m := &MockCertificateAPI{Authority: NewAuthority(t), known: map[string]Certificate{}}
	m.MockAP = StartMockAP(t, MockApHandler(m.answer))
	return m
}

func (m *MockCertificateAPI) answer(w http.ResponseWriter, r *http.Request) {
	domain, ok := strings.CutPrefix(r.URL.Path, "/v1/certificates/")
	m.mu.Lock()
	certificate, known := m.known[domain]
	m.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	if !ok || !known {
		w.WriteHeader(http.StatusNotFound)
		fmt.Fprintf(w, "{\"error\": %q}\n", "there is no certificate for "+domain)
		return
	}
	_ = json.NewEncoder(w).Encode(map[string]string{
		"domain": domain, "certificate": certificate.CertificatePEM, "privateKey": certificate.KeyPEM,
		"notAfter": certificate.NotAfter.UTC().Format(time.RFC3339),
	})
}

// Add issues a certificate for names and hands it out for each of them.
func (m *MockCertificateAPI) Add(t TB, names ...string) Certificate {
	t.Helper()
	certificate := m.Authority.Issue(t, names...)
	m.Put(certificate, names...)
	return certificate
}

// Put hands out a certificate for names, whether it fits or not.
func (m *MockCertificateAPI) Put(certificate Certificate, names ...string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, name := range names {
		m.known[name] = certificate
	}
}

// Remove makes a domain unknown.
func (m *MockCertificateAPI) Remove(domain string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.known, domain)
}
