package devcluster

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/big"
	"os"
	"path/filepath"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// Domain is the parent of the demo shops' host names.
const Domain = "shops.example"

// lifetime of the demo's certificates.
const lifetime = 90 * 24 * time.Hour

// CAFile is where the certificate of the demo's own authority is kept.
func (t *Target) CAFile() string { return filepath.Join(t.State, "demo-ca.pem") }

// EnsureSecrets makes the Secrets that the sample reads: the edge's certificate, which has to be the one
// that CAFile verifies, and the key of the cart's cookies, which stays as it is.
func (t *Target) EnsureSecrets(ctx context.Context, namespace string) error {
	certificate, key, err := t.certificate()
	if err != nil {
		return err
	}
	cookieKey := make([]byte, 32)
	if _, err := rand.Read(cookieKey); err != nil {
		return err
	}
	cart := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "cart"},
		Data:       map[string][]byte{"cookie-keys": []byte(hex.EncodeToString(cookieKey))},
	}
	if err := t.Client.Create(ctx, cart); err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("Secret %s: %w", cart.Name, err)
	}
	edge := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "edge-tls"},
		Type:       corev1.SecretTypeTLS,
		Data:       map[string][]byte{corev1.TLSCertKey: certificate, corev1.TLSPrivateKeyKey: key},
	}
	if err := t.ensureSecret(ctx, edge); err != nil {
		return fmt.Errorf("Secret %s: %w", edge.Name, err)
	}
	return nil
}

// ensureSecret creates a Secret, or gives it other data when they differ.
func (t *Target) ensureSecret(ctx context.Context, want *corev1.Secret) error {
	have := &corev1.Secret{}
	err := t.Client.Get(ctx, client.ObjectKeyFromObject(want), have)
	switch {
	case apierrors.IsNotFound(err):
		return t.Client.Create(ctx, want)
	case err != nil:
		return err
	case maps.EqualFunc(have.Data, want.Data, bytes.Equal):
		return nil
	}
	have.Data = want.Data
	return t.Client.Update(ctx, have)
}

// certificate returns the demo's wildcard certificate and its key, made by an authority of its own at
// the first call and kept in the state folder.
func (t *Target) certificate() (certificate, key []byte, err error) {
	certFile, keyFile := filepath.Join(t.State, "demo-edge.pem"), filepath.Join(t.State, "demo-edge.key")
	files := []string{t.CAFile(), keyFile, certFile}
	contents := make([][]byte, len(files))
	for i, file := range files {
		if contents[i], err = os.ReadFile(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, nil, err
		}
	}
	if usable(contents[0], contents[2], contents[1]) {
		return contents[2], contents[1], nil
	}
	authority, certificate, key, err := issue()
	if err != nil {
		return nil, nil, fmt.Errorf("make the demo's certificate: %w", err)
	}
	// The certificate comes last: without it, what an interrupted run has written fits nothing.
	for i, content := range [][]byte{authority, key, certificate} {
		if err := replaceFile(files[i], content); err != nil {
			return nil, nil, err
		}
	}
	return certificate, key, nil
}

// replaceFile writes a file so that a reader sees the old content or the new one.
func replaceFile(path string, content []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	fresh, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-")
	if err != nil {
		return err
	}
	defer os.Remove(fresh.Name()) // It is gone when all went well.
	if _, err := fresh.Write(content); err != nil {
		fresh.Close()
		return err
	}
	if err := fresh.Close(); err != nil {
		return err
	}
	return os.Rename(fresh.Name(), path)
}

// usable says whether key, certificate and authority fit, for a day at least.
func usable(authority, certificate, key []byte) bool {
	pair, err := tls.X509KeyPair(certificate, key)
	if err != nil {
		return false
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(authority) {
		return false
	}
	_, err = pair.Leaf.Verify(x509.VerifyOptions{Roots: roots, DNSName: "any." + Domain, CurrentTime: time.Now().Add(24 * time.Hour)})
	return err == nil
}

// issue makes an authority and a certificate for all shops.
func issue() (authority, certificate, key []byte, err error) {
	now := time.Now()
	caKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, nil, err
	}
	ca := &x509.Certificate{
		SerialNumber: big.NewInt(now.UnixNano()), Subject: pkix.Name{CommonName: "ShopSet demo"},
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(lifetime),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	caDER, err := x509.CreateCertificate(rand.Reader, ca, ca, caKey.Public(), caKey)
	if err != nil {
		return nil, nil, nil, err
	}
	leafKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, nil, err
	}
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(now.UnixNano() + 1), Subject: pkix.Name{CommonName: "*." + Domain},
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(lifetime), DNSNames: []string{"*." + Domain, Domain},
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	leafDER, err := x509.CreateCertificate(rand.Reader, leaf, ca, leafKey.Public(), caKey)
	if err != nil {
		return nil, nil, nil, err
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(leafKey)
	if err != nil {
		return nil, nil, nil, err
	}
	encode := func(kind string, der []byte) []byte { return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}) }
	return encode("CERTIFICATE", caDER), encode("CERTIFICATE", leafDER), encode("PRIVATE KEY", keyDER), nil
}

// Roots are the authorities that the demo's clients trust.
func (t *Target) Roots() (*x509.CertPool, error) {
	content, err := os.ReadFile(t.CAFile())
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(content) {
		return nil, fmt.Errorf("%s holds no certificate", t.CAFile())
	}
	return pool, nil
}
