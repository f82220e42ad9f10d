package router

import (
	"errors"
	"math/rand/v2"
	"net/netip"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// loop serves the connections that it accepts, alone, on one core: nothing in it needs a lock. Sockets are watched for edges, so
// that each costs one epoll_ctl in its life.
type loop struct {
	router *Router
	epoll  int32
	waker  int32 // an eventfd
	events []unix.EpollEvent
	now    int64 // when the loop last woke

	listeners []*listener
	offered   chan *listener
	paused    bool
	resumeAt  int64
	closing   bool // no new connections
	commands  atomic.Uint32

	conns      []*conn
	unused     []*conn
	generation uint32
	open       int
	more       []ref // connections with more to do
	again      []ref
	wheel      wheel
	pipes      pipes
	buffers    buffers
	buffer     []byte
	header     [maxSentProxy]byte
	setups     []*setup
	reading    setupList // connections that have sent a part of their hello, and
	settingUp  setupList // those whose host is known
	hellos     int       // bytes of all hellos
	mostHellos int
	kept       int // bytes of the buffers that hold what clients and endpoints do not take
	mostKept   int
	scratch    []int
	seed       rand.PCG
	epoch      uint64
}

// ref names a connection that may have ended meanwhile.
type ref struct{ key, generation uint32 }

const (
	edges = unix.EPOLLIN | unix.EPOLLRDHUP | unix.EPOLLET
	// special is the generation of what is no connection.
	special       = ^uint32(0)
	keyWaker      = ^uint32(0) >> 1
	acceptsAtOnce = 64
	// longestWait bounds a wait, in milliseconds.
	longestWait = 100
	// pauseMillis is how often a loop that does not accept looks whether it may again.
	pauseMillis = 50
)

// Commands to a loop from outside.
const (
	commandClose = 1 << iota // stop accepting
	commandEnd               // cut everything and end
)

func newLoop(r *Router) (*loop, error) {
	epoll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, err
	}
	waker, err := unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC)
	if err != nil {
		return nil, errors.Join(err, unix.Close(epoll))
	}
	l := &loop{router: r, epoll: int32(epoll), waker: int32(waker), offered: make(chan *listener, int(kinds)), events: make([]unix.EpollEvent, 256), buffer: make([]byte, readBytes)}
	l.mostHellos, l.mostKept = helloMemory/r.config.Loops, keptMemory/r.config.Loops
	l.seed.Seed(rand.Uint64(), rand.Uint64()) //nolint:gosec // It spreads load, no more.
	l.now = now()
	l.wheel.done = l.now / tick
	if errno := sysEpollAdd(l.epoll, l.waker, unix.EPOLLIN|unix.EPOLLET, keyWaker, special); errno != 0 {
		return nil, errno
	}
	return l, nil
}

func (l *loop) random() uint32 { return uint32(l.seed.Uint64()) }

// clock is the time now, not that when the loop woke.
func (l *loop) clock() int64 { return now() }

// command tells the loop to do something.
func (l *loop) tell(what uint32) {
	l.commands.Or(what)
	l.wake()
}

// wake ends the loop's wait.
func (l *loop) wake() {
	one := [8]byte{1}
	_, _ = unix.Write(int(l.waker), one[:])
}

// run serves until the command to end.
func (l *loop) run() {
	defer l.free()
	for {
		n := l.wait()
		l.now = now()
		for i := range n {
			l.dispatch(&l.events[i])
		}
		l.continueMore()
		l.wheel.advance(l.now, l.due)
		if l.router.chooser.epoch.Load() != l.epoch {
			l.changed()
		}
		for len(l.offered) > 0 {
			l.serve(<-l.offered)
		}
		if what := l.commands.Load(); what != 0 {
			if what&commandClose != 0 {
				l.closeListeners()
			}
			if what&commandEnd != 0 {
				return
			}
		}
		if l.paused && !l.closing && l.now >= l.resumeAt && !l.router.limiter.full() {
			l.resume()
		}
	}
}

// wait returns the number of events.
//
// The scheduler is not told that the loop waits, so it does not take its processor away and give another one back at every event: that
// is a third of the CPU at a high rate. Whenever it must stop all goroutines, its signal ends the wait; should that fail, so does the
// bound.
func (l *loop) wait() int {
	if len(l.more) > 0 {
		return sysEpollWait(l.epoll, l.events, 0)
	}
	timeout := longestWait
	if next := l.wheel.next(); next > 0 {
		timeout = min(timeout, int(max(next-now(), 0)/1e6)+1)
	}
	if l.paused {
		timeout = min(timeout, pauseMillis)
	}
	return sysEpollWait(l.epoll, l.events, timeout)
}

func (l *loop) dispatch(e *unix.EpollEvent) {
	key, generation := uint32(e.Fd), uint32(e.Pad)
	if generation == special {
		if key == keyWaker {
			var b [8]byte
			_, _ = sysRead(l.waker, b[:])
			return
		}
		l.accept(l.listeners[key])
		return
	}
	if c := l.find(ref{key >> 1, generation}); c != nil && (key&1 == 0 || c.server.fd >= 0) {
		l.event(c, key&1 == 1, e.Events)
	}
}

