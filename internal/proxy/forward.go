package proxy

import (
	"errors"
	"io"
	"net/http"
	"net/textproto"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/net/http/httpguts"
)

// forward serves a request by its role, or by what is to be tried when the role fails.
func (p *pipeline) forward(e *exchange) {
	r := e.role
	switch {
	case r.config.Redirect != nil:
		e.redirectTo(r)
		return
	case r.config.Static != nil:
		p.filterAnswer(e, e.Header())
		e.answer(r.config.Static.Status, r.config.Static.Type, r.static)
		return
	}
	if limit := int64(r.config.BodyBytes); limit > 0 && e.body != nil {
		if e.request.ContentLength > limit {
			errorPage(e, http.StatusRequestEntityTooLarge)
			return
		}
		e.body.allow(limit)
	}
	if r.store != nil && r.store.join(p, e) {
		return
	}
	response, err := p.try(e, r)
	if err == nil && !r.failsOn(response.StatusCode) {
		p.respond(e, response)
		return
	}
	p.failed(e, response, err)
}

// try sends the request to a role's upstreams.
func (p *pipeline) try(e *exchange, r *role) (*http.Response, error) {
	request := p.outgoing(e, r)
	response, err := r.roundTrip(e, request)
	if err != nil {
		return nil, err
	}
	if response.StatusCode == http.StatusSwitchingProtocols && request.Header.Get("Upgrade") == "" {
		_ = response.Body.Close()
		return nil, errors.New("the upstream switches protocols, and nobody asked for it")
	}
	return response, nil
}

// hopByHop headers are for one connection (RFC 9110, 7.6.1).
var hopByHop = []string{"Connection", "Keep-Alive", "Proxy-Authenticate", "Proxy-Authorization", "Proxy-Connection", "Te", "Trailer",
	"Transfer-Encoding", "Upgrade"}

// removeHopByHop also takes what Connection names.
func removeHopByHop(header http.Header) {
	for _, value := range header["Connection"] {
		for name := range strings.SplitSeq(value, ",") {
			if name = textproto.TrimString(name); name != "" {
				header.Del(name)
			}
		}
	}
	for _, name := range hopByHop {
		delete(header, name)
	}
}

// upgrade is the protocol that a message switches to, if it is to switch.
func upgrade(header http.Header) string {
	if !httpguts.HeaderValuesContainsToken(header["Connection"], "Upgrade") {
		return ""
	}
	return header.Get("Upgrade")
}

// outgoing is the request as a role gets it. Its URL has no host yet.
func (p *pipeline) outgoing(e *exchange, r *role) *http.Request {
	in := e.request
	header := make(http.Header, len(in.Header)+7)
	for name, values := range in.Header {
		if name != "Host" && name != "Proxy" && (p.config.UnderscoreHeaders || strings.IndexByte(name, '_') < 0) {
			header[name] = values
		}
	}
	protocol := upgrade(in.Header)
	if !r.switchesTo(protocol) {
		protocol = ""
	}
	trailers := httpguts.HeaderValuesContainsToken(in.Header["Te"], "trailers")
	removeHopByHop(header)
	if protocol != "" {
		header["Connection"], header["Upgrade"] = []string{"Upgrade"}, []string{protocol}
	}
	if trailers {
		header["Te"] = []string{"trailers"}
	}
	if _, there := header["User-Agent"]; !there {
		header["User-Agent"] = []string{""} // Else the transport names itself.
	}
	setForwarded(e, header, p.trusted)
	setHop(header)
	setTrace(e, header)
	r.config.RequestCookies.request(header)
	r.requestHeaders.apply(e, header)
	hideKeys(header)
	out := &http.Request{Method: in.Method, URL: &url.URL{Path: in.URL.Path, RawPath: in.URL.RawPath, RawQuery: in.URL.RawQuery},
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Header: header, Host: in.Host, ContentLength: in.ContentLength}
	if e.body != nil {
		out.Body = e.body
		out.Trailer = p.outgoingTrailer(e, r)
	}
	plainPath(out.URL)
	r.rewritePath(out.URL)
	return out.WithContext(in.Context())
}

