package kubectl_test

import (
	"context"
	"encoding/json"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/shopset/shopset/api/v1alpha1"
	"github.com/shopset/shopset/internal/cell"
	"github.com/shopset/shopset/internal/kubectl"
)

// world is a fleet whose statuses are written by the test: what the operator says is the input here.
func world(t *testing.T) (namespace string, f *v1alpha1.Fleet, cells map[string]*v1alpha1.ShopSet) {
	t.Helper()
	namespace = newNamespace(t)
	f = newFleet(t, namespace)
	create(t, f)
	cells = map[string]*v1alpha1.ShopSet{}
	for _, name := range []string{"main-1", "main-2", "main-3"} {
		ss := &v1alpha1.ShopSet{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name,
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(f, v1alpha1.GroupVersion.WithKind("Fleet"))}}, Spec: f.Spec.Template.Spec}
		if name == "main-3" {
			ss.Spec.Traffic = v1alpha1.TrafficDrain
		}
		create(t, ss)
		cells[name] = ss
		well(t, ss)
	}
	drained := cells["main-3"]
	drained.Status.Connections = new(int64(12))
	setCondition(drained, &drained.Status.Conditions, v1alpha1.ConditionIdle, metav1.ConditionFalse, "Draining", "waiting until all connections have ended for open connections at the edge to end")
	updateStatus(t, drained)
	broken(t, cells["main-2"])

	f.Status.Summary = "2/3"
	f.Status.Cells = []v1alpha1.CellStatus{
		{Name: "main-1", State: v1alpha1.CellActive, Weight: 100, Share: "50.0%", Ready: true},
		{Name: "main-2", State: v1alpha1.CellActive, Weight: 100, Share: "50.0%", Message: "shop: " + pull},
		{Name: "main-3", State: v1alpha1.CellDrain, Share: "0.0%", Ready: true, Message: "drained by hand; kubectl shopset undrain brings it back"},
	}
	f.Status.BlastRadius = &v1alpha1.BlastRadius{LargestShare: "50.0%", LargestCell: "main-1", ShardOverlap: "100.0%", AfterOneMoreFailure: "100.0%", LostAfterOneMoreFailure: "0.0%"}
	f.Status.Table = &v1alpha1.TableStatus{Epoch: 1700000000, Version: 12, Hash: "ab", Key: "cd", Published: metav1.NewTime(time.Now().Add(-30*24*time.Hour - time.Hour))}
	setCondition(f, &f.Status.Conditions, v1alpha1.ConditionReady, metav1.ConditionFalse, "CellsNotReady", "main-2: shop: "+pull)
	updateStatus(t, f)
	return namespace, f, cells
}

const pull = "Pod main-2-shop-6b9f-x2k: image example/shop:1 cannot be pulled: not found"

func well(t *testing.T, ss *v1alpha1.ShopSet) {
	t.Helper()
	ss.Status = v1alpha1.ShopSetStatus{Summary: "3/3", Revision: "gjae4fks7y"}
	for _, name := range []string{"proxy", "shop", "api"} {
		ss.Status.Components = append(ss.Status.Components, v1alpha1.ComponentStatus{Name: name, Ready: 2, Desired: 2})
	}
	setCondition(ss, &ss.Status.Conditions, v1alpha1.ConditionReady, metav1.ConditionTrue, "Serving", "all components serve")
	updateStatus(t, ss)
}

func broken(t *testing.T, ss *v1alpha1.ShopSet) {
	t.Helper()
	ss.Status.Summary = "2/3"
	ss.Status.Components[1] = v1alpha1.ComponentStatus{Name: "shop", Desired: 2, Message: pull}
	setCondition(ss, &ss.Status.Conditions, v1alpha1.ConditionReady, metav1.ConditionFalse, "ComponentsNotReady", "shop: "+pull)
	updateStatus(t, ss)
}

