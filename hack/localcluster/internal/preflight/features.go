package preflight

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// features tries what a node does, on a thread in throw-away namespaces: what a kernel was built
// with, and what a container is allowed, cannot be read anywhere.
func features(dir string) error {
	result := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with its namespaces
		result <- tryFeatures(dir)
	}()
	return <-result
}

func tryFeatures(dir string) error {
	if err := unix.Unshare(unix.CLONE_NEWNS | unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("namespaces cannot be made (%w); this needs root with CAP_SYS_ADMIN, in a container --privileged", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("mounts cannot be made (%w); this needs CAP_SYS_ADMIN, in a container --privileged", err)
	}
	return errors.Join(tryOverlay(dir), tryVeth(), tryNFTables())
}

func tryOverlay(dir string) error {
	work, err := os.MkdirTemp(dir, ".overlay-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	var options []string
	for _, name := range []string{"lower", "upper", "work", "merged"} {
		if err := os.Mkdir(filepath.Join(work, name), 0o755); err != nil {
			return err
		}
		if name != "merged" {
			options = append(options, name+"dir="+filepath.Join(work, name))
		}
	}
	merged := filepath.Join(work, "merged")
	if err := unix.Mount("overlay", merged, "overlay", 0, strings.Join(options, ",")); err != nil {
		return fmt.Errorf("overlay file systems do not work in %s (%w); run 'modprobe overlay', or choose a folder on ext4, xfs or tmpfs with --state", dir, err)
	}
	return unix.Unmount(merged, unix.MNT_DETACH)
}

func tryVeth() error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "probe0"
	if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "probe1"}); err != nil {
		return fmt.Errorf("veth pairs cannot be made (%w); run 'modprobe veth'", err)
	}
	return nil
}

// tryNFTables makes a rule like those of kube-proxy.
func tryNFTables() error {
	nft := exec.Command("nft", "-f", "-")
	nft.Stdin = strings.NewReader(`table ip probe {
		chain nat { type nat hook postrouting priority 100; masquerade; }
		chain filter { type filter hook forward priority 0; ct state new reject; }
	}`)
	if out, err := nft.CombinedOutput(); err != nil {
		return fmt.Errorf("nftables does not work (%w); run 'modprobe -a nf_tables nft_nat nft_masq nft_ct nft_reject_inet'\n%s", err, strings.TrimSpace(string(out)))
	}
	return nil
}
