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

// setForwarded tells the upstream who asked for what. header are those that go to the upstream, which may still have the
// client's own claims.
func setForwarded(e *exchange, header http.Header, trusted trust) {
	in := e.request
	from := peer(in.RemoteAddr)
	believed := len(trusted) > 0 && trusted.contains(from)
	dropClaims(header)

	chain := from.String()
	if !from.IsValid() {
		chain, _, _ = net.SplitHostPort(in.RemoteAddr)
	}
	proto, host := asked(in, trusted)
	if believed {
		if claimed := strings.Join(in.Header.Values("X-Forwarded-For"), ", "); claimed != "" {
			chain = claimed + ", " + chain
		}
	}
	values := []string{chain, proto, host} // One piece of memory for all.
	header["X-Forwarded-For"], header["X-Forwarded-Proto"], header["X-Forwarded-Host"] = values[:1:1], values[1:2:2], values[2:]
}

// asked is what the client asked for: as it came, or as a trusted proxy says.
func asked(in *http.Request, trusted trust) (proto, host string) {
	proto, host = "http", in.Host
	if in.TLS != nil {
		proto = "https"
	}
	if len(trusted) == 0 || !trusted.contains(peer(in.RemoteAddr)) {
		return proto, host
	}
	if claimed := in.Header.Get("X-Forwarded-Proto"); claimed == "http" || claimed == "https" {
		proto = claimed
	}
	if claimed := in.Header.Get("X-Forwarded-Host"); claimed != "" {
		host = claimed
	}
	return proto, host
}

// dropClaims removes every header by which a client could pass for another one.
func dropClaims(header http.Header) {
	for name := range header {
		if strings.HasPrefix(name, "X-Forwarded-") || name == "Forwarded" || name == "X-Real-Ip" {
			delete(header, name)
		}
	}
}