// switchesTo says whether the role may take a connection over for another protocol.
func (r *role) switchesTo(protocol string) bool {
	return protocol != "" && slices.ContainsFunc(r.config.Upgrades, func(name string) bool { return strings.EqualFold(name, protocol) })
}

// notInTrailers would frame, route, authenticate or describe a message that is already under way (RFC 9110, 6.5.1).
var notInTrailers = append(slices.Clone(hopByHop), "Authorization", "Cache-Control", "Content-Encoding", "Content-Length", "Content-Range", "Content-Type",
	"Cookie", "Expect", "Host", "Max-Forwards", "Range", "Set-Cookie")

// outgoingTrailer has the fields that may follow the body: those that would have passed as headers, too. Their values come
// when the body has been read.
func (p *pipeline) outgoingTrailer(e *exchange, r *role) http.Header {
	announced := e.request.Trailer
	if len(announced) == 0 {
		return nil
	}
	pass := http.Header{}
	for name := range announced {
		if (p.config.UnderscoreHeaders || strings.IndexByte(name, '_') < 0) && !slices.Contains(notInTrailers, name) && name != "Proxy" {
			pass[name] = []string{""}
		}
	}
	dropClaims(pass)
	r.requestHeaders.apply(e, pass)
	trailer := http.Header{}
	for name := range announced {
		if values, ok := pass[name]; ok && len(values) == 1 && values[0] == "" {
			trailer[name] = nil
		}
	}
	e.body.atEnd = func() {
		for name := range trailer {
			trailer[name] = announced[name]
		}
	}
	return trailer
}

// plainPath resolves segments of one or two dots: what the rules were matched with is what the upstream gets.
func plainPath(u *url.URL) {
	if !strings.Contains(u.Path, "/.") {
		return
	}
	last := u.Path[strings.LastIndexByte(u.Path, '/')+1:]
	folder := last == "" || last == "." || last == ".."
	dots := slices.ContainsFunc(strings.Split(u.Path, "/"), func(segment string) bool { return segment == "." || segment == ".." })
	if !dots {
		return
	}
	u.Path, u.RawPath = cleanPath(u.Path), ""
	if folder && u.Path != "/" {
		u.Path += "/"
	}
}

// rewritePath changes the path that the upstream gets.
func (r *role) rewritePath(u *url.URL) {
	w := r.rewrite
	if w == nil {
		return
	}
	before := u.Path
	if rest, ok := strings.CutPrefix(u.Path, strings.TrimSuffix(w.Strip, "/")); ok && w.Strip != "" && (rest == "" || rest[0] == '/') {
		u.Path = rest
	}
	if w.pattern != nil {
		u.Path = w.pattern.ReplaceAllString(u.Path, w.Replace)
	}
	u.Path = strings.TrimSuffix(w.Add, "/") + u.Path
	if !strings.HasPrefix(u.Path, "/") {
		u.Path = "/" + u.Path
	}
	if u.Path != before { // Nothing leads out of what is added: the path was plain before.
		u.RawPath = "" // What was escaped otherwise is written as usual.
	}
}

func (e *exchange) redirectTo(r *role) {
	e.Header().Set("Location", headerValue(r.config.Redirect.To.of(e)))
	e.answer(r.config.Redirect.Status, "text/html; charset=utf-8", "")
}

// filterAnswer changes the headers of an answer as the role says.
func (p *pipeline) filterAnswer(e *exchange, header http.Header) {
	e.role.config.ResponseCookies.response(header)
	e.role.responseHeaders.apply(e, header)
	if e.stick != nil {
		header["Set-Cookie"] = append(header["Set-Cookie"], e.stick.String())
	}
}

