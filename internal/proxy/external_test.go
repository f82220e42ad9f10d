package proxy

import (
	"context"
	"io"
	"net"
	"net/netip"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

// TestExternalSitesAreNotHere: what a record names as its upstream is on the internet, not in any network that this machine
// is in, not by way of a translation either.
func TestExternalSitesAreNotHere(t *testing.T) {
	for address, want := range map[string]bool{
		"93.184.216.34": true, "8.8.8.8": true, "2606:4700::1111": true, "2a00:1450:4001::1": true, "::ffff:8.8.8.8": true,
		"127.0.0.1": false, "0.0.0.0": false, "0.1.2.3": false, "10.0.0.1": false, "172.16.0.1": false, "192.168.1.1": false, "169.254.169.254": false,
		"100.64.0.1": false, "192.0.0.8": false, "192.0.2.1": false, "192.88.99.1": false, "198.18.0.1": false, "198.19.255.255": false,
		"198.51.100.1": false, "203.0.113.1": false, "224.0.0.1": false, "240.0.0.1": false, "255.255.255.255": false,
		"::": false, "::1": false, "::ffff:10.0.0.1": false, "::10.0.0.1": false, "64:ff9b::10.0.0.1": false, "64:ff9b:1::1": false, "100::1": false,
		"2001::1": false, "2001:db8::1": false, "2002:a00:1::1": false, "3fff::1": false, "5f00::1": false, "fc00::1": false, "fe80::1%eth0": false, "fec0::1": false, "ff02::1": false,
	} {
		err := refuseLocal(t.Context(), "tcp", net.JoinHostPort(address, "443"), nil)
		if (err == nil) != want {
			t.Errorf("%s: %v, want that it may be reached: %v", address, err, want)
		}
		if _, err := netip.ParseAddr(address); err != nil {
			t.Fatal(err)
		}
	}
}

// TestIdleConnectionsToExternalSitesEnd as those to others do.
func TestIdleConnectionsToExternalSitesEnd(t *testing.T) {
	x := newExternals(newMetrics(prometheus.NewRegistry(), &connections{}, 0))
	ctx, end := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { defer close(ended); x.run(ctx, 1) }()
	defer func() { end(); <-ended }()
	kept := x.role("http://site.example").upstreams[0].direct
	kept.keep = 0
	here, there := net.Pipe()
	kept.put(&directConn{Conn: here, address: "site.example:80"})
	if _, err := io.ReadAll(there); err != nil {
		t.Error(err)
	}
}
