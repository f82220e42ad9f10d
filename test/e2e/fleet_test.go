package e2e

import (
	"context"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/shopset/shopset/api/v1alpha1"
	"github.com/shopset/shopset/examples/platform/buyer"
	"github.com/shopset/shopset/internal/cell"
	"github.com/shopset/shopset/internal/devcluster"
	"github.com/shopset/shopset/internal/placement"
	"github.com/shopset/shopset/internal/routetable"
)

// fleet is one of its own, with routers in front of it.
type fleet struct {
	*v1alpha1.Fleet
	options buyer.Options
}

// startedFleet waits for a fleet of so many cells that serves.
func startedFleet(t *testing.T, cells int) *fleet {
	t.Helper()
	namespace := newNamespace(t)
	ss := sample(t, namespace)
	f := &fleet{Fleet: devcluster.FleetOf(ss, cells)}
	if err := target.Client.Create(t.Context(), f.Fleet); err != nil {
		t.Fatal(err)
	}
	// The namespace waits for ShopSets, and the fleet would make them anew.
	t.Cleanup(func() { f.end(t) })
	content, err := os.ReadFile(filepath.Join(target.Root, "config/router/router.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	manifest := strings.NewReplacer("namespace: shops", "namespace: "+namespace, "shops/main-routes", namespace+"/main-routes").Replace(images.Pin(string(content)))
	objects, err := devcluster.Parse(manifest)
	if err != nil {
		t.Fatal(err)
	}
	for _, object := range objects {
		if err := target.Apply(t.Context(), object); err != nil {
			t.Fatal(err)
		}
	}
	f.wait(t)
	if f.options, err = target.RouterBuyer(t.Context(), namespace); err != nil {
		t.Fatal(err)
	}
	f.options.StepTimeout = 5 * time.Second
	return f
}

// end deletes the fleet: its cells go with the namespace.
func (f *fleet) end(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := target.Client.Delete(ctx, f.Fleet, client.PropagationPolicy(metav1.DeletePropagationBackground)); client.IgnoreNotFound(err) != nil {
		t.Error(err)
	}
}

// wait until all cells and all routers are well.
func (f *fleet) wait(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	current, err := target.WaitFleet(ctx, client.ObjectKeyFromObject(f.Fleet), func(string) {})
	if err != nil {
		t.Fatal(err)
	}
	f.Fleet = current
	if err := target.WaitDeployments(ctx, f.Namespace, func(string) {}); err != nil {
		t.Fatal(err)
	}
}

// firstCells maps hosts to the cell that the published table has first for them.
func (f *fleet) firstCells(t *testing.T, hosts []string) map[string]string {
	t.Helper()
	table := f.table(t)
	function, err := table.Function()
	if err != nil {
		t.Fatal(err)
	}
	first := map[string]string{}
	for _, host := range hosts {
		name, err := placement.Normalise(host)
		if err != nil {
			t.Fatal(err)
		}
		first[host] = table.Cells[function.Place(name, nil)[0]].Name
	}
	return first
}

func (f *fleet) table(t *testing.T) *routetable.Table {
	t.Helper()
	routes, keys := &corev1.ConfigMap{}, &corev1.ConfigMap{}
	for name, into := range map[string]*corev1.ConfigMap{"-routes": routes, "-routes-keys": keys} {
		if err := target.Client.Get(t.Context(), client.ObjectKey{Namespace: f.Namespace, Name: f.Name + name}, into); err != nil {
			t.Fatal(err)
		}
	}
	public, err := routetable.ParsePublicKeys([]byte(keys.Data["keys.pem"]))
	if err != nil {
		t.Fatal(err)
	}
	table, err := routetable.Open(routes.BinaryData["routes"], public)
	if err != nil {
		t.Fatal(err)
	}
	return table
}

func (f *fleet) cell(name string) *v1alpha1.ShopSet {
	return &v1alpha1.ShopSet{ObjectMeta: metav1.ObjectMeta{Namespace: f.Namespace, Name: name}}
}

// shoppers buy at many shops until they are stopped, and know when each shop has sold something.
type shoppers struct {
	*load
	mu   sync.Mutex
	sold map[string]int
}

func (f *fleet) shoppers(t *testing.T, hosts []string) *shoppers {
	s := &shoppers{sold: map[string]int{}}
	s.load = startLoadAt(t, f.options, hosts, func(receipt buyer.Receipt, err error) {
		if err == nil {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.sold[receipt.Shop]++
		}
	})
	return s
}

// everyShop waits until each shop has sold something that was begun after this call: of one more than there are people, one was.
func (s *shoppers) everyShop(t *testing.T, hosts []string) {
	t.Helper()
	s.mu.Lock()
	before := maps.Clone(s.sold)
	s.mu.Unlock()
	eventually(t, func() error {
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, host := range hosts {
			if s.sold[host] < before[host]+2 {
				return fmt.Errorf("%s sells nothing", host)
			}
		}
		return nil
	})
}

// touches says who may notice a fault.
type touches int

const (
	nobody touches = iota
	oneCell
	everyCell
)

// TestFleetUnderFaults breaks one cell after the other in every way while people buy at many shops. Shops of other cells notice
// nothing, those of the broken one are served by others, and no order is lost or made twice.
func TestFleetUnderFaults(t *testing.T) {
	if !target.Local {
		t.Skip("it stops processes and cuts networks of the node, which only the local cluster's is at hand for")
	}
	f := startedFleet(t, 3)
	hosts := shops(20)
	cells := []string{f.Name + "-1", f.Name + "-2", f.Name + "-3"}
	for i, fault := range []struct {
		name string
		// do breaks a cell and returns what mends it, nil for what mends itself.
		do      func(t *testing.T, f *fleet, cell string) (mend func())
		touches touches
	}{
		{"pods_killed", killPods, oneCell},
		{"hung", hang, oneCell},
		{"answers_5xx", breakAPI, oneCell},
		{"network_cut", cutNetwork, oneCell},
		{"drained", drain, nobody},
		{"deleted", deleteCell, nobody},
		{"added", addCell, nobody},
		{"routers_restarted", restartRouters, nobody},
		{"no_control_plane", withoutControlPlane, everyCell},
	} {
		t.Run(fault.name, func(t *testing.T) {
			victim := cells[i%len(cells)]
			first := f.firstCells(t, hosts)
			before := orders(t)
			people := f.shoppers(t, hosts)
			people.everyShop(t, hosts)
			mend := fault.do(t, f, victim)
			people.everyShop(t, hosts)
			if mend != nil {
				mend()
			}
			f.wait(t)
			people.everyShop(t, hosts)
			report := people.stop()
			checkOrders(t, report, before)
			touched := 0
			var longest time.Duration
			for _, host := range slices.Sorted(maps.Keys(report.Shops)) {
				shop := report.Shops[host]
				if shop.Failed == 0 {
					continue
				}
				touched++
				longest = max(longest, shop.Outage)
				if fault.touches == nobody || fault.touches == oneCell && first[host] != victim {
					t.Errorf("%s, a shop of %s, failed %d times while %s of %s: %v", host, first[host], shop.Failed, fault.name, victim, shop.FirstError)
				}
			}
			fmt.Printf("RESULT fleet.%s.shops_touched=%d\nRESULT fleet.%s.requests_failed=%d\nRESULT fleet.%s.outage_s=%.3f s\nRESULT fleet.%s.purchases=%d\n",
				fault.name, touched, fault.name, report.Failed, fault.name, longest.Seconds(), fault.name, report.Bought)
		})
	}
}

// killPods ends every Pod of a cell without warning.
func killPods(t *testing.T, f *fleet, name string) func() {
	if err := target.Client.DeleteAllOf(t.Context(), &corev1.Pod{}, client.InNamespace(f.Namespace), client.MatchingLabels{cell.LabelShopSet: name},
		client.GracePeriodSeconds(0)); err != nil {
		t.Fatal(err)
	}
	return nil
}

// hang stops the edge of a cell as a debugger would: connections are still taken by the kernel, and nobody answers.
func hang(t *testing.T, f *fleet, name string) func() {
	return stopProcesses(t, processesOf(t, pods(t, f.cell(name), "proxy")))
}

// cutNetwork drops every packet from and to the edge of a cell.
func cutNetwork(t *testing.T, f *fleet, name string) func() {
	const table = "shopset_e2e"
	var rules strings.Builder
	fmt.Fprintf(&rules, "add table ip %s\nadd chain ip %s cut { type filter hook prerouting priority -300; }\nadd chain ip %s out { type filter hook output priority -300; }\n", table, table, table)
	for _, pod := range pods(t, f.cell(name), "proxy") {
		fmt.Fprintf(&rules, "add rule ip %s cut ip saddr %s drop\nadd rule ip %s cut ip daddr %s drop\nadd rule ip %s out ip daddr %s drop\n",
			table, pod.Status.PodIP, table, pod.Status.PodIP, table, pod.Status.PodIP)
	}
	command := exec.CommandContext(t.Context(), "nft", "-f", "-")
	command.Stdin = strings.NewReader(rules.String())
	if output, err := command.CombinedOutput(); err != nil {
		t.Fatalf("nft: %v: %s", err, output)
	}
	var once sync.Once
	mend := func() {
		once.Do(func() {
			if output, err := exec.Command("nft", "delete", "table", "ip", table).CombinedOutput(); err != nil {
				t.Errorf("nft: %v: %s", err, output)
			}
		})
	}
	t.Cleanup(mend)
	return mend
}

// drain takes a cell out of service, waits until it is idle, and brings it back.
func drain(t *testing.T, f *fleet, name string) func() {
	ss := f.cell(name)
	change(t, ss, func(ss *v1alpha1.ShopSet) { ss.Spec.Traffic = v1alpha1.TrafficDrain })
	eventually(t, func() error {
		if err := target.Client.Get(t.Context(), client.ObjectKeyFromObject(ss), ss); err != nil {
			return err
		}
		for _, condition := range ss.Status.Conditions {
			if condition.Type == v1alpha1.ConditionIdle && condition.Status == metav1.ConditionTrue {
				return nil
			}
		}
		return fmt.Errorf("%s is not idle", name)
	})
	return func() { change(t, ss, func(ss *v1alpha1.ShopSet) { ss.Spec.Traffic = v1alpha1.TrafficActive }) }
}

// deleteCell deletes a ShopSet, which drains first, goes, and is made again.
func deleteCell(t *testing.T, f *fleet, name string) func() {
	ss := f.cell(name)
	if err := target.Client.Get(t.Context(), client.ObjectKeyFromObject(ss), ss); err != nil {
		t.Fatal(err)
	}
	uid := ss.UID
	if err := target.Client.Delete(t.Context(), ss); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error {
		current := f.cell(name)
		if err := target.Client.Get(t.Context(), client.ObjectKeyFromObject(current), current); err != nil || current.UID == uid {
			return fmt.Errorf("%s is not made again yet: %v %s", name, err, message(current))
		}
		return nil
	})
	return nil
}

// addCell makes the fleet larger, and smaller again: the fourth drains and goes.
func addCell(t *testing.T, f *fleet, _ string) func() {
	scale := func(cells int32) {
		eventually(t, func() error {
			current := &v1alpha1.Fleet{}
			if err := target.Client.Get(t.Context(), client.ObjectKeyFromObject(f.Fleet), current); err != nil {
				return err
			}
			current.Spec.Cells = &cells
			return target.Client.Update(t.Context(), current)
		})
		f.wait(t)
	}
	scale(4)
	if table := f.table(t); len(table.Cells) != 4 {
		t.Errorf("the table has %d cells", len(table.Cells))
	}
	return func() {
		scale(3)
		eventually(t, func() error {
			gone := f.cell(f.Name + "-4")
			return wantGone(target.Client.Get(t.Context(), client.ObjectKeyFromObject(gone), gone), "the fourth cell: "+message(gone))
		})
	}
}

// restartRouters replaces all routers, one by one.
func restartRouters(t *testing.T, f *fleet, _ string) func() {
	kubectl(t, "-n", f.Namespace, "rollout", "restart", "deployment/shopset-router")
	kubectl(t, "-n", f.Namespace, "rollout", "status", "deployment/shopset-router", "--timeout=2m")
	return nil
}

// breakAPI stops what all pages of a cell need, so that they become errors.
func breakAPI(t *testing.T, f *fleet, name string) func() {
	return stopProcesses(t, processesOf(t, pods(t, f.cell(name), "api")))
}

// outage is how long there is no control plane.
const outage = time.Minute

// withoutControlPlane stops the API server and the operator for a minute, and kills the edge of one cell after the other meanwhile.
func withoutControlPlane(t *testing.T, f *fleet, _ string) func() {
	edges := map[string][]corev1.Pod{}
	for i := range 3 {
		name := fmt.Sprintf("%s-%d", f.Name, i+1)
		edges[name] = pods(t, f.cell(name), "proxy")
	}
	operator := processesOf(t, operatorPods(t))
	mend := stopProcesses(t, append(operator, processesNamed(t, "kube-apiserver")...))
	until := time.NewTimer(outage)
	defer until.Stop()
	next := time.NewTicker(outage / 4)
	defer next.Stop()
	for _, name := range slices.Sorted(maps.Keys(edges)) {
		for _, pid := range processesOf(t, edges[name]) {
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
				t.Error(err)
			}
		}
		<-next.C
	}
	<-until.C
	return mend
}

