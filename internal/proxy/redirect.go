package proxy

import (
	"net"
	"net/http"
	"strconv"
	"strings"
)

// redirectToHTTPS sends every client to the same address with https. GET and HEAD get 301, which every client
// knows; the others get 308, which keeps method and body.
func (p *pipeline) redirectToHTTPS(e *exchange) (done bool) {
	r, port := e.request, e.redirectPort
	if port == 0 {
		return false
	}
	host := r.Host
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
		if strings.Contains(name, ":") {
			host = "[" + name + "]"
		}
	}
	if host == "" || !strings.HasPrefix(r.URL.RequestURI(), "/") {
		errorPage(e, http.StatusBadRequest)
		return true
	}
	if port != 443 {
		host += ":" + strconv.Itoa(port)
	}
	status := http.StatusPermanentRedirect
	if r.Method == http.MethodGet || r.Method == http.MethodHead {
		status = http.StatusMovedPermanently
	}
	header := e.Header()
	header.Set("Location", "https://"+host+r.URL.RequestURI())
	header.Set("Content-Length", "0")
	if e.body != nil {
		header.Set("Connection", "close") // the body is sent again to another port
	}
	e.WriteHeader(status)
	_ = e.FlushError() // before a slow client is waited for
	return true
}
