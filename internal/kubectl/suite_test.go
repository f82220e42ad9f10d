package kubectl_test

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
	"sigs.k8s.io/yaml"

	"github.com/shopset/shopset/api/v1alpha1"
	"github.com/shopset/shopset/internal/kubectl"
	"github.com/shopset/shopset/internal/operator"
)

const patience = 60 * time.Second

var update = flag.Bool("update", false, "write the golden files anew")

// cluster is the API server and etcd that all tests share, with a kubeconfig as people have one.
var cluster struct {
	admin      client.Client
	kubeconfig string
	operator   *envtest.AuthenticatedUser
}

func TestMain(m *testing.M) {
	if os.Getenv("KUBEBUILDER_ASSETS") == "" {
		fmt.Fprintln(os.Stderr, "KUBEBUILDER_ASSETS is not set: these tests need an API server and etcd; run `make test`, or set it to the output of `localcluster assets`")
		os.Exit(1)
	}
	ctrl.SetLogger(logr.Discard())
	code, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func run(m *testing.M) (code int, err error) {
	environment := &envtest.Environment{CRDDirectoryPaths: []string{filepath.Join("..", "..", "config", "crd")}, ControlPlaneStartTimeout: time.Minute}
	config, err := environment.Start()
	if err != nil {
		return 1, err
	}
	defer func() { err = errors.Join(err, environment.Stop()) }()
	scheme, err := operator.Scheme()
	if err != nil {
		return 1, err
	}
	config.QPS = -1
	if cluster.admin, err = client.New(config, client.Options{Scheme: scheme}); err != nil {
		return 1, err
	}
	human, err := environment.AddUser(envtest.User{Name: "human", Groups: []string{"system:masters"}}, nil)
	if err != nil {
		return 1, err
	}
	if cluster.operator, err = environment.AddUser(envtest.User{Name: "operator", Groups: []string{"system:masters"}}, config); err != nil {
		return 1, err
	}
	content, err := human.KubeConfig()
	if err != nil {
		return 1, err
	}
	folder, err := os.MkdirTemp("", "kubectl-test")
	if err != nil {
		return 1, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(folder)) }()
	cluster.kubeconfig = filepath.Join(folder, "config")
	if err := os.WriteFile(cluster.kubeconfig, content, 0o600); err != nil {
		return 1, err
	}
	return m.Run(), nil
}

// startOperator runs the real operator in one namespace until the test ends.
func startOperator(t *testing.T, namespace string, connections operator.ConnectionCounter) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	manager, err := operator.NewManager(ctx, cluster.operator.Config(), operator.Options{
		Namespace: namespace, KeyNamespace: namespace, Concurrency: 4, SkipNameValidation: true, Connections: connections})
	if err != nil {
		cancel()
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- manager.Start(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// result of one command line.
type result struct {
	code     int
	out, err string
}

// kubectlShopset runs a command line, as a person would who looks at a namespace.
func kubectlShopset(t *testing.T, namespace string, args ...string) result {
	t.Helper()
	return kubectlShopsetWith(t, namespace, "", args...)
}

func kubectlShopsetWith(t *testing.T, namespace, input string, args ...string) result {
	t.Helper()
	var out, errOut bytes.Buffer
	code := kubectl.Run(t.Context(), kubectl.Streams{In: strings.NewReader(input), Out: &out, ErrOut: &errOut},
		append(args, "--kubeconfig", cluster.kubeconfig, "-n", namespace))
	return result{code, out.String(), errOut.String()}
}

// must fails the test unless the command ends with that code and says all the texts.
func (r result) must(t *testing.T, code int, texts ...string) result {
	t.Helper()
	for _, text := range texts {
		if !strings.Contains(r.out+r.err, text) {
			t.Fatalf("%q is missing in\n%s%s", text, r.out, r.err)
		}
	}
	if r.code != code {
		t.Fatalf("exit code %d, want %d:\n%s%s", r.code, code, r.out, r.err)
	}
	return r
}

// golden compares with a file, in which the namespace is called "shops".
func golden(t *testing.T, namespace, name, got string) {
	t.Helper()
	got = strings.ReplaceAll(got, namespace, "shops")
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Fatalf("%s differs; run with -update and read the difference. Got:\n%s", path, got)
	}
}

var namespaces struct {
	sync.Mutex
	n int
}

func newNamespace(t *testing.T) string {
	t.Helper()
	namespaces.Lock()
	namespaces.n++
	name := fmt.Sprintf("test-namespace-%d", namespaces.n)
	namespaces.Unlock()
	create(t, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}})
	return name
}

func create(t *testing.T, object client.Object) {
	t.Helper()
	if err := cluster.admin.Create(t.Context(), object); err != nil {
		t.Fatal(err)
	}
}

func get(t *testing.T, object client.Object, namespace, name string) error {
	t.Helper()
	return cluster.admin.Get(t.Context(), client.ObjectKey{Namespace: namespace, Name: name}, object)
}

// eventually polls until check returns nil.
func eventually(t *testing.T, check func() error) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("after %s still: %v", patience, err)
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-t.Context().Done():
			t.Fatal(err)
		}
	}
}

func parse[T client.Object](t *testing.T, object T, text string) T {
	t.Helper()
	if err := yaml.UnmarshalStrict([]byte(text), object); err != nil {
		t.Fatal(err)
	}
	return object
}

const components = `
    drain: {deadline: 1h}
    values: {LOG_LEVEL: info}
    components:
    - name: proxy
      image: example/proxy:1
      edge: true
      ports: [{name: https, port: 8443}]
      health: {path: /healthz, port: admin}
      connections: {path: /connections, port: admin}
      uses: [shop]
      config: [{path: /etc/proxy.yaml, template: "url: {{ .SHOP_URL }}\nlevel: {{ .LOG_LEVEL }}\n"}]
    - name: shop
      image: example/shop:1
      ports: [{name: http, port: 8080}]
      uses: [api]
    - name: api
      image: example/api:1
      ports: [{name: http, port: 8080}]
`

const fleetText = `
apiVersion: shopset.dev/v1alpha1
kind: Fleet
metadata: {name: main}
spec:
  cells: 3
  placement:
    shardSize: 2
    maxShare: 50
    pins: [{host: pinned.example, cell: main-2}, {host: "*.chain.example", cell: main-2}]
  template:
   spec:` + components

func newFleet(t *testing.T, namespace string) *v1alpha1.Fleet {
	t.Helper()
	f := parse(t, &v1alpha1.Fleet{}, fleetText)
	f.Namespace = namespace
	return f
}

// setConditions writes a condition that speaks of the present spec, "True" or "False".
func setCondition(object client.Object, conditions *[]metav1.Condition, kind string, status metav1.ConditionStatus, reason, message string) {
	meta.SetStatusCondition(conditions, metav1.Condition{Type: kind, Status: status, Reason: reason, Message: message, ObservedGeneration: object.GetGeneration()})
}

func updateStatus(t *testing.T, object client.Object) {
	t.Helper()
	if err := cluster.admin.Status().Update(t.Context(), object); err != nil {
		t.Fatal(err)
	}
}

// lines is a writer to look into while somebody writes.
type lines struct {
	mu      sync.Mutex
	content bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.content.Write(p)
}

func (l *lines) text() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.content.String()
}
