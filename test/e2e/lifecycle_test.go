package e2e

import (
	"fmt"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/shopset/shopset/api/v1alpha1"
	"github.com/shopset/shopset/examples/platform/buyer"
	"github.com/shopset/shopset/internal/cell"
)

func quantity(text string) *resource.Quantity {
	q := resource.MustParse(text)
	return &q
}

// leftOver lists everything in the namespace that bears the ShopSet's label.
func leftOver(t *testing.T, ss *v1alpha1.ShopSet) []string {
	t.Helper()
	var names []string
	for _, list := range []client.ObjectList{
		&appsv1.DeploymentList{}, &appsv1.ReplicaSetList{}, &appsv1.ControllerRevisionList{}, &corev1.PodList{},
		&corev1.ServiceList{}, &corev1.ConfigMapList{}, &discoveryv1.EndpointSliceList{}, &policyv1.PodDisruptionBudgetList{},
		&networkingv1.NetworkPolicyList{}, &autoscalingv2.HorizontalPodAutoscalerList{},
	} {
		if err := target.Client.List(t.Context(), list, client.InNamespace(ss.Namespace), client.MatchingLabels{cell.LabelShopSet: ss.Name}); err != nil {
			t.Fatal(err)
		}
		items, err := meta.ExtractList(list)
		if err != nil {
			t.Fatal(err)
		}
		for _, item := range items {
			names = append(names, fmt.Sprintf("%T %s", item, item.(client.Object).GetName()))
		}
	}
	return names
}

// TestDriftIsMended edits and deletes children of a serving cell.
func TestDriftIsMended(t *testing.T) {
	t.Parallel()
	ss := started(t)
	name := metav1.ObjectMeta{Namespace: ss.Namespace, Name: "a-shop"}
	deployment := &appsv1.Deployment{ObjectMeta: name}
	eventually(t, func() error {
		if err := target.Client.Get(t.Context(), client.ObjectKeyFromObject(deployment), deployment); err != nil {
			return err
		}
		*deployment.Spec.Replicas = 0
		deployment.Spec.Template.Spec.Containers[0].Image = "localhost/other:dev"
		return target.Client.Update(t.Context(), deployment)
	})
	for _, object := range []client.Object{
		&corev1.Service{ObjectMeta: name}, &networkingv1.NetworkPolicy{ObjectMeta: name},
		&policyv1.PodDisruptionBudget{ObjectMeta: name},
		&appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: ss.Namespace, Name: "a-api"}},
	} {
		if err := target.Client.Delete(t.Context(), object); err != nil {
			t.Fatal(err)
		}
	}
	desired, err := cell.Build(ss)
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error {
		for _, object := range desired.Objects() {
			live := object.DeepCopyObject().(client.Object)
			if err := target.Client.Get(t.Context(), client.ObjectKeyFromObject(object), live); err != nil {
				return err
			}
			if !cell.Covers(object, live) {
				return fmt.Errorf("%T %s is still changed", live, live.GetName())
			}
		}
		return nil
	})
	waitReady(t, ss)
	options := buyerOptions(t, ss)
	options.Shop, options.Retries = shops(1)[0], 20
	if _, err := buyer.Buy(t.Context(), options); err != nil {
		t.Error(err)
	}
}

// TestDeletedAndCreatedAgain deletes and creates a ShopSet nine times in a row, each time in another
// phase of its life. Nothing may be left over.
func TestDeletedAndCreatedAgain(t *testing.T) {
	t.Parallel()
	namespace := newNamespace(t)
	exists := func(object client.Object, name string) func(*v1alpha1.ShopSet) {
		return func(*v1alpha1.ShopSet) {
			eventually(t, func() error {
				return target.Client.Get(t.Context(), client.ObjectKey{Namespace: namespace, Name: name}, object)
			})
		}
	}
	phases := []struct {
		name string
		wait func(*v1alpha1.ShopSet)
	}{
		{"at once", func(*v1alpha1.ShopSet) {}},
		{"first child", exists(&networkingv1.NetworkPolicy{}, "a-proxy")},
		{"last child", exists(&appsv1.Deployment{}, "a-api")},
		{"first Pod", func(ss *v1alpha1.ShopSet) {
			eventually(t, func() error {
				if len(pods(t, ss, "proxy")) == 0 {
					return fmt.Errorf("no Pod yet")
				}
				return nil
			})
		}},
		{"serving", func(ss *v1alpha1.ShopSet) { waitReady(t, ss) }},
		{"in mid-change", func(ss *v1alpha1.ShopSet) {
			waitReady(t, ss)
			change(t, ss, func(s *v1alpha1.ShopSet) { s.Spec.Values["RELEASE"] = "2" })
		}},
		{"with a broken image", func(ss *v1alpha1.ShopSet) {
			change(t, ss, func(s *v1alpha1.ShopSet) { s.Spec.Components[3].Image = "localhost/nothing:dev" })
		}},
		{"with a circle", func(ss *v1alpha1.ShopSet) {
			change(t, ss, func(s *v1alpha1.ShopSet) { s.Spec.Components[3].Uses = []string{"proxy"} })
		}},
		{"drained", func(ss *v1alpha1.ShopSet) {
			waitReady(t, ss)
			change(t, ss, func(s *v1alpha1.ShopSet) { s.Spec.Traffic = v1alpha1.TrafficDrain })
		}},
	}
	for _, phase := range phases {
		began := time.Now()
		ss := sample(t, namespace)
		if err := target.Client.Create(t.Context(), ss); err != nil {
			t.Fatalf("%s: %v", phase.name, err)
		}
		phase.wait(ss)
		remove(t, ss)
		t.Logf("%s: %.1f s", phase.name, time.Since(began).Seconds())
	}
	ss := sample(t, namespace)
	if err := target.Client.Create(t.Context(), ss); err != nil {
		t.Fatal(err)
	}
	ss = waitReady(t, ss)
	options := buyerOptions(t, ss)
	options.Shop = shops(1)[0]
	if _, err := buyer.Buy(t.Context(), options); err != nil {
		t.Error(err)
	}
}

