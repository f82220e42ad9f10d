package operator_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/rest"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
	"sigs.k8s.io/yaml"

	"github.com/go-logr/logr"

	"github.com/shopset/shopset/api/v1alpha1"
	"github.com/shopset/shopset/internal/cell"
	"github.com/shopset/shopset/internal/operator"
)

// patience is how long a test waits for something that takes a second at most on an idle machine.
const patience = 60 * time.Second

// keyNamespace is the operator's own.
const keyNamespace = "shopset-system"

// cluster is the API server and etcd that all tests of the package share. There are no controllers and
// no kubelet besides the operator: tests play Kubernetes' part where it matters.
var cluster struct {
	environment *envtest.Environment
	admin       client.Client
	// operatorConfig has the rights of config/operator/rbac.yaml and no others.
	operatorConfig *rest.Config
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
	cluster.environment = &envtest.Environment{
		CRDDirectoryPaths:        []string{filepath.Join("..", "..", "config", "crd")},
		ControlPlaneStartTimeout: time.Minute,
	}
	// The default range holds 253 Services.
	cluster.environment.ControlPlane.GetAPIServer().Configure().Set("service-cluster-ip-range", "10.0.0.0/16")
	config, err := cluster.environment.Start()
	if err != nil {
		return 1, err
	}
	defer func() { err = errors.Join(err, cluster.environment.Stop()) }()
	config.QPS = -1
	scheme, err := operator.Scheme()
	if err != nil {
		return 1, err
	}
	if cluster.admin, err = client.New(config, client.Options{Scheme: scheme}); err != nil {
		return 1, err
	}
	for _, file := range []string{"namespace.yaml", "rbac.yaml"} {
		if err := applyFile(filepath.Join("..", "..", "config", "operator", file)); err != nil {
			return 1, err
		}
	}
	cluster.operatorConfig = rest.CopyConfig(config)
	cluster.operatorConfig.Impersonate = rest.ImpersonationConfig{
		UserName: "system:serviceaccount:shopset-system:shopset-operator",
		Groups:   []string{"system:serviceaccounts", "system:authenticated"},
	}
	return m.Run(), nil
}

func applyFile(path string) error {
	content, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	decoder := utilyaml.NewYAMLOrJSONDecoder(bytes.NewReader(content), 4096)
	for {
		object := &unstructured.Unstructured{}
		if err := decoder.Decode(object); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		if err := cluster.admin.Create(context.Background(), object); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
	}
}

// startOperator runs the operator, as main does, in one namespace until the test ends.
func startOperator(t *testing.T, namespace string, connections operator.ConnectionCounter) {
	t.Helper()
	startOperatorWith(t, operator.Options{Namespace: namespace, Connections: connections})
}

