package component

import (
	"fmt"
	"path"
	"strconv"

	"github.com/shopset/shopset/hack/localcluster/internal/cgroup"
)

// Names lists the components in the order in which they are shown.
var Names = []string{
	"etcd", "containerd", "kube-apiserver", "kube-controller-manager", "kube-scheduler",
	"kubelet", "kube-proxy", "coredns",
}

// All returns the components of a node.
func (s Spec) All() []Component {
	api := []string{"kube-apiserver"}
	return []Component{
		{Name: "etcd", Path: program("etcd"), Args: etcdArgs(), Ready: Probe{"tcp", "127.0.0.1:2379"}},
		{Name: "containerd", Path: program("containerd"), Args: []string{"--config", conf("containerd.toml")},
			Ready: Probe{"unix", ContainerdSocket}},
		{Name: "kube-apiserver", Path: program("kube-apiserver"), Args: s.apiserverArgs(), Needs: []string{"etcd"},
			Ready: Probe{"https", fmt.Sprintf("127.0.0.1:%d", APIPort)}},
		{Name: "kube-controller-manager", Path: program("kube-controller-manager"), Args: s.controllerManagerArgs(), Needs: api},
		{Name: "kube-scheduler", Path: program("kube-scheduler"), Args: schedulerArgs(), Needs: api},
		{Name: "kubelet", Path: program("kubelet"), Args: s.kubeletArgs(), Needs: []string{"kube-apiserver", "containerd"}},
		{Name: "kube-proxy", Path: program("kube-proxy"), Args: []string{"--config=" + conf("kube-proxy.yaml")}, Needs: api},
		{Name: "coredns", Path: program("coredns"), Args: []string{"-conf", conf("Corefile")}, Needs: api},
	}
}

func program(name string) string { return path.Join(binDir, name) }
func conf(name string) string    { return path.Join(confDir, name) }
func key(name string) string     { return path.Join(pkiDir, name) }

func etcdArgs() []string {
	return []string{
		"--data-dir=" + path.Join(runDir, "etcd"),
		"--listen-client-urls=http://127.0.0.1:2379",
		"--advertise-client-urls=http://127.0.0.1:2379",
		"--listen-peer-urls=http://127.0.0.1:2380",
		// A run never outlives its data: what a crash of the machine would lose is of no use anyway.
		"--unsafe-no-fsync",
		"--log-level=warn",
	}
}

func (s Spec) apiserverArgs() []string {
	return []string{
		"--etcd-servers=http://127.0.0.1:2379",
		"--advertise-address=" + s.Plan.Node.String(),
		"--secure-port=" + strconv.Itoa(APIPort),
		"--tls-cert-file=" + key("apiserver.crt"),
		"--tls-private-key-file=" + key("apiserver.key"),
		"--client-ca-file=" + key("ca.crt"),
		"--authentication-config=" + conf("authentication.yaml"),
		"--authorization-mode=Node,RBAC",
		"--enable-admission-plugins=NodeRestriction",
		"--allow-privileged=true",
		"--kubelet-certificate-authority=" + key("ca.crt"),
		"--kubelet-client-certificate=" + key("apiserver-kubelet.crt"),
		"--kubelet-client-key=" + key("apiserver-kubelet.key"),
		"--kubelet-preferred-address-types=InternalIP",
		"--service-account-issuer=https://kubernetes.default.svc.cluster.local",
		"--service-account-key-file=" + key("service-accounts.pub"),
		"--service-account-signing-key-file=" + key("service-accounts.key"),
		"--service-cluster-ip-range=" + s.Plan.Services.String(),
		"--requestheader-client-ca-file=" + key("ca.crt"),
		"--requestheader-allowed-names=front-proxy",
		"--requestheader-username-headers=X-Remote-User",
		"--requestheader-group-headers=X-Remote-Group",
		"--requestheader-extra-headers-prefix=X-Remote-Extra-",
		"--proxy-client-cert-file=" + key("front-proxy.crt"),
		"--proxy-client-key-file=" + key("front-proxy.key"),
		"--enable-aggregator-routing=true",
		"--profiling=false",
	}
}

func (s Spec) controllerManagerArgs() []string {
	kubeconfig := conf("kube-controller-manager.kubeconfig")
	return []string{
		"--kubeconfig=" + kubeconfig,
		"--authentication-kubeconfig=" + kubeconfig,
		"--authorization-kubeconfig=" + kubeconfig,
		"--bind-address=127.0.0.1",
		"--leader-elect=false",
		// After a minute without API server the node is not to be given up before it could say that it lives: there is no other.
		"--node-monitor-grace-period=3m",
		"--use-service-account-credentials=true",
		"--root-ca-file=" + key("ca.crt"),
		"--service-account-private-key-file=" + key("service-accounts.key"),
		"--cluster-signing-cert-file=" + key("ca.crt"),
		"--cluster-signing-key-file=" + key("ca.key"),
		"--cluster-cidr=" + s.Plan.Pods.String(),
		"--service-cluster-ip-range=" + s.Plan.Services.String(),
		"--kube-api-qps=200",
		"--kube-api-burst=400",
		"--profiling=false",
	}
}

func schedulerArgs() []string {
	kubeconfig := conf("kube-scheduler.kubeconfig")
	return []string{
		"--kubeconfig=" + kubeconfig,
		"--authentication-kubeconfig=" + kubeconfig,
		"--authorization-kubeconfig=" + kubeconfig,
		"--bind-address=127.0.0.1",
		"--leader-elect=false",
		"--kube-api-qps=200",
		"--kube-api-burst=400",
		"--profiling=false",
	}
}

func (s Spec) kubeletArgs() []string {
	return []string{
		"--config=" + conf("kubelet.yaml"),
		"--kubeconfig=" + conf("kubelet.kubeconfig"),
		"--root-dir=" + path.Join(runDir, "kubelet"),
		"--cert-dir=" + path.Join(runDir, "kubelet-certs"),
		"--hostname-override=" + NodeName,
		"--node-ip=" + s.Plan.Node.String(),
	}
}

// cgroupRoot is the cgroup of all Pods.
func (s Spec) cgroupRoot() string { return cgroup.Name(s.Layout.ID()) }
