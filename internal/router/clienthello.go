package router

import (
	"encoding/binary"
	"errors"
)

// maxHelloBytes bounds what a client may send before it is known which cell it is for, record headers included. Hellos
// with post-quantum key shares have less than 2 KiB; crypto/tls itself stops at 64 KiB.
const maxHelloBytes = 64 << 10

const (
	recordHeader    = 5
	recordHandshake = 22
	maxRecord       = 1 << 14 // RFC 8446, section 5.1
	messageHeader   = 4
	typeClientHello = 1
	extServerName   = 0
)

// What is wrong with the first bytes of a connection. They are for the metrics and for who debugs a client.
var (
	errNotTLS       = errors.New("not TLS: the first bytes are no handshake record")
	errSSLv2        = errors.New("an SSLv2 hello: the client is too old")
	errHelloSize    = errors.New("hello is larger than 64 KiB")
	errHelloBroken  = errors.New("malformed ClientHello")
	errNotHello     = errors.New("the first handshake message is no ClientHello")
	errNameTwice    = errors.New("ClientHello names the server twice")
	errNameInvalid  = errors.New("server name is no host name")
	errNoServerName = errors.New("no server name (SNI)")
)

// clientHello finds the server name in a ClientHello (RFC 8446, section 4.1.2; RFC 6066, section 3) that may be split over
// records and packets. It remembers how far it has come, so that a hello that arrives byte by byte costs no more than one
// that arrives at once. The zero value is ready.
//
// With Encrypted ClientHello the name is that of the outer hello, which is all that anybody without the key can see.
type clientHello struct {
	next    int // where the next record begins
	message int // bytes of the handshake message in complete records
	records int
	head    [messageHeader]byte // the first bytes of the message
}

// feed looks at b, all bytes that the client has sent so far. It returns done when the hello is complete.
func (c *clientHello) feed(b []byte) (done bool, err error) {
	for {
		rest := b[min(c.next, len(b)):]
		if err := checkRecord(rest, c.records == 0); err != nil {
			return false, err
		}
		if len(rest) < recordHeader {
			return false, tooLarge(b)
		}
		length := int(binary.BigEndian.Uint16(rest[3:]))
		// The type of the message is looked at early: who talks another protocol shall not be waited for.
		if c.message == 0 && len(rest) > recordHeader && rest[recordHeader] != typeClientHello {
			return false, errNotHello
		}
		if len(rest) < recordHeader+length {
			return false, tooLarge(b)
		}
		if c.message < messageHeader {
			copy(c.head[c.message:], rest[recordHeader:recordHeader+length])
		}
		c.message += length
		c.next += recordHeader + length
		c.records++
		if c.message >= messageHeader {
			want := c.size()
			if want > maxHelloBytes {
				return false, errHelloSize
			}
			if c.message >= want {
				return true, nil
			}
		}
	}
}

func tooLarge(b []byte) error {
	if len(b) >= maxHelloBytes {
		return errHelloSize
	}
	return nil
}

// size of the whole message, its header included.
func (c *clientHello) size() int {
	return messageHeader + int(c.head[1])<<16 + int(c.head[2])<<8 + int(c.head[3])
}

// alone says whether b holds nothing behind the hello. Only then may it be sent a second time: what follows may be early
// data, which is a request.
func (c *clientHello) alone(b []byte) bool { return c.next == len(b) && c.message == c.size() }

// checkRecord looks at as much of a record's header as is there.
func checkRecord(b []byte, first bool) error {
	if len(b) == 0 {
		return nil
	}
	if b[0] != recordHandshake {
		// SSLv2: two bytes of length with the high bit set, then message type 1.
		if first && b[0]&0x80 != 0 && (len(b) < 3 || b[2] == typeClientHello) {
			return errSSLv2
		}
		return errNotTLS
	}
	if len(b) > 1 && b[1] != 3 {
		return errNotTLS
	}
	if len(b) >= recordHeader {
		if length := binary.BigEndian.Uint16(b[3:]); length == 0 || length > maxRecord {
			return errHelloBroken
		}
	}
	return nil
}

// name returns the server name as the client wrote it, empty when it sent none. b is what feed was given last; the result
// points into it, or into new memory when the hello was split over records.
func (c *clientHello) name(b []byte) ([]byte, error) {
	body := b[recordHeader : recordHeader+min(c.message, c.size())]
	if c.records > 1 {
		body = make([]byte, 0, c.message)
		for at := 0; at < c.next; {
			end := at + recordHeader + int(binary.BigEndian.Uint16(b[at+3:]))
			body = append(body, b[at+recordHeader:end]...)
			at = end
		}
		body = body[:c.size()]
	}
	return serverName(body[messageHeader:])
}

// serverName reads the body of a ClientHello.
func serverName(body []byte) ([]byte, error) {
	r := reader{b: body}
	r.skip(2 + 32) // version, random
	r.skip(r.uint8())
	suites := r.uint16()
	r.skip(suites)
	methods := r.uint8()
	r.skip(methods)
	if r.bad || suites == 0 || suites%2 != 0 || methods == 0 {
		return nil, errHelloBroken
	}
	if len(r.b) == 0 {
		return nil, nil // No extensions at all is allowed up to TLS 1.2.
	}
	extensions := reader{b: r.take(r.uint16())}
	if r.bad || len(r.b) != 0 {
		return nil, errHelloBroken
	}
	var name []byte
	seen := false
	for len(extensions.b) > 0 {
		kind := extensions.uint16()
		value := extensions.take(extensions.uint16())
		if extensions.bad {
			return nil, errHelloBroken
		}
		if kind != extServerName {
			continue
		}
		if seen {
			return nil, errNameTwice
		}
		seen = true
		var err error
		if name, err = nameList(value); err != nil {
			return nil, err
		}
	}
	return name, nil
}

// nameList reads the value of the extension server_name.
func nameList(value []byte) ([]byte, error) {
	r := reader{b: value}
	list := reader{b: r.take(r.uint16())}
	if r.bad || len(r.b) != 0 || len(list.b) == 0 {
		return nil, errHelloBroken
	}
	var name []byte
	for len(list.b) > 0 {
		kind := list.uint8()
		entry := list.take(list.uint16())
		if list.bad || len(entry) == 0 {
			return nil, errHelloBroken
		}
		if kind != 0 { // No other type was ever defined.
			continue
		}
		if name != nil {
			return nil, errNameTwice
		}
		name = entry
	}
	return name, checkName(name)
}

// maxName is the longest name that DNS has, with a dot at the end.
const maxName = 254

// checkName refuses what can be no host name, before anything else sees it.
func checkName(name []byte) error {
	if len(name) > maxName {
		return errNameInvalid
	}
	for _, c := range name {
		if c <= ' ' || c >= 0x7f || c == '/' || c == '\\' || c == '@' || c == '"' {
			return errNameInvalid
		}
	}
	return nil
}

// reader takes big-endian fields off b; bad is set when there was too little, and everything is empty from then on.
type reader struct {
	b   []byte
	bad bool
}

func (r *reader) take(n int) []byte {
	if n > len(r.b) {
		r.bad, r.b = true, nil
		return nil
	}
	taken := r.b[:n]
	r.b = r.b[n:]
	return taken
}

func (r *reader) skip(n int) { r.take(n) }

func (r *reader) uint8() int {
	if b := r.take(1); b != nil {
		return int(b[0])
	}
	return 0
}

func (r *reader) uint16() int {
	if b := r.take(2); b != nil {
		return int(binary.BigEndian.Uint16(b))
	}
	return 0
}
