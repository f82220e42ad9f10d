package devcluster

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
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
	return t.ensureCertsSecrets(ctx, namespace)
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

// certificate returns the demo's wildcard certificate and its key, made by the demo's authority at the first call and kept
// in the state folder.
func (t *Target) certificate() (certificate, key []byte, err error) {
	certFile, keyFile := filepath.Join(t.State, "demo-edge.pem"), filepath.Join(t.State, "demo-edge.key")
	a, err := t.authority()
	if err != nil {
		return nil, nil, err
	}
	certificate, errCert := readIfThere(certFile)
	key, errKey := readIfThere(keyFile)
	if err := errors.Join(errCert, errKey); err != nil {
		return nil, nil, err
	}
	if usable(a.pem, certificate, key) {
		return certificate, key, nil
	}
	if certificate, key, err = a.issue("*."+Domain, Domain); err != nil {
		return nil, nil, fmt.Errorf("make the demo's certificate: %w", err)
	}
	// The certificate comes last: without it, what an interrupted run has written fits nothing.
	return certificate, key, errors.Join(replaceFile(keyFile, key), replaceFile(certFile, certificate))
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
	return usableFor(authority, certificate, key, "any."+Domain)
}

func usableFor(authority, certificate, key []byte, name string) bool {
	pair, err := tls.X509KeyPair(certificate, key)
	if err != nil {
		return false
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(authority) {
		return false
	}
	_, err = pair.Leaf.Verify(x509.VerifyOptions{Roots: roots, DNSName: name, CurrentTime: time.Now().Add(24 * time.Hour)})
	return err == nil
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
