// Command localcluster runs a real one-node Kubernetes on a machine that has none: no cluster, no
// container engine, no image registry, only Go's module proxy and a few Debian packages.
//
// # What it promises
//
//   - The programs are the real ones, built from the modules in go.mod: etcd, containerd, CoreDNS,
//     the CNI plugins and Kubernetes itself, the last as one binary called by six names.
//   - up returns when the cluster is of use: the API answers, the node takes Pods, the DNS answers
//     through its Service, the default service account exists. It starts with an empty etcd.
//   - up is safe to repeat: over a healthy cluster it does nothing, over anything else it cleans up
//     and starts fresh. A start that fails is undone.
//   - down leaves no process, mount, interface, route, nftables rule or control group. Built
//     programs and logs stay.
//   - Nothing listens on an external interface. Clusters with different state folders run side by
//     side; each takes address ranges and ports that are free.
//
// # How it works
//
//	up ──starts──▶ keeper (host's namespaces)            forwards 127.0.0.1:6443 and published ports
//	                 │ clone(NEWPID|NEWNS|NEWNET|NEWUTS|NEWIPC), parent death signal
//	                 ▼
//	               node (PID 1 of its own)  ── veth ──   host 10.223.0.1/30, node 10.223.0.2
//	                 ├ etcd, containerd, kube-apiserver, …, kubelet, kube-proxy, coredns
//	                 └ shims and Pods
//
// The node's first process supervises: it starts each component when what it needs is ready,
// starts it again after a backoff when it dies, and reaps. When keeper or node is killed, the
// kernel kills everything in the PID namespace; mounts, interfaces, routes and rules go with the
// other namespaces. Only control groups are left, all under /shopset-<id>; keeper, down and the
// next up remove them. Folders that Kubernetes insists on (/var/log, /var/lib, /run) and settings
// that it insists on changing (/proc/sys/vm/overcommit_memory and others) are covered by mounts of
// the node's own, so the machine keeps its own.
//
// The first build compiles some 2,900 packages: seven minutes on two cores. Later ones take what
// linking takes, and none happens while the stamps in the bin folder match. To vet or test this
// module, set CGO_ENABLED=0 as the build does, or Go compiles it all a second time.
//
// # Limits
//
//   - One node, and no enforcement of NetworkPolicy: the ptp plugin knows none.
//   - Pods do not reach the world: whatever is neither a Pod, a Service nor the host's end of the
//     link (host.shopset.internal) is unreachable, at once. Names outside the cluster are looked up
//     with the machine's name server if it answers, and do not exist otherwise.
//   - No image can be pulled; load brings in files. Images do not survive down.
//   - runc is Debian's, for its libseccomp, and so no newer than Debian's.
//   - etcd listens without TLS on the node's loopback: a Pod with hostNetwork can reach it.
//   - hostPath volumes below /run, /var/log and /var/lib show the node's folders, not the machine's.
package main
