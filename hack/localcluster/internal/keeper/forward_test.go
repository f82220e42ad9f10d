package keeper

import (
	"bytes"
	"errors"
	"io"
	"net"
	"net/netip"
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
	go relayUDP(conn, resolver, netip.Addr.IsLoopback)
	query := make([]byte, dnsHeader)
	query[0], query[1] = 0x12, 0x34
	answer, err := Exchange(query, netip.MustParseAddrPort(conn.LocalAddr().String()), 5*time.Second)
	if err != nil || answer[1] != 0x34 || answer[2]&0x80 == 0 || answer[3]&0x0f != 2 {
		t.Errorf("answer %x, %v; want SERVFAIL to the same query", answer, err)
	}
}

// TestInsiders: a connection from elsewhere is closed, and the next one is taken.
func TestInsiders(t *testing.T) {
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	ours := netip.MustParseAddr("127.0.0.2")
	dial := func(from netip.Addr) net.Conn {
		dialer := net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(from, 0))}
		conn, err := dialer.DialContext(t.Context(), "tcp4", listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		return conn
	}
	other := dial(netip.MustParseAddr("127.0.0.3"))
	defer other.Close()
	mine := dial(ours)
	defer mine.Close()
	conn, err := insiders{listener, func(from netip.Addr) bool { return from == ours }}.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if conn.RemoteAddr().String() != mine.LocalAddr().String() {
		t.Fatalf("took the connection from %s", conn.RemoteAddr())
	}
	if n, err := other.Read(make([]byte, 1)); n > 0 || err == nil {
		t.Fatal("the other connection is still open")
	}
}
