package router

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"math/big"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/pires/go-proxyproto"
)

func threeCells(t *testing.T) (*fleet, map[string]*backend) {
	backends := map[string]*backend{}
	cells := map[string][]*backend{}
	for _, name := range []string{"a", "b", "c"} {
		backends[name] = newBackend(t, say(name))
		cells[name] = []*backend{backends[name]}
	}
	return newFleet(t, cells), backends
}

func TestRoutesByServerName(t *testing.T) {
	eachEngine(t, func(t *testing.T, engine string) {
		f, _ := threeCells(t)
		r := startRouter(t, f, engine, nil)
		for _, cell := range []string{"a", "b", "c"} {
			host := f.host(cell)
			for _, spelling := range []string{host, strings.ToUpper(host)} {
				if got, _ := r.served(spelling); got != cell {
					t.Fatalf("%s is served by %s instead of %s", spelling, got, cell)
				}
			}
			if x := r.explain(host); x.Cell != cell || x.Cells[0].Name != cell || x.Cells[0].State != "up" || x.Version != 1 {
				t.Fatalf("explained as %+v", x)
			}
		}
		if got := r.metric("shopset_router_connections_total", ""); got != 6 {
			t.Errorf("%v connections counted", got)
		}
	})
}

// TestTLSGoesThrough makes real handshakes and sends data both ways: the router has no key, and changes nothing.
func TestTLSGoesThrough(t *testing.T) {
	certificate := selfSigned(t)
	eachEngine(t, func(t *testing.T, engine string) {
		b := newBackend(t, func(conn net.Conn, first *proxied) {
			server := tls.Server(&rewound{conn, bytes.NewReader(first.rest)}, &tls.Config{Certificates: []tls.Certificate{certificate}})
			_, _ = io.Copy(server, server)
			_ = server.Close()
		})
		f := newFleet(t, map[string][]*backend{"a": {b}})
		r := startRouter(t, f, engine, nil)
		for range 3 {
			conn, err := tls.Dial("tcp", r.address(kindTLS), &tls.Config{ServerName: "shop.example", InsecureSkipVerify: true})
			if err != nil {
				t.Fatal(err)
			}
			sent := make([]byte, 3<<20)
			_, _ = rand.Read(sent)
			go func() {
				_, _ = conn.Write(sent)
				_ = conn.CloseWrite()
			}()
			got, err := io.ReadAll(conn)
			if err != nil || !bytes.Equal(got, sent) {
				t.Fatalf("%d of %d bytes came back: %v", len(got), len(sent), err)
			}
			conn.Close()
		}
	})
}

// rewound is a connection of which some was read already.
type rewound struct {
	net.Conn
	first *bytes.Reader
}

func (r *rewound) Read(b []byte) (int, error) {
	if r.first.Len() > 0 {
		return r.first.Read(b)
	}
	return r.Conn.Read(b)
}

func selfSigned(t *testing.T) tls.Certificate {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"shop.example"}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func TestHTTPByHost(t *testing.T) {
	eachEngine(t, func(t *testing.T, engine string) {
		f, _ := threeCells(t)
		r := startRouter(t, f, engine, nil)
		for _, cell := range []string{"a", "b", "c"} {
			conn, err := net.Dial("tcp", r.address(kindHTTP))
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			_, _ = io.WriteString(conn, "GET / HTTP/1.1\r\nHost: "+f.host(cell)+":80\r\n\r\n")
			if got := line(t, conn); !strings.HasPrefix(got, cell+" 127.0.0.1:") {
				t.Fatalf("got %q, want it from %s", got, cell)
			}
		}
	})
}

