package tester

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"time"
)

// HTTPOption shapes a request or says what its answer must be.
type HTTPOption func(*httpCall)

// httpCall is one assertion.
type httpCall struct {
	method, path, host, body string
	header                   http.Header
	port                     int
	follow                   bool
	serverName               string
	useTLS, h2, noAnswer     bool
	timeout, eventually      time.Duration
	checks                   []func(*Response) error
}

// Response is an answer, read whole.
type Response struct {
	Status int
	Proto  string
	Header http.Header
	Body   string
	TLS    *tls.ConnectionState
	// Final is the path of the page after redirects.
	Final string
}

func (r *Response) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %d %s\n", r.Proto, r.Status, http.StatusText(r.Status))
	_ = r.Header.Write(&b)
	if r.Body != "" {
		fmt.Fprintf(&b, "\n%s", clip(r.Body))
	}
	return strings.TrimRight(strings.ReplaceAll(b.String(), "\r", ""), "\n")
}

// Path of the request; "/" otherwise. It may have a query.
func Path(path string) HTTPOption { return func(c *httpCall) { c.path = path } }

// Host is the Host header of the request; WithTLS says the server name.
func Host(host string) HTTPOption { return func(c *httpCall) { c.host = host } }

// WithHeader adds a header to the request.
func WithHeader(name, value string) HTTPOption {
	return func(c *httpCall) {
		if http.CanonicalHeaderKey(name) == "Host" { // It is no header to net/http.
			c.host = value
			return
		}
		c.header.Add(name, value)
	}
}

// WithCookie adds a cookie to the request.
func WithCookie(name, value string) HTTPOption {
	return func(c *httpCall) {
		pair := (&http.Cookie{Name: name, Value: value}).String()
		if before := c.header.Get("Cookie"); before != "" { // One line for all (RFC 6265, 5.4).
			pair = before + "; " + pair
		}
		c.header.Set("Cookie", pair)
	}
}

// WithBody is the body of the request.
func WithBody(body string) HTTPOption { return func(c *httpCall) { c.body = body } }

// OnPort sends the request to another port of the container.
func OnPort(port int) HTTPOption { return func(c *httpCall) { c.port = port } }

// FollowRedirects goes where the answer points, always to the same port of the container, whatever host and port
// it names; without it a redirect is an answer like others.
func FollowRedirects() HTTPOption { return func(c *httpCall) { c.follow = true } }

// WithTLS speaks TLS with a server name (SNI). What comes is not verified but by ExpectedCertificate and
// ExpectedChain.
func WithTLS(serverName string) HTTPOption {
	return func(c *httpCall) { c.useTLS, c.serverName = true, serverName }
}

// WithHTTP2 asks for HTTP/2 by ALPN; it needs WithTLS.
func WithHTTP2() HTTPOption { return func(c *httpCall) { c.h2 = true } }

// Within is how long one answer may take; 10 seconds otherwise.
func Within(limit time.Duration) HTTPOption { return func(c *httpCall) { c.timeout = limit } }

// Eventually tries again until all expectations are met or the time is over.
func Eventually(limit time.Duration) HTTPOption {
	return func(c *httpCall) { c.eventually = limit }
}

// AssertHttpGet sends a GET and fails the test unless the answer is as expected. Without an expected status,
// any below 400 will do.
//
//nolint:staticcheck // The name was given.
func (c *Container) AssertHttpGet(t TB, options ...HTTPOption) *Response {
	t.Helper()
	return c.AssertHttp(t, http.MethodGet, options...)
}

// AssertHttp is AssertHttpGet for any method.
//
//nolint:staticcheck // As AssertHttpGet.
func (c *Container) AssertHttp(t TB, method string, options ...HTTPOption) *Response {
	t.Helper()
	call := newCall(method, c.port, options)
	var response *Response
	try := func(ctx context.Context) (err error) {
		response, err = call.do(ctx, c.Address(call.port))
		switch {
		case call.noAnswer && (errors.Is(err, errNotSent) || t.Context().Err() != nil):
			return err
		case call.noAnswer && err != nil:
			return nil //nolint:nilerr // That is what was expected.
		case call.noAnswer:
			return errors.New("there is an answer, want none")
		case err != nil:
			return err
		}
		return call.check(response)
	}
	var err error
	if call.eventually > 0 {
		err = eventually(t.Context(), call.eventually, try)
	} else {
		err = try(t.Context())
	}
	if err != nil {
		t.Errorf("%s", c.report(call.describe(), response, err))
	}
	return response
}

func newCall(method string, port int, options []HTTPOption) *httpCall {
	call := &httpCall{method: method, path: "/", header: http.Header{}, port: port, timeout: 10 * time.Second}
	for _, option := range options {
		option(call)
	}
	return call
}

