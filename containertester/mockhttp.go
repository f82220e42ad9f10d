package tester

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
)

// MockAP is an application behind the container under test: a mock HTTP server that records what it gets.
type MockAP struct {
	Listener
	mu       sync.Mutex
	paths    map[string]*answers
	received []Request
	status   int
	delay    time.Duration
}

// Request is one that a mock received.
type Request struct {
	Method, Host, Path, Query string
	Header                    http.Header
	// Target is the request's as it came, not decoded.
	Target string
	Body   string
	// Truncated says that the body was longer than what is kept of it, 1 MiB.
	Truncated bool
	// ServerName that a TLS client asked for.
	ServerName string
}

func serverName(r *http.Request) string {
	if r.TLS == nil {
		return ""
	}
	return r.TLS.ServerName
}

func (r Request) String() string {
	var b strings.Builder
	target := r.Path
	if r.Query != "" {
		target += "?" + r.Query
	}
	fmt.Fprintf(&b, "%s %s\nHost: %s\n", r.Method, target, r.Host)
	_ = r.Header.Write(&b)
	if r.Body != "" {
		fmt.Fprintf(&b, "\n%s", clip(r.Body))
	}
	return strings.TrimRight(strings.ReplaceAll(b.String(), "\r", ""), "\n")
}

// answers are those of one path: one after the other, the last again and again.
type answers struct {
	list []answer
	next int
}

type answer struct {
	status  int
	header  http.Header
	body    string
	delay   time.Duration
	handler http.HandlerFunc
}

// MockApOption shapes the answers of a MockAP.
type MockApOption func(*mockSetup)

type mockSetup struct {
	mock    *MockAP
	path    string
	current *answer
}

// MockApResponseBody is the body of the answer.
func MockApResponseBody(body string) MockApOption {
	return func(s *mockSetup) { s.current.body = body }
}

// MockApStatus is the status of the answer.
func MockApStatus(status int) MockApOption { return func(s *mockSetup) { s.current.status = status } }

// MockApHeader adds a header to the answer.
func MockApHeader(name, value string) MockApOption {
	return func(s *mockSetup) { s.current.header.Add(name, value) }
}

// MockApCookie adds a cookie to the answer.
func MockApCookie(cookie *http.Cookie) MockApOption {
	return func(s *mockSetup) { s.current.header.Add("Set-Cookie", cookie.String()) }
}

// MockApDelay waits before the answer.
func MockApDelay(delay time.Duration) MockApOption {
	return func(s *mockSetup) { s.current.delay = delay }
}

// MockApPath gives a path, and all below it if it ends with /, answers of its own.
func MockApPath(path string, options ...MockApOption) MockApOption {
	return func(s *mockSetup) { s.mock.add(path, options...) }
}

// MockApThen begins another answer: the first request gets the first, the next one the next, and the last
// answer stays.
func MockApThen(options ...MockApOption) MockApOption {
	return func(s *mockSetup) { s.mock.add(s.path, options...) }
}

// MockApTLS makes the mock speak TLS with these certificates, each for its names. A container that verifies them calls the
// mock by one of these names; MocksHost is the one in Host and URL.
func MockApTLS(certificates ...Certificate) MockApOption {
	return func(s *mockSetup) {
		s.mock.tls = &tls.Config{NextProtos: []string{"http/1.1"}, MinVersion: tls.VersionTLS12}
		for _, certificate := range certificates {
			s.mock.tls.Certificates = append(s.mock.tls.Certificates, certificate.pair)
		}
	}
}

// MockApHandler answers by a function of the test; what is received is recorded as always.
func MockApHandler(handler http.HandlerFunc) MockApOption {
	return func(s *mockSetup) { s.current.handler = handler }
}

func (m *MockAP) add(path string, options ...MockApOption) {
	setup := &mockSetup{mock: m, path: path, current: &answer{status: http.StatusOK, header: http.Header{}}}
	first := m.paths[path] == nil
	if first {
		m.paths[path] = &answers{}
	}
	at := len(m.paths[path].list)
	m.paths[path].list = append(m.paths[path].list, answer{})
	for _, option := range options {
		option(setup)
	}
	m.paths[path].list[at] = *setup.current
}