func TestRefusals(t *testing.T) {
	hostless := hello(t, &tls.Config{InsecureSkipVerify: true})
	eachEngine(t, func(t *testing.T, engine string) {
		f, backends := threeCells(t)
		r := startRouter(t, f, engine, func(c *Config) { c.Limits.HelloTimeout = 500 * time.Millisecond })
		for _, test := range []struct {
			port         kind
			send, reason string
			want         string // begin of the answer
		}{
			{kindTLS, string(hostless), "no_name", "\x15\x03\x03\x00\x02\x02\x70"},
			{kindTLS, "GET / HTTP/1.1\r\n\r\n", "not_tls", ""},
			{kindTLS, "\x80\x2e\x01\x00\x02", "sslv2", ""},
			{kindTLS, "\x16\x03\x01\x00", "slow", ""},
			{kindTLS, "", "slow", ""},
			{kindHTTP, "GET / HTTP/1.1\r\nHost: a.example\r\nHost: b.example\r\n\r\n", "host_twice", "HTTP/1.1 400 "},
			{kindHTTP, "GET / HTTP/1.1\r\n\r\n", "no_host", "HTTP/1.1 400 "},
			{kindHTTP, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "http2", "HTTP/1.1 505 "},
			{kindHTTP, "GET / HTTP/1.1\r\nHost: a.exa", "slow", "HTTP/1.1 408 "},
			{kindHTTP, "GET / HTTP/1.1\r\nX: " + strings.Repeat("y", maxHeadBytes), "head_size", "HTTP/1.1 431 "},
		} {
			before := r.metric("shopset_router_refused_total", `reason="`+test.reason+`"`)
			conn, err := net.Dial("tcp", r.address(test.port))
			if err != nil {
				t.Fatal(err)
			}
			_ = conn.SetDeadline(time.Now().Add(patience))
			_, _ = io.WriteString(conn, test.send)
			got, err := io.ReadAll(conn)
			conn.Close()
			if errors.Is(err, context.DeadlineExceeded) || !strings.HasPrefix(string(got), test.want) || (test.want == "" && len(got) > 0) {
				t.Errorf("%s: answer %q (%v), want %q", test.reason, got, err, test.want)
			}
			eventually(t, test.reason+" is counted", func() bool {
				return r.metric("shopset_router_refused_total", `reason="`+test.reason+`"`) == before+1
			})
		}
		for name, b := range backends {
			if b.count() != 0 {
				t.Errorf("%s got %d connections", name, b.count())
			}
		}
	})
}

func TestDefaultHost(t *testing.T) {
	eachEngine(t, func(t *testing.T, engine string) {
		f, _ := threeCells(t)
		r := startRouter(t, f, engine, func(c *Config) { c.TLS.DefaultHost = strings.ToUpper(f.host("b")) + "." })
		if got, _ := r.served(""); got != "b" {
			t.Fatalf("served by %s", got)
		}
	})
}

// TestBehindLoadBalancer sends PROXY headers of both versions, in pieces.
func TestBehindLoadBalancer(t *testing.T) {
	eachEngine(t, func(t *testing.T, engine string) {
		f, _ := threeCells(t)
		r := startRouter(t, f, engine, func(c *Config) {
			c.TLS.ProxyProtocol = []Network{{netip.MustParsePrefix("127.0.0.0/8")}}
			c.Limits.PerSource = 1
		})
		host := f.host("c")
		for version, client := range map[byte]string{1: "192.0.2.7:4711", 2: "[2001:db8::7]:4711"} {
			from := net.TCPAddrFromAddrPort(netip.MustParseAddrPort(client))
			to := &net.TCPAddr{IP: net.ParseIP("2001:db8::1"), Port: 443}
			if from.IP.To4() != nil {
				to.IP = net.ParseIP("192.0.2.1")
			}
			header, err := proxyproto.HeaderProxyFromAddrs(version, from, to).Format()
			if err != nil {
				t.Fatal(err)
			}
			conn, err := net.Dial("tcp", r.address(kindTLS))
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			for _, b := range append(header, hello(t, &tls.Config{ServerName: host, InsecureSkipVerify: true})...) {
				_, _ = conn.Write([]byte{b})
			}
			if got := line(t, conn); got != "c "+client {
				t.Fatalf("version %d: %q", version, got)
			}
		}
		conn := r.connect(host) // Without a header.
		if got, err := tryLine(conn); err == nil {
			t.Fatalf("a connection without a PROXY header got %q", got)
		}
	})
}