// respond streams an answer to the client.
func (p *pipeline) respond(e *exchange, response *http.Response) {
	if response.StatusCode == http.StatusSwitchingProtocols {
		p.tunnel(e, response)
		return
	}
	removeHopByHop(response.Header)
	announced := len(response.Trailer)
	copied := p.storing(e, response) // As the upstream sent it.
	p.filterAnswer(e, response.Header)
	own := e.Header()
	for name, values := range response.Header {
		if name == "Set-Cookie" || name == "Vary" {
			own[name] = append(own[name], values...)
		} else {
			own[name] = values
		}
	}
	if announced > 0 {
		names := make([]string, 0, announced)
		for name := range response.Trailer {
			names = append(names, name)
		}
		own["Trailer"] = []string{strings.Join(names, ", ")}
	}
	if e.role.config.Compress {
		e.compress(response)
	}
	early := e.body != nil && e.request.ProtoMajor == 1 && !e.body.over()
	if early {
		// The server would first read what is the upstream's, and what is left must not be taken for a request.
		_ = e.control.EnableFullDuplex()
		own["Connection"] = []string{"close"}
	}
	e.WriteHeader(response.StatusCode)
	body := response.Body
	if _, guarded := body.(*directBody); !guarded {
		body = newStallGuard(e, body, e.role.config.StallTimeout)
	}
	defer body.Close()
	defer copied.end()
	if err := p.copyBody(e, copied.from(body, p.buffers), response); err != nil {
		panic(http.ErrAbortHandler) // The client must not take it for whole.
	}
	e.finishEncoding()
	if early {
		_ = e.FlushError() // Before the client's body is waited for.
	}
	if len(response.Trailer) > 0 {
		// Also those that were not announced; and the end of the body is chunked for them.
		_ = e.FlushError()
		for name, values := range response.Trailer {
			if announced != len(response.Trailer) {
				name = http.TrailerPrefix + name
			}
			own[name] = values
		}
	}
}

// streams says whether an answer is written piece by piece: its length is not known, or it is a stream of events.
func streams(response *http.Response) bool {
	return response.ContentLength == -1 || strings.HasPrefix(response.Header.Get("Content-Type"), "text/event-stream")
}

// copyBody copies an answer. What it returns is a failure of the client or of the upstream.
func (p *pipeline) copyBody(e *exchange, body io.Reader, response *http.Response) error {
	if response.Body == nil || e.request.Method == http.MethodHead || response.ContentLength == 0 {
		return nil
	}
	buffer := p.buffers.Get()
	defer p.buffers.Put(buffer)
	flush := streams(response)
	if flush {
		if err := e.FlushError(); err != nil {
			return err
		}
	}
	for {
		n, err := body.Read(buffer)
		if n > 0 {
			if _, writeErr := e.Write(buffer[:n]); writeErr != nil {
				return writeErr
			}
			if flush && err == nil {
				if err := e.FlushError(); err != nil {
					return err
				}
			}
		}
		switch {
		case err == io.EOF:
			return nil
		case err != nil:
			return err
		}
	}
}

// failed answers a request that its role did not serve: response is an answer that counts as a failure, nil when there is
// none.
func (p *pipeline) failed(e *exchange, response *http.Response, err error) {
	left := e.request.Context().Err() != nil
	if e.body != nil {
		if bodyErr := e.body.failed(); bodyErr != nil { // The client's fault, not the role's.
			err = bodyErr
			// The context of HTTP/1.1 ends with its body also when the client is still there.
			if left = errors.Is(bodyErr, syscall.ECONNRESET) || left && e.request.ProtoMajor == 2 && bodyStatus(bodyErr) == http.StatusBadRequest; !left {
				e.problem = bodyErr
				errorPage(e, bodyStatus(bodyErr))
				return
			}
		}
	}
	if left {
		e.problem = err
		e.status = statusClientGone
		panic(http.ErrAbortHandler) // Who only looks gone, having closed his half, must not take nothing for an empty answer.
	}
	status := http.StatusBadGateway
	if response != nil {
		status = response.StatusCode
		e.failure = strconv.Itoa(status)
	} else {
		e.problem, e.failure = err, reasonOf(err)
		switch e.failure {
		case "timeout":
			status = http.StatusGatewayTimeout
		case "full", "open":
			status = http.StatusServiceUnavailable
			e.Header().Set("Retry-After", "1")
		}
	}
	for _, step := range e.role.fallbacks {
		if step(p, e, status) {
			if response != nil {
				_ = response.Body.Close()
			}
			return
		}
	}
	if response != nil {
		p.respond(e, response)
		return
	}
	errorPage(e, status)
}
