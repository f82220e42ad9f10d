package main

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/shopset/shopset/internal/devcluster"
)

// need is what `make up` uses and cannot build: a program or an absolute path, and its Debian package.
type need struct{ path, pkg string }

// needs lists everything, so that nothing is found missing after minutes of building.
func needs(local bool) []need {
	list := []need{{"mmdebstrap", "mmdebstrap"}, {"/etc/ssl/certs/ca-certificates.crt", "ca-certificates"}}
	if local {
		list = append(list, need{"nft", "nftables"}, need{"runc", "runc"})
	}
	return list
}

// install installs the packages of what is missing.
func install(ctx context.Context, t *devcluster.Target) error {
	var missing []string
	for _, n := range needs(t.Local) {
		_, err := exec.LookPath(n.path)
		if filepath.IsAbs(n.path) {
			_, err = os.Stat(n.path)
		}
		if err != nil {
			missing = append(missing, n.pkg)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	return t.Run(ctx, filepath.Join(t.Root, "hack", "ensure-packages"), missing...)
}
