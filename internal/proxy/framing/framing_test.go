package framing

import (
	"bufio"
	"io"
	"net/http"
	"strings"
	"testing"
)

const good = "GET / HTTP/1.1\r\nHost: a.example\r\n"

// check gives a stream to a checker in pieces of a size.
func check(stream string, size int) (c *Checker, err error) {
	c = &Checker{}
	for len(stream) > 0 {
		piece := stream[:min(size, len(stream))]
		n, err := c.Check([]byte(piece))
		if err != nil {
			return c, err
		}
		if n != len(piece) {
			panic("not all was read, and nothing is wrong")
		}
		stream = stream[len(piece):]
	}
	return c, nil
}

var passing = []string{
	good + "\r\n",
	"GET / HTTP/1.0\r\n\r\n",
	"POST /a?b HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nab\n" + good + "\r\n",
	"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\na\n\x00\r\n0A;ext=1\r\n0123456789\r\n0\r\nX-T: v\r\n\r\n" + good + "\r\n",
	"GET http://a.example/x HTTP/1.1\r\nHost: A.example\r\n\r\n",
	"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
	"GET / HTTP/1.1\r\nHost: a\r\nX: \xc3\xa4 \t y\r\nContent-Length: 0\r\n\r\n",
}

var refused = map[string]error{
	"GET / HTTP/1.1\nHost: a\r\n\r\n": errLineEnd,
	good + "\n":                       errLineEnd,
	good + "A: b\n\r\n":               errLineEnd,
	good + "A: b\rC: d\r\n\r\n":       errControl,
	good + "A: b\x00\r\n\r\n":         errControl,
	good + "A: b\r\n c\r\n\r\n":       errFolded,
	good + "A : b\r\n\r\n":            errName,
	good + ": b\r\n\r\n":              errName,
	good + "A\r\n\r\n":                errName,
	good + "Content-Length: 1\r\nContent-Length: 1\r\n\r\nx":                           errLengths,
	good + "Content-Length: 1, 1\r\n\r\nx":                                             errLengths,
	good + "Content-Length: +1\r\n\r\nx":                                               errLengths,
	good + "Content-Length:\r\n\r\n":                                                   errLengths,
	good + "Content-Length: 9999999999999999999\r\n\r\n":                               errLengths,
	good + "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n":          errBoth,
	good + "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n":                         errCoding,
	good + "Transfer-Encoding: xchunked\r\n\r\n":                                       errCoding,
	good + "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n":         errCoding,
	"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n":                   errCoding,
	good + "Transfer-Encoding: chunked\r\n\r\n+1\r\na\r\n":                             errChunkSize,
	good + "Transfer-Encoding: chunked\r\n\r\n0x1\r\na\r\n":                            errChunkSize,
	good + "Transfer-Encoding: chunked\r\n\r\n 1\r\na\r\n":                             errChunkSize,
	good + "Transfer-Encoding: chunked\r\n\r\n\r\n":                                    errChunkSize,
	good + "Transfer-Encoding: chunked\r\n\r\n1\r\nab\r\n":                             errChunkSize,
	good + "Transfer-Encoding: chunked\r\n\r\n1\na\r\n":                                errLineEnd,
	good + "Transfer-Encoding: chunked\r\n\r\n1111111111111111\r\n":                    errChunkSize,
	good + "Transfer-Encoding: chunked\r\n\r\n0\r\nX : y\r\n\r\n":                      errName,
	"GET / HTTP/1.1\r\n\r\n":                                                           errHost,
	good + "Host: b\r\n\r\n":                                                           errHost,
	"GET http://b.example/ HTTP/1.1\r\nHost: a.example\r\n\r\n":                        errHost,
	"GET http://a.example@b.example/ HTTP/1.1\r\nHost: a.example\r\n\r\n":              errHost,
	"GET  / HTTP/1.1\r\nHost: a\r\n\r\n":                                               errRequest,
	"GET / x HTTP/1.1\r\nHost: a\r\n\r\n":                                              errRequest,
	"GET\t/\tHTTP/1.1\r\nHost: a\r\n\r\n":                                              errRequest,
	"GET / HTTP/1.2\r\nHost: a\r\n\r\n":                                                errRequest,
	"GET / http/1.1\r\nHost: a\r\n\r\n":                                                errRequest,
	"GET / HTTP/1.1 \r\nHost: a\r\n\r\n":                                               errRequest,
	"G@T / HTTP/1.1\r\nHost: a\r\n\r\n":                                                errRequest,
	"\r\n" + good + "\r\n":                                                             errRequest,
	good + "A: " + strings.Repeat("x", MaxLine) + "\r\n\r\n":                           errLong,
	"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nxGET / HTTP/1.1\nHost: a ": errLineEnd,
}

