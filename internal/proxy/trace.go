package proxy

import (
	"crypto/sha256"
	"encoding/hex"
	"math/rand/v2"
	"net/http"
)

// maxRequestID bounds an id that a trusted proxy gave.
const maxRequestID = 128

// id is the request's: that of a trusted proxy, or a new one.
func (e *exchange) id() string {
	if e.requestID == "" {
		b := appendHex(make([]byte, 0, 32), rand.Uint64()) //nolint:gosec // No secret.
		e.requestID = string(appendHex(b, rand.Uint64()))  //nolint:gosec // As above.
	}
	return e.requestID
}

// appendHex appends 16 digits.
func appendHex(b []byte, n uint64) []byte {
	for shift := 60; shift >= 0; shift -= 4 {
		b = append(b, "0123456789abcdef"[n>>shift&15])
	}
	return b
}

// setTrace tells the upstream the request's id and place in a trace. traceparent (W3C Trace Context) goes on as it came, as
// this proxy records no spans; a request without one gets one, so that what it causes belongs together.
func setTrace(e *exchange, header http.Header) {
	values := []string{e.id(), ""}
	header["X-Request-Id"] = values[:1:1]
	if given := header["Traceparent"]; len(given) != 1 || !isTraceparent(given[0]) {
		delete(header, "Tracestate") // It belongs to a traceparent.
		b := append(make([]byte, 0, 55), "00-"...)
		b = append(appendHex(appendHex(b, rand.Uint64()|1), rand.Uint64()), '-') //nolint:gosec // No secret.
		values[1] = string(append(appendHex(b, rand.Uint64()|1), "-00"...))      //nolint:gosec // As above.
		header["Traceparent"] = values[1:]
	}
}

func isID(text string) bool {
	for _, c := range []byte(text) {
		if c <= ' ' || c > '~' {
			return false
		}
	}
	return text != "" && len(text) <= maxRequestID
}

// isTraceparent says whether a text is VERSION-TRACE-PARENT-FLAGS, of the first version or a later one.
func isTraceparent(text string) bool {
	if len(text) < 55 || text[2] != '-' || text[35] != '-' || text[52] != '-' || text[:2] == "ff" ||
		len(text) > 55 && (text[:2] == "00" || text[55] != '-') || len(text) > 512 {
		return false
	}
	zero := true
	for i, c := range []byte(text[:55]) {
		switch {
		case i == 2 || i == 35 || i == 52:
		case c >= '0' && c <= '9' || c >= 'a' && c <= 'f':
		default:
			return false
		}
		if i > 2 && i < 35 && c != '0' {
			zero = false
		}
	}
	return !zero && text[36:52] != "0000000000000000"
}

// digest stands for a text that is too long to be a key.
func digest(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:])
}
