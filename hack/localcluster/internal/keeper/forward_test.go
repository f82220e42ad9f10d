package keeper

import (
	"bytes"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestServePassesHalfClose sends, closes its sending side, and still wants the answer.
func TestServePassesHalfClose(t *testing.T) {
	echo := listen(t)
	go func() {
		conn, err := echo.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		data, _ := io.ReadAll(conn) // ends only when the half-close arrives
		_, _ = conn.Write(bytes.ToUpper(data))
	}()
	front := listen(t)
	go serve(front, echo.Addr().String())
	conn := dial(t, front)
	if _, err := conn.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	if err := conn.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	answer, err := io.ReadAll(conn)
	if err != nil || string(answer) != "HELLO" {
		t.Errorf("answer %q, %v", answer, err)
	}
}

// TestServeRefuses wants a reset, and no polite end, from a target that is not there.
func TestServeRefuses(t *testing.T) {
	gone := listen(t)
	target := gone.Addr().String()
	_ = gone.Close()
	front := listen(t)
	go serve(front, target)
	conn, err := net.Dial("tcp4", front.Addr().String())
	if err != nil {
		return // refused at once
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	if n, err := conn.Read(make([]byte, 1)); !errors.Is(err, unix.ECONNRESET) {
		t.Errorf("read %d, %v; want a reset", n, err)
	}
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	return listener
}

func dial(t *testing.T, listener net.Listener) *net.TCPConn {
	t.Helper()
	conn, err := net.Dial("tcp4", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	return conn.(*net.TCPConn)
}

// TestRelayFailsAnswers wants an answer, that its server failed, from a relay without a server.
func TestRelayFailsAnswers(t *testing.T) {
	conn, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.MustParseAddrPort("127.0.0.1:0")))
	if err != nil {
		t.Fatal(err)
	}
	gone, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	resolver := netip.MustParseAddrPort(gone.LocalAddr().String())
	_ = gone.Close()
	go relayUDP(conn, resolver)
	query := make([]byte, dnsHeader)
	query[0], query[1] = 0x12, 0x34
	answer, err := Exchange(query, netip.MustParseAddrPort(conn.LocalAddr().String()), 5*time.Second)
	if err != nil || answer[1] != 0x34 || answer[2]&0x80 == 0 || answer[3]&0x0f != 2 {
		t.Errorf("answer %x, %v; want SERVFAIL to the same query", answer, err)
	}
}

// TestTheRelayHearsOnlyItsLink asks by another interface than the one that is listened on.
func TestTheRelayHearsOnlyItsLink(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root to choose an interface")
	}
	interfaces, err := net.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	other := ""
	for _, i := range interfaces {
		if i.Flags&net.FlagLoopback == 0 {
			other = i.Name
		}
	}
	if other == "" {
		t.Skip("there is only the loopback")
	}
	for link, heard := range map[string]bool{"lo": true, other: false} {
		// The loopback leads to any of these addresses.
		packets, listener, err := listenOn(link, netip.MustParseAddrPort("127.0.0.1:0"))
		if err != nil {
			t.Fatal(err)
		}
		defer packets.Close()
		defer listener.Close()
		conn, err := net.Dial("tcp4", listener.Addr().String())
		if err == nil {
			_ = conn.Close()
		}
		if (err == nil) != heard {
			t.Errorf("TCP over the loopback to what listens on %s: %v", link, err)
		}
		query, err := net.Dial("udp4", packets.LocalAddr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer query.Close()
		_ = query.SetDeadline(time.Now().Add(10 * time.Second))
		_, _ = query.Write([]byte("x"))
		if !heard {
			// Nobody listens there, says the kernel.
			if _, err := query.Read(make([]byte, 1)); !errors.Is(err, unix.ECONNREFUSED) {
				t.Errorf("UDP over the loopback to what listens on %s: %v", link, err)
			}
			continue
		}
		_ = packets.SetDeadline(time.Now().Add(10 * time.Second))
		if _, _, err := packets.ReadFromUDPAddrPort(make([]byte, 1)); err != nil {
			t.Errorf("UDP over the loopback to what listens on %s: %v", link, err)
		}
	}
}
