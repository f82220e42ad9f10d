package proxy

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"
)

// FuzzProxyProtocol: a header is read as a second, plain reader reads it; not a byte of what follows is lost or added; what
// is refused whole is refused in every split; and the same header written anew says the same.
func FuzzProxyProtocol(f *testing.F) {
	two := "\r\n\r\n\x00\r\nQUIT\n"
	for _, seed := range []string{
		"PROXY TCP4 203.0.113.7 127.0.0.1 4096 8192\r\nGET / HTTP/1.1\r\n", "PROXY TCP6 2001:db8::7 ::1 4096 8192\r\nx",
		"PROXY TCP6 ::ffff:1.2.3.4 ::1 1 2\r\n", "PROXY TCP4 ::1 ::1 1 2\r\n", "PROXY TCP6 fe80::1%eth0 ::1 1 2\r\n",
		"PROXY UNKNOWN\r\nrest", "PROXY UNKNOWN ffff:f...f:ffff 1 2 3 4 5\r\n", "PROXY UNKNOWN\n", "PROXY TCP4 1.2.3.4 1.2.3.4 01 65536\r\n",
		"PROXY TCP4  1.2.3.4 1.2.3.4 1 2\r\n", "PROXY " + strings.Repeat("x", 120), "PROXYTCP4 1.2.3.4 1.2.3.4 1 2\r\n", "GET / HTTP/1.1\r\n", "\r\n\r\n",
		two + "\x21\x11\x00\x0c\x01\x02\x03\x04\x05\x06\x07\x08\x00\x01\x00\x02rest", two + "\x21\x11\x00\x0b123456789012", two + "\x21\x11\x00\x10123456789012\x04\x00\x01xrest",
		two + "\x21\x21\x00\x24" + strings.Repeat("6", 36) + "rest", two + "\x20\x00\x00\x00rest", two + "\x20\x11\x00\x03abcrest", two + "\x20\x11\xff\xff",
		two + "\x21\x31\x00\xd8" + strings.Repeat("u", 216), two + "\x21\x00\x00\x00", two + "\x22\x11\x00\x0c123456789012", two + "\x21\x13\x00\x0c123456789012",
	} {
		f.Add([]byte(seed), uint8(3))
	}
	f.Fuzz(checkProxyHeader)
}

func checkProxyHeader(t *testing.T, stream []byte, size uint8) {
	want := plainProxyHeader(stream)
	got := proxyHeader(stream, len(stream))
	if got != want {
		t.Fatalf("%q: %+v, want %+v", stream, got, want)
	}
	// Version 1 is to come in one piece; its reader need not wait for the rest.
	split := proxyHeader(stream, int(size)+1)
	if refused := split == (proxied{}); split != want && (!refused || stream[0] != 'P') {
		t.Fatalf("%q in pieces of %d: %+v, want %+v", stream, int(size)+1, split, want)
	}
	if !want.good || want.client == (addressed{}).RemoteAddr().String() {
		return
	}
	again := want
	again.rest = "rest"
	if got := proxyHeader(writeProxyHeader(want.client, "rest"), 1<<20); got != again {
		t.Fatalf("%q, written anew: %+v, want %+v", stream, got, again)
	}
}

// proxied is what a connection says of its client, and what follows the header. It is zero when the header is refused.
type proxied struct {
	good         bool
	client, rest string
}

// proxyHeader reads a stream that comes in pieces as the proxy does.
func proxyHeader(stream []byte, size int) proxied {
	conn := withProxyHeader(addressed{&pieces{rest: stream, size: size}}, everybody)
	rest, err := io.ReadAll(conn)
	if err != nil {
		return proxied{}
	}
	return proxied{true, conn.RemoteAddr().String(), string(rest)}
}

// plainProxyHeader reads a whole stream as the specification says (PROXY protocol, 2.1 and 2.2).
func plainProxyHeader(stream []byte) proxied {
	const most = 4096 // of what follows the first 16 bytes of version 2
	peer := (addressed{}).RemoteAddr().String()
	if rest, ok := bytes.CutPrefix(stream, []byte("\r\n\r\n\x00\r\nQUIT\n")); ok {
		if len(rest) < 4 {
			return proxied{}
		}
		command, family, length := rest[0], rest[1], int(binary.BigEndian.Uint16(rest[2:]))
		if rest = rest[4:]; length > most || length > len(rest) {
			return proxied{}
		}
		block, after := rest[:length], string(rest[length:])
		switch {
		case command == 0x20 && (family == 0 || family>>4 <= 3 && family>>4 > 0 && (family&15 == 1 || family&15 == 2)):
			return proxied{true, peer, after}
		case command == 0x21 && family == 0x11 && length >= 12:
			return proxied{true, netip.AddrPortFrom(netip.AddrFrom4([4]byte(block)), binary.BigEndian.Uint16(block[8:])).String(), after}
		case command == 0x21 && family == 0x21 && length >= 36:
			return proxied{true, (&net.TCPAddr{IP: block[:16], Port: int(binary.BigEndian.Uint16(block[32:]))}).String(), after}
		}
		return proxied{}
	}
	line, after, ok := strings.Cut(string(stream), "\n")
	line, ended := strings.CutSuffix(line, "\r")
	words := strings.Split(line, " ")
	if !ok || !ended || len(line) > 105 || len(words) < 2 || words[0] != "PROXY" {
		return proxied{}
	}
	if words[1] == "UNKNOWN" {
		return proxied{true, peer, after}
	}
	if len(words) != 6 || words[1] != "TCP4" && words[1] != "TCP6" {
		return proxied{}
	}
	for _, word := range words[2:4] {
		if net.ParseIP(word) == nil || strings.Contains(word, ":") != (words[1] == "TCP6") {
			return proxied{}
		}
	}
	for _, word := range words[4:] {
		if n, err := strconv.ParseUint(word, 10, 16); err != nil || strconv.FormatUint(n, 10) != word {
			return proxied{}
		}
	}
	port, _ := strconv.Atoi(words[4])
	return proxied{true, (&net.TCPAddr{IP: net.ParseIP(words[2]), Port: port}).String(), after}
}

// writeProxyHeader writes version 1 for a client.
func writeProxyHeader(client, rest string) []byte {
	from := netip.MustParseAddrPort(client)
	family, to := "TCP4", "127.0.0.1"
	if from.Addr().Is6() {
		family, to = "TCP6", "::1"
	}
	return fmt.Appendf(nil, "PROXY %s %s %s %d 443\r\n%s", family, from.Addr(), to, from.Port(), rest)
}

// pieces is a connection on which a stream comes, so many bytes with each read.
type pieces struct {
	net.Conn
	rest []byte
	size int
}

func (p *pieces) Read(b []byte) (int, error) {
	if len(p.rest) == 0 {
		return 0, io.EOF
	}
	n := copy(b, p.rest[:min(p.size, len(p.rest))])
	p.rest = p.rest[n:]
	return n, nil
}

func (p *pieces) SetReadDeadline(time.Time) error { return nil }
