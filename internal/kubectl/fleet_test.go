package kubectl_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/shopset/shopset/api/v1alpha1"
	"github.com/shopset/shopset/internal/cell"
	"github.com/shopset/shopset/internal/kubectl"
	"github.com/shopset/shopset/internal/routetable"
)

// open is how many connections every Pod of an edge says that it has.
type open struct{ atomic.Int64 }

func (o *open) Open(context.Context, string, string) (int64, error) { return o.Load(), nil }

// serving is a fleet of three ready cells under the real operator; the test plays Kubernetes.
func serving(t *testing.T, connections *open) (namespace string, f *v1alpha1.Fleet) {
	t.Helper()
	namespace = newNamespace(t)
	startOperator(t, namespace, connections)
	f = newFleet(t, namespace)
	create(t, f)
	eventually(t, func() error {
		rollOut(t, namespace)
		if err := get(t, f, namespace, "main"); err != nil {
			return err
		}
		for _, condition := range f.Status.Conditions {
			if condition.Type == v1alpha1.ConditionReady && condition.Status == metav1.ConditionTrue && f.Status.Summary == "3/3" {
				return nil
			}
		}
		return fmt.Errorf("not ready: %v", f.Status.Conditions)
	})
	eventually(t, func() error {
		if r := kubectlShopset(t, namespace, "status"); r.code != kubectl.ExitWell {
			return errors.New(r.out + r.err)
		}
		if strings.Count(kubectlShopset(t, namespace, "routes").out, "Active") != 3 {
			return errors.New("not all cells are in the table yet")
		}
		return nil
	})
	return namespace, f
}

// rollOut plays the Deployment controller and the kubelet.
func rollOut(t *testing.T, namespace string) {
	t.Helper()
	list := &appsv1.DeploymentList{}
	if err := cluster.admin.List(t.Context(), list, client.InNamespace(namespace)); err != nil {
		t.Fatal(err)
	}
	for i := range list.Items {
		d := &list.Items[i]
		n := cell.Desired(d)
		if d.Status.ObservedGeneration == d.Generation && d.Status.ReadyReplicas == n {
			continue
		}
		d.Status = appsv1.DeploymentStatus{ObservedGeneration: d.Generation, Replicas: n, UpdatedReplicas: n, ReadyReplicas: n, AvailableReplicas: n}
		_ = cluster.admin.Status().Update(t.Context(), d) // The next round tries again.
	}
}

func pinsOf(t *testing.T, namespace string) string {
	t.Helper()
	f := &v1alpha1.Fleet{}
	if err := get(t, f, namespace, "main"); err != nil {
		t.Fatal(err)
	}
	var pins []string
	for _, pin := range f.Spec.Placement.Pins {
		pins = append(pins, pin.Host+"="+pin.Cell)
	}
	return strings.Join(pins, " ")
}

