package router

import (
	"bufio"
	"bytes"
	"errors"
	"net/http"
	"strings"
	"testing"
)

func headHost(b []byte, chunk int) (host string, done bool, err error) {
	var h httpHead
	for n := min(chunk, len(b)); ; n = min(n+chunk, len(b)) {
		done, err := h.feed(b[:n])
		if err != nil {
			return "", false, err
		}
		if done {
			host, err := h.host(b[:n])
			return string(host), true, err
		}
		if n == len(b) {
			return "", false, nil
		}
	}
}

func TestHTTPHead(t *testing.T) {
	for _, test := range []struct {
		name, head, want string
		err              error
		more             bool
	}{
		{"plain", "GET / HTTP/1.1\r\nUser-Agent: x\r\nHost: a.example\r\n\r\n", "a.example", nil, false},
		{"with a port and spaces", "GET / HTTP/1.1\r\nhOST:  a.example:8080 \r\n\r\nbody\n\n", "a.example:8080", nil, false},
		{"line feeds alone", "GET / HTTP/1.0\nHost: a.example\n\n", "a.example", nil, false},
		{"absolute", "GET http://b.example:80/x?y HTTP/1.1\r\nHost: a.example\r\n\r\n", "b.example:80", nil, false},
		{"absolute without a path", "GET http://b.example?x HTTP/1.1\r\nHost: a.example\r\n\r\n", "b.example", nil, false},
		{"absolute with a user", "GET http://u@b.example/ HTTP/1.1\r\nHost: a.example\r\n\r\n", "", errHeadBroken, false},
		{"asterisk", "OPTIONS * HTTP/1.1\r\nHost: a.example\r\n\r\n", "a.example", nil, false},
		{"address", "GET / HTTP/1.1\r\nHost: [::1]:80\r\n\r\n", "[::1]:80", nil, false},
		{"twice", "GET / HTTP/1.1\r\nHost: a.example\r\nHost: a.example\r\n\r\n", "", errHostTwice, false},
		{"none", "GET / HTTP/1.1\r\nUser-Agent: x\r\n\r\n", "", errNoHost, false},
		{"empty", "GET / HTTP/1.1\r\nHost:\r\n\r\n", "", errNoHost, false},
		{"space before the colon", "GET / HTTP/1.1\r\nHost : a.example\r\n\r\n", "", errHeadBroken, false},
		{"folded", "GET / HTTP/1.1\r\nX: y\r\n Host: a.example\r\n\r\n", "", errHeadBroken, false},
		{"control character", "GET / HTTP/1.1\r\nHost: a\x01b\r\n\r\n", "", errHeadBroken, false},
		{"a carriage return inside", "GET / HTTP/1.1\r\nHost: a.example\rHost: b\r\n\r\n", "", errHeadBroken, false},
		{"no colon", "GET / HTTP/1.1\r\nHost\r\n\r\n", "", errHeadBroken, false},
		{"HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "", errHTTP2, false},
		{"HTTP/3.0", "GET / HTTP/3.0\r\nHost: a\r\n\r\n", "", errHeadBroken, false},
		{"no version", "GET /\r\nHost: a\r\n\r\n", "", errHeadBroken, false},
		{"CONNECT", "CONNECT a.example:443 HTTP/1.1\r\nHost: a.example\r\n\r\n", "", errConnect, false},
		{"TLS", "\x16\x03\x01\x00", "", errHeadBroken, false},
		{"half", "GET / HTTP/1.1\r\nHost: a.example\r\n", "", nil, true},
		{"too large", "GET / HTTP/1.1\r\nX: " + strings.Repeat("x", maxHeadBytes) + "\r\n\r\n", "", errHeadSize, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			for _, chunk := range []int{len(test.head), 1000, 1} {
				got, done, err := headHost([]byte(test.head), chunk)
				if !errors.Is(err, test.err) || got != test.want || (err == nil && done == test.more) {
					t.Fatalf("pieces of %d: got %q %v %v", chunk, got, done, err)
				}
			}
		})
	}
}

// FuzzHTTPHead compares with net/http: what both understand must be for the same host.
func FuzzHTTPHead(f *testing.F) {
	f.Add([]byte("GET / HTTP/1.1\r\nHost: a.example\r\n\r\n"))
	f.Add([]byte("GET http://b.example/ HTTP/1.1\r\nHost: a.example\r\nX: y\r\n\r\n"))
	f.Add([]byte("POST /x HTTP/1.0\nHost: a\nHost: b\n\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		got, done, err := headHost(b, max(len(b), 1))
		again, doneAgain, errAgain := headHost(b, 3)
		if got != again || done != doneAgain || !errors.Is(errAgain, err) {
			// An error may be seen before the rest arrives, but not the other way round.
			if err == nil {
				t.Fatalf("at once %q %v %v, in pieces %q %v %v", got, done, err, again, doneAgain, errAgain)
			}
		}
		if err != nil || !done {
			return
		}
		request, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(b)))
		if err != nil {
			return
		}
		if request.Host != got {
			t.Fatalf("ours %q, net/http %q of %q", got, request.Host, b)
		}
	})
}
