package subnet

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// NodeLink is the name of the node's end of the veth pair, inside the node.
const NodeLink = "eth0"

// HostLink returns the name of the host's end. Names of interfaces have 15 bytes at most.
func HostLink(id string) string { return "ss" + id }

// Used returns the ranges that this machine's routes lead to and its interfaces have.
func Used() ([]netip.Prefix, error) {
	var used []netip.Prefix
	routes, err := netlink.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_TABLE)
	if err != nil {
		return nil, fmt.Errorf("routes of this machine: %w", err)
	}
	for _, route := range routes {
		if route.Dst != nil && route.Type != unix.RTN_BROADCAST {
			used = append(used, prefix(route.Dst))
		}
	}
	addrs, err := netlink.AddrList(nil, netlink.FAMILY_V4)
	if err != nil {
		return nil, fmt.Errorf("addresses of this machine: %w", err)
	}
	for _, addr := range addrs {
		used = append(used, prefix(addr.IPNet).Masked())
	}
	return used, nil
}

func prefix(n *net.IPNet) netip.Prefix {
	addr, _ := netip.AddrFromSlice(n.IP)
	ones, _ := n.Mask.Size()
	return netip.PrefixFrom(addr.Unmap(), ones)
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// Connect makes the veth pair between this network namespace and that of process node, and the
// host's routes to Pods and Services. The kernel removes it all with the node's namespace.
func Connect(id string, plan Plan, node int) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = HostLink(id)
	veth := &netlink.Veth{LinkAttrs: attrs, PeerName: NodeLink, PeerNamespace: netlink.NsPid(node)}
	if err := netlink.LinkAdd(veth); err != nil {
		return fmt.Errorf("veth pair %s: %w", attrs.Name, err)
	}
	link, err := netlink.LinkByName(attrs.Name)
	if err != nil {
		return err
	}
	// Without this IPv6 gives the link an address and chats on it; nobody needs either.
	_ = os.WriteFile("/proc/sys/net/ipv6/conf/"+attrs.Name+"/disable_ipv6", []byte("1"), 0)
	if err := up(link, netip.PrefixFrom(plan.Host, plan.Link.Bits())); err != nil {
		return err
	}
	for _, dst := range []netip.Prefix{plan.Pods, plan.Services} {
		route := &netlink.Route{LinkIndex: link.Attrs().Index, Dst: ipNet(dst), Gw: plan.Node.AsSlice()}
		if err := netlink.RouteAdd(route); err != nil {
			return fmt.Errorf("route to %s: %w", dst, err)
		}
	}
	return nil
}

// ConfigureNode sets up the node's end, from inside the node.
//
// The node does not lead to the world, and a Pod that tries should fail at once and not wait. So
// what would leave for anything but the link is rejected. An unreachable route says the same, but
// once a second at most, and lets the others wait.
func ConfigureNode(plan Plan) error {
	lo, err := netlink.LinkByName("lo")
	if err == nil {
		err = netlink.LinkSetUp(lo)
	}
	if err != nil {
		return fmt.Errorf("interface lo: %w", err)
	}
	link, err := netlink.LinkByName(NodeLink)
	if err != nil {
		return fmt.Errorf("interface %s: %w", NodeLink, err)
	}
	if err := up(link, netip.PrefixFrom(plan.Node, plan.Link.Bits())); err != nil {
		return err
	}
	route := &netlink.Route{Dst: ipNet(netip.MustParsePrefix("0.0.0.0/0")), Gw: plan.Host.AsSlice()}
	if err := netlink.RouteAdd(route); err != nil {
		return fmt.Errorf("default route: %w", err)
	}
	for name, value := range map[string]string{"ip_forward": "1", "icmp_ratelimit": "0"} {
		if err := os.WriteFile("/proc/sys/net/ipv4/"+name, []byte(value), 0); err != nil {
			return err
		}
	}
	nft := exec.Command("nft", "-f", "-")
	nft.Stdin = strings.NewReader(fmt.Sprintf(rejectWorld, NodeLink, plan.Link))
	if out, err := nft.CombinedOutput(); err != nil {
		return fmt.Errorf("nft: %w: %s", err, out)
	}
	return nil
}

// rejectWorld comes after kube-proxy's rules: a Service's address is a Pod's by then.
const rejectWorld = `define link = %[1]q
table ip shopset {
	chain world {
		oifname $link ip daddr != %[2]s reject with icmp host-unreachable
	}
	chain forward {
		type filter hook forward priority 10; policy accept;
		jump world
	}
	chain output {
		type filter hook output priority 10; policy accept;
		jump world
	}
}
`

func up(link netlink.Link, address netip.Prefix) error {
	name := link.Attrs().Name
	if err := netlink.AddrAdd(link, &netlink.Addr{IPNet: ipNet(address)}); err != nil {
		return fmt.Errorf("address %s on %s: %w", address, name, err)
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return fmt.Errorf("interface %s: %w", name, err)
	}
	return nil
}

// Disconnect removes the host's end if it is there, and the pair and the routes with it. It waits
// for the kernel, which takes down the namespace of a killed node in its own time.
func Disconnect(id string, limit time.Duration) error {
	deadline := time.Now().Add(limit)
	for {
		link, err := netlink.LinkByName(HostLink(id))
		var missing netlink.LinkNotFoundError
		if errors.As(err, &missing) {
			return nil
		}
		if err == nil {
			err = netlink.LinkDel(link)
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("interface %s: %w", HostLink(id), err)
		}
		time.Sleep(5 * time.Millisecond)
	}
}
