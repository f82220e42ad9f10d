package component

import (
	"crypto/tls"
	"crypto/x509"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/shopset/shopset/hack/localcluster/internal/layout"
	"github.com/shopset/shopset/hack/localcluster/internal/subnet"
)

func testSpec(t *testing.T) Spec {
	t.Helper()
	plan, err := subnet.Pick(nil)
	if err != nil {
		t.Fatal(err)
	}
	l, err := layout.New(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	return Spec{Layout: l, Plan: plan, API: Forward{Host: 6443, Node: APIPort}}
}

func TestWrite(t *testing.T) {
	spec := testSpec(t)
	if err := spec.Write(); err != nil {
		t.Fatal(err)
	}
	for _, c := range spec.All() {
		for _, arg := range c.Args {
			inNode, ok := strings.CutPrefix(arg[strings.Index(arg, "=")+1:], runDir+"/")
			if !ok || !strings.ContainsAny(filepath.Base(inNode), ".") {
				continue
			}
			if _, err := os.Stat(filepath.Join(spec.Layout.Run(), inNode)); err != nil {
				t.Errorf("%s is given a file that nobody writes: %v", c.Name, err)
			}
		}
	}
	info, err := os.Stat(spec.Layout.Kubeconfig())
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("kubeconfig: %v, %v", info, err)
	}
}

func TestComponentsFitTogether(t *testing.T) {
	spec := testSpec(t)
	var names []string
	for _, c := range spec.All() {
		for _, need := range c.Needs {
			if !slices.Contains(names, need) {
				t.Errorf("%s needs %s, which is not started before it", c.Name, need)
			}
		}
		names = append(names, c.Name)
	}
	if !slices.Equal(names, Names) {
		t.Errorf("components %v, but Names says %v", names, Names)
	}
}

// TestServingCertificates checks the names under which clients reach the servers.
func TestServingCertificates(t *testing.T) {
	spec := testSpec(t)
	if err := spec.Write(); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(spec.Layout.Run(), "pki")
	ca, err := os.ReadFile(filepath.Join(dir, "ca.crt"))
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	for name, hosts := range map[string][]string{
		"apiserver":      {"127.0.0.1", "localhost", spec.Plan.Node.String(), "10.96.0.1", "kubernetes.default.svc"},
		"kubelet-server": {spec.Plan.Node.String(), NodeName},
	} {
		pair, err := tls.LoadX509KeyPair(filepath.Join(dir, name+".crt"), filepath.Join(dir, name+".key"))
		if err != nil {
			t.Fatal(err)
		}
		for _, host := range hosts {
			if _, err := pair.Leaf.Verify(x509.VerifyOptions{Roots: roots, DNSName: host}); err != nil {
				t.Errorf("%s for %s: %v", name, host, err)
			}
		}
	}
}

func TestCorefileForwardsOnlyToAServer(t *testing.T) {
	spec := testSpec(t)
	for _, test := range []struct {
		resolver   netip.AddrPort
		have, lack string
	}{
		{netip.AddrPort{}, "rcode NXDOMAIN", "forward"},
		{netip.MustParseAddrPort("192.0.2.1:53"), "forward . 10.223.0.1", "NXDOMAIN"},
	} {
		spec.Resolver = test.resolver
		text, err := spec.render("Corefile")
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(text), test.have) || strings.Contains(string(text), test.lack) {
			t.Errorf("resolver %v: want %q and not %q in\n%s", test.resolver, test.have, test.lack, text)
		}
	}
}
