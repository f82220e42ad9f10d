package proxy

import (
	"crypto/rand"
	"net/http"
	"slices"
	"strings"
)

// hopHeader tells proxies behind that a request came through here (RFC 8586), so that a role that leads back to this proxy is
// found out at once, and one that leads through several of them soon.
const hopHeader = "Cdn-Loop"

// maxHops is how many of these proxies a request may pass.
const maxHops = 8

// hop names this instance.
var hop = "shopset-proxy; id=" + rand.Text()

// looped says whether a request has been here before, or in so many others that it must be going round.
func (p *pipeline) looped(e *exchange) bool {
	values := e.request.Header[hopHeader]
	if len(values) == 0 {
		return false
	}
	count := 0
	for _, value := range values {
		for one := range strings.SplitSeq(value, ",") {
			if one = strings.TrimSpace(one); one == hop {
				return true
			} else if strings.HasPrefix(one, "shopset-proxy;") {
				count++
			}
		}
	}
	return count >= maxHops
}

// setHop adds this instance to those that the request has passed.
func setHop(header http.Header) {
	header[hopHeader] = append(slices.Clip(header[hopHeader]), hop)
}
