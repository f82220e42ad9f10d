// Package framing checks that a stream of HTTP/1.1 requests (RFC 9112) can be read in one way only.
//
// Whatever two readers may understand differently lets a client smuggle a request past one of them: two lengths, a
// length beside chunked, a bare line feed, a folded line, a space before a colon, NUL. net/http reads some of these
// in its own way; others behind the proxy may read them in theirs. A Checker refuses them all.
//
// It promises: a stream that passes has, for each request, one method, one target, one version, one way to find the
// end of the body, and where the target is absolute, one host. It holds no more than one line.
//
// Algorithm: a state machine over the bytes: line by line through request line, headers and trailers; counting through
// bodies. Limits: a line has MaxLine bytes; the size of a chunk has 15 digits.
package framing

import (
	"bytes"
	"errors"
	"strings"
)

// MaxLine bounds a line, in bytes.
const MaxLine = 1 << 20

// Checker follows one connection.
type Checker struct {
	state state
	line  []byte // of the line that has begun
	left  int64  // bytes of the body or chunk

	target, version string
	length          int64
	lengths         int
	hosts           int
	host            string
	chunked         bool
	codings         int
}

type state int

const (
	requestLine state = iota
	header
	body
	chunkSize
	chunkEnd
	trailer
	through
)

// Errors say what is wrong.
var (
	errLineEnd   = errors.New("a line does not end in CR LF")
	errControl   = errors.New("a control character")
	errLong      = errors.New("a line that is too long")
	errRequest   = errors.New("a request line that is none")
	errFolded    = errors.New("a folded header line")
	errName      = errors.New("a header line without a name and a colon")
	errLengths   = errors.New("more than one Content-Length, or one that is no number")
	errBoth      = errors.New("Content-Length and Transfer-Encoding")
	errCoding    = errors.New("a Transfer-Encoding that is not chunked")
	errHost      = errors.New("not exactly one host")
	errChunkSize = errors.New("a chunk without a proper size")
)

// Through lets everything pass from here on: the connection speaks another protocol.
func (c *Checker) Through() { c.state = through }

// Between says whether a request has not begun yet.
func (c *Checker) Between() bool { return c.state == requestLine && len(c.line) == 0 }

// Check reads on. It returns how many of the bytes are good; what follows them is not if err says so.
func (c *Checker) Check(p []byte) (good int, err error) {
	for good < len(p) {
		switch c.state {
		case through:
			return len(p), nil
		case body:
			n := min(c.left, int64(len(p)-good))
			good += int(n)
			if c.left -= n; c.left == 0 {
				if c.chunked {
					c.state = chunkEnd
				} else {
					c.next()
				}
			}
			continue
		}
		if len(c.line) > 0 && c.line[len(c.line)-1] == '\r' && p[good] != '\n' {
			return good, errControl
		}
		end := bytes.IndexByte(p[good:], '\n')
		if end < 0 {
			if len(c.line)+len(p)-good > MaxLine {
				return good, errLong
			}
			if i := controls(p[good:], true); i >= 0 {
				return good + i, errControl
			}
			c.line = append(c.line, p[good:]...)
			return len(p), nil
		}
		line := p[good : good+end+1]
		if len(c.line)+len(line) > MaxLine {
			return good, errLong
		}
		if len(c.line) > 0 {
			c.line = append(c.line, line...)
			line = c.line
		}
		if err := c.take(line); err != nil {
			return good, err
		}
		c.line = c.line[:0]
		good += end + 1
	}
	return good, nil
}

// controls returns where the first character is that no line may hold, or -1. A CR at the very end of what has come
// may be that of the line's end.
func controls(line []byte, open bool) int {
	for i, c := range line {
		if c < ' ' && c != '\t' && (c != '\r' || !open || i < len(line)-1) || c == 0x7f {
			return i
		}
	}
	return -1
}

// take reads a line with its end.
func (c *Checker) take(line []byte) error {
	text, ok := bytes.CutSuffix(line, []byte("\r\n"))
	if !ok {
		return errLineEnd
	}
	if controls(text, false) >= 0 {
		return errControl
	}
	switch c.state {
	case requestLine:
		return c.request(text)
	case header, trailer:
		if len(text) > 0 {
			return c.field(text)
		}
		if c.state == trailer {
			c.next()
			return nil
		}
		return c.headEnds()
	case chunkSize:
		return c.chunk(text)
	default: // chunkEnd
		if len(text) > 0 {
			return errChunkSize
		}
		c.state = chunkSize
		return nil
	}
}

