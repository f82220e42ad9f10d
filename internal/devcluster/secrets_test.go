package devcluster

import (
	"os"
	"testing"
)

// TestCertificateBelongsTogether: whatever part of the three files a killed run left, what is used fits.
func TestCertificateBelongsTogether(t *testing.T) {
	target := &Target{State: t.TempDir()}
	first, _, err := target.certificate()
	if err != nil {
		t.Fatal(err)
	}
	again, _, err := target.certificate()
	if err != nil || string(again) != string(first) {
		t.Fatalf("made anew without need: %v", err)
	}
	authority, _, key, err := issue()
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string][]byte{"demo-ca.pem": authority, "demo-edge.key": key, "demo-edge.pem": []byte("half")} {
		if err := os.WriteFile(target.State+"/"+name, content, 0o600); err != nil {
			t.Fatal(err)
		}
		certificate, key, err := target.certificate()
		if err != nil {
			t.Fatal(err)
		}
		authority, err := os.ReadFile(target.CAFile())
		if err != nil || !stillValid(authority, certificate, key) {
			t.Fatalf("%s of another pair: they do not fit (%v)", name, err)
		}
	}
}