func TestStatus(t *testing.T) {
	namespace, f, cells := world(t)
	solo := parse(t, &v1alpha1.ShopSet{}, "apiVersion: shopset.dev/v1alpha1\nkind: ShopSet\nmetadata: {name: solo}\nspec:"+components)
	solo.Namespace = namespace
	create(t, solo)

	t.Run("tree", func(t *testing.T) {
		golden(t, namespace, "status.txt", kubectlShopset(t, namespace, "status").must(t, kubectl.ExitNotWell).out)
	})
	t.Run("one fleet in full", func(t *testing.T) {
		golden(t, namespace, "status-full.txt", kubectlShopset(t, namespace, "status", "main", "--full").must(t, kubectl.ExitNotWell).out)
	})
	t.Run("json", func(t *testing.T) {
		var report kubectl.Report
		out := kubectlShopset(t, namespace, "status", "-o", "json").must(t, kubectl.ExitNotWell).out
		if err := json.Unmarshal([]byte(out), &report); err != nil {
			t.Fatal(err)
		}
		if report.Well || len(report.Fleets) != 1 || len(report.ShopSets) != 1 {
			t.Fatalf("%+v", report)
		}
		fleet := report.Fleets[0]
		if fleet.TouchedPercent != 50 || fleet.TouchedPins != 2 || fleet.Cells[1].Components[1].Message != pull || *fleet.Cells[2].Connections != 12 {
			t.Fatalf("%+v", fleet)
		}
	})
	t.Run("yaml says the same", func(t *testing.T) {
		var a, b kubectl.Report
		if err := json.Unmarshal([]byte(kubectlShopset(t, namespace, "status", "-o", "json").out), &a); err != nil {
			t.Fatal(err)
		}
		if err := yaml.UnmarshalStrict([]byte(kubectlShopset(t, namespace, "status", "-o", "yaml").out), &b); err != nil {
			t.Fatal(err)
		}
		first, _ := json.Marshal(a)
		second, _ := json.Marshal(b)
		if string(first) != string(second) {
			t.Fatalf("%s\n%s", first, second)
		}
	})
	t.Run("well", func(t *testing.T) {
		well(t, solo)
		well(t, cells["main-2"])
		f.Status.Cells[1].Ready, f.Status.Cells[1].Message = true, ""
		setCondition(f, &f.Status.Conditions, v1alpha1.ConditionReady, metav1.ConditionTrue, "Serving", "all cells are ready, 1 of them drained")
		updateStatus(t, f)
		golden(t, namespace, "status-well.txt", kubectlShopset(t, namespace, "status").must(t, kubectl.ExitWell).out)
	})
	t.Run("a change that the operator has not seen is not well", func(t *testing.T) {
		f.Spec.Placement.Pins = nil
		if err := cluster.admin.Update(t.Context(), f); err != nil {
			t.Fatal(err)
		}
		kubectlShopset(t, namespace, "status").must(t, kubectl.ExitNotWell, "the operator has not taken up the last change yet")
	})
}

// TestStatusOfLeftovers: a ShopSet that outlives its Fleet, or is newer than its status, is not left out.
func TestStatusOfLeftovers(t *testing.T) {
	namespace, f, _ := world(t)
	owner := metav1.NewControllerRef(f, v1alpha1.GroupVersion.WithKind("Fleet"))
	late := &v1alpha1.ShopSet{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "main-4", OwnerReferences: []metav1.OwnerReference{*owner}}, Spec: f.Spec.Template.Spec}
	create(t, late)
	owner.Name, owner.UID = "former", "former"
	left := &v1alpha1.ShopSet{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "left", OwnerReferences: []metav1.OwnerReference{*owner}}, Spec: f.Spec.Template.Spec}
	create(t, left)
	kubectlShopset(t, namespace, "status").must(t, kubectl.ExitNotWell, "└─ main-4  not well", "ShopSet "+namespace+"/left", "its Fleet former is gone, and it goes, too")
	r := kubectlShopset(t, namespace, "status", "main").must(t, kubectl.ExitNotWell, "main-4")
	if strings.Contains(r.out, "left") {
		t.Errorf("the status of one fleet has others:\n%s", r.out)
	}
}

func TestStatusOfNothing(t *testing.T) {
	namespace := newNamespace(t)
	kubectlShopset(t, namespace, "status").must(t, kubectl.ExitWell, "There is no Fleet and no ShopSet in namespace "+namespace)
	kubectlShopset(t, namespace, "status", "main").must(t, kubectl.ExitError, "there is no Fleet main in namespace "+namespace+", and no other")
}

