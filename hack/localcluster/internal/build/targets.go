package build

// kubernetes is the module whose version the Kubernetes programs must report: clients refuse to
// parse what an unstamped build calls itself.
const kubernetes = "k8s.io/kubernetes"

// Target is what one run of the Go linker, or a few of the same module, make.
type Target struct {
	Name     string            // names the stamp
	Title    string            // for people
	Packages map[string]string // package → output, relative to the bin folder
	Links    map[string]string // symbolic link → target, relative to the bin folder
	Sources  []string          // folders of this module that the programs are made from
}

const (
	containerdModule = "github.com/containerd/containerd/v2"
	containerd       = containerdModule + "/cmd/"
	cni              = "github.com/containernetworking/plugins/plugins/"
)

var (
	etcd = Target{
		Name: "etcd", Title: "etcd",
		Packages: map[string]string{"go.etcd.io/etcd/server/v3": "etcd"},
	}
	kube = Target{
		Name: "kube", Title: "Kubernetes",
		Packages: map[string]string{"./cmd/kube": "kube"},
		Links: map[string]string{
			"kube-apiserver": "kube", "kube-controller-manager": "kube", "kube-scheduler": "kube",
			"kubelet": "kube", "kube-proxy": "kube", "kubectl": "kube",
		},
		Sources: []string{"cmd/kube", "internal/kubectl"},
	}
	envtest = Target{
		Name: "envtest", Title: "kube-apiserver",
		Packages: map[string]string{"./cmd/envtest": "envtest/kube"},
		Links:    envtestLinks("kube"),
		Sources:  []string{"cmd/envtest", "internal/kubectl"},
	}
	// node is what else a node needs. The small ones come first: mistakes show early.
	node = []Target{
		{
			Name: "pause", Title: "pause",
			Packages: map[string]string{"./cmd/pause": "pause"},
			Sources:  []string{"cmd/pause"},
		},
		{
			Name: "cni", Title: "CNI plugins",
			Packages: map[string]string{
				cni + "ipam/host-local": "cni/host-local", cni + "main/loopback": "cni/loopback",
				cni + "main/ptp": "cni/ptp", cni + "meta/portmap": "cni/portmap",
			},
		},
		etcd,
		{
			Name: "containerd", Title: "containerd",
			Packages: map[string]string{
				containerd + "containerd":              "containerd",
				containerd + "containerd-shim-runc-v2": "containerd-shim-runc-v2",
				containerd + "ctr":                     "ctr",
			},
		},
		{
			Name: "coredns", Title: "CoreDNS",
			Packages: map[string]string{"./cmd/coredns": "coredns"},
			Sources:  []string{"cmd/coredns"},
		},
		kube,
	}
)

// envtestLinks makes the folder that KUBEBUILDER_ASSETS wants.
func envtestLinks(program string) map[string]string {
	return map[string]string{
		"envtest/kube-apiserver": program, "envtest/kubectl": program, "envtest/etcd": "../etcd",
	}
}