// StartMockAP starts a mock application. It ends with its test.
func StartMockAP(t TB, options ...MockApOption) *MockAP {
	t.Helper()
	m := &MockAP{paths: map[string]*answers{}}
	m.add("/", options...)
	if err := m.open(func(listener net.Listener) {
		server := &http.Server{Handler: http.HandlerFunc(m.serveHTTP), ReadHeaderTimeout: time.Minute, ErrorLog: log.New(io.Discard, "", 0)}
		_ = server.Serve(listener) // It ends when the listener is closed.
	}); err != nil {
		t.Fatalf("start a mock: %v", err)
	}
	register(t, m)
	t.Cleanup(m.close)
	return m
}

// URL is the mock's address for containers, as http://host:port.
func (m *MockAP) URL() string {
	if m.tls != nil {
		return "https://" + m.Host()
	}
	return "http://" + m.Host()
}

// maxBody bounds what is kept of a request's body.
const maxBody = 1 << 20

// serveHTTP records the request and answers.
func (m *MockAP) serveHTTP(w http.ResponseWriter, r *http.Request) {
	var body bytes.Buffer
	_, _ = io.Copy(&body, io.LimitReader(r.Body, maxBody))
	more := make([]byte, 1)
	extra, _ := io.ReadFull(r.Body, more)
	m.mu.Lock()
	m.received = append(m.received, Request{
		Method: r.Method, Host: r.Host, Path: r.URL.Path, Query: r.URL.RawQuery, Header: r.Header.Clone(), Body: body.String(),
		Target: r.RequestURI, Truncated: extra > 0,
		ServerName: serverName(r),
	})
	chosen, status, delay := m.choose(r.URL.Path), m.status, m.delay
	m.mu.Unlock()
	select {
	case <-time.After(chosen.delay + delay):
	case <-r.Context().Done():
		return
	}
	if status != 0 {
		w.WriteHeader(status)
		return
	}
	if chosen.handler != nil {
		r.Body = io.NopCloser(io.MultiReader(&body, bytes.NewReader(more[:extra]), r.Body))
		chosen.handler(w, r)
		return
	}
	_, _ = io.Copy(io.Discard, r.Body) // Else the connection would end in the middle of an upload.
	for name, values := range chosen.header {
		w.Header()[name] = values
	}
	w.WriteHeader(chosen.status)
	_, _ = io.WriteString(w, chosen.body)
}

// choose takes the answer of the longest path that fits.
func (m *MockAP) choose(path string) answer {
	best := "/"
	for candidate := range m.paths {
		fits := candidate == path || strings.HasSuffix(candidate, "/") && strings.HasPrefix(path, candidate)
		if fits && len(candidate) > len(best) {
			best = candidate
		}
	}
	a := m.paths[best]
	chosen := a.list[a.next]
	a.next = min(a.next+1, len(a.list)-1)
	return chosen
}

// Fail makes every answer one with this status and no body, until Recover.
func (m *MockAP) Fail(t TB, status int) { t.Helper(); m.change(func() { m.status = status }) }

// Slow makes every answer take this much longer, until Recover.
func (m *MockAP) Slow(t TB, delay time.Duration) { t.Helper(); m.change(func() { m.delay = delay }) }

// Up is Recover.
func (m *MockAP) Up(t TB) { t.Helper(); m.Recover(t) }

// Recover ends Fail, Slow, Down, Refuse, Hang and Reset.
func (m *MockAP) Recover(t TB) {
	t.Helper()
	m.change(func() { m.status, m.delay = 0, 0 })
	m.Listener.Up(t)
}

func (m *MockAP) change(edit func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	edit()
}

// Received are all requests so far.
func (m *MockAP) Received() []Request {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.received)
}

// Forget drops what was received so far.
func (m *MockAP) Forget() { m.change(func() { m.received = nil }) }

