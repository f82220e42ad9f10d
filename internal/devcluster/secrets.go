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

// EnsureSecrets makes the Secrets that the sample reads, where they are missing: the edge's certificate
// and the key of the cart's cookies.
func (t *Target) EnsureSecrets(ctx context.Context, namespace string) error {
	certificate, key, err := t.certificate()
	if err != nil {
		return err
	}
	cookieKey := make([]byte, 32)
	if _, err := rand.Read(cookieKey); err != nil {
		return err
	}
	for _, secret := range []*corev1.Secret{
		{
			ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "edge-tls"},
			Type:       corev1.SecretTypeTLS,
			Data:       map[string][]byte{corev1.TLSCertKey: certificate, corev1.TLSPrivateKeyKey: key},
		},
		{
			ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "cart"},
			Data:       map[string][]byte{"cookie-keys": []byte(hex.EncodeToString(cookieKey))},
		},
	} {
		if err := t.ensureSecret(ctx, secret); err != nil {
			return fmt.Errorf("Secret %s: %w", secret.Name, err)
		}
	}
	return nil
}

// ensureSecret makes a Secret. One that is there keeps its content, except for a certificate: it must be of
// the authority that clients of this checkout trust.
func (t *Target) ensureSecret(ctx context.Context, secret *corev1.Secret) error {
	err := t.Client.Create(ctx, secret.DeepCopy())
	if !apierrors.IsAlreadyExists(err) || secret.Type != corev1.SecretTypeTLS {
		return client.IgnoreAlreadyExists(err)
	}
	live := &corev1.Secret{}
	if err := t.Client.Get(ctx, client.ObjectKeyFromObject(secret), live); err != nil {
		return err
	}
	if maps.EqualFunc(live.Data, secret.Data, bytes.Equal) {
		return nil
	}
	live.Data = secret.Data
	return t.Client.Update(ctx, live)
}

// certificate returns the demo's wildcard certificate and its key, made by an authority of its own at
// the first call and kept in the state folder.
func (t *Target) certificate() (certificate, key []byte, err error) {
	certFile, keyFile := filepath.Join(t.State, "demo-edge.pem"), filepath.Join(t.State, "demo-edge.key")
	certificate, errCert := os.ReadFile(certFile)
	key, errKey := os.ReadFile(keyFile)
	authority, errCA := os.ReadFile(t.CAFile())
	if err := errors.Join(errCert, errKey, errCA); err == nil && stillValid(authority, certificate, key) {
		return certificate, key, nil
	} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, nil, err
	}
	authority, certificate, key, err = issue()
	if err != nil {
		return nil, nil, fmt.Errorf("make the demo's certificate: %w", err)
	}
	for _, file := range []struct {
		name    string
		content []byte
	}{{t.CAFile(), authority}, {keyFile, key}, {certFile, certificate}} {
		if err := errors.Join(os.WriteFile(file.name+".new", file.content, 0o600), os.Rename(file.name+".new", file.name)); err != nil {
			return nil, nil, err
		}
	}
	return certificate, key, nil
}

// stillValid says whether the three belong together and last for a day: the run that wrote them may have
// been killed in between.
func stillValid(authority, certificate, key []byte) bool {
	pair, err := tls.X509KeyPair(certificate, key)
	if err != nil {
		return false
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(authority) {
		return false
	}
	_, err = pair.Leaf.Verify(x509.VerifyOptions{Roots: roots, CurrentTime: time.Now().Add(24 * time.Hour), DNSName: Domain})
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
