package router

import (
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestNoByteIsLostWithoutPipes lets all pipes be in use elsewhere, so that large transfers go through the loop's one buffer.
func TestNoByteIsLostWithoutPipes(t *testing.T) {
	openPipes.Add(mostPipes)
	t.Cleanup(func() { openPipes.Add(-mostPipes) })
	noByteIsLost(t, EngineEpoll)
}

// TestPartOfARequestIsNotRepeated lets an endpoint take a part of a request and then die: no other one may get it.
func TestPartOfARequestIsNotRepeated(t *testing.T) {
	f, backends := threeCells(t)
	r := startRouter(t, f, EngineEpoll, quiet)
	l, err := newLoop(r.Router) // One that does not run: the test takes its steps.
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.free(); sysClose(l.epoll); sysClose(l.waker) })
	client, clientPeer := socketPair(t)
	server, serverPeer := socketPair(t)
	r.limiter.total.Add(1)
	l.open++
	c := l.fresh()
	c.port, c.client = kindHTTP, side{fd: client, writable: true}
	s := l.freshSetup()
	c.setup = s
	l.settingUp.add(c)
	s.sniffer.kind = kindHTTP
	s.send = make([]byte, 4<<20)
	if _, err := r.chooser.start(&s.attempt, kindHTTP, f.host("a"), nil); err != nil {
		t.Fatal(err)
	}
	c.endpoint = r.chooser.next(&s.attempt, 0)
	c.endpoint.count(1)
	c.state, c.server = dialing, side{fd: server, writable: true, armed: true}
	if !l.offer(c) || c.toCell == 0 || c.state != dialing {
		t.Fatalf("%d bytes were taken, state %d: want a part", c.toCell, c.state)
	}
	sysClose(serverPeer)
	l.event(c, true, unix.EPOLLOUT|unix.EPOLLHUP)
	if !c.ended() {
		t.Error("the connection goes on")
	}
	answer := make([]byte, 100)
	if n, _ := sysRead(clientPeer, answer); !strings.HasPrefix(string(answer[:n]), "HTTP/1.1 503 ") {
		t.Errorf("the client got %q", answer[:n])
	}
	sysClose(clientPeer)
	for name, b := range backends {
		if b.count() != 0 {
			t.Errorf("%s got the request", name)
		}
	}
	if total := r.limiter.total.Load(); total != 0 {
		t.Errorf("%d connections are counted", total)
	}
}

// TestClientsThatLeaveAHungCell do not stay: else a cell that hangs would fill the router for all others.
func TestClientsThatLeaveAHungCell(t *testing.T) {
	silent := newBackend(t, func(conn net.Conn, _ *proxied) { _, _ = io.Copy(io.Discard, conn) })
	f := newFleet(t, map[string][]*backend{"a": {silent}})
	// The time for an answer is over before a client leaves, or a moment later.
	r := startRouter(t, f, EngineEpoll, func(c *Config) { quiet(c); c.Dial.AnswerTimeout = time.Millisecond })
	for i := range 20 {
		conn := r.connect("shop.example")
		eventually(t, "the cell has the hello", func() bool { return silent.count() == i+1 })
		conn.Close()
	}
	eventually(t, "nobody is left", func() bool { return r.limiter.total.Load() == 0 })
	if got := r.metric("shopset_router_refused_total", `reason="left"`); got != 20 {
		t.Errorf("%v clients left", got)
	}
}

func socketPair(t *testing.T) (one, other int32) {
	t.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	return int32(pair[0]), int32(pair[1])
}

// TestNoPortIsNoFault has no port left to call an endpoint from: that says nothing about the endpoint.
func TestNoPortIsNoFault(t *testing.T) {
	c := newChooserTest(t, 90, map[string]int{"a": 1, "b": 1})
	e := (*c.pool("a").endpoints.Load())[0]
	for range 10 {
		c.failed(e, failureOf(unix.EADDRNOTAVAIL, false))
	}
	if e.down.Load() {
		t.Error("it counts as down")
	}
}

// TestSlowHellosHaveABound opens connections that begin a hello and do not finish it, until their memory is used up.
func TestSlowHellosHaveABound(t *testing.T) {
	f, _ := threeCells(t)
	r := startRouter(t, f, EngineEpoll, quiet)
	l, err := newLoop(r.Router) // One that does not run: the test takes its steps.
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.free(); sysClose(l.epoll); sysClose(l.waker) })
	l.mostHellos = 3 * smallBuffer
	var peers []int32
	for i := range 5 {
		fd, peer := socketPair(t)
		t.Cleanup(func() { sysClose(peer) })
		if i > 0 { // The first one says nothing, and costs nothing.
			_, _ = sysWrite(peer, []byte{recordHandshake, 3})
		}
		l.adopt(fd, &listener{kind: kindTLS}, netip.MustParseAddrPort("192.0.2.1:1"))
		peers = append(peers, peer)
	}
	for i, peer := range peers {
		n, errno := sysRead(peer, make([]byte, 10))
		if cut := errno == 0 && n == 0; cut != (i == 1) {
			t.Errorf("connection %d: %d bytes, %v: only the one that began first is to be cut", i, n, errno)
		}
	}
	if l.hellos != 3*smallBuffer {
		t.Errorf("hellos take %d bytes", l.hellos)
	}
	l.free()
	if l.hellos != 0 || l.reading != (setupList{}) || l.settingUp != (setupList{}) {
		t.Errorf("%d bytes stay, lists %v %v", l.hellos, l.reading, l.settingUp)
	}
}

// TestKeptBytesHaveABound has so much to keep that less is read at a time.
func TestKeptBytesHaveABound(t *testing.T) {
	l := &loop{buffer: make([]byte, readBytes), mostKept: readBytes}
	s := &side{rest: l.room()}
	if len(s.rest) != readBytes {
		t.Fatalf("room for %d bytes", len(s.rest))
	}
	l.keep(s)
	if got := len(l.room()); got != smallBuffer {
		t.Errorf("room for %d bytes when much is kept", got)
	}
	l.release(s)
	if l.kept != 0 || len(l.room()) != readBytes {
		t.Errorf("%d bytes are kept", l.kept)
	}
}