func TestRoutesAndExplain(t *testing.T) {
	namespace, _ := serving(t, &open{})
	r := kubectlShopset(t, namespace, "routes").must(t, kubectl.ExitWell, "Fleet "+namespace+"/main: version ", "2 cells may serve a host",
		"pinned.example   main-2", "*.chain.example  main-2")
	if strings.Count(r.out, "33.3%") != 3 {
		t.Fatalf("three cells have a third each:\n%s", r.out)
	}
	var table routetable.Table
	if err := json.Unmarshal([]byte(kubectlShopset(t, namespace, "routes", "-o", "json").must(t, kubectl.ExitWell).out), &table); err != nil || len(table.Cells) != 3 {
		t.Fatalf("%v: %+v", err, table)
	}

	hosts := "Shop.Example\n# none\n\nb.example # the second\nshop.example.\npinned.example:443\n"
	for _, format := range []string{"haproxy", "nginx", "dns"} {
		r := kubectlShopsetWith(t, namespace, hosts, "routes", "-o", format, "--hosts", "-").must(t, kubectl.ExitWell)
		head, body, _ := strings.Cut(r.out, "\n")
		if !strings.HasPrefix(head, "# fleet "+namespace+"/main, epoch ") {
			t.Fatalf("no head: %s", head)
		}
		golden(t, namespace, "routes."+format, body)
	}
	kubectlShopset(t, namespace, "routes", "-o", "dns").must(t, kubectl.ExitError, "which hosts?", "--hosts")
	kubectlShopset(t, namespace, "routes", "--hosts", "-").must(t, kubectl.ExitError, "--hosts is for -o haproxy, nginx, dns")
	kubectlShopset(t, namespace, "routes", "-o", "bind").must(t, kubectl.ExitError, "-o bind is unknown", "routes --help")
	kubectlShopsetWith(t, namespace, "a_b c\n", "routes", "-o", "dns", "--hosts", "-").must(t, kubectl.ExitError, "a_b c")

	r = kubectlShopset(t, namespace, "explain", "A.chain.example:443").must(t, kubectl.ExitWell, "a.chain.example in fleet "+namespace+"/main",
		"pinned to main-2 by *.chain.example; the others by the function", "1. main-2", "serves it if the one before fails", "not in its shard: never serves it")
	if strings.Count(r.out, "well") != 3 {
		t.Fatalf("every cell is well:\n%s", r.out)
	}
	var explained kubectl.Explained
	if err := json.Unmarshal([]byte(kubectlShopset(t, namespace, "explain", "b.example", "-o", "json").must(t, kubectl.ExitWell).out), &explained); err != nil {
		t.Fatal(err)
	}
	function, err := table.Function()
	if err != nil {
		t.Fatal(err)
	}
	if first := table.Cells[function.Place("b.example", nil)[0]].Name; explained.Cells[0].Name != first || !explained.Cells[0].Well || explained.Cells[2].Serves {
		t.Fatalf("want %s first: %+v", first, explained)
	}
	kubectlShopset(t, namespace, "explain", "not a host").must(t, kubectl.ExitError, "not a host")
	kubectlShopset(t, namespace, "explain", "b.example", "--fleet", "other").must(t, kubectl.ExitError, "there is no Fleet other", "there is main")
}

