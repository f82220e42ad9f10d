package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"

	"github.com/shopset/shopset/bench/internal/process"
	"github.com/shopset/shopset/internal/operator"
)

const (
	// contender is the user that whoever is measured works as; its requests are in the audit log.
	contender = "contender"
	namespace = "shops"
)

// auditPolicy records the requests of the contender and of nobody else.
const auditPolicy = `apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived, ResponseStarted]
rules:
- {level: Metadata, users: [` + contender + `]}
- {level: None}
`

// controlPlane is an API server and etcd of their own for one contender.
type controlPlane struct {
	environment *envtest.Environment
	folder      string
	admin       client.Client
	adminConfig *rest.Config
	// config and kubeconfig are the contender's.
	config     *rest.Config
	kubeconfig string
	// pids of the API server and etcd.
	pids []int
}

func startControlPlane(ctx context.Context, b *bench) (cp *controlPlane, err error) {
	cp = &controlPlane{}
	if cp.folder, err = os.MkdirTemp(b.folder, "controlplane-"); err != nil {
		return nil, err
	}
	policy := filepath.Join(cp.folder, "policy.yaml")
	if err := os.WriteFile(policy, []byte(auditPolicy), 0o600); err != nil {
		return nil, err
	}
	cp.environment = &envtest.Environment{
		BinaryAssetsDirectory:    b.guarded,
		CRDDirectoryPaths:        []string{filepath.Join(b.root, "config", "crd")},
		ControlPlaneStartTimeout: time.Minute,
	}
	cp.environment.ControlPlane.GetAPIServer().Configure().
		// Room for the Services of thousands of components.
		Set("service-cluster-ip-range", "10.64.0.0/12").
		Set("audit-policy-file", policy).
		Set("audit-log-path", cp.auditLog()).
		Set("audit-log-mode", "blocking")
	if cp.adminConfig, err = cp.environment.Start(); err != nil {
		return nil, errors.Join(err, cp.environment.Stop())
	}
	if err := cp.prepare(ctx); err != nil {
		return nil, errors.Join(err, cp.stop())
	}
	return cp, nil
}

func (cp *controlPlane) prepare(ctx context.Context) error {
	children, err := process.Children()
	if err != nil {
		return err
	}
	for _, name := range []string{"kube-apiserver", "etcd"} {
		if children[name] == 0 {
			return fmt.Errorf("no process %s was started", name)
		}
		cp.pids = append(cp.pids, children[name])
	}
	cp.adminConfig.QPS = -1
	scheme, err := operator.Scheme()
	if err != nil {
		return err
	}
	if cp.admin, err = client.New(cp.adminConfig, client.Options{Scheme: scheme}); err != nil {
		return err
	}
	user, err := cp.environment.AddUser(envtest.User{Name: contender, Groups: []string{"system:masters"}}, &rest.Config{QPS: -1})
	if err != nil {
		return err
	}
	cp.config = user.Config()
	kubeconfig, err := user.KubeConfig()
	if err != nil {
		return err
	}
	cp.kubeconfig = filepath.Join(cp.folder, "kubeconfig")
	if err := os.WriteFile(cp.kubeconfig, kubeconfig, 0o600); err != nil {
		return err
	}
	return cp.newNamespace(ctx, namespace)
}

func (cp *controlPlane) newNamespace(ctx context.Context, name string) error {
	return cp.admin.Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}})
}

func (cp *controlPlane) stop() error {
	return errors.Join(cp.environment.Stop(), os.RemoveAll(cp.folder))
}

// cpu that the API server and etcd have used so far.
func (cp *controlPlane) cpu() (time.Duration, error) {
	var sum time.Duration
	for _, pid := range cp.pids {
		usage, err := process.Of(pid)
		if err != nil {
			return 0, err
		}
		sum += usage.CPU
	}
	return sum, nil
}

func (cp *controlPlane) auditLog() string { return filepath.Join(cp.folder, "audit.log") }

// auditSize is where the audit log ends now.
func (cp *controlPlane) auditSize() (int64, error) {
	info, err := os.Stat(cp.auditLog())
	if errors.Is(err, os.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

// requests counts requests by verb and resource.
type requests map[string]int

func (r requests) all() int {
	sum := 0
	for _, n := range r {
		sum += n
	}
	return sum
}

func (r requests) writes() int {
	sum := 0
	for name, n := range r {
		switch verb, _, _ := strings.Cut(name, " "); verb {
		case "create", "update", "patch", "delete", "deletecollection":
			sum += n
		}
	}
	return sum
}

// requestsSince reads the audit log from where it ended before.
func (cp *controlPlane) requestsSince(from int64) (requests, error) {
	file, err := os.Open(cp.auditLog())
	if err != nil {
		return nil, err
	}
	defer file.Close()
	if _, err := file.Seek(from, io.SeekStart); err != nil {
		return nil, err
	}
	found := requests{}
	lines := bufio.NewScanner(file)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var line struct {
			Verb      string
			ObjectRef struct{ Resource, Subresource string }
		}
		if err := json.Unmarshal(lines.Bytes(), &line); err != nil {
			return nil, fmt.Errorf("audit log: %w", err)
		}
		name := line.Verb + " " + line.ObjectRef.Resource
		if line.ObjectRef.Subresource != "" {
			name += "/" + line.ObjectRef.Subresource
		}
		found[name]++
	}
	return found, lines.Err()
}