func TestPassing(t *testing.T) {
	for _, stream := range passing {
		for _, size := range []int{1, 2, 7, 4096} {
			c, err := check(stream, size)
			if err != nil || !c.Between() {
				t.Errorf("%q in pieces of %d: %v, at its end %v", stream, size, err, c.Between())
			}
		}
	}
}

func TestRefused(t *testing.T) {
	for stream, want := range refused {
		for _, size := range []int{1, 5, 1 << 22} {
			if size == 1 && len(stream) > MaxLine {
				continue // It takes long and says nothing new.
			}
			if _, err := check(stream, size); err != want { //nolint:errorlint // They are these very ones.
				t.Errorf("%.80q in pieces of %d: %v, want %v", stream, size, err, want)
			}
		}
	}
}

func TestThrough(t *testing.T) {
	c := &Checker{}
	if _, err := c.Check([]byte(good + "\r\n")); err != nil {
		t.Fatal(err)
	}
	c.Through()
	if n, err := c.Check([]byte("\x00\x01\n")); n != 3 || err != nil {
		t.Fatalf("%d %v", n, err)
	}
}

// ends returns where each request of a stream ends, as far as it passes.
func ends(stream string) (at []int) {
	c := &Checker{}
	for i := range len(stream) {
		if _, err := c.Check([]byte{stream[i]}); err != nil {
			return at
		}
		if c.Between() {
			at = append(at, i+1)
		}
	}
	return at
}

// FuzzAgainstNetHTTP: what passes, net/http reads too, and each request begins and ends for it at the same byte. How the
// stream is cut into pieces changes nothing.
func FuzzAgainstNetHTTP(f *testing.F) {
	for _, stream := range passing {
		f.Add(stream)
	}
	for stream := range refused {
		if len(stream) < MaxLine {
			f.Add(stream)
		}
	}
	f.Fuzz(func(t *testing.T, stream string) {
		whole, err := check(stream, 1<<20)
		if single, other := check(stream, 1); (err == nil) != (other == nil) || err == nil && whole.Between() != single.Between() {
			t.Fatalf("%q: whole %v, byte by byte %v", stream, err, other)
		}
		source := strings.NewReader(stream)
		reader := bufio.NewReader(source)
		begin := 0
		for _, end := range ends(stream) {
			request, err := http.ReadRequest(reader)
			if err != nil {
				return // net/http may refuse more: targets, say. The connection ends there.
			}
			if want := request.Method + " " + request.RequestURI + " " + request.Proto + "\r\n"; !strings.HasPrefix(stream[begin:], want) {
				t.Fatalf("%q: net/http reads %q at %d", stream, want, begin)
			}
			if len(request.TransferEncoding) > 0 && request.ContentLength > 0 {
				t.Fatalf("%q: length and chunked", stream)
			}
			if _, err := io.Copy(io.Discard, request.Body); err != nil {
				t.Fatalf("%q passes, and net/http cannot read the body: %v", stream, err)
			}
			if at := len(stream) - source.Len() - reader.Buffered(); at != end {
				t.Fatalf("%q: a request that begins at %d ends at %d, for net/http at %d", stream, begin, end, at)
			}
			begin = end
		}
	})
}