// TestTableIsChecked: a table that nobody signed is not shown, and a router's copy needs no cluster.
func TestTableIsChecked(t *testing.T) {
	namespace, f := serving(t, &open{})
	routes, keys := &corev1.ConfigMap{}, &corev1.ConfigMap{}
	if err := errors.Join(get(t, routes, namespace, routetable.RoutesName(f.Name)), get(t, keys, namespace, routetable.KeysName(f.Name))); err != nil {
		t.Fatal(err)
	}
	folder := t.TempDir()
	write := func(name string, content []byte) string {
		t.Helper()
		path := filepath.Join(folder, name)
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	keysFile := write("keys.pem", []byte(keys.Data[routetable.KeysEntry]))
	tableFile := write("routes", routes.BinaryData[routetable.RoutesEntry])
	kubectlShopset(t, namespace, "routes", "--keys", keysFile).must(t, kubectl.ExitWell, "main-1")
	kubectlShopset(t, namespace, "routes", "--table", tableFile, "--keys", keysFile, "--context", "none").must(t, kubectl.ExitWell, "main-1")
	kubectlShopset(t, namespace, "routes", "--table", tableFile).must(t, kubectl.ExitError, "needs --keys")

	other := routes.DeepCopy()
	other.BinaryData[routetable.RoutesEntry][len(other.BinaryData[routetable.RoutesEntry])-5] ^= 1
	damaged := write("damaged", other.BinaryData[routetable.RoutesEntry])
	kubectlShopset(t, namespace, "routes", "--table", damaged, "--keys", keysFile).must(t, kubectl.ExitError, "sign")
}

func TestMove(t *testing.T) {
	namespace, _ := serving(t, &open{})
	kubectlShopset(t, namespace, "move", "Shop.Example.", "--to", "main-3", "--for", "2h", "--wait").must(t, kubectl.ExitWell,
		"shop.example is pinned to main-3 until 20", "published in version")
	kubectlShopset(t, namespace, "explain", "shop.example").must(t, kubectl.ExitWell, "pinned to main-3 by shop.example until 20", "1. main-3")
	kubectlShopset(t, namespace, "move", "shop.example", "--to", "main-1").must(t, kubectl.ExitWell, "shop.example is pinned to main-1, no longer to main-3")
	kubectlShopset(t, namespace, "move", "shop.example", "--back", "--wait").must(t, kubectl.ExitWell, "shop.example is no longer pinned to main-1", "published in version")
	if pins := pinsOf(t, namespace); pins != "pinned.example=main-2 *.chain.example=main-2" {
		t.Fatal(pins)
	}
	kubectlShopset(t, namespace, "move", "shop.example", "--back").must(t, kubectl.ExitError, "shop.example is not pinned in fleet main")
	kubectlShopset(t, namespace, "move", "a.b.chain.example", "--back").must(t, kubectl.ExitError, "*.chain.example holds it at main-2", "move '*.chain.example' --back")
	kubectlShopset(t, namespace, "move", "*.chain.example", "--back").must(t, kubectl.ExitWell, "*.chain.example is no longer pinned")
	kubectlShopset(t, namespace, "move", "shop.example", "--to", "main-9").must(t, kubectl.ExitError, "main-9 is no cell of fleet main; there is main-1, main-2, main-3")
	kubectlShopset(t, namespace, "move", "shop.example").must(t, kubectl.ExitError, "say where to: --to CELL, or --back")
	kubectlShopset(t, namespace, "move", "shop.example", "--back", "--for", "2h").must(t, kubectl.ExitError, "--for is how long --to holds")
	kubectlShopset(t, namespace, "move", "exa mple", "--to", "main-1").must(t, kubectl.ExitError, "*.example.com for all names below")
}

// TestMoversAtATime: nobody's pin is lost, however many write at a time.
func TestMoversAtATime(t *testing.T) {
	namespace, _ := serving(t, &open{})
	var group sync.WaitGroup
	for i := range 4 {
		group.Go(func() {
			r := kubectlShopset(t, namespace, "move", fmt.Sprintf("host-%d.example", i), "--to", "main-1")
			if r.code != kubectl.ExitWell {
				t.Error(r.err)
			}
		})
	}
	group.Wait()
	pins := pinsOf(t, namespace)
	for i := range 4 {
		if !strings.Contains(pins, fmt.Sprintf("host-%d.example=main-1", i)) {
			t.Errorf("the pin of host %d is lost: %s", i, pins)
		}
	}
}

// TestDrain: a cell becomes idle when its last connection has ended, and comes back.
func TestDrain(t *testing.T) {
	connections := &open{}
	namespace, _ := serving(t, connections)
	connections.Store(3)
	edgePod(t, namespace, "main-1")
	out, errOut := &lines{}, &lines{}
	done := make(chan int, 1)
	go func() {
		done <- kubectl.Run(t.Context(), kubectl.Streams{Out: out, ErrOut: errOut},
			[]string{"drain", "main-1", "--wait", "--kubeconfig", cluster.kubeconfig, "-n", namespace})
	}()
	eventually(t, func() error {
		if text := out.text(); !strings.Contains(text, "main-1: 3 connections open; waiting until all connections have ended") {
			return errors.New(text + errOut.text())
		}
		return nil
	})
	connections.Store(0)
	if code := <-done; code != kubectl.ExitWell || !strings.Contains(out.text(), "main-1 is idle: no connection is open") {
		t.Fatalf("exit code %d\n%s%s", code, out.text(), errOut.text())
	}
	ss := &v1alpha1.ShopSet{}
	if err := get(t, ss, namespace, "main-1"); err != nil || ss.Spec.Traffic != v1alpha1.TrafficDrain || ss.Annotations[v1alpha1.AnnotationDrainedBy] == "" {
		t.Fatalf("%v: %v %v", err, ss.Spec.Traffic, ss.Annotations)
	}
	kubectlShopset(t, namespace, "routes").must(t, kubectl.ExitWell, "main-1  Drain")
	kubectlShopset(t, namespace, "drain", "main-1").must(t, kubectl.ExitWell) // It is already.
	kubectlShopset(t, namespace, "undrain", "main-1", "--wait").must(t, kubectl.ExitWell, "main-1 is ready and takes hosts")
	if err := get(t, ss, namespace, "main-1"); err != nil || ss.Spec.Traffic != v1alpha1.TrafficActive || ss.Annotations[v1alpha1.AnnotationDrainedBy] != "" {
		t.Fatalf("%v: %v %v", err, ss.Spec.Traffic, ss.Annotations)
	}
}

// edgePod plays a running Pod of the edge.
func edgePod(t *testing.T, namespace, cellName string) {
	t.Helper()
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: cellName + "-proxy-1",
		Labels: map[string]string{cell.LabelShopSet: cellName, cell.LabelComponent: "proxy"}},
		Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "proxy", Image: "example/proxy:1"}}}}
	create(t, pod)
	pod.Status = corev1.PodStatus{Phase: corev1.PodRunning, PodIP: "10.0.0.9",
		ContainerStatuses: []corev1.ContainerStatus{{Name: "proxy", State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}}}}
	updateStatus(t, pod)
}

