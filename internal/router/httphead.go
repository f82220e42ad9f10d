package router

import (
	"bytes"
	"errors"
)

// maxHeadBytes bounds the head of an HTTP request on the port without TLS.
const maxHeadBytes = 16 << 10

var (
	errHeadSize   = errors.New("head of the request is larger than 16 KiB")
	errHeadBroken = errors.New("malformed HTTP request")
	errHTTP2      = errors.New("HTTP/2 without TLS is not served")
	errConnect    = errors.New("CONNECT is not served")
	errHostTwice  = errors.New("request has more than one Host")
	errNoHost     = errors.New("request has no Host")
)

// httpHead finds the host in the head of an HTTP/1 request (RFC 9112). The zero value is ready.
//
// Only what decides about the host is checked; all else is the proxy's matter. What two readers could understand in two
// ways is refused: a second Host, a folded line, a space before the colon.
type httpHead struct {
	scanned int // so far there is no end of the head in b
	end     int // behind the head, once it is complete
}

var preface = []byte("PRI * HTTP/2.0\r\n")

// feed looks at b, all bytes that the client has sent so far. It returns done when the head is complete.
func (h *httpHead) feed(b []byte) (done bool, err error) {
	if n := min(len(b), len(preface)); n > 3 && bytes.Equal(b[:n], preface[:n]) {
		return false, errHTTP2
	}
	if len(b) > 0 && !startsRequest(b[0]) {
		return false, errHeadBroken
	}
	for i := max(h.scanned-3, 0); ; {
		n := bytes.IndexByte(b[i:], '\n')
		if n < 0 {
			break
		}
		i += n + 1
		switch {
		case i < len(b) && b[i] == '\n':
			h.end = i + 1
		case i+1 < len(b) && b[i] == '\r' && b[i+1] == '\n':
			h.end = i + 2
		default:
			continue
		}
		if h.end > maxHeadBytes {
			return false, errHeadSize
		}
		return true, nil
	}
	h.scanned = len(b)
	if len(b) >= maxHeadBytes {
		return false, errHeadSize
	}
	return false, nil
}

// startsRequest says whether a method may begin with c; bytes of TLS and other protocols do not.
func startsRequest(c byte) bool { return c >= 'A' && c <= 'Z' || c >= 'a' && c <= 'z' }

// host returns the host that the request is for, with a port if it has one. b is what feed was given last; the result
// points into it. The host of an absolute request target wins over the header (RFC 9112, section 3.2.2).
func (h *httpHead) host(b []byte) ([]byte, error) {
	line, rest := cutLine(b[:h.end])
	target, err := requestTarget(line)
	if err != nil {
		return nil, err
	}
	var host []byte
	found := false
	for {
		line, rest = cutLine(rest)
		if len(line) == 0 {
			break
		}
		colon := bytes.IndexByte(line, ':')
		if colon <= 0 || line[0] == ' ' || line[0] == '\t' || line[colon-1] == ' ' || line[colon-1] == '\t' {
			return nil, errHeadBroken
		}
		if !bytes.EqualFold(line[:colon], []byte("host")) {
			continue
		}
		if found {
			return nil, errHostTwice
		}
		found, host = true, bytes.Trim(line[colon+1:], " \t")
	}
	authority, absolute := authorityOf(target)
	if absolute {
		host = authority
	}
	if len(host) == 0 {
		return nil, errNoHost
	}
	if err := checkName(host); err != nil {
		return nil, errHeadBroken
	}
	return host, nil
}

// cutLine returns the first line without its end, and what follows.
func cutLine(b []byte) (line, rest []byte) {
	n := bytes.IndexByte(b, '\n')
	if n < 0 {
		return b, nil
	}
	return bytes.TrimSuffix(b[:n], []byte("\r")), b[n+1:]
}

func requestTarget(line []byte) ([]byte, error) {
	method, rest, ok := bytes.Cut(line, []byte(" "))
	target, version, ok2 := bytes.Cut(rest, []byte(" "))
	if !ok || !ok2 || len(method) == 0 || len(target) == 0 || !bytes.HasPrefix(version, []byte("HTTP/1.")) || len(version) != len("HTTP/1.x") {
		return nil, errHeadBroken
	}
	if bytes.Equal(method, []byte("CONNECT")) {
		return nil, errConnect
	}
	return target, nil
}

// authorityOf returns the host of an absolute target, like http://shop.example/path.
func authorityOf(target []byte) (authority []byte, absolute bool) {
	if target[0] == '/' || target[0] == '*' {
		return nil, false
	}
	scheme := bytes.Index(target, []byte("://"))
	if scheme < 0 {
		return nil, false
	}
	authority = target[scheme+3:]
	if end := bytes.IndexAny(authority, "/?#"); end >= 0 {
		authority = authority[:end]
	}
	return authority, true
}
