package proxy

import (
	"compress/gzip"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/andybalholm/brotli"
	kgzip "github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// encoder compresses; it can be used again.
type encoder interface {
	io.WriteCloser
	Flush() error
	Reset(io.Writer)
}

// encodings in the order of preference, for clients that like several as much.
var encodings = []struct {
	name string
	pool *sync.Pool
}{
	{"zstd", &sync.Pool{New: func() any {
		// A window of 1 MiB keeps memory low, for this side and for browsers, which take 8 MiB at most (RFC 9659).
		made, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(1<<20), zstd.WithEncoderLevel(zstd.SpeedFastest))
		if err != nil {
			panic(err) // The options are constants.
		}
		return made
	}}},
	{"br", &sync.Pool{New: func() any { return brotli.NewWriterLevel(nil, 3) }}},
	{"gzip", &sync.Pool{New: func() any {
		made, err := kgzip.NewWriterLevel(nil, gzip.BestSpeed)
		if err != nil {
			panic(err) // The level is a constant.
		}
		return made
	}}},
}

// compressible are types of content that get smaller. Images, fonts and archives are compressed already.
var compressible = []string{"text/", "application/json", "application/javascript", "application/xml", "application/xhtml+xml", "application/rss+xml",
	"application/atom+xml", "application/ld+json", "application/manifest+json", "application/wasm", "image/svg+xml", "application/x-javascript"}

// minCompressed is the least length that is worth it.
const minCompressed = 512

// compress has an answer compressed on its way to the client, if that helps and the client takes it.
func (e *exchange) compress(response *http.Response) {
	header := e.Header()
	contentType := strings.ToLower(header.Get("Content-Type"))
	isType := func(prefix string) bool { return strings.HasPrefix(contentType, prefix) }
	if response.ContentLength >= 0 && response.ContentLength < minCompressed || header["Content-Encoding"] != nil || header["Content-Range"] != nil ||
		response.StatusCode < 200 || response.StatusCode == http.StatusNoContent || response.StatusCode == http.StatusNotModified || response.StatusCode == http.StatusPartialContent ||
		!slices.ContainsFunc(compressible, isType) || isType("text/event-stream") || e.request.Method == http.MethodHead {
		return
	}
	if _, not := directives(header["Cache-Control"])["no-transform"]; not {
		return
	}
	if !varies(header, "Accept-Encoding") {
		header.Add("Vary", "Accept-Encoding")
	}
	name := accepted(e.request.Header["Accept-Encoding"])
	if name == "" {
		return
	}
	index := slices.IndexFunc(encodings, func(c struct {
		name string
		pool *sync.Pool
	}) bool {
		return c.name == name
	})
	e.encoder = encodings[index].pool.Get().(encoder)
	e.encoder.Reset(rawWriter{e})
	e.encoders = encodings[index].pool
	header["Content-Encoding"] = []string{name}
	delete(header, "Content-Length")
	delete(header, "Accept-Ranges") // Ranges would be those of the original.
	if tag := header.Get("Etag"); tag != "" && !strings.HasPrefix(tag, "W/") {
		header["Etag"] = []string{"W/" + tag} // Not the same bytes (RFC 9110, 8.8.1).
	}
}

func varies(header http.Header, name string) bool {
	for _, line := range header["Vary"] {
		for part := range strings.SplitSeq(line, ",") {
			if part = strings.TrimSpace(part); part == "*" || strings.EqualFold(part, name) {
				return true
			}
		}
	}
	return false
}

// accepted chooses the encoding that a client likes most (RFC 9110, 12.5.3); empty for none.
func accepted(lines []string) (best string) {
	if len(lines) == 0 {
		return ""
	}
	quality := map[string]float64{}
	for _, line := range lines {
		for part := range strings.SplitSeq(line, ",") {
			name, parameters, _ := strings.Cut(part, ";")
			q := 1.0
			if value, ok := strings.CutPrefix(strings.ReplaceAll(strings.ToLower(parameters), " ", ""), "q="); ok {
				parsed, err := strconv.ParseFloat(value, 64)
				if err != nil || parsed < 0 || parsed > 1 {
					continue
				}
				q = parsed
			}
			quality[strings.ToLower(strings.TrimSpace(name))] = q
		}
	}
	highest := 0.0
	for _, candidate := range encodings {
		q, named := quality[candidate.name]
		if !named {
			q = quality["*"]
		}
		if q > highest {
			best, highest = candidate.name, q
		}
	}
	if identity, named := quality["identity"]; named && identity > highest {
		return ""
	}
	return best
}

// rawWriter is where an encoder writes.
type rawWriter struct{ e *exchange }

func (w rawWriter) Write(p []byte) (int, error) { return w.e.writeOut(p) }

// finishEncoding writes the end of what is compressed.
func (e *exchange) finishEncoding() {
	if e.encoder == nil {
		return
	}
	_ = e.encoder.Close() // Who is gone needs no end.
	e.dropEncoder()
}

func (e *exchange) dropEncoder() {
	if e.encoder != nil {
		e.encoder.Reset(nil)
		e.encoders.Put(e.encoder)
		e.encoder = nil
	}
}
