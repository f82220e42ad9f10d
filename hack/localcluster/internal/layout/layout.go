// Package layout says where everything of a cluster lies, and nothing else does.
//
//	<state>/cluster.json   what runs: processes, network, ports (absent when nothing does)
//	<state>/kubeconfig     mode 0600, present while the cluster is up
//	<state>/lock           held while up, down or load change something
//	<state>/keeper.lock    held by the keeper as long as it lives
//	<state>/bin            built programs; survive down
//	<state>/logs           one file per component, of this run and the one before
//	<state>/run            all that a run leaves: etcd, containerd, keys, configuration; wiped
//
// Inside the node the same folders appear under NodeRoot, whatever the state folder is called:
// Unix sockets allow paths of 107 bytes only, and a state folder may be longer than that.
package layout

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// Module is the path of the Go module that this tool, and all it builds, comes from.
const Module = "github.com/shopset/shopset/hack/localcluster"

// NodeRoot is where the node sees Run, Bin and Logs.
const NodeRoot = "/run/shopset"

// Layout is the set of paths of one cluster.
type Layout struct {
	State string // absolute
	Bin   string // absolute; may be shared between clusters
}

// New returns the layout of the cluster in state. An empty state means $SHOPSET_STATE or
// <repo root>/.state, an empty bin $SHOPSET_CLUSTER_BIN or <state>/bin.
func New(state, bin string) (Layout, error) {
	if state == "" {
		state = os.Getenv("SHOPSET_STATE")
	}
	if state == "" {
		root, err := RepoRoot()
		if err != nil {
			return Layout{}, fmt.Errorf("%w; name a folder with --state or SHOPSET_STATE", err)
		}
		state = filepath.Join(root, ".state")
	}
	state, err := filepath.Abs(state)
	if err != nil {
		return Layout{}, err
	}
	if bin == "" {
		bin = os.Getenv("SHOPSET_CLUSTER_BIN")
	}
	if bin == "" {
		bin = filepath.Join(state, "bin")
	}
	bin, err = filepath.Abs(bin)
	return Layout{State: state, Bin: bin}, err
}

// ID names the cluster in the kernel: interfaces and cgroups. It follows from the state folder, so
// that what a killed run left behind is found even when its records are lost.
func (l Layout) ID() string {
	sum := sha256.Sum256([]byte(l.State))
	return hex.EncodeToString(sum[:4])
}

func (l Layout) Run() string        { return filepath.Join(l.State, "run") }
func (l Layout) Logs() string       { return filepath.Join(l.State, "logs") }
func (l Layout) Record() string     { return filepath.Join(l.State, "cluster.json") }
func (l Layout) Kubeconfig() string { return filepath.Join(l.State, "kubeconfig") }
func (l Layout) Lock() string       { return filepath.Join(l.State, "lock") }
func (l Layout) KeeperLock() string { return filepath.Join(l.State, "keeper.lock") }
func (l Layout) Assets() string     { return filepath.Join(l.Bin, "envtest") }

// Program returns the path of a built program.
func (l Layout) Program(name string) string { return filepath.Join(l.Bin, name) }

// Log returns the log file of a component.
func (l Layout) Log(component string) string { return filepath.Join(l.Logs(), component+".log") }

// RepoRoot finds the repository from the working directory upwards, then from the executable.
func RepoRoot() (string, error) {
	var starts []string
	if dir, err := os.Getwd(); err == nil {
		starts = append(starts, dir)
	}
	if exe, err := os.Executable(); err == nil {
		starts = append(starts, filepath.Dir(exe))
	}
	for _, dir := range starts {
		for {
			if isModule(filepath.Join(dir, "hack", "localcluster", "go.mod")) {
				return dir, nil
			}
			parent := filepath.Dir(dir)
			if parent == dir {
				break
			}
			dir = parent
		}
	}
	return "", errors.New("no ShopSet repository found from the working directory upwards")
}

func isModule(file string) bool {
	data, err := os.ReadFile(file)
	return err == nil && strings.HasPrefix(string(data), "module "+Module+"\n")
}
