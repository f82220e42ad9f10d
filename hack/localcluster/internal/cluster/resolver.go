package cluster

import (
	"net/netip"
	"os"
	"strings"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/shopset/shopset/hack/localcluster/internal/keeper"
)

// findResolver returns a name server of this machine that answers quickly. On a machine without
// one, the cluster's DNS must say no at once instead of asking a server that is not there.
func findResolver() netip.AddrPort {
	data, err := os.ReadFile("/etc/resolv.conf")
	if err != nil {
		return netip.AddrPort{}
	}
	query, err := rootQuery()
	if err != nil {
		return netip.AddrPort{}
	}
	servers := nameservers(string(data))
	usable := make([]chan bool, len(servers))
	for i, server := range servers {
		usable[i] = make(chan bool, 1)
		go func() { usable[i] <- answers(query, server) }()
	}
	for i, server := range servers {
		if <-usable[i] {
			return server
		}
	}
	return netip.AddrPort{}
}

func answers(query []byte, server netip.AddrPort) bool {
	reply, err := keeper.Exchange(query, server, 400*time.Millisecond)
	if err != nil {
		return false
	}
	var parser dnsmessage.Parser
	header, err := parser.Start(reply)
	return err == nil && (header.RCode == dnsmessage.RCodeSuccess || header.RCode == dnsmessage.RCodeNameError)
}

func nameservers(resolvConf string) []netip.AddrPort {
	var servers []netip.AddrPort
	for line := range strings.Lines(resolvConf) {
		fields := strings.Fields(line)
		if len(fields) < 2 || fields[0] != "nameserver" {
			continue
		}
		if addr, err := netip.ParseAddr(fields[1]); err == nil {
			servers = append(servers, netip.AddrPortFrom(addr, 53))
		}
	}
	return servers
}

// rootQuery asks for the name servers of the root, which every resolver knows.
func rootQuery() ([]byte, error) {
	message := dnsmessage.Message{
		Header: dnsmessage.Header{ID: uint16(os.Getpid()), RecursionDesired: true},
		Questions: []dnsmessage.Question{{
			Name: dnsmessage.MustNewName("."), Type: dnsmessage.TypeNS, Class: dnsmessage.ClassINET,
		}},
	}
	return message.Pack()
}