// TestDeletedWhileTheOperatorIsKilled: the next one ends what was begun.
func TestDeletedWhileTheOperatorIsKilled(t *testing.T) {
	ss := sample(t, newNamespace(t))
	if err := target.Client.Create(t.Context(), ss); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error {
		return target.Client.Get(t.Context(), client.ObjectKey{Namespace: ss.Namespace, Name: "a-proxy"}, &appsv1.Deployment{})
	})
	if err := target.Client.Delete(t.Context(), ss); err != nil {
		t.Fatal(err)
	}
	killOperator(t)
	remove(t, ss)
}

// killOperator kills all Pods of the operator without warning.
func killOperator(t *testing.T) {
	t.Helper()
	for _, pod := range operatorPods(t) {
		if err := target.Client.Delete(t.Context(), &pod, client.GracePeriodSeconds(0)); client.IgnoreNotFound(err) != nil {
			t.Fatal(err)
		}
	}
}

func operatorPods(t *testing.T) []corev1.Pod {
	t.Helper()
	list := &corev1.PodList{}
	if err := target.Client.List(t.Context(), list, client.InNamespace("shopset-system"),
		client.MatchingLabels{"app.kubernetes.io/name": "shopset-operator"}); err != nil {
		t.Fatal(err)
	}
	return list.Items
}

// TestAPIServerAway holds the API server still for a minute. People go on buying, and the operator goes
// on afterwards without a restart.
func TestAPIServerAway(t *testing.T) {
	if !target.Local {
		t.Skip("only the local cluster's API server may be stopped")
	}
	ss := started(t)
	before := map[string]int32{}
	for _, pod := range operatorPods(t) {
		before[pod.Name] = restarts(pod)
	}
	people := startLoad(t, buyerOptions(t, ss))
	pid := componentPID(t, "kube-apiserver")
	resumeLater(t, pid)
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	resume := func() {
		if err := syscall.Kill(pid, syscall.SIGCONT); err != nil {
			t.Error(err)
		}
	}
	select {
	case <-time.After(time.Minute): // The length of the outage, not a wait for something.
		resume()
	case <-t.Context().Done():
		resume()
		t.FailNow()
	}
	if err := people.stop().Err(); err != nil {
		t.Errorf("while the API server was away: %v", err)
	}
	change(t, ss, func(s *v1alpha1.ShopSet) { s.Spec.Components[3].Replicas = new(int32(3)) })
	eventually(t, func() error {
		if n := len(pods(t, ss, "api")); n != 3 {
			return fmt.Errorf("api has %d Pods, want 3", n)
		}
		return nil
	})
	waitReady(t, ss)
	for _, pod := range operatorPods(t) {
		if n, known := before[pod.Name]; !known || restarts(pod) != n {
			t.Errorf("operator Pod %s was restarted", pod.Name)
		}
	}
}

// resumeLater starts a helper that lets a stopped process go on, also when this test is killed before it
// can.
func resumeLater(t *testing.T, pid int) {
	t.Helper()
	helper := exec.Command("sh", "-c", `sleep 90; kill -CONT "$1"`, "sh", strconv.Itoa(pid))
	helper.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := helper.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = syscall.Kill(-helper.Process.Pid, syscall.SIGKILL)
		_ = helper.Wait() // It was killed, which is no failure.
	})
}

func restarts(pod corev1.Pod) int32 {
	var n int32
	for _, status := range pod.Status.ContainerStatuses {
		n += status.RestartCount
	}
	return n
}

// componentPID asks the local cluster for the process of one of its components.
func componentPID(t *testing.T, name string) int {
	t.Helper()
	output, err := exec.CommandContext(t.Context(), target.Tool("localcluster"), "status").Output()
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(output)) {
		if fields := strings.Fields(line); len(fields) > 1 && fields[0] == name {
			pid, err := strconv.Atoi(fields[1])
			if err != nil {
				t.Fatal(err)
			}
			return pid
		}
	}
	t.Fatalf("no component %s in:\n%s", name, output)
	return 0
}
