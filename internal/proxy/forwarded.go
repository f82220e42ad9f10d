package proxy

import (
	"net"
	"net/http"
	"net/netip"
	"strings"
)

// trust is the list of networks whose X-Forwarded-* headers are believed.
type trust []Network

func (t trust) contains(address netip.Addr) bool {
	address = address.Unmap()
	for _, network := range t {
		if network.Contains(address) {
			return true
		}
	}
	return false
}

// peer returns the address at the other end of the connection, invalid when it has none.
func peer(remote string) netip.Addr {
	if endpoint, err := netip.ParseAddrPort(remote); err == nil {
		return endpoint.Addr().Unmap().WithZone("")
	}
	return netip.Addr{}
}

// setForwarded tells the upstream who asked for what. in is the request as it came, out the one
// that goes to the upstream, which may still have the client's own claims.
func setForwarded(in, out *http.Request, trusted trust) {
	from := peer(in.RemoteAddr)
	believed := trusted.contains(from)
	dropClaims(out.Header)

	chain := from.String()
	if !from.IsValid() {
		chain, _, _ = net.SplitHostPort(in.RemoteAddr)
	}
	proto, host := "http", in.Host
	if in.TLS != nil {
		proto = "https"
	}
	if believed {
		if claimed := strings.Join(in.Header.Values("X-Forwarded-For"), ", "); claimed != "" {
			chain = claimed + ", " + chain
		}
		if claimed := in.Header.Get("X-Forwarded-Proto"); claimed == "http" || claimed == "https" {
			proto = claimed
		}
		if claimed := in.Header.Get("X-Forwarded-Host"); claimed != "" {
			host = claimed
		}
	}
	out.Header.Set("X-Forwarded-For", chain)
	out.Header.Set("X-Forwarded-Proto", proto)
	out.Header.Set("X-Forwarded-Host", host)
}

// dropClaims removes every header by which a client could pass for another one.
func dropClaims(header http.Header) {
	for name := range header {
		if strings.HasPrefix(name, "X-Forwarded-") || name == "Forwarded" || name == "X-Real-Ip" {
			delete(header, name)
		}
	}
}