func startOperatorWith(t *testing.T, options operator.Options) {
	t.Helper()
	options.Concurrency, options.SkipNameValidation, options.KeyNamespace = 4, true, keyNamespace
	ctx, cancel := context.WithCancel(t.Context())
	manager, err := operator.NewManager(ctx, cluster.operatorConfig, options)
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

var namespaces struct {
	sync.Mutex
	n int
}

func newNamespace(t *testing.T) string {
	t.Helper()
	namespaces.Lock()
	namespaces.n++
	name := fmt.Sprintf("test-%d", namespaces.n)
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

// sample is a small ShopSet: proxy (edge) uses shop, shop uses api.
func sample(t *testing.T, namespace, name string) *v1alpha1.ShopSet {
	t.Helper()
	const text = `
apiVersion: shopset.dev/v1alpha1
kind: ShopSet
spec:
  values: {LOG_LEVEL: info}
  drain: {deadline: 1h}
  components:
  - name: proxy
    image: example/proxy:1
    edge: true
    ports: [{name: https, port: 8443}]
    health: {path: /healthz, port: admin}
    connections: {path: /connections, port: admin}
    uses: [shop]
    config: [{path: /etc/proxy.yaml, template: "url: {{ .SHOP_URL }}\n"}]
  - name: shop
    image: example/shop:1
    ports: [{name: http, port: 8080}]
    uses: [api]
  - name: api
    image: example/api:1
    replicas: 3
    ports: [{name: http, port: 8080}]
`
	ss := &v1alpha1.ShopSet{}
	if err := yaml.UnmarshalStrict([]byte(text), ss); err != nil {
		t.Fatal(err)
	}
	ss.Namespace, ss.Name = namespace, name
	return ss
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

func get(t *testing.T, object client.Object, namespace, name string) error {
	t.Helper()
	return cluster.admin.Get(t.Context(), client.ObjectKey{Namespace: namespace, Name: name}, object)
}

// change edits an object of the cluster until the API server takes it.
func change[T client.Object](t *testing.T, object T, edit func(T)) {
	t.Helper()
	eventually(t, func() error {
		if err := cluster.admin.Get(t.Context(), client.ObjectKeyFromObject(object), object); err != nil {
			return err
		}
		edit(object)
		return cluster.admin.Update(t.Context(), object)
	})
}

// rollOut plays the Deployment controller and the kubelet: all Pods of the Deployment's present
// template are ready.
func rollOut(t *testing.T, namespace, name string) {
	t.Helper()
	eventually(t, func() error {
		d := &appsv1.Deployment{}
		if err := get(t, d, namespace, name); err != nil {
			return err
		}
		n := cell.Desired(d)
		d.Status = appsv1.DeploymentStatus{ObservedGeneration: d.Generation,
			Replicas: n, UpdatedReplicas: n, ReadyReplicas: n, AvailableReplicas: n}
		return cluster.admin.Status().Update(t.Context(), d)
	})
}

// rollOutAll plays Kubernetes until the ShopSet is ready: a change may come in several steps.
func rollOutAll(t *testing.T, ss *v1alpha1.ShopSet) {
	t.Helper()
	eventually(t, func() error {
		if err := cluster.admin.Get(t.Context(), client.ObjectKeyFromObject(ss), ss); err != nil {
			return err
		}
		ready := meta.FindStatusCondition(ss.Status.Conditions, v1alpha1.ConditionReady)
		if ready != nil && ready.Status == metav1.ConditionTrue && ready.ObservedGeneration == ss.Generation {
			return nil
		}
		for _, component := range ss.Spec.Components {
			rollOut(t, ss.Namespace, cell.ObjectName(ss.Name, component.Name))
		}
		return fmt.Errorf("not ready: %v", ready)
	})
}

// rollOutAllBy is rollOutAll for a test that runs the reconciler itself.
func rollOutAllBy(t *testing.T, ss *v1alpha1.ShopSet, reconcile func()) {
	t.Helper()
	reconcile()
	eventually(t, func() error {
		for _, component := range ss.Spec.Components {
			rollOut(t, ss.Namespace, cell.ObjectName(ss.Name, component.Name))
		}
		reconcile()
		if err := get(t, ss, ss.Namespace, ss.Name); err != nil {
			return err
		}
		if ss.Status.Summary != "3/3" {
			return fmt.Errorf("summary is %s", ss.Status.Summary)
		}
		return nil
	})
}

// notReady plays the kubelet: no Pod of the Deployment is ready any more.
func notReady(t *testing.T, namespace, name string) {
	t.Helper()
	d := &appsv1.Deployment{}
	if err := get(t, d, namespace, name); err != nil {
		t.Fatal(err)
	}
	d.Status.ReadyReplicas, d.Status.AvailableReplicas = 0, 0
	if err := cluster.admin.Status().Update(t.Context(), d); err != nil {
		t.Fatal(err)
	}
}

// waitCondition waits for a condition of the present generation whose message contains a text.
func waitCondition(t *testing.T, ss *v1alpha1.ShopSet, kind string, want metav1.ConditionStatus, message string) {
	t.Helper()
	eventually(t, func() error {
		if err := cluster.admin.Get(t.Context(), client.ObjectKeyFromObject(ss), ss); err != nil {
			return err
		}
		condition := meta.FindStatusCondition(ss.Status.Conditions, kind)
		if condition == nil {
			return fmt.Errorf("no condition %s yet", kind)
		}
		if condition.Status != want || condition.ObservedGeneration != ss.Generation || !strings.Contains(condition.Message, message) {
			return fmt.Errorf("%s is %s (%s): %q; want %s with %q", kind, condition.Status, condition.Reason, condition.Message, want, message)
		}
		return nil
	})
}

func namesOf(t *testing.T, list client.ObjectList) []string {
	t.Helper()
	items, err := meta.ExtractList(list)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, item := range items {
		names = append(names, fmt.Sprintf("%T %s", item, item.(client.Object).GetName()))
	}
	return names
}
