package certstore_test

import (
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"time"
)

// fault is what the way to a source does.
type fault string

const (
	works   fault = "works"
	slow    fault = "is slow"
	refuses fault = "refuses"
	hangs   fault = "hangs"
	garbage fault = "returns garbage"
	resets  fault = "resets in the middle"
)

// way leads connections to a source, and fails on command.
type way struct {
	address, to string

	mu       sync.Mutex
	fault    fault
	listener net.Listener
	conns    map[net.Conn]bool
}

func newWay(t testing.TB, to string) *way {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := &way{address: listener.Addr().String(), to: to, fault: works, conns: map[net.Conn]bool{}}
	w.serve(listener)
	t.Cleanup(func() { w.set(t, refuses) })
	return w
}

func (w *way) serve(listener net.Listener) {
	w.listener = listener
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go w.lead(conn)
		}
	}()
}

// set changes what it does, for open connections as well.
func (w *way) set(t testing.TB, f fault) {
	t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.fault = f
	for conn := range w.conns {
		_ = conn.Close()
	}
	clear(w.conns)
	switch {
	case f == refuses && w.listener != nil:
		_ = w.listener.Close()
		w.listener = nil
	case f != refuses && w.listener == nil:
		listener, err := net.Listen("tcp", w.address)
		if err != nil {
			t.Fatal(err)
		}
		w.serve(listener)
	}
}

func (w *way) now() fault {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.fault
}

func (w *way) lead(conn net.Conn) {
	defer conn.Close()
	w.mu.Lock()
	w.conns[conn] = true
	w.mu.Unlock()
	if w.now() == hangs {
		_, _ = io.Copy(io.Discard, conn)
		return
	}
	source, err := net.Dial("tcp", w.to)
	if err != nil {
		return
	}
	defer source.Close()
	w.mu.Lock()
	w.conns[source] = true
	w.mu.Unlock()
	go func() { _, _ = io.Copy(source, conn); _ = source.Close() }()
	buffer := make([]byte, 32<<10)
	for {
		n, err := source.Read(buffer)
		if err != nil {
			return
		}
		content := buffer[:n]
		switch w.now() {
		case slow:
			time.Sleep(30 * time.Millisecond)
		case hangs:
			_, _ = io.Copy(io.Discard, source)
			return
		case garbage:
			for i := range content {
				content[i] = byte(rand.IntN(256)) //nolint:gosec // Any bytes will do.
			}
		case resets:
			content = content[:n/2]
		}
		if _, err := conn.Write(content); err != nil || w.now() == resets {
			return
		}
	}
}