// TestWatch: a watch shows what changes, and nothing twice; it ends with the state of its last report.
func TestWatch(t *testing.T) {
	namespace, _, cells := world(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	out, errOut := &lines{}, &lines{}
	done := make(chan int, 1)
	go func() {
		done <- kubectl.Run(ctx, kubectl.Streams{Out: out, ErrOut: errOut},
			[]string{"status", "--watch", "-o", "yaml", "--kubeconfig", cluster.kubeconfig, "-n", namespace})
	}()
	expect := func(documents int, text string) {
		t.Helper()
		eventually(t, func() error {
			parts := strings.Split(out.text(), "---\n")
			if len(parts) != documents || !strings.Contains(parts[len(parts)-1], text) {
				return &missing{text, out.text() + errOut.text()}
			}
			return nil
		})
	}
	expect(1, "touchedPercent: 50")
	well(t, cells["main-2"])
	expect(2, "touchedPercent: 0\n")
	touched := cells["main-1"]
	metav1.SetMetaDataAnnotation(&touched.ObjectMeta, "tool.example/note", "no news")
	if err := cluster.admin.Update(t.Context(), touched); err != nil {
		t.Fatal(err)
	}
	broken(t, touched)
	expect(3, "touchedPercent: 50")
	cancel()
	if code := <-done; code != kubectl.ExitNotWell {
		t.Fatalf("exit code %d: %s", code, errOut.text())
	}
}

type missing struct{ want, got string }

func (m *missing) Error() string { return "want " + m.want + " in\n" + m.got }

func TestTree(t *testing.T) {
	namespace, _, cells := world(t)
	ss := cells["main-2"]
	built, err := cell.Build(ss)
	if err != nil {
		t.Fatal(err)
	}
	for _, object := range built.Objects() {
		create(t, object.(client.Object))
	}
	deployment := &appsv1.Deployment{}
	if err := get(t, deployment, namespace, "main-2-shop"); err != nil {
		t.Fatal(err)
	}
	labels := deployment.Spec.Template.Labels
	set := &appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "main-2-shop-6b9f", Labels: labels,
		OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(deployment, appsv1.SchemeGroupVersion.WithKind("Deployment"))}},
		Spec: appsv1.ReplicaSetSpec{Replicas: new(int32(2)), Selector: &metav1.LabelSelector{MatchLabels: labels}, Template: deployment.Spec.Template}}
	create(t, set)
	history := set.DeepCopy()
	history.ResourceVersion, history.UID, history.Name, *history.Spec.Replicas = "", "", "main-2-shop-old", 0
	create(t, history)
	pod := func(name string, status corev1.PodStatus) {
		t.Helper()
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, Labels: labels,
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(set, appsv1.SchemeGroupVersion.WithKind("ReplicaSet"))}},
			Spec: corev1.PodSpec{NodeName: "node-1", Containers: []corev1.Container{{Name: "shop", Image: "example/shop:1"}}}}
		create(t, pod)
		pod.Status = status
		updateStatus(t, pod)
	}
	container := func(state corev1.ContainerState, ready bool, restarts int32) []corev1.ContainerStatus {
		return []corev1.ContainerStatus{{Name: "shop", State: state, Ready: ready, RestartCount: restarts}}
	}
	pod("main-2-shop-6b9f-aaa", corev1.PodStatus{Phase: corev1.PodRunning, ContainerStatuses: container(corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}, true, 3)})
	pod("main-2-shop-6b9f-x2k", corev1.PodStatus{Phase: corev1.PodPending, ContainerStatuses: container(corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "ImagePullBackOff"}}, false, 0)})

	golden(t, namespace, "tree.txt", kubectlShopset(t, namespace, "tree", "main-2").must(t, kubectl.ExitWell).out)
	kubectlShopset(t, namespace, "tree").must(t, kubectl.ExitWell, "ShopSet main-1", "ShopSet main-2", "ShopSet main-3")
	kubectlShopset(t, namespace, "tree", "main-9").must(t, kubectl.ExitError, "there is no ShopSet main-9", "there is main-1, main-2, main-3")
}
