package proxy

import (
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// redirectToHTTPS sends every client to the same address with https. GET and HEAD get 301, which
// every client knows; the others get 308, which keeps method and body. The connection ends with the answer:
// the client goes on at another port, and one that never sends the body it promised would stay otherwise.
func redirectToHTTPS(port int, patience time.Duration) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host := r.Host
		if name, _, err := net.SplitHostPort(host); err == nil {
			host = name
			if strings.Contains(name, ":") {
				host = "[" + name + "]"
			}
		}
		if host == "" || r.Method == http.MethodConnect || !strings.HasPrefix(r.URL.RequestURI(), "/") {
			http.Error(w, "400 Bad Request", http.StatusBadRequest)
			return
		}
		if port != 443 {
			host += ":" + strconv.Itoa(port)
		}
		w.Header().Set("Connection", "close")
		// net/http reads the rest of a body before it closes.
		_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(patience))
		status := http.StatusPermanentRedirect
		if r.Method == http.MethodGet || r.Method == http.MethodHead {
			status = http.StatusMovedPermanently
		}
		w.Header().Set("Location", "https://"+host+r.URL.RequestURI())
		w.WriteHeader(status)
	})
}
