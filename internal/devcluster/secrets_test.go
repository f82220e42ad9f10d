package devcluster

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
)

func secret(t *testing.T, target *Target, name string) map[string][]byte {
	t.Helper()
	found := &corev1.Secret{}
	if err := target.Client.Get(t.Context(), client.ObjectKey{Namespace: "shops", Name: name}, found); err != nil {
		t.Fatal(err)
	}
	return found.Data
}

// TestTheClusterHasTheCertificateThatTheAuthorityVerifies loses and mixes the files of the demo's
// certificate in all ways that an interrupted run or a deleted folder can.
func TestTheClusterHasTheCertificateThatTheAuthorityVerifies(t *testing.T) {
	target := &Target{State: t.TempDir(), Client: fake.NewClientBuilder().Build()}
	other := &Target{State: t.TempDir()}
	if _, _, err := other.certificate(); err != nil {
		t.Fatal(err)
	}
	file := func(target *Target, name string) string { return filepath.Join(target.State, name) }
	ensure := func() []byte {
		t.Helper()
		if err := target.EnsureSecrets(t.Context(), "shops"); err != nil {
			t.Fatal(err)
		}
		data := secret(t, target, "edge-tls")
		authority, err := os.ReadFile(target.CAFile())
		if err != nil || !usable(authority, data[corev1.TLSCertKey], data[corev1.TLSPrivateKeyKey]) {
			t.Errorf("the authority does not verify what the cluster has: %v", err)
		}
		return data[corev1.TLSCertKey]
	}
	first := ensure()
	cookies := secret(t, target, "cart")["cookie-keys"]
	if !bytes.Equal(first, ensure()) {
		t.Error("a second run made another certificate")
	}
	for _, name := range []string{"demo-ca.pem", "demo-edge.key", "demo-edge.pem"} {
		before := ensure()
		content, err := os.ReadFile(file(other, name))
		if err := errors.Join(err, os.WriteFile(file(target, name), content, 0o600)); err != nil {
			t.Fatal(err)
		}
		if bytes.Equal(before, ensure()) {
			t.Errorf("%s of another authority was taken", name)
		}
		if err := os.Remove(file(target, name)); err != nil {
			t.Fatal(err)
		}
		ensure()
	}
	if !bytes.Equal(cookies, secret(t, target, "cart")["cookie-keys"]) {
		t.Error("the key of the cookies was replaced")
	}
	left, err := filepath.Glob(filepath.Join(target.State, ".*"))
	if err != nil || len(left) > 0 {
		t.Errorf("left over: %v %v", left, err)
	}
}
