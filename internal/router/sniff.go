package router

import (
	"errors"
	"net/netip"
	"slices"

	"github.com/shopset/shopset/internal/placement"
)

// kind of a port.
type kind uint8

const (
	kindTLS kind = iota
	kindHTTP
	kinds
)

func (k kind) String() string {
	if k == kindHTTP {
		return "http"
	}
	return "tls"
}

// sniffer reads the first bytes of a connection until it knows the host. Everything that the client has sent stays with the
// caller; the sniffer only remembers how far it has looked.
type sniffer struct {
	kind kind
	// behind is set while a PROXY header must come first.
	behind bool
	// begin is where the client's own bytes begin, behind the PROXY header.
	begin int
	// client and called are the addresses that a PROXY header told, if there was one.
	client, called netip.AddrPort
	tls            clientHello
	http           httpHead
}

// feed looks at b, all bytes so far. When done, host is in its normal form, and empty if the client told none.
func (s *sniffer) feed(b []byte) (host string, done bool, err error) {
	if s.behind {
		length, client, called, err := proxyHeader(b)
		if length == 0 || err != nil {
			return "", false, err
		}
		s.behind, s.begin, s.client, s.called = false, length, client, called
	}
	b = b[s.begin:]
	var name []byte
	if s.kind == kindHTTP {
		if done, err = s.http.feed(b); !done {
			return "", false, err
		}
		name, err = s.http.host(b)
	} else {
		if done, err = s.tls.feed(b); !done {
			return "", false, err
		}
		name, err = s.tls.name(b)
	}
	if err != nil || len(name) == 0 {
		return "", true, err
	}
	host, err = placement.Normalise(string(name))
	if err != nil {
		return "", true, errNameInvalid
	}
	return host, true, nil
}

// replayable says whether b, what was given to feed last, may be sent to a second endpoint after a first one got it: a
// ClientHello alone asks for nothing, a request does.
func (s *sniffer) replayable(b []byte) bool { return s.kind == kindTLS && s.tls.alone(b[s.begin:]) }

// limit of the bytes before the host is known.
func (s *sniffer) limit() int {
	if s.kind == kindHTTP {
		return maxHeadBytes + maxProxyV2
	}
	return maxHelloBytes + maxProxyV2
}

// refusal is what a client gets before its connection is closed: a fatal TLS alert (RFC 8446, section 6) or a short answer.
func refusal(k kind, err error) string {
	is := func(list ...error) bool {
		return slices.ContainsFunc(list, func(one error) bool { return errors.Is(err, one) })
	}
	if k == kindTLS {
		const begin = "\x15\x03\x03\x00\x02\x02"
		switch {
		case is(errNoServerName, errNameInvalid, errNameTwice):
			return begin + "\x70" // unrecognized_name
		case is(errHelloBroken, errNotHello, errHelloSize):
			return begin + "\x32" // decode_error
		case is(errNotTLS, errSSLv2, errProxyMissing, errProxyBroken, errSlow, errFull):
			return ""
		default:
			return begin + "\x50" // internal_error
		}
	}
	status := "503 Service Unavailable"
	switch {
	case is(errHeadBroken, errHostTwice, errNoHost, errNameInvalid):
		status = "400 Bad Request"
	case is(errHeadSize):
		status = "431 Request Header Fields Too Large"
	case is(errHTTP2):
		status = "505 HTTP Version Not Supported"
	case is(errConnect):
		status = "405 Method Not Allowed"
	case is(errSlow):
		status = "408 Request Timeout"
	case is(errProxyMissing, errProxyBroken, errFull):
		return ""
	}
	return "HTTP/1.1 " + status + "\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
}
