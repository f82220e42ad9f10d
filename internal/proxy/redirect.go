package proxy

import (
	"net"
	"net/http"
	"strconv"
	"strings"
)

// redirectToHTTPS sends every client to the same address with https. GET and HEAD get 301, which
// every client knows; the others get 308, which keeps method and body.
func redirectToHTTPS(port int) http.Handler {
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
		status := http.StatusPermanentRedirect
		if r.Method == http.MethodGet || r.Method == http.MethodHead {
			status = http.StatusMovedPermanently
		}
		w.Header().Set("Location", "https://"+host+r.URL.RequestURI())
		w.WriteHeader(status)
	})
}
