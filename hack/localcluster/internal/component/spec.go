// Package component says what runs in the node: which programs, with which arguments and
// configuration files, and what each of them waits for. It is pure but for Write.
package component

import (
	"net/netip"
	"path"

	"github.com/shopset/shopset/hack/localcluster/internal/layout"
	"github.com/shopset/shopset/hack/localcluster/internal/subnet"
)

const (
	// NodeName is the name of the one node.
	NodeName = "shopset-node"
	// HostName is a name that Pods can use for the machine outside the node.
	HostName = "host.shopset.internal"
	// PauseImage is the image that holds a Pod's namespaces.
	PauseImage = "localhost/shopset-pause:1"
	// ContainerdSocket is where containerd listens, inside the node.
	ContainerdSocket = "/run/containerd/containerd.sock"
	// APIPort is where the API server listens, inside the node.
	APIPort = 6443
)

// Forward is a port of the host's loopback that leads to a port of the node.
type Forward struct {
	Host int `json:"host"`
	Node int `json:"node"`
}

// Spec is all that a run of a cluster is made from.
type Spec struct {
	Layout  layout.Layout `json:"layout"`
	Plan    subnet.Plan   `json:"plan"`
	API     Forward       `json:"api"`
	Publish []Forward     `json:"publish"`
	// Resolver is the name server of the host that answers queries for outside names; none if zero.
	Resolver netip.AddrPort `json:"resolver"`
}

// Folders inside the node.
var (
	runDir  = path.Join(layout.NodeRoot, "run")
	binDir  = path.Join(layout.NodeRoot, "bin")
	confDir = path.Join(runDir, "conf")
	pkiDir  = path.Join(runDir, "pki")
)

// Component is a program of the node.
type Component struct {
	Name  string
	Path  string
	Args  []string
	Needs []string // components that must be ready before the first start
	Ready Probe    // how to know that it is
}

// Probe is a way to ask a component whether it is ready. The zero Probe is always content.
type Probe struct {
	Network string // "unix", "tcp", or "https" for GET /readyz
	Address string
}
