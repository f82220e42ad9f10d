// Package subnet picks the address ranges of a cluster, and joins host and node by a veth pair.
package subnet

import (
	"fmt"
	"net/netip"
)

// Plan is the addresses of one cluster.
type Plan struct {
	Link     netip.Prefix `json:"link"`     // host and node
	Host     netip.Addr   `json:"host"`     // the host's end
	Node     netip.Addr   `json:"node"`     // the node's end, and the node's IP
	Pods     netip.Prefix `json:"pods"`     // Pod CIDR
	Services netip.Prefix `json:"services"` // service CIDR
}

// API is the ClusterIP of the kubernetes Service: the first of the range, by convention.
func (p Plan) API() netip.Addr { return p.Services.Addr().Next() }

// DNS is the ClusterIP of kube-dns: the tenth of the range, by convention.
func (p Plan) DNS() netip.Addr {
	addr := p.Services.Addr()
	for range 10 {
		addr = addr.Next()
	}
	return addr
}

const candidates = 16

// Pick returns the first plan none of whose ranges overlaps a range in use. The first candidate
// has the ranges that everybody expects; the others exist for machines where those are taken, for
// instance by a second cluster.
func Pick(used []netip.Prefix) (Plan, error) {
	for i := range candidates {
		if plan := candidate(i); !plan.overlaps(used) {
			return plan, nil
		}
	}
	first, last := candidate(0), candidate(candidates-1)
	return Plan{}, fmt.Errorf("no free address ranges: all from %s, %s, %s to %s, %s, %s overlap a route of this machine; see 'ip route'",
		first.Link, first.Pods, first.Services, last.Link, last.Pods, last.Services)
}

func candidate(i int) Plan {
	n := byte(i)
	link := netip.AddrFrom4([4]byte{10, 223, n, 0})
	return Plan{
		Link:     netip.PrefixFrom(link, 30),
		Host:     link.Next(),
		Node:     link.Next().Next(),
		Pods:     netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 244, n, 0}), 24),
		Services: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 96 + n, 0, 0}), 16),
	}
}

func (p Plan) overlaps(used []netip.Prefix) bool {
	for _, prefix := range used {
		if prefix.Bits() == 0 { // the default route
			continue
		}
		if prefix.Overlaps(p.Link) || prefix.Overlaps(p.Pods) || prefix.Overlaps(p.Services) {
			return true
		}
	}
	return false
}
