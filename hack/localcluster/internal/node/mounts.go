package node

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/shopset/shopset/hack/localcluster/internal/layout"
)

// mounts makes the node's view of the file system from the machine's.
//
// First nothing that happens here may reach the machine (private), at the end everything here must
// reach the Pods' own namespaces (shared), which the kubelet needs for volumes.
func mounts(l layout.Layout) error {
	if err := mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	// The folders are opened before /run is covered: they may lie beneath it.
	folders := map[string]string{"run": l.Run(), "bin": l.Bin, "logs": l.Logs()}
	opened := make(map[string]*os.File)
	for name, dir := range folders {
		file, err := os.Open(dir)
		if err != nil {
			return err
		}
		defer file.Close()
		opened[name] = file
	}
	if err := mount("tmpfs", "/run", "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=755"); err != nil {
		return err
	}
	for name, file := range opened {
		target := filepath.Join(layout.NodeRoot, name)
		if err := os.MkdirAll(target, 0o755); err != nil {
			return err
		}
		if err := mount("/proc/self/fd/"+strconv.Itoa(int(file.Fd())), target, "", unix.MS_BIND, ""); err != nil {
			return err
		}
	}
	if err := mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return err
	}
	// Fixed paths of Kubernetes and CNI, which would else litter the machine.
	varLog := filepath.Join(layout.NodeRoot, "run", "var-log")
	if err := os.MkdirAll(varLog, 0o755); err != nil {
		return err
	}
	if err := mount(varLog, "/var/log", "", unix.MS_BIND, ""); err != nil {
		return err
	}
	if err := mount("tmpfs", "/var/lib", "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=755"); err != nil {
		return err
	}
	if err := resolvConf(); err != nil {
		return err
	}
	if err := tunables(); err != nil {
		return err
	}
	return mount("", "/", "", unix.MS_REC|unix.MS_SHARED, "")
}

// resolvConf leads the node's own programs to the cluster's DNS: the machine's name server cannot be
// reached from here. Where the file is missing, or a link below /run, nobody misses it.
func resolvConf() error {
	file, err := filepath.EvalSymlinks("/etc/resolv.conf")
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return mount(filepath.Join(layout.NodeRoot, "run", "conf", "resolv.conf"), file, "", unix.MS_BIND, "")
}

// tunables covers the settings that a kubelet insists on writing, and that belong to the whole
// machine, by files that already hold what it wants to read.
func tunables() error {
	dir := filepath.Join(layout.NodeRoot, "tunables")
	for file, value := range map[string]string{
		"vm/overcommit_memory":      "1",
		"vm/panic_on_oom":           "0",
		"kernel/panic":              "10",
		"kernel/panic_on_oops":      "1",
		"kernel/keys/root_maxkeys":  "1000000",
		"kernel/keys/root_maxbytes": "25000000",
	} {
		target := filepath.Join("/proc/sys", file)
		if _, err := os.Stat(target); err != nil {
			continue
		}
		source := filepath.Join(dir, file)
		if err := os.MkdirAll(filepath.Dir(source), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(source, []byte(value+"\n"), 0o644); err != nil {
			return err
		}
		if err := mount(source, target, "", unix.MS_BIND, ""); err != nil {
			return err
		}
	}
	return nil
}

func mount(source, target, kind string, flags uintptr, options string) error {
	if err := unix.Mount(source, target, kind, flags, options); err != nil {
		return fmt.Errorf("mount %s on %s: %w", source, target, err)
	}
	return nil
}