func TestDrainIsRefused(t *testing.T) {
	connections := &open{}
	namespace, _ := serving(t, connections)
	kubectlShopset(t, namespace, "drain", "main-9").must(t, kubectl.ExitError, "there is no ShopSet main-9", "there is main-1, main-2, main-3")
	kubectlShopset(t, namespace, "drain", "main-1", "--wait").must(t, kubectl.ExitWell, "main-1 is idle")
	// Two are left, each of which has 50%; one alone would have all.
	kubectlShopset(t, namespace, "drain", "main-2").must(t, kubectl.ExitError, "main-2 is not drained: maxShare 50% takes at least 2 cells", "--force")
	kubectlShopset(t, namespace, "evacuate", "main-2").must(t, kubectl.ExitError, "main-2 is not drained")
	if pins := pinsOf(t, namespace); !strings.Contains(pins, "pinned.example=main-2") {
		t.Fatalf("a refused evacuation moved pins: %s", pins)
	}
	kubectlShopset(t, namespace, "drain", "main-2", "--force", "--wait").must(t, kubectl.ExitWell, "main-2 is idle")
	kubectlShopset(t, namespace, "drain", "main-3").must(t, kubectl.ExitError, "main-3 is not drained: no other cell takes hosts")
	kubectlShopset(t, namespace, "undrain", "main-2", "--wait").must(t, kubectl.ExitWell)

	// A cell that is not ready cannot take hosts.
	d := &appsv1.Deployment{}
	if err := get(t, d, namespace, "main-2-shop"); err != nil {
		t.Fatal(err)
	}
	d.Status.ReadyReplicas, d.Status.AvailableReplicas = 0, 0
	updateStatus(t, d)
	eventually(t, func() error {
		if r := kubectlShopset(t, namespace, "status"); r.code != kubectl.ExitNotWell || !strings.Contains(r.out, "0/2") {
			return errors.New(r.out + r.err)
		}
		return nil
	})
	kubectlShopset(t, namespace, "drain", "main-3").must(t, kubectl.ExitError, "no other cell that takes hosts is ready")

	// What does not come in time is no error.
	connections.Store(1)
	edgePod(t, namespace, "main-1")
	eventually(t, func() error {
		if r := kubectlShopset(t, namespace, "drain", "main-1", "--wait", "--timeout", "1s"); r.code != kubectl.ExitNotWell || !strings.Contains(r.err, "not within 1s: main-1: 1 connection open") {
			return errors.New(r.out + r.err)
		}
		return nil
	})
}

