package tester

import (
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/alicebob/miniredis/v2/server"
)

// MockRedis is a Redis in the process of the test.
type MockRedis struct {
	Listener
	redis   *miniredis.Miniredis
	mu      sync.Mutex
	latency time.Duration
	calls   []string
}

// StartMockRedis starts a Redis. It ends with its test.
func StartMockRedis(t TB) *MockRedis {
	t.Helper()
	m := &MockRedis{redis: miniredis.NewMiniRedis()}
	// miniredis listens on the loopback; the mock's own port leads there, and can fail.
	if err := m.redis.Start(); err != nil {
		t.Fatalf("start a mock Redis: %v", err)
	}
	m.redis.Server().SetPreHook(func(_ *server.Peer, command string, args ...string) bool {
		m.mu.Lock()
		m.calls = append(m.calls, strings.Join(append([]string{command}, args...), " "))
		latency := m.latency
		m.mu.Unlock()
		time.Sleep(latency)
		return false
	})
	if err := m.open(forwardTo(m.redis.Addr())); err != nil {
		t.Fatalf("start a mock Redis: %v", err)
	}
	register(t, m)
	t.Cleanup(func() { m.close(); m.redis.Close() })
	return m
}

// forwardTo leads each connection to an address.
func forwardTo(address string) func(net.Listener) {
	return func(listener net.Listener) {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				upstream, err := net.Dial("tcp", address)
				if err != nil {
					return
				}
				defer upstream.Close()
				go func() { _, _ = io.Copy(upstream, conn); _ = upstream.Close() }()
				_, _ = io.Copy(conn, upstream)
			}()
		}
	}
}

// Set puts a value under a key.
func (m *MockRedis) Set(t TB, key, value string) {
	t.Helper()
	if err := m.redis.Set(key, value); err != nil {
		t.Fatalf("mock Redis: set %s: %v", key, err)
	}
}

// Get returns the value of a key, empty when there is none.
func (m *MockRedis) Get(key string) string {
	value, _ := m.redis.Get(key) // No such key is an empty value here.
	return value
}

// Latency makes every command take this much longer.
func (m *MockRedis) Latency(latency time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.latency = latency
}

// Received are all commands so far, each with its arguments.
func (m *MockRedis) Received() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.calls)
}

// AssertReceived fails the test unless a command was received, such as "GET key".
func (m *MockRedis) AssertReceived(t TB, command string) {
	t.Helper()
	if !slices.Contains(m.Received(), command) {
		t.Errorf("no command %q\n\n%s", command, m.describe())
	}
}

func (m *MockRedis) describe() string {
	calls := m.Received()
	text := fmt.Sprintf("the mock Redis at %s received %d commands", m.Host(), len(calls))
	for _, call := range calls[max(0, len(calls)-shownRequests):] {
		text += "\n" + indent(clip(call))
	}
	return text
}

// MockTCP answers each connection by a function of the test.
type MockTCP struct {
	Listener
	mu       sync.Mutex
	received []string
}

// StartMockTCP starts a server that gives each connection to handle, which must close it. What is read from
// it is recorded. It ends with its test.
func StartMockTCP(t TB, handle func(net.Conn)) *MockTCP {
	t.Helper()
	m := &MockTCP{}
	if err := m.open(func(listener net.Listener) {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			m.mu.Lock()
			m.received = append(m.received, "")
			at := len(m.received) - 1
			m.mu.Unlock()
			go handle(listening{conn, m, at})
		}
	}); err != nil {
		t.Fatalf("start a mock: %v", err)
	}
	register(t, m)
	t.Cleanup(m.close)
	return m
}

// listening records what is read.
type listening struct {
	net.Conn
	mock *MockTCP
	at   int
}

func (l listening) Read(p []byte) (int, error) {
	n, err := l.Conn.Read(p)
	l.mock.mu.Lock()
	defer l.mock.mu.Unlock()
	if len(l.mock.received[l.at]) < maxBody {
		l.mock.received[l.at] += string(p[:n])
	}
	return n, err
}

// Received is what each connection has sent so far.
func (m *MockTCP) Received() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.received)
}

func (m *MockTCP) describe() string {
	received := m.Received()
	text := fmt.Sprintf("the mock server at %s had %d connections", m.Host(), len(received))
	for _, sent := range received[max(0, len(received)-shownRequests):] {
		text += "\n" + indent(fmt.Sprintf("%q", clip(sent)))
	}
	return text
}