// stopProcesses stops processes until what it returns is called.
func stopProcesses(t *testing.T, pids []int) func() {
	t.Helper()
	if len(pids) == 0 {
		t.Fatal("no process to stop")
	}
	for _, pid := range pids {
		if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
	}
	mend := func() {
		for _, pid := range pids {
			_ = syscall.Kill(pid, syscall.SIGCONT) // It may have been killed meanwhile.
		}
	}
	t.Cleanup(mend)
	return mend
}

// processesOf are the programs of Pods, by the names of their control groups.
func processesOf(t *testing.T, list []corev1.Pod) []int {
	t.Helper()
	return processes(t, func(pid string) bool {
		groups, err := os.ReadFile(filepath.Join("/proc", pid, "cgroup"))
		name, _ := os.ReadFile(filepath.Join("/proc", pid, "comm"))
		return err == nil && strings.TrimSpace(string(name)) != "pause" && slices.ContainsFunc(list, func(pod corev1.Pod) bool {
			return strings.Contains(string(groups), "pod"+string(pod.UID))
		})
	})
}

// processesNamed are those of the local cluster's own programs.
func processesNamed(t *testing.T, program string) []int {
	t.Helper()
	return processes(t, func(pid string) bool {
		line, err := os.ReadFile(filepath.Join("/proc", pid, "cmdline"))
		first, _, _ := strings.Cut(string(line), "\x00")
		return err == nil && filepath.Base(first) == program && strings.Contains(first, "shopset")
	})
}

func processes(t *testing.T, is func(pid string) bool) (pids []int) {
	t.Helper()
	folders, err := os.ReadDir("/proc")
	if err != nil {
		t.Fatal(err)
	}
	for _, folder := range folders {
		if pid, err := strconv.Atoi(folder.Name()); err == nil && is(folder.Name()) {
			pids = append(pids, pid)
		}
	}
	return pids
}