// TestDrainersAtATime: of people who drain all cells at the same moment, none leaves the hosts without one.
func TestDrainersAtATime(t *testing.T) {
	namespace, _ := serving(t, &open{})
	var group sync.WaitGroup
	for _, name := range []string{"main-1", "main-2", "main-3"} {
		group.Go(func() { kubectlShopset(t, namespace, "drain", name) })
	}
	group.Wait()
	list := &v1alpha1.ShopSetList{}
	if err := cluster.admin.List(t.Context(), list, client.InNamespace(namespace)); err != nil {
		t.Fatal(err)
	}
	drained := 0
	for _, ss := range list.Items {
		if ss.Spec.Traffic == v1alpha1.TrafficDrain {
			drained++
		}
	}
	if drained > 1 { // maxShare 50% takes two of three.
		t.Errorf("%d of 3 cells are drained", drained)
	}
}

func TestEvacuate(t *testing.T) {
	namespace, f := serving(t, &open{})
	kubectlShopset(t, namespace, "evacuate", "main-2", "--to", "main-2").must(t, kubectl.ExitError, "--to main-2 is no other cell of fleet main; there is main-1, main-3")
	kubectlShopset(t, namespace, "evacuate", "main-2", "--to", "main-3", "--wait").must(t, kubectl.ExitWell,
		"pin of pinned.example moved from main-2 to main-3", "pin of *.chain.example moved from main-2 to main-3", "main-2 is idle")
	if pins := pinsOf(t, namespace); pins != "pinned.example=main-3 *.chain.example=main-3" {
		t.Fatal(pins)
	}
	kubectlShopset(t, namespace, "explain", "pinned.example").must(t, kubectl.ExitWell, "1. main-3", "drained: takes no hosts")
	kubectlShopset(t, namespace, "undrain", "main-2", "--wait").must(t, kubectl.ExitWell)
	kubectlShopset(t, namespace, "evacuate", "main-3").must(t, kubectl.ExitWell, "pin of pinned.example to main-3 removed", "main-3 drains")
	if pins := pinsOf(t, namespace); pins != "" {
		t.Fatal(pins)
	}
	kubectlShopset(t, namespace, "move", "shop.example", "--to", "main-3").must(t, kubectl.ExitWell, "main-3 takes no hosts now (Drain)")

	// What the fleet itself drains, or fixes, is not for this program to change.
	two := int32(2)
	change(t, f, func(f *v1alpha1.Fleet) {
		f.Spec.Cells = &two
		f.Spec.Placement = nil
	})
	eventually(t, func() error {
		ss := &v1alpha1.ShopSet{}
		if err := get(t, ss, namespace, "main-3"); err != nil {
			return nil //nolint:nilerr // It is gone already: it was drained and idle.
		}
		r := kubectlShopset(t, namespace, "undrain", "main-3")
		if strings.Contains(r.err, "leaves Fleet main") || strings.Contains(r.err, "is being deleted") || strings.Contains(r.err, "there is no ShopSet main-3") {
			return nil
		}
		return errors.New(r.out + r.err)
	})
}

// TestFixedTraffic: what namedCells states is changed there.
func TestFixedTraffic(t *testing.T) {
	namespace := newNamespace(t)
	startOperator(t, namespace, &open{})
	f := newFleet(t, namespace)
	f.Spec.Cells, f.Spec.Placement = nil, nil
	f.Spec.NamedCells = []v1alpha1.NamedCell{{Name: "red", Traffic: v1alpha1.TrafficDrain}, {Name: "green", Traffic: v1alpha1.TrafficActive}}
	create(t, f)
	for _, name := range []string{"red", "green"} {
		eventually(t, func() error { return get(t, &v1alpha1.ShopSet{}, namespace, name) })
	}
	kubectlShopset(t, namespace, "undrain", "red").must(t, kubectl.ExitError, "spec.namedCells of Fleet main says traffic: Drain for red")
	kubectlShopset(t, namespace, "drain", "green", "--force").must(t, kubectl.ExitError, "spec.namedCells of Fleet main says traffic: Active for green")
}

// change edits an object until the API server takes it.
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
