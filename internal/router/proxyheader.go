package router

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"

	"github.com/pires/go-proxyproto"
)

var (
	errProxyMissing = errors.New("a trusted load balancer sent no PROXY header")
	errProxyBroken  = errors.New("malformed PROXY header")
)

// proxySignature begins a PROXY header of version 2 (section 2.2 of the protocol's text).
const proxySignature = "\r\n\r\n\x00\r\nQUIT\n"

const (
	proxyFixed = len(proxySignature) + 4
	// maxSentProxy is the longest header that is sent: that of IPv6.
	maxSentProxy = proxyFixed + 36
	// maxProxyV1 is the longest header of version 1, its line end included.
	maxProxyV1 = 107
	// maxProxyV2 bounds what is taken of version 2; load balancers add a few hundred bytes of their own.
	maxProxyV2 = 4 << 10
)

// appendProxyV2 appends the header that tells the endpoint who the client is, and which address it called.
func appendProxyV2(b []byte, client, called netip.AddrPort) []byte {
	b = append(b, proxySignature...)
	from, to := client.Addr().Unmap(), called.Addr().Unmap()
	if from.Is4() && to.Is4() {
		b = append(b, 0x21, 0x11, 0, 12)
		f, t := from.As4(), to.As4()
		b = append(append(b, f[:]...), t[:]...)
	} else {
		b = append(b, 0x21, 0x21, 0, 36)
		f, t := from.As16(), to.As16()
		b = append(append(b, f[:]...), t[:]...)
	}
	b = binary.BigEndian.AppendUint16(b, client.Port())
	return binary.BigEndian.AppendUint16(b, called.Port())
}

// appendProxyLocal appends the header of a connection that the router makes for itself.
func appendProxyLocal(b []byte) []byte { return append(append(b, proxySignature...), 0x20, 0, 0, 0) }

// proxyHeader reads a PROXY header of version 1 or 2 from the begin of b. It returns the length of the header, 0 as long as
// more is wanted, and the addresses that it tells; they are invalid if the connection is the load balancer's own.
func proxyHeader(b []byte) (length int, client, called netip.AddrPort, err error) {
	length, err = proxyLength(b)
	if length == 0 || err != nil {
		return 0, client, called, err
	}
	header, err := proxyproto.Read(bufio.NewReaderSize(bytes.NewReader(b[:length]), length))
	if err != nil {
		return 0, client, called, errProxyBroken
	}
	if header.Command.IsLocal() || header.TransportProtocol.IsUnspec() {
		return length, client, called, nil
	}
	from, ok := header.SourceAddr.(*net.TCPAddr)
	to, ok2 := header.DestinationAddr.(*net.TCPAddr)
	if !ok || !ok2 {
		return 0, client, called, errProxyBroken
	}
	return length, unmapped(from.AddrPort()), unmapped(to.AddrPort()), nil
}

func unmapped(a netip.AddrPort) netip.AddrPort { return netip.AddrPortFrom(a.Addr().Unmap(), a.Port()) }

func proxyLength(b []byte) (int, error) {
	const v1 = "PROXY "
	switch {
	case bytes.HasPrefix(b, []byte(v1)):
		if end := bytes.Index(b[:min(len(b), maxProxyV1)], []byte("\r\n")); end >= 0 {
			return end + 2, nil
		}
		if len(b) >= maxProxyV1 {
			return 0, errProxyBroken
		}
	case bytes.HasPrefix(b, []byte(proxySignature)):
		if len(b) < proxyFixed {
			return 0, nil
		}
		length := proxyFixed + int(binary.BigEndian.Uint16(b[proxyFixed-2:]))
		if length > maxProxyV2 {
			return 0, errProxyBroken
		}
		if len(b) >= length {
			return length, nil
		}
	case len(b) < len(proxySignature) && (bytes.HasPrefix([]byte(v1), b) || bytes.HasPrefix([]byte(proxySignature), b)):
	default:
		return 0, errProxyMissing
	}
	return 0, nil
}
