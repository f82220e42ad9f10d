package e2e

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/shopset/shopset/hack/localcluster/internal/cgroup"
	"github.com/shopset/shopset/hack/localcluster/internal/layout"
)

// inventory is all of the machine that a cluster could leave something in.
type inventory map[string][]string

func takeInventory(t *testing.T) inventory {
	t.Helper()
	have := inventory{}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		have["mount"] = append(have["mount"], strings.TrimSpace(line))
	}
	links, err := net.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	for _, link := range links {
		have["interface"] = append(have["interface"], link.Name)
	}
	routes, err := netlink.RouteList(nil, netlink.FAMILY_ALL)
	if err != nil {
		t.Fatal(err)
	}
	for _, route := range routes {
		have["route"] = append(have["route"], route.String())
	}
	rules, err := exec.Command("nft", "list", "ruleset").Output()
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(rules)) {
		have["nftables rule"] = append(have["nftables rule"], strings.TrimSpace(line))
	}
	hierarchies, err := cgroup.Detect()
	if err != nil {
		t.Fatal(err)
	}
	for _, root := range hierarchies.Roots {
		dirs, _ := filepath.Glob(filepath.Join(root, "*/"))
		have["control group"] = append(have["control group"], dirs...)
	}
	return have
}

// processesOf returns what still runs of a cluster: by its PID namespace, or by its state folder.
func processesOf(l layout.Layout, pidNamespace string) []string {
	var found []string
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range dirs {
		cmdline, _ := os.ReadFile(filepath.Join(dir, "cmdline"))
		namespace, _ := os.Readlink(filepath.Join(dir, "ns/pid"))
		if namespace == pidNamespace || strings.Contains(string(cmdline), l.State) {
			found = append(found, fmt.Sprintf("%s: %q", dir, cmdline))
		}
	}
	return found
}

// compare reports what is there now and was not before. Other programs may change the machine at
// the same time, so only what bears a cluster's marks is an error; the rest is logged.
func compare(t *testing.T, l layout.Layout, before, after inventory) {
	t.Helper()
	marks := []string{l.State, l.ID(), "shopset", "kube", "containerd", "netns/cni", "cni_hostport", "10.244.", "10.223."}
	for kind, entries := range after {
		for _, entry := range entries {
			if slices.Contains(before[kind], entry) {
				continue
			}
			if slices.ContainsFunc(marks, func(mark string) bool { return strings.Contains(entry, mark) }) {
				t.Errorf("down left a %s: %s", kind, entry)
			} else {
				t.Logf("a new %s, not a cluster's: %s", kind, entry)
			}
		}
	}
}