func (l *loop) find(r ref) *conn {
	if c := l.conns[r.key]; c != nil && c.generation == r.generation {
		return c
	}
	return nil
}

// continueMore gives another turn to those that had more to do.
func (l *loop) continueMore() {
	l.more, l.again = l.again[:0], l.more
	for _, r := range l.again {
		if c := l.find(r); c != nil {
			c.pumping = false
			c.last = l.now
			l.move(c)
		}
	}
}

// changed is called when endpoints went up or down, or there is another table.
func (l *loop) changed() {
	l.epoch = l.router.chooser.epoch.Load()
	for c := l.settingUp.first; c != nil; {
		next := c.nextSetup
		l.lookAgain(c)
		c = next
	}
	// Cells that are drained are rare: look for their connections only when it is time.
	if !l.router.chooser.cutting(l.now) {
		return
	}
	for _, c := range l.conns {
		if c == nil || c.endpoint == nil {
			continue
		}
		if leaving := c.endpoint.pool.cell.leaving.Load(); leaving > 0 && l.now >= leaving {
			l.end(c, false)
		}
	}
}

// adopt makes a connection of a socket.
func (l *loop) adopt(fd int32, port *listener, client netip.AddrPort) {
	client = unmapped(client)
	// Those behind a load balancer are counted when it has told who they are.
	from, behind := source(client.Addr()), l.router.behind(port.kind, client.Addr())
	if !behind && !l.router.limiter.take(from) {
		l.router.meters.refuse(port.kind, errSource)
		sysClose(fd)
		return
	}
	l.router.limiter.total.Add(1)
	l.open++
	c := l.fresh()
	c.port, c.source, c.counted, c.last = port.kind, from, !behind, l.now
	c.client = side{fd: fd, readable: true, writable: true}
	c.server = side{fd: -1}
	s := l.freshSetup()
	s.client = client
	s.sniffer = sniffer{kind: port.kind, behind: behind}
	c.setup = s
	l.until(c, l.now+int64(l.router.config.Limits.HelloTimeout))
	generation := c.generation
	// Often the hello is there already.
	l.sniff(c)
	if c.generation != generation || c.client.fd < 0 {
		return
	}
	if errno := sysEpollAdd(l.epoll, fd, edges, c.key<<1, c.generation); errno != 0 {
		l.end(c, true)
	}
}

func (l *loop) fresh() *conn {
	var c *conn
	if n := len(l.unused); n > 0 {
		c = l.unused[n-1]
		l.unused = l.unused[:n-1]
	} else {
		c = &conn{key: uint32(len(l.conns))}
		l.conns = append(l.conns, nil)
	}
	l.generation++
	if l.generation == special {
		l.generation = 1
	}
	*c = conn{key: c.key, generation: l.generation, slot: -1}
	l.conns[c.key] = c
	return c
}

func (l *loop) freshSetup() *setup {
	if n := len(l.setups); n > 0 {
		s := l.setups[n-1]
		l.setups = l.setups[:n-1]
		return s
	}
	return &setup{}
}

// refuse tells the client that it is not served, and ends the connection.
func (l *loop) refuse(c *conn, why error) {
	l.count(c, why)
	if text := refusal(c.port, why); text != "" {
		_, _ = sysWrite(c.client.fd, []byte(text))
		sysShutdownWrite(c.client.fd)
		// What the client sent and nobody read would turn the close into a reset, which may overtake the answer.
		_, _ = sysRead(c.client.fd, l.buffer)
	}
	l.end(c, false)
}

func (l *loop) count(c *conn, why error) { l.router.meters.refuse(c.port, why) }

// end closes a connection, with a reset if it did not come to its natural end.
func (l *loop) end(c *conn, reset bool) {
	if c.ended() {
		return
	}
	if reset {
		sysReset(c.client.fd)
		if c.server.fd >= 0 {
			sysReset(c.server.fd)
		}
	}
	if e := c.endpoint; e != nil && c.state == relaying {
		e.pool.cell.meters.toCell.Add(float64(c.toCell))
		e.pool.cell.meters.toClient.Add(float64(c.toClient))
	}
	for _, s := range []*side{&c.client, &c.server} {
		l.release(s)
		if s.pipe != nil {
			l.pipes.give(s.pipe)
			s.pipe = nil
		}
	}
	l.hangUp(c)
	sysClose(c.client.fd)
	l.unset(c)
	l.wheel.remove(c)
	if c.counted {
		l.router.limiter.give(c.source)
	}
	l.router.limiter.total.Add(-1)
	l.open--
	l.conns[c.key] = nil
	c.generation = 0
	c.client.fd = -1
	l.unused = append(l.unused, c)
}

// free closes everything but what others wake the loop by.
func (l *loop) free() {
	l.closeListeners()
	for _, c := range l.conns {
		if c != nil {
			l.end(c, false)
		}
	}
	l.pipes.close()
}
