package e2e

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/remotecommand"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/shopset/shopset/api/v1alpha1"
	"github.com/shopset/shopset/examples/platform/buyer"
	"github.com/shopset/shopset/internal/cell"
	"github.com/shopset/shopset/internal/devcluster"
)

// patience bounds every wait of a test.
const patience = 2 * time.Minute

var (
	target *devcluster.Target
	images devcluster.Images
)

// Tests that have their ShopSet for themselves and mostly wait are parallel, two at a time. What counts orders, holds up what all share,
// or asks how many requests failed is not: it runs before them, alone.
func TestMain(m *testing.M) {
	err := func() (err error) {
		if target, err = devcluster.Find(); err != nil {
			return err
		}
		if err = target.Connect(); err != nil {
			return err
		}
		images, err = target.ReadImages()
		return err
	}()
	if err != nil {
		fmt.Fprintln(os.Stderr, "end-to-end tests need a cluster with the demo:", err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// shops are the host names of the demo's catalogue.
func shops(n int) []string {
	names := make([]string, n)
	for i := range names {
		names[i] = fmt.Sprintf("shop-%02d.%s", i+1, devcluster.Domain)
	}
	return names
}

// newNamespace makes a namespace with what the sample needs; everything in it goes with the test.
func newNamespace(t *testing.T) string {
	t.Helper()
	suffix := make([]byte, 3)
	if _, err := rand.Read(suffix); err != nil {
		t.Fatal(err)
	}
	name := "e2e-" + hex.EncodeToString(suffix)
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{
		"pod-security.kubernetes.io/enforce": "restricted",
	}}}
	if err := target.Client.Create(t.Context(), namespace); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { removeNamespace(t, namespace) })
	t.Cleanup(func() { tellWarnings(t, name) })
	if err := target.EnsureSecrets(t.Context(), name); err != nil {
		t.Fatal(err)
	}
	for _, object := range sampleObjects(t) {
		if secret, ok := object.(*corev1.Secret); ok {
			secret.Namespace = name
			if err := target.Client.Create(t.Context(), secret); err != nil {
				t.Fatal(err)
			}
		}
	}
	return name
}

// removeNamespace ends the ShopSets of a namespace first: a namespace that ends with Pods in it looks
// again only after half their grace period.
func removeNamespace(t *testing.T, namespace *corev1.Namespace) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := target.Client.DeleteAllOf(ctx, &v1alpha1.ShopSet{}, client.InNamespace(namespace.Name)); err != nil {
		t.Error(err)
	}
	eventuallyIn(ctx, t, func() error {
		list := &v1alpha1.ShopSetList{}
		if err := target.Client.List(ctx, list, client.InNamespace(namespace.Name)); err != nil {
			return err
		}
		if len(list.Items) > 0 {
			return fmt.Errorf("ShopSet is still there: %s", message(&list.Items[0]))
		}
		return nil
	})
	if err := target.Client.Delete(ctx, namespace); err != nil {
		t.Error(err)
	}
}

// sample is the ShopSet of config/samples, in another namespace and on node ports that are free. It starts cold: two more containers
// in each Pod of the shop take longer to start than they save.
func sample(t *testing.T, namespace string) *v1alpha1.ShopSet {
	t.Helper()
	ss := warmSample(t, namespace)
	for i := range ss.Spec.Components {
		ss.Spec.Components[i].WarmCache = nil
	}
	return ss
}

// warmSample is sample with its warm cache.
func warmSample(t *testing.T, namespace string) *v1alpha1.ShopSet {
	t.Helper()
	for _, object := range sampleObjects(t) {
		if ss, ok := object.(*v1alpha1.ShopSet); ok {
			ss.Namespace = namespace
			for i := range ss.Spec.Components {
				for j := range ss.Spec.Components[i].Ports {
					ss.Spec.Components[i].Ports[j].NodePort = 0
				}
			}
			return ss
		}
	}
	t.Fatal("the sample has no ShopSet")
	return nil
}

