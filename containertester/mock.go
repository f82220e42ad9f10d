package tester

import (
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
		delete(mocks.of, name)
	})
}

// mocksOf are those of a test and of the tests that it is part of.
func mocksOf(t TB) []recorder {
	mocks.Lock()
	defer mocks.Unlock()
	var result []recorder
	for name := t.Name(); name != ""; {
		result = append(result, mocks.of[name]...)
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
	host string
	tls  *tls.Config

	mu       sync.Mutex
	port     int
	listener net.Listener
	conns    map[net.Conn]bool
	fault    fault
	serve    func(net.Listener)
}

// open listens at a free port and serves until close.
func (l *Listener) open(serve func(net.Listener)) error {
	e, err := theEngine()
	if err != nil {
		return err
	}
	l.host, l.conns, l.serve = e.address, map[net.Conn]bool{}, serve
	return l.listen()
}

// bindAddress is where this process listens: only where containers come from, never everywhere.
func bindAddress() string {
	e, _ := theEngine() // open has asked already.
	if e.gateway != "" {
		return e.gateway
	}
	return "127.0.0.1" // Docker Desktop leads host.docker.internal here.
}

func (l *Listener) listen() error {
	listener, err := net.Listen("tcp", net.JoinHostPort(bindAddress(), strconv.Itoa(l.port)))
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

// Host is the mock's address for containers, as host:port.
func (l *Listener) Host() string { return net.JoinHostPort(l.host, strconv.Itoa(l.Port())) }

// Port is the mock's port.
func (l *Listener) Port() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.port
}

// Down closes the port and all connections: connecting is refused, as when a server is gone.
func (l *Listener) Down(t TB) {
	t.Helper()
	l.set(works)
	l.mu.Lock()
	listener := l.listener
	l.listener = nil
	l.mu.Unlock()
	if listener != nil {
		_ = listener.Close()
	}
}

// Up makes the mock work again, at the same port, after Down, Hang or Reset.
func (l *Listener) Up(t TB) {
	t.Helper()
	l.set(works)
	l.mu.Lock()
	down := l.listener == nil
	l.mu.Unlock()
	if !down {
		return
	}
	// The port is free again in a moment, if it is not yet.
	if err := eventually(t.Context(), 5*time.Second, l.listen); err != nil {
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
	l.fault = f
	open := slices.Collect(maps.Keys(l.conns))
	clear(l.conns)
	l.mu.Unlock()
	for _, conn := range open {
		reset(conn)
	}
}

// close ends the mock for good.
func (l *Listener) close() {
	l.set(works)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.listener != nil {
		_ = l.listener.Close()
		l.listener = nil
	}
}
