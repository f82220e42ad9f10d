package component

import (
	"bytes"
	"embed"
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"text/template"

	"github.com/shopset/shopset/hack/localcluster/internal/pki"
)

//go:embed files
var files embed.FS

var templates = template.Must(template.New("").Option("missingkey=error").ParseFS(files, "files/*"))

// Write makes the keys, certificates and configuration files of a run in the cluster's run folder,
// and the kubeconfig for people beside it.
func (s Spec) Write() error {
	authority, err := pki.NewAuthority(filepath.Join(s.Layout.Run(), "pki"))
	if err != nil {
		return err
	}
	dir := filepath.Join(s.Layout.Run(), "conf")
	for _, sub := range []string{dir, filepath.Join(dir, "cni")} {
		if err := os.MkdirAll(sub, 0o755); err != nil {
			return err
		}
	}
	if err := s.certificates(authority); err != nil {
		return fmt.Errorf("certificates: %w", err)
	}
	if err := s.kubeconfigs(authority, dir); err != nil {
		return fmt.Errorf("kubeconfigs: %w", err)
	}
	for name, target := range map[string]string{
		"containerd.toml":     "containerd.toml",
		"kubelet.yaml":        "kubelet.yaml",
		"kube-proxy.yaml":     "kube-proxy.yaml",
		"authentication.yaml": "authentication.yaml",
		"Corefile":            "Corefile",
		"shopset.conflist":    "cni/10-shopset.conflist",
	} {
		text, err := s.render(name)
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, target), text, 0o644); err != nil {
			return err
		}
	}
	resolv := fmt.Appendf(nil, "nameserver %s\n", s.Plan.Node)
	return os.WriteFile(filepath.Join(dir, "resolv.conf"), resolv, 0o644)
}

// render fills one of the configuration templates.
func (s Spec) render(name string) ([]byte, error) {
	var out bytes.Buffer
	err := templates.ExecuteTemplate(&out, name, map[string]any{
		"Run": runDir, "Bin": binDir, "Conf": confDir, "PKI": pkiDir,
		"ContainerdSocket": ContainerdSocket, "PauseImage": PauseImage,
		"NodeName": NodeName, "HostName": HostName,
		"Node": s.Plan.Node, "Host": s.Plan.Host, "Pods": s.Plan.Pods, "DNS": s.Plan.DNS(),
		"Cgroup": s.cgroupRoot(), "Forward": s.Resolver.IsValid(),
	})
	return out.Bytes(), err
}

func (s Spec) certificates(authority *pki.Authority) error {
	if err := authority.SigningKey("service-accounts"); err != nil {
		return err
	}
	_, err := authority.Server("apiserver", "kubernetes", "kubernetes.default", "kubernetes.default.svc",
		"kubernetes.default.svc.cluster.local", "localhost", "127.0.0.1",
		s.Plan.Node.String(), s.Plan.API().String())
	if err != nil {
		return err
	}
	if _, err := authority.Server("kubelet-server", NodeName, s.Plan.Node.String()); err != nil {
		return err
	}
	if _, err := authority.Client("apiserver-kubelet", "kube-apiserver-kubelet-client", "system:masters"); err != nil {
		return err
	}
	_, err = authority.Client("front-proxy", "front-proxy", "")
	return err
}

func (s Spec) kubeconfigs(authority *pki.Authority, dir string) error {
	inside := fmt.Sprintf("https://%s:%d", s.Plan.Node, APIPort)
	outside := fmt.Sprintf("https://127.0.0.1:%d", s.API.Host)
	for _, c := range []struct{ name, user, group, server, path string }{
		{"admin", "shopset-admin", "system:masters", outside, s.Layout.Kubeconfig()},
		{"kubelet", "system:node:" + NodeName, "system:nodes", inside, ""},
		{"kube-controller-manager", "system:kube-controller-manager", "", inside, ""},
		{"kube-scheduler", "system:kube-scheduler", "", inside, ""},
		{"kube-proxy", "system:kube-proxy", "", inside, ""},
		{"coredns", "system:coredns", "", inside, ""},
	} {
		pair, err := authority.Client(c.name, c.user, c.group)
		if err != nil {
			return err
		}
		var out bytes.Buffer
		err = templates.ExecuteTemplate(&out, "kubeconfig.yaml", map[string]string{
			"Name": "shopset", "Server": c.server, "CA": base64.StdEncoding.EncodeToString(authority.CA()),
			"Cert": base64.StdEncoding.EncodeToString(pair.Cert), "Key": base64.StdEncoding.EncodeToString(pair.Key),
		})
		if err != nil {
			return err
		}
		if c.path == "" {
			c.path = filepath.Join(dir, c.name+".kubeconfig")
		}
		if err := os.WriteFile(c.path, out.Bytes(), 0o600); err != nil {
			return err
		}
	}
	return nil
}