func (h *httpCall) describe() string {
	scheme := "http"
	if h.useTLS {
		scheme = "https"
	}
	text := fmt.Sprintf("%s %s (%s, port %d)", h.method, h.path, scheme, h.port)
	if h.host != "" {
		text += "\nHost: " + h.host
	}
	var header strings.Builder
	_ = h.header.Write(&header)
	text += "\n" + strings.TrimSpace(strings.ReplaceAll(header.String(), "\r", ""))
	if h.body != "" {
		text = strings.TrimRight(text, "\n") + "\n\n" + clip(h.body)
	}
	return strings.TrimRight(text, "\n")
}

// check joins all expectations that are not met.
func (h *httpCall) check(r *Response) error {
	var failures []error
	status := false
	for _, check := range h.checks {
		err := check(r)
		if errors.Is(err, errStatusChecked) {
			status, err = true, errors.Unwrap(err)
		}
		if err != nil {
			failures = append(failures, err)
		}
	}
	if !status && r.Status >= 400 {
		failures = append(failures, fmt.Errorf("status is %d", r.Status))
	}
	return errors.Join(failures...)
}

// errStatusChecked marks the result of an expectation about the status, which replaces the usual one.
var errStatusChecked = errors.New("status")

type statusChecked struct{ err error }

func (s statusChecked) Error() string        { return fmt.Sprint(s.err) }
func (s statusChecked) Unwrap() error        { return s.err }
func (s statusChecked) Is(target error) bool { return target == errStatusChecked }

// errNotSent says that there was nothing to get an answer to.
var errNotSent = errors.New("the request cannot be sent")

// do sends the request once.
func (h *httpCall) do(ctx context.Context, address string) (*Response, error) {
	if address == "" {
		return nil, fmt.Errorf("%w: the container has no port %d, or does not run; name the port in Ports", errNotSent, h.port)
	}
	ctx, cancel := context.WithTimeout(ctx, h.timeout)
	defer cancel()
	scheme := "http"
	if h.useTLS {
		scheme = "https"
	}
	request, err := http.NewRequestWithContext(ctx, h.method, scheme+"://"+address+h.path, strings.NewReader(h.body))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errNotSent, err)
	}
	request.Header = h.header.Clone()
	request.Host = h.host
	if request.Host == "" {
		request.Host = h.serverName
	}
	client := h.client(address)
	defer client.CloseIdleConnections()
	answer, err := client.Do(request)
	if err != nil {
		var wrapped *url.Error
		if errors.As(err, &wrapped) {
			err = wrapped.Err
		}
		return nil, err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(io.LimitReader(answer.Body, 64<<20))
	if err != nil {
		err = fmt.Errorf("the answer breaks off: %w", err)
	}
	return &Response{
		Status: answer.StatusCode, Proto: answer.Proto, Header: answer.Header, Body: string(body), TLS: answer.TLS,
		Final: answer.Request.URL.RequestURI(),
	}, err
}

// client connects to the container whatever name is asked for.
func (h *httpCall) client(address string) *http.Client {
	config := &tls.Config{ServerName: h.serverName, InsecureSkipVerify: true} //nolint:gosec // What is tested is which certificate comes.
	config.NextProtos = []string{"http/1.1"}
	transport := &http.Transport{
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, network, address)
		},
		TLSClientConfig: config, DisableCompression: true,
	}
	if h.h2 {
		config.NextProtos = []string{"h2", "http/1.1"}
		transport.ForceAttemptHTTP2 = true
	}
	client := &http.Client{Transport: transport}
	if !h.follow {
		client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	}
	return client
}

// report is what a failed assertion prints.
func (c *Container) report(request string, response *Response, err error) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %v\n\nrequest:\n%s\n", c.config.Image, err, indent(request))
	if response != nil {
		fmt.Fprintf(&b, "\nanswer:\n%s\n", indent(response.String()))
	}
	for _, mock := range c.mocks() {
		fmt.Fprintf(&b, "\n%s\n", mock.describe())
	}
	if len(c.config.Environment) > 0 {
		fmt.Fprintf(&b, "\nenvironment beyond the image's own:\n%s\n", indent(c.environmentDifference()))
	}
	b.WriteString(strings.TrimPrefix(c.logEnd(), "\n"))
	return b.String()
}

// environmentDifference tells what the test set, and over which value of the image.
func (c *Container) environmentDifference() string {
	own := map[string]string{}
	for _, line := range c.image.Config.Env {
		name, value, _ := strings.Cut(line, "=")
		own[name] = value
	}
	var lines []string
	for _, name := range sortedKeys(c.config.Environment) {
		value := c.config.Environment[name]
		switch before, there := own[name]; {
		case there && before == value:
		case there:
			lines = append(lines, fmt.Sprintf("%s=%s (image: %s)", name, hidden(name, value), hidden(name, before)))
		default:
			lines = append(lines, name+"="+hidden(name, value))
		}
	}
	return strings.Join(lines, "\n")
}

// secretName is what variables are called whose values do not belong into the log of a test.
var secretName = regexp.MustCompile(`(?i)PASS|SECRET|TOKEN|CREDENTIAL|PRIVATE|API_?KEY|ACCESS_?KEY|AUTH`)

func hidden(name, value string) string {
	if secretName.MatchString(name) && value != "" {
		return "(hidden)"
	}
	return value
}
