// Package preflight looks at the machine before anything is started, and reports all that is
// missing at once, each with what to do about it.
package preflight

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/shopset/shopset/hack/localcluster/internal/cgroup"
	"github.com/shopset/shopset/hack/localcluster/internal/layout"
)

// Root says whether this process may do what a node needs. Everything else depends on it.
func Root() error {
	if runtime.GOOS != "linux" {
		return fmt.Errorf("localcluster needs Linux, this is %s; run it in a Linux virtual machine", runtime.GOOS)
	}
	if os.Geteuid() != 0 {
		return errors.New("localcluster needs root, for namespaces and control groups; run it with sudo")
	}
	return nil
}

// Packages installs the Debian packages that cannot be built from Go modules without a C library.
//
// kube-proxy and the CNI plugins call nft; runc needs libseccomp, which restricted Pods need.
func Packages(installed func(line string)) error {
	var missing []string
	for program, pkg := range map[string]string{"nft": "nftables", "runc": "runc"} {
		if _, err := exec.LookPath(program); err != nil {
			missing = append(missing, pkg)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	root, err := layout.RepoRoot()
	if err != nil {
		return fmt.Errorf("install the packages %s: %w", strings.Join(missing, ", "), err)
	}
	installed("installing " + strings.Join(missing, ", "))
	cmd := exec.Command(filepath.Join(root, "hack", "ensure-packages"), missing...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("packages %s cannot be installed: %w\n%s", strings.Join(missing, ", "), err, strings.TrimSpace(string(out)))
	}
	return nil
}

// Machine checks the kernel and the disk. minFree is in bytes.
func Machine(l layout.Layout, minFree uint64) error {
	problems := []error{controlGroups(), disk(l.State, minFree), features(l.State)}
	return errors.Join(problems...)
}

func controlGroups() error {
	hierarchies, err := cgroup.Detect()
	if err != nil {
		return err
	}
	if missing := hierarchies.Missing(); len(missing) > 0 {
		return fmt.Errorf("the kernel offers no cgroup controllers %s; mount them below /sys/fs/cgroup", strings.Join(missing, ", "))
	}
	return nil
}

func disk(dir string, minFree uint64) error {
	var stat unix.Statfs_t
	if err := unix.Statfs(dir, &stat); err != nil {
		return fmt.Errorf("%s: %w", dir, err)
	}
	if free := stat.Bavail * uint64(stat.Bsize); free < minFree {
		return fmt.Errorf("%s: %d MiB free, %d needed; free some space or choose another folder with --state", dir, free>>20, minFree>>20)
	}
	return nil
}

// PortFree says whether a port of the loopback can be listened on.
func PortFree(port int) error {
	listener, err := net.Listen("tcp4", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
	if err != nil {
		return err
	}
	return listener.Close()
}
