// Package cgroup makes and removes the one control group under which all Pods of a cluster lie.
//
// The group is called /shopset-<id> and sits at the root of what this mount namespace sees of the
// hierarchy: one folder per controller with cgroup v1, one folder with v2. In a container the root
// of a v2 hierarchy holds processes, and then hands no controllers down; those processes are moved
// into a leaf first, as Docker's own docker-in-docker entry point does.
package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const mountPoint = "/sys/fs/cgroup"

// Hierarchies is the set of cgroup hierarchies of a machine.
type Hierarchies struct {
	V2    bool
	Roots []string // one with v2, one per controller with v1
}

// Name returns the cgroup of a cluster, as the kubelet's --cgroup-root wants it.
func Name(id string) string { return "/shopset-" + id }

// Detect finds the hierarchies from the mount table.
func Detect() (Hierarchies, error) {
	var stat unix.Statfs_t
	if err := unix.Statfs(mountPoint, &stat); err != nil {
		return Hierarchies{}, fmt.Errorf("%s: %w; mount the cgroup file system there", mountPoint, err)
	}
	if stat.Type == unix.CGROUP2_SUPER_MAGIC {
		return Hierarchies{V2: true, Roots: []string{mountPoint}}, nil
	}
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return Hierarchies{}, err
	}
	roots := v1Roots(string(data))
	if len(roots) == 0 {
		return Hierarchies{}, fmt.Errorf("%s holds no cgroup hierarchy", mountPoint)
	}
	return Hierarchies{Roots: roots}, nil
}

// v1Roots returns where v1 hierarchies are mounted, each once; a v2 tree without controllers that
// stands beside them counts too, since runc makes groups there as well.
func v1Roots(mountinfo string) []string {
	var roots []string
	for line := range strings.Lines(mountinfo) {
		before, after, ok := strings.Cut(line, " - ")
		fields := strings.Fields(before)
		kind, _, _ := strings.Cut(after, " ")
		if !ok || len(fields) < 5 || (kind != "cgroup" && kind != "cgroup2") {
			continue
		}
		if strings.HasPrefix(fields[4], mountPoint+"/") && !slices.Contains(roots, fields[4]) {
			roots = append(roots, fields[4])
		}
	}
	return roots
}

// Missing returns the controllers that Pods need and this machine does not offer.
func (h Hierarchies) Missing() []string {
	var missing []string
	for _, controller := range []string{"cpu", "cpuset", "memory", "pids"} {
		if !h.has(controller) {
			missing = append(missing, controller)
		}
	}
	return missing
}

func (h Hierarchies) has(controller string) bool {
	if h.V2 {
		data, _ := os.ReadFile(filepath.Join(h.Roots[0], "cgroup.controllers"))
		return slices.Contains(strings.Fields(string(data)), controller)
	}
	for _, root := range h.Roots {
		if slices.Contains(strings.Split(filepath.Base(root), ","), controller) {
			return true
		}
	}
	return false
}

// Create makes the group of a cluster in every hierarchy.
func (h Hierarchies) Create(name string) error {
	if h.V2 {
		return h.createV2(name)
	}
	for _, root := range h.Roots {
		dir := filepath.Join(root, name)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		// A new cpuset is empty, and takes no process while it is.
		for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
			value, err := os.ReadFile(filepath.Join(root, file))
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err == nil {
				err = os.WriteFile(filepath.Join(dir, file), value, 0)
			}
			if err != nil {
				return err
			}
		}
	}
	return nil
}

func (h Hierarchies) createV2(name string) error {
	root := h.Roots[0]
	data, err := os.ReadFile(filepath.Join(root, "cgroup.controllers"))
	if err != nil {
		return err
	}
	var enable []string
	for _, controller := range strings.Fields(string(data)) {
		enable = append(enable, "+"+controller)
	}
	line := []byte(strings.Join(enable, " "))
	control := filepath.Join(root, "cgroup.subtree_control")
	err = os.WriteFile(control, line, 0)
	if errors.Is(err, unix.EBUSY) {
		if err = vacate(root, filepath.Join(root, "init")); err == nil {
			err = os.WriteFile(control, line, 0)
		}
	}
	if err != nil {
		return fmt.Errorf("cgroup controllers cannot be handed down: %w", err)
	}
	dir := filepath.Join(root, name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "cgroup.subtree_control"), line, 0)
}

// vacate moves every process of one group into another.
func vacate(from, to string) error {
	if err := os.MkdirAll(to, 0o755); err != nil {
		return err
	}
	data, err := os.ReadFile(filepath.Join(from, "cgroup.procs"))
	if err != nil {
		return err
	}
	for _, pid := range strings.Fields(string(data)) {
		err := os.WriteFile(filepath.Join(to, "cgroup.procs"), []byte(pid), 0)
		if err != nil && !errors.Is(err, unix.ESRCH) {
			return err
		}
	}
	return nil
}

// Remove kills what still runs in the group of a cluster and removes the group with all below it.
// The kernel lets go of a group a moment after its last process, so it tries until limit.
func (h Hierarchies) Remove(name string, limit time.Duration) error {
	deadline := time.Now().Add(limit)
	for {
		var left error
		for _, root := range h.Roots {
			left = errors.Join(left, removeTree(filepath.Join(root, name)))
		}
		if left == nil || time.Now().After(deadline) {
			return left
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func removeTree(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if entry.IsDir() {
			if err := removeTree(filepath.Join(dir, entry.Name())); err != nil {
				return err
			}
		}
	}
	// Only a Pod's process can be in here: nothing else is ever put into a group of this name.
	data, _ := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
	for _, field := range strings.Fields(string(data)) {
		if pid, err := strconv.Atoi(field); err == nil && pid > 0 {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
	}
	if err := unix.Rmdir(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s: %w", dir, err)
	}
	return nil
}