func sampleObjects(t *testing.T) []client.Object {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(target.Root, "config/samples/shopset.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := devcluster.Parse(images.Pin(string(content)))
	if err != nil {
		t.Fatal(err)
	}
	var objects []client.Object
	for _, object := range parsed {
		typed, err := target.Client.Scheme().New(object.GroupVersionKind())
		if err != nil {
			t.Fatal(err)
		}
		if err := runtime.DefaultUnstructuredConverter.FromUnstructuredWithValidation(object.Object, typed, true); err != nil {
			t.Fatal(err)
		}
		objects = append(objects, typed.(client.Object))
	}
	return objects
}

// started is a ShopSet of its own that serves.
func started(t *testing.T) *v1alpha1.ShopSet {
	t.Helper()
	ss := sample(t, newNamespace(t))
	// What is slow because eight Pods start on two cores is not lost; what is lost stays so for longer than this.
	ss.Spec.Values["API_TIMEOUT"], ss.Spec.Values["REDIS_TIMEOUT"], ss.Spec.Values["REQUEST_TIMEOUT"] = "8s", "8s", "9s"
	if err := target.Client.Create(t.Context(), ss); err != nil {
		t.Fatal(err)
	}
	return waitReady(t, ss)
}

func waitReady(t *testing.T, ss *v1alpha1.ShopSet) *v1alpha1.ShopSet {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	ready, err := target.WaitReady(ctx, client.ObjectKeyFromObject(ss), func(string) {})
	if err != nil {
		t.Fatal(err)
	}
	return ready
}

func change(t *testing.T, ss *v1alpha1.ShopSet, edit func(*v1alpha1.ShopSet)) {
	t.Helper()
	eventually(t, func() error {
		if err := target.Client.Get(t.Context(), client.ObjectKeyFromObject(ss), ss); err != nil {
			return err
		}
		edit(ss)
		return target.Client.Update(t.Context(), ss)
	})
}

// remove deletes a ShopSet, waits until it is gone and checks that nothing is left of it.
func remove(t *testing.T, ss *v1alpha1.ShopSet) {
	t.Helper()
	if err := target.Client.Delete(t.Context(), ss); client.IgnoreNotFound(err) != nil {
		t.Fatal(err)
	}
	eventually(t, func() error {
		current := &v1alpha1.ShopSet{}
		err := target.Client.Get(t.Context(), client.ObjectKeyFromObject(ss), current)
		return wantGone(err, "ShopSet "+message(current))
	})
	eventually(t, func() error {
		if left := leftOver(t, ss); len(left) > 0 {
			return fmt.Errorf("left over: %v", left)
		}
		return nil
	})
}

func wantGone(err error, what string) error {
	if apierrors.IsNotFound(err) {
		return nil
	}
	return fmt.Errorf("%s is still there (%v)", what, err)
}

func message(ss *v1alpha1.ShopSet) string {
	if condition := meta.FindStatusCondition(ss.Status.Conditions, v1alpha1.ConditionReady); condition != nil {
		return condition.Message
	}
	return ""
}

func eventually(t *testing.T, check func() error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	eventuallyIn(ctx, t, check)
}

func eventuallyIn(ctx context.Context, t *testing.T, check func() error) {
	t.Helper()
	for {
		err := check()
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("in the end still: %v", err)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// pods are the Pods of a component that are not on their way out.
func pods(t *testing.T, ss *v1alpha1.ShopSet, component string) []corev1.Pod {
	t.Helper()
	list := &corev1.PodList{}
	if err := target.Client.List(t.Context(), list, client.InNamespace(ss.Namespace),
		client.MatchingLabels{cell.LabelShopSet: ss.Name, cell.LabelComponent: component}); err != nil {
		t.Fatal(err)
	}
	var alive []corev1.Pod
	for _, pod := range list.Items {
		if pod.DeletionTimestamp == nil {
			alive = append(alive, pod)
		}
	}
	return alive
}

// buyerOptions are those to buy through a ShopSet's edge.
func buyerOptions(t *testing.T, ss *v1alpha1.ShopSet) buyer.Options {
	t.Helper()
	options, err := target.Buyer(t.Context(), ss)
	if err != nil {
		t.Fatal(err)
	}
	return options
}

// kubectl runs the local cluster's kubectl, or the one in the path.
func kubectl(t *testing.T, args ...string) string {
	t.Helper()
	program := "kubectl"
	if target.Local {
		program = filepath.Join(target.State, "bin", "kubectl")
	}
	if name := os.Getenv("CONTEXT"); name != "" {
		args = append([]string{"--context", name}, args...)
	}
	command := exec.CommandContext(t.Context(), program, args...)
	if path := target.Kubeconfig(); path != "" {
		command.Env = append(os.Environ(), "KUBECONFIG="+path)
	}
	output, err := command.CombinedOutput()
	if err != nil {
		t.Fatalf("kubectl %s: %v: %s", strings.Join(args, " "), err, output)
	}
	return string(output)
}

// sql asks PostgreSQL where it runs.
func sql(t *testing.T, query string) string {
	t.Helper()
	list := &corev1.PodList{}
	if err := target.Client.List(t.Context(), list, client.InNamespace("managed"), client.MatchingLabels{"app": "postgres"}); err != nil || len(list.Items) == 0 {
		t.Fatalf("no PostgreSQL: %v", err)
	}
	clientset, err := kubernetes.NewForConfig(target.Config)
	if err != nil {
		t.Fatal(err)
	}
	request := clientset.CoreV1().RESTClient().Post().Resource("pods").Namespace("managed").
		Name(list.Items[0].Name).SubResource("exec").VersionedParams(&corev1.PodExecOptions{
		Container: "postgres", Stdout: true, Stderr: true, Stdin: true,
		Command: []string{"env", "PGPASSWORD=postgres-dev", "psql", "--host=127.0.0.1", "--username=shop", "--dbname=shop", "--no-align", "--tuples-only", "--quiet", "--set=ON_ERROR_STOP=1"},
	}, scheme.ParameterCodec)
	executor, err := remotecommand.NewSPDYExecutor(target.Config, http.MethodPost, request.URL())
	if err != nil {
		t.Fatal(err)
	}
	var stdout, stderr bytes.Buffer
	if err := executor.StreamWithContext(t.Context(), remotecommand.StreamOptions{
		Stdin: strings.NewReader(query), Stdout: &stdout, Stderr: &stderr,
	}); err != nil {
		t.Fatalf("psql: %v: %s", err, stderr.String())
	}
	return strings.TrimSpace(stdout.String())
}