// Matcher says whether a request is as it should be; the error says what is not.
type Matcher func(Request) error

// Header wants a header with this value.
func Header(name, value string) Matcher {
	return func(r Request) error {
		if got := r.Header.Values(name); !slices.Contains(got, value) {
			return fmt.Errorf("header %s is %q, want %q", name, got, value)
		}
		return nil
	}
}

// NoHeader wants a header to be absent.
func NoHeader(name string) Matcher {
	return func(r Request) error {
		if got := r.Header.Values(name); len(got) > 0 {
			return fmt.Errorf("header %s is %q, want none", name, got)
		}
		return nil
	}
}

// ReceivedPath wants a path.
func ReceivedPath(path string) Matcher {
	return func(r Request) error {
		if r.Path != path {
			return fmt.Errorf("path is %q, want %q", r.Path, path)
		}
		return nil
	}
}

// ReceivedHost wants a Host header.
func ReceivedHost(host string) Matcher {
	return func(r Request) error {
		if r.Host != host {
			return fmt.Errorf("host is %q, want %q", r.Host, host)
		}
		return nil
	}
}

// ReceivedMethod wants a method.
func ReceivedMethod(method string) Matcher {
	return func(r Request) error {
		if r.Method != method {
			return fmt.Errorf("method is %s, want %s", r.Method, method)
		}
		return nil
	}
}

// ReceivedBody wants a body.
func ReceivedBody(body string) Matcher {
	return func(r Request) error {
		if r.Body != body {
			return fmt.Errorf("body is %q, want %q", clip(r.Body), clip(body))
		}
		return nil
	}
}

// AssertReceived fails the test unless one request satisfies all matchers.
func (m *MockAP) AssertReceived(t TB, matchers ...Matcher) {
	t.Helper()
	received := m.Received()
	var nearest []error
	for _, r := range slices.Backward(received) {
		var failures []error
		for _, matches := range matchers {
			if err := matches(r); err != nil {
				failures = append(failures, err)
			}
		}
		if len(failures) == 0 {
			return
		}
		if nearest == nil || len(failures) < len(nearest) {
			nearest = failures
		}
	}
	if len(received) == 0 {
		t.Errorf("the mock at %s received no request", m.Host())
		return
	}
	t.Errorf("no request is as wanted; of the nearest:\n%s\n\n%s", indent(joined(nearest)), m.describe())
}

// AssertNotReceived fails the test if any request satisfies all matchers; without matchers, if there is any.
func (m *MockAP) AssertNotReceived(t TB, matchers ...Matcher) {
	t.Helper()
	for _, r := range m.Received() {
		if !slices.ContainsFunc(matchers, func(matches Matcher) bool { return matches(r) != nil }) {
			t.Errorf("the mock at %s received what it should not:\n%s", m.Host(), indent(r.String()))
			return
		}
	}
}

// AssertCount fails the test unless so many requests were received.
func (m *MockAP) AssertCount(t TB, n int) {
	t.Helper()
	if got := len(m.Received()); got != n {
		t.Errorf("the mock received %d requests, want %d\n\n%s", got, n, m.describe())
	}
}

// shownRequests bounds a report.
const shownRequests = 5

func (m *MockAP) describe() string {
	received := m.Received()
	text := fmt.Sprintf("the mock application at %s received %d requests", m.Host(), len(received))
	if len(received) > shownRequests {
		text += fmt.Sprintf(", the last %d", shownRequests)
		received = received[len(received)-shownRequests:]
	}
	for _, r := range received {
		text += "\n" + indent(r.String())
	}
	return text
}

func joined(errs []error) string {
	lines := make([]string, len(errs))
	for i, err := range errs {
		lines[i] = err.Error()
	}
	return strings.Join(lines, "\n")
}

// clip shortens a text for reports.
func clip(text string) string {
	const most = 2000
	if len(text) > most {
		return strings.ToValidUTF8(text[:most], "") + fmt.Sprintf("… (%d bytes)", len(text))
	}
	return text
}
