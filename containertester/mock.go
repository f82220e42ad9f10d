package tester

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"fmt"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// recorder is a mock that tells what it received.
type recorder interface {
	describe() string
}

// mocks by test, for the reports of its containers.
var mocks struct {
	sync.Mutex
	of map[string][]recorder
}

func register(t TB, r recorder) {
	mocks.Lock()
	defer mocks.Unlock()
	if mocks.of == nil {
		mocks.of = map[string][]recorder{}
	}
	name := t.Name()
	mocks.of[name] = append(mocks.of[name], r)
	t.Cleanup(func() {
		mocks.Lock()
		defer mocks.Unlock()
		// This one alone: a test within a test has the same name.
		if mocks.of[name] = slices.DeleteFunc(mocks.of[name], func(other recorder) bool { return other == r }); len(mocks.of[name]) == 0 {
			delete(mocks.of, name)
		}
	})
}

// mocksOf are those of a test and of the tests that it is part of.
func mocksOf(t TB) []recorder {
	mocks.Lock()
	defer mocks.Unlock()
	var result []recorder
	for name := t.Name(); name != ""; {
		result = append(result, mocks.of[name]...) // A copy: the list changes.
		at := strings.LastIndexByte(name, '/')
		name = name[:max(at, 0)]
	}
	return result
}

func randomName() string { return strings.ToLower(rand.Text()[:12]) }

// fault is what a mock does instead of its work.
type fault int

const (
	works fault = iota
	hangs
	resets
)

// Listener is the part that all mocks share: a port that containers reach, which can fail on command.
type Listener struct {
	engine *engine
	tls    *tls.Config

	mu       sync.Mutex
	port     int
	listener net.Listener
	conns    map[net.Conn]bool
	fault    fault
	delay    time.Duration
	serve    func(net.Listener)
}

// open listens at a free port and serves until close.
func (l *Listener) open(serve func(net.Listener)) error {
	e, err := theEngine()
	if err != nil {
		return err
	}
	l.engine, l.conns, l.serve = e, map[net.Conn]bool{}, serve
	return l.listen()
}

func (l *Listener) listen() error {
	var listener net.Listener
	var err error
	if l.engine.relay != nil {
		listener, err = l.engine.relay.listen(l.port)
	} else {
		// Only where containers come from, never everywhere, but in a container of the test's own.
		listener, err = net.Listen("tcp", net.JoinHostPort(l.engine.listenAt, strconv.Itoa(l.port)))
	}
	if err != nil {
		return fmt.Errorf("listen for the mock: %w", err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.listener, l.port = listener, listener.Addr().(*net.TCPAddr).Port
	var outer net.Listener = tracking{listener, l}
	if l.tls != nil {
		outer = tls.NewListener(outer, l.tls)
	}
	go l.serve(outer)
	return nil
}

// tracking knows all open connections and applies the fault to them.
type tracking struct {
	net.Listener
	mock *Listener
}

func (t tracking) Accept() (net.Conn, error) {
	for {
		conn, err := t.Listener.Accept()
		if err != nil {
			return nil, err
		}
		t.mock.mu.Lock()
		now := t.mock.fault
		t.mock.conns[conn] = true
		t.mock.mu.Unlock()
		switch now {
		case hangs: // Kept open, never read.
		case resets:
			t.mock.forget(conn)
			reset(conn)
		default:
			return tracked{conn, t.mock}, nil
		}
	}
}

type tracked struct {
	net.Conn
	mock *Listener
}

// Read gives what has come, later when the mock is slow.
func (c tracked) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.mock.mu.Lock()
	delay := c.mock.delay
	c.mock.mu.Unlock()
	if n > 0 && delay > 0 {
		time.Sleep(delay)
	}
	return n, err
}

func (c tracked) Close() error {
	c.mock.forget(c.Conn)
	return c.Conn.Close()
}

func (l *Listener) forget(conn net.Conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.conns, conn)
}

// reset ends a connection so that the other side gets ECONNRESET.
func reset(conn net.Conn) {
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	_ = conn.Close()
}

// MocksHost is the name or address at which containers find all mocks, to be put into certificates of TLS mocks. It is an
// address where containers reach this process directly.
func MocksHost(t TB) string {
	t.Helper()
	e, err := theEngine()
	if err != nil {
		t.Fatalf("find the mocks: %v", err)
	}
	return e.mocks
}

// Host is the mock's address for containers, as host:port.
func (l *Listener) Host() string { return net.JoinHostPort(l.engine.mocks, strconv.Itoa(l.Port())) }

// Port is the mock's port.
func (l *Listener) Port() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.port
}

// Down closes the port and all connections: connecting is refused, as when a server is gone.
func (l *Listener) Down(t TB) {
	t.Helper()
	l.close()
}

// Refuse closes the port alone: connecting is refused, as by a server that ends, and connections that are
// open go on.
func (l *Listener) Refuse(t TB) { t.Helper(); l.unlisten() }

func (l *Listener) unlisten() {
	l.mu.Lock()
	listener := l.listener
	l.listener = nil
	l.mu.Unlock()
	if listener != nil {
		_ = listener.Close()
	}
}

// Slow makes the mock read everything this much later, until Up. A MockAP has its own, which is exact.
func (l *Listener) Slow(t TB, delay time.Duration) {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.delay = delay
}

// Up makes the mock work again, at the same port, after Down, Refuse, Hang, Reset or Slow.
func (l *Listener) Up(t TB) {
	t.Helper()
	l.set(works)
	l.mu.Lock()
	l.delay = 0
	down := l.listener == nil
	l.mu.Unlock()
	if !down {
		return
	}
	// The port is free again in a moment, if it is not yet.
	if err := eventually(t.Context(), 5*time.Second, func(context.Context) error { return l.listen() }); err != nil {
		t.Fatalf("mock up again: %v", err)
	}
}

// Hang takes connections and never answers, nor reads.
func (l *Listener) Hang(t TB) { t.Helper(); l.set(hangs) }

// Reset takes connections and resets them at once.
func (l *Listener) Reset(t TB) { t.Helper(); l.set(resets) }

// set changes what new connections meet, and ends those that are open.
func (l *Listener) set(f fault) {
	l.mu.Lock()
	var open []net.Conn
	if f != works || l.fault != works { // Else nobody is stuck, and what goes on may go on.
		open = slices.Collect(maps.Keys(l.conns))
		clear(l.conns)
	}
	l.fault = f
	l.mu.Unlock()
	for _, conn := range open {
		reset(conn)
	}
}

// Close ends the mock; its test does so, too.
func (l *Listener) Close(t TB) { t.Helper(); l.close() }

func (l *Listener) close() {
	l.unlisten()
	l.set(resets) // Nobody keeps a connection.
	l.set(works)
}
