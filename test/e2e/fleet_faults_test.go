package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
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
	"github.com/shopset/shopset/internal/cell"
)

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
	rules := []string{
		"add chain ip TABLE cut { type filter hook prerouting priority -300; }",
		"add chain ip TABLE out { type filter hook output priority -300; }",
	}
	for _, pod := range pods(t, f.cell(name), "proxy") {
		ip := pod.Status.PodIP
		rules = append(rules, "add rule ip TABLE cut ip saddr "+ip+" counter drop", "add rule ip TABLE cut ip daddr "+ip+" counter drop", "add rule ip TABLE out ip daddr "+ip+" counter drop")
	}
	return filterPackets(t, rules)
}

// filterPackets adds rules of nftables to a TABLE of their own on the node until what it returns is called. Rules that count have to
// have met something by then.
func filterPackets(t *testing.T, rules []string) func() {
	t.Helper()
	const table = "shopset_e2e"
	nft := func(input string, args ...string) string {
		t.Helper()
		// The local cluster's node has a network of its own.
		kubelet := processesNamed(t, "kubelet")
		if len(kubelet) == 0 {
			t.Fatal("no kubelet")
		}
		command := exec.Command("nsenter", append([]string{fmt.Sprintf("--net=/proc/%d/ns/net", kubelet[0]), "nft"}, args...)...)
		command.Stdin = strings.NewReader(input)
		output, err := command.CombinedOutput()
		if err != nil {
			t.Fatalf("nft %s: %v: %s", args, err, output)
		}
		return string(output)
	}
	nft("add table ip "+table+"\n"+strings.ReplaceAll(strings.Join(rules, "\n")+"\n", "TABLE", table), "-f", "-")
	var once sync.Once
	mend := func() {
		once.Do(func() {
			defer nft("", "delete", "table", "ip", table) // Also if the listing fails: what follows must not be cut off.
			listing := nft("", "list", "table", "ip", table)
			if !regexp.MustCompile(`packets [1-9]`).MatchString(listing) {
				t.Errorf("the rules met no packet, so that nothing was tested:\n%s", listing)
			}
		})
	}
	t.Cleanup(mend)
	return mend
}

// answerErrors takes the database away from a cell: its api refuses everything at once, and its pages are errors. Its edge is well,
// and tells routers that the cell does not serve.
func answerErrors(t *testing.T, f *fleet, name string) func() {
	rules := []string{"add chain ip TABLE refuse { type filter hook forward priority -10; }"}
	for _, pod := range pods(t, f.cell(name), "api") {
		rules = append(rules, "add rule ip TABLE refuse ip saddr "+pod.Status.PodIP+" tcp dport 5432 counter reject with tcp reset")
	}
	mend := filterPackets(t, rules)
	f.people.notice(t)
	return mend
}

// hangInside stops the programs that shop and cart of a cell ask: pages are errors as well, but each only when a time limit is over.
func hangInside(t *testing.T, f *fleet, name string) func() {
	resume := stopProcesses(t, processesOf(t, pods(t, f.cell(name), "api")))
	f.people.notice(t)
	return resume
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

// withoutControlPlane stops the operator and the API server for a minute, in which the edge of a cell dies again and again, and
// every shop sells each time.
func withoutControlPlane(t *testing.T, f *fleet, name string) func() {
	edges := pods(t, f.cell(name), "proxy")
	wakeOperator := stopProcesses(t, processesNamed(t, "shopset-operator"))
	wakeServer := stopProcesses(t, processesNamed(t, "kube-apiserver"))
	killed := 0
	for end := time.Now().Add(time.Minute); time.Now().Before(end); {
		for _, pid := range processesOf(t, edges) { // The kubelet starts it again by itself, later each time.
			if err := syscall.Kill(pid, syscall.SIGKILL); err == nil {
				killed++
			}
		}
		f.people.everyShop(t, f.hosts)
	}
	if killed == 0 {
		t.Error("no edge was there to be killed")
	}
	return func() {
		wakeServer()
		wakeOperator()
	}
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

// processesNamed are those of the local cluster's own programs, and of the operator.
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