func (c *Checker) next() { *c = Checker{line: c.line[:0]} }

// request reads METHOD SP TARGET SP VERSION.
func (c *Checker) request(text []byte) error {
	first := bytes.IndexByte(text, ' ')
	last := bytes.LastIndexByte(text, ' ')
	if first <= 0 || last <= first+1 || bytes.IndexByte(text[first+1:last], ' ') >= 0 || bytes.IndexByte(text, '\t') >= 0 || !token(text[:first]) {
		return errRequest
	}
	c.version = string(text[last+1:])
	if c.version != "HTTP/1.1" && c.version != "HTTP/1.0" {
		return errRequest
	}
	if target := text[first+1 : last]; target[0] != '/' {
		c.target = string(target)
	}
	c.state = header
	return nil
}

// field reads a header line.
func (c *Checker) field(text []byte) error {
	if text[0] == ' ' || text[0] == '\t' {
		return errFolded
	}
	colon := bytes.IndexByte(text, ':')
	if colon <= 0 || !token(text[:colon]) {
		return errName
	}
	if c.state == trailer {
		return nil
	}
	value := func() string { return string(bytes.Trim(text[colon+1:], " \t")) }
	switch colon {
	case len("Host"):
		if strings.EqualFold(string(text[:colon]), "Host") {
			c.hosts++
			c.host = value()
		}
	case len("Content-Length"):
		if strings.EqualFold(string(text[:colon]), "Content-Length") {
			if c.lengths++; c.lengths > 1 {
				return errLengths
			}
			return c.setLength(value())
		}
	case len("Transfer-Encoding"):
		if strings.EqualFold(string(text[:colon]), "Transfer-Encoding") {
			if c.codings++; c.codings > 1 || !strings.EqualFold(value(), "chunked") {
				return errCoding
			}
			c.chunked = true
		}
	}
	return nil
}

func (c *Checker) setLength(text string) error {
	if text == "" || len(text) > 18 {
		return errLengths
	}
	for _, digit := range []byte(text) {
		if digit < '0' || digit > '9' {
			return errLengths
		}
		c.length = c.length*10 + int64(digit-'0')
	}
	return nil
}

// headEnds decides what follows the headers (RFC 9112, 6.3).
func (c *Checker) headEnds() error {
	switch {
	case c.chunked && c.lengths > 0:
		return errBoth
	case c.chunked && c.version == "HTTP/1.0":
		return errCoding
	case c.hosts > 1 || c.hosts == 0 && c.version == "HTTP/1.1":
		return errHost
	}
	if _, rest, absolute := strings.Cut(c.target, "://"); absolute {
		authority := rest
		if end := strings.IndexAny(rest, "/?#"); end >= 0 {
			authority = rest[:end]
		}
		if c.hosts > 0 && !strings.EqualFold(authority, c.host) {
			return errHost
		}
	}
	switch {
	case c.chunked:
		c.state = chunkSize
	case c.length > 0:
		c.left, c.state = c.length, body
	default:
		c.next()
	}
	return nil
}

// chunk reads SIZE[;EXTENSION].
func (c *Checker) chunk(text []byte) error {
	size, _, _ := bytes.Cut(text, []byte(";"))
	if len(size) == 0 || len(size) > 15 {
		return errChunkSize
	}
	c.left = 0
	for _, digit := range size {
		switch {
		case digit >= '0' && digit <= '9':
			digit -= '0'
		case digit|0x20 >= 'a' && digit|0x20 <= 'f':
			digit = digit | 0x20 - 'a' + 10
		default:
			return errChunkSize
		}
		c.left = c.left<<4 | int64(digit)
	}
	c.state = body
	if c.left == 0 {
		c.state = trailer
	}
	return nil
}

// tokens are the characters of a token (RFC 9110, 5.6.2).
var tokens = func() (table [256]bool) {
	for _, c := range []byte("!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz") {
		table[c] = true
	}
	return table
}()

func token(text []byte) bool {
	for _, c := range text {
		if !tokens[c] {
			return false
		}
	}
	return len(text) > 0
}
