package proxy

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"syscall"
	"time"

	"github.com/shopset/shopset/internal/certrecord"
)

// newTransport makes what takes requests to an upstream, all its endpoints. local is as for newUpstream.
func newTransport(role *Role, config Upstream, base *url.URL, local bool) (*http.Transport, error) {
	dialer := &net.Dialer{Timeout: role.ConnectTimeout, KeepAlive: 15 * time.Second}
	if !local {
		dialer.ControlContext = refuseLocal
	}
	settings := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: base.Hostname()}
	if config.ServerName != "" {
		settings.ServerName = config.ServerName
	}
	if config.CA != "" {
		pool, err := certrecord.ReadPool("ca", config.CA)
		if err != nil {
			return nil, err
		}
		settings.RootCAs = pool
	}
	protocols := &http.Protocols{}
	protocols.SetHTTP1(config.Protocol != ProtocolHTTP2)
	protocols.SetHTTP2(config.Protocol != ProtocolHTTP1)
	protocols.SetUnencryptedHTTP2(config.Protocol == ProtocolHTTP2 && base.Scheme == "http")
	return &http.Transport{
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			conn, err := dialer.DialContext(ctx, network, address)
			if err != nil {
				return nil, err
			}
			return upstreamConn{conn.(*net.TCPConn), role.StallTimeout}, nil
		},
		TLSClientConfig:       settings,
		Protocols:             protocols,
		DisableCompression:    true, // what the client asked for is what it gets
		MaxIdleConns:          0,
		MaxIdleConnsPerHost:   role.IdleConnections,
		IdleConnTimeout:       role.IdleTimeout,
		TLSHandshakeTimeout:   role.ConnectTimeout,
		ResponseHeaderTimeout: role.Timeout,
		ExpectContinueTimeout: time.Second,
		WriteBufferSize:       16 << 10,
		ReadBufferSize:        16 << 10,
		HTTP2: &http.HTTP2Config{SendPingTimeout: role.IdleTimeout, PingTimeout: role.ConnectTimeout,
			WriteByteTimeout: role.StallTimeout},
	}, nil
}

// upstreamConn bounds how long an upstream may take nothing of what is sent to it.
type upstreamConn struct {
	*net.TCPConn
	stall time.Duration
}

func (c upstreamConn) Write(p []byte) (int, error) {
	_ = c.SetWriteDeadline(time.Now().Add(c.stall))
	return c.TCPConn.Write(p)
}

// refuseLocal keeps requests to sites that a domain's record names out of this network: metadata services, other Pods.
func refuseLocal(_ context.Context, _, address string, _ syscall.RawConn) error {
	endpoint, err := netip.ParseAddrPort(address)
	if err != nil {
		return err
	}
	if ip := endpoint.Addr().Unmap().WithZone(""); !public(ip) {
		return fmt.Errorf("%s is no address of the internet", ip)
	}
	return nil
}

// public says whether an address is that of somebody on the internet.
func public(ip netip.Addr) bool {
	if !ip.IsGlobalUnicast() || ip.IsPrivate() || ip.Is6() && !globalSix.Contains(ip) {
		return false
	}
	return !slices.ContainsFunc(special, func(p netip.Prefix) bool { return p.Contains(ip) })
}

// globalSix is what IANA gives out of IPv6; what is outside maps to IPv4 (NAT64: 64:ff9b::/96), is local, or is nobody's.
var globalSix = netip.MustParsePrefix("2000::/3")

// special are ranges of IANA's registries of special-purpose addresses that netip takes for global.
var special = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"),       // This network
	netip.MustParsePrefix("100.64.0.0/10"),   // Shared address space, RFC 6598
	netip.MustParsePrefix("192.0.0.0/24"),    // IETF protocols
	netip.MustParsePrefix("192.0.2.0/24"),    // Documentation
	netip.MustParsePrefix("192.31.196.0/24"), // AS112
	netip.MustParsePrefix("192.52.193.0/24"), // AMT
	netip.MustParsePrefix("192.88.99.0/24"),  // 6to4 relays
	netip.MustParsePrefix("192.175.48.0/24"), // AS112
	netip.MustParsePrefix("198.18.0.0/15"),   // Benchmarks
	netip.MustParsePrefix("198.51.100.0/24"), // Documentation
	netip.MustParsePrefix("203.0.113.0/24"),  // Documentation
	netip.MustParsePrefix("240.0.0.0/4"),     // Reserved
	netip.MustParsePrefix("2001::/23"),       // IETF protocols, Teredo
	netip.MustParsePrefix("2001:db8::/32"),   // Documentation
	netip.MustParsePrefix("2002::/16"),       // 6to4: maps to IPv4
	netip.MustParsePrefix("2620:4f:8000::/48"),
	netip.MustParsePrefix("3fff::/20"), // Documentation
}

func isTimeout(err error) bool {
	var timeout net.Error
	return errors.Is(err, context.DeadlineExceeded) || (errors.As(err, &timeout) && timeout.Timeout())
}