// TestLoadBalancerIsNoSource lets one client of a load balancer say nothing: the others are served, each within a limit of its own.
func TestLoadBalancerIsNoSource(t *testing.T) {
	eachEngine(t, func(t *testing.T, engine string) {
		f, _ := threeCells(t)
		r := startRouter(t, f, engine, func(c *Config) {
			c.TLS.ProxyProtocol = []Network{{netip.MustParsePrefix("127.0.0.0/8")}}
			c.Limits.PerSource = 1
			c.Limits.HelloTimeout = time.Hour
		})
		say := func(client string, hello []byte) net.Conn {
			conn, err := net.Dial("tcp", r.address(kindTLS))
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { conn.Close() })
			_ = conn.SetDeadline(time.Now().Add(patience))
			header := appendProxyV2(nil, netip.MustParseAddrPort(client), netip.MustParseAddrPort("192.0.2.1:443"))
			_, _ = conn.Write(append(header, hello...))
			return conn
		}
		silent, err := net.Dial("tcp", r.address(kindTLS))
		if err != nil {
			t.Fatal(err)
		}
		defer silent.Close()
		host := f.host("a")
		hello := hello(t, &tls.Config{ServerName: host, InsecureSkipVerify: true})
		say("192.0.2.7:1", hello[:9])
		eventually(t, "both have arrived", func() bool { return r.limiter.total.Load() == 2 })
		line(t, say("192.0.2.8:1", hello))
		// A second one of the slow client is one too many, although the first has not finished its hello.
		say("192.0.2.7:2", hello[:9])
		eventually(t, "one of two is refused", func() bool { return r.metric("shopset_router_refused_total", `reason="source"`) == 1 })
	})
}

func TestProxyHeaderIsWhatTheLibraryReads(t *testing.T) {
	for _, pair := range [][2]string{{"192.0.2.1:1", "192.0.2.2:443"}, {"[2001:db8::1]:65535", "[2001:db8::2]:8443"}, {"192.0.2.1:1", "[2001:db8::2]:443"}, {"[::ffff:192.0.2.1]:7", "192.0.2.2:443"}} {
		client, called := netip.MustParseAddrPort(pair[0]), netip.MustParseAddrPort(pair[1])
		b := appendProxyV2(nil, client, called)
		header, err := proxyproto.Read(bufio.NewReader(bytes.NewReader(b)))
		if err != nil {
			t.Fatal(err)
		}
		got := header.SourceAddr.(*net.TCPAddr).AddrPort()
		if unmapped(got) != unmapped(client) || unmapped(header.DestinationAddr.(*net.TCPAddr).AddrPort()) != unmapped(called) {
			t.Errorf("%v became %v → %v", pair, header.SourceAddr, header.DestinationAddr)
		}
		if length, back, _, err := proxyHeader(append(b, 22, 3)); length != len(b) || back != unmapped(client) || err != nil {
			t.Errorf("read back as %d %v %v", length, back, err)
		}
	}
	if header, err := proxyproto.Read(bufio.NewReader(bytes.NewReader(appendProxyLocal(nil)))); err != nil || !header.Command.IsLocal() {
		t.Error(header, err)
	}
}

func TestLimitBySource(t *testing.T) {
	eachEngine(t, func(t *testing.T, engine string) {
		f, _ := threeCells(t)
		r := startRouter(t, f, engine, func(c *Config) { c.Limits.PerSource = 2 })
		host := f.host("a")
		first, second := r.connect(host), r.connect(host)
		line(t, first)
		line(t, second)
		third, err := net.Dial("tcp", r.address(kindTLS))
		if err != nil {
			t.Fatal(err)
		}
		defer third.Close()
		if _, err := third.Read(make([]byte, 1)); err == nil {
			t.Fatal("a third connection is served")
		}
		first.Close()
		eventually(t, "another one after the first has left", func() bool {
			conn := r.connect(host)
			defer conn.Close()
			_, err := tryLine(conn)
			return err == nil
		})
	})
}

// TestFullRouterMakesClientsWait checks that nobody is turned away: who is one too many waits until there is room.
func TestFullRouterMakesClientsWait(t *testing.T) {
	eachEngine(t, func(t *testing.T, engine string) {
		f, _ := threeCells(t)
		r := startRouter(t, f, engine, func(c *Config) { c.Limits.Connections = 3; c.Loops = 1 })
		var open []*net.TCPConn
		for range 3 {
			open = append(open, r.connect(f.host("a")))
			line(t, open[len(open)-1])
		}
		waiting := r.connect(f.host("b"))
		eventually(t, "a pause", func() bool { return r.metric("shopset_router_accept_pauses_total", "") > 0 })
		open[0].Close()
		if got := line(t, waiting); !strings.HasPrefix(got, "b ") {
			t.Fatalf("got %q", got)
		}
	})
}
