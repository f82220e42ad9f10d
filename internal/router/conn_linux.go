package router

import (
	"net/netip"
	"syscall"

	"golang.org/x/sys/unix"
)

// state of a connection. Each leads to the next; dialing and waiting may be entered again with another endpoint.
type state uint8

const (
	sniffing state = iota // the client has not yet said which host
	dialing               // an endpoint is asked to connect, or has not yet taken the whole hello
	waiting               // the endpoint has the hello, and has answered nothing
	relaying
)

// conn is one client's connection, owned by one loop. What is only needed until it relays is in setup.
type conn struct {
	key, generation uint32
	state           state
	port            kind
	pumping         bool // on the list of those with more to do
	counted         bool
	client, server  side
	endpoint        *endpoint
	source          netip.Addr
	last            int64 // when something moved
	deadline        int64
	toCell          int64
	toClient        int64
	setup           *setup

	slot          int16 // in the wheel, -1 if none
	before, after *conn
	// Those in setup are in a list of their own, to be found when an endpoint goes down.
	previousSetup, nextSetup *conn
}

// ended says that the connection is closed, and its memory free for another one.
func (c *conn) ended() bool { return c.generation == 0 }

// setup is what a connection needs until an endpoint has answered.
type setup struct {
	sniffer        sniffer
	client, called netip.AddrPort
	hello          []byte // room for a PROXY header, then all that the client sent
	send           []byte // what is left to be written to the endpoint, part of hello
	attempt        attempt
	replayable     bool
	dialed         int64
}

// sniff is called when the client may have sent more of its hello.
func (l *loop) sniff(c *conn) {
	s := c.setup
	for c.client.readable {
		if s.hello == nil {
			l.beginHello(c)
		}
		free := s.hello[len(s.hello):cap(s.hello)]
		if len(free) == 0 {
			l.growHello(s)
			free = s.hello[len(s.hello):cap(s.hello)]
			if len(free) == 0 {
				l.refuse(c, errHelloSize)
				return
			}
		}
		n, errno := sysRead(c.client.fd, free)
		switch {
		case errno == again:
			c.client.readable = false
			if len(s.hello) == maxSentProxy {
				l.dropHello(c) // Who has said nothing yet costs no buffer.
			}
			return
		case errno != 0:
			l.count(c, errGone)
			l.end(c, true)
			return
		case n == 0:
			l.count(c, errGone)
			l.end(c, false)
			return
		}
		if n < len(free) && !c.client.ending {
			c.client.readable = false
		}
		s.hello = s.hello[:len(s.hello)+n]
		host, done, err := s.sniffer.feed(s.hello[maxSentProxy:])
		if !c.counted && s.sniffer.client.IsValid() && !l.named(c) {
			err = errSource
		}
		if err != nil {
			l.refuse(c, err)
			return
		}
		if done {
			l.route(c, host)
			return
		}
		l.makeRoom(c)
	}
}

// route places a connection whose host is known, and makes the first attempt.
func (l *loop) route(c *conn, host string) {
	s := c.setup
	if host == "" {
		if host = l.router.defaultHost(c.port); host == "" {
			l.refuse(c, errNoServerName)
			return
		}
	}
	s.replayable = s.sniffer.replayable(s.hello[maxSentProxy:])
	var err error
	if l.scratch, err = l.router.chooser.start(&s.attempt, c.port, host, l.scratch); err != nil {
		l.refuse(c, err)
		return
	}
	l.reading.remove(c)
	l.settingUp.add(c)
	c.state = dialing
	l.prepare(s, c.client.fd)
	l.dial(c)
}

// named is called when the PROXY header of a load balancer has told who the client is. The connection counts as the client's from
// then on: the load balancer's own would be used up by clients that say nothing more.
func (l *loop) named(c *conn) bool {
	s := c.setup
	s.client, s.called = s.sniffer.client, s.sniffer.called
	c.source = source(s.client.Addr())
	c.counted = l.router.limiter.take(c.source)
	return c.counted
}

// prepare puts the PROXY header in front of the hello.
func (l *loop) prepare(s *setup, client int32) {
	begin := maxSentProxy + s.sniffer.begin
	if l.router.config.SendProxy {
		if !s.called.IsValid() {
			if s.called = l.router.bound[s.sniffer.kind]; !s.called.IsValid() {
				s.called = sysLocalAddress(client)
			}
		}
		header := appendProxyV2(l.header[:0], s.client, s.called)
		begin -= len(header)
		copy(s.hello[begin:], header)
	}
	s.send = s.hello[begin:]
}

// dial asks the next endpoint, until one does not fail at once or none is left.
func (l *loop) dial(c *conn) {
	s := c.setup
	for {
		e := l.router.chooser.next(&s.attempt, l.random())
		if e == nil {
			l.refuse(c, errNoEndpoint)
			return
		}
		c.endpoint, s.dialed = e, l.clock()
		e.count(1)
		fd, errno := sysConnect(e.address)
		if errno != 0 {
			if errno == syscall.EMFILE || errno == syscall.ENFILE {
				l.refuse(c, errFull)
				return
			}
			l.leave(c, failureOf(errno, false))
			continue
		}
		c.state, c.server = dialing, side{fd: fd, writable: true}
		l.until(c, s.dialed+int64(l.router.config.Dial.Timeout))
		// On the same machine the connection is there already, and the hello can go at once.
		if !l.offer(c) {
			if c.ended() {
				return
			}
			continue
		}
		if c.server.fd >= 0 {
			events := uint32(edges)
			if c.server.armed = !c.server.writable; c.server.armed {
				events |= unix.EPOLLOUT
			}
			if errno := sysEpollAdd(l.epoll, fd, events, c.key<<1|1, c.generation); errno != 0 {
				l.end(c, true)
				return
			}
			if c.state == relaying {
				l.move(c)
			}
		}
		return
	}
}

// offer writes what is left of the hello to the endpoint. It returns false if that endpoint is given up; the connection may have
// ended by that.
func (l *loop) offer(c *conn) bool {
	s := c.setup
	rest := s.send[c.toCell:]
	for len(rest) > 0 {
		n, errno := sysWrite(c.server.fd, rest)
		if errno == again {
			c.server.writable = false
			return true
		}
		if errno != 0 {
			l.abandon(c, failureOf(errno, c.toCell > 0))
			return false
		}
		if c.toCell == 0 {
			c.endpoint.pool.cell.meters.dial.Observe(float64(l.clock()-s.dialed) / 1e9)
		}
		c.toCell += int64(n)
		rest = rest[n:]
	}
	if !s.replayable {
		l.router.chooser.answered(c.endpoint, s.attempt.first())
		l.relay(c)
		return true
	}
	c.state = waiting
	l.until(c, s.dialed+int64(l.router.config.Dial.AnswerTimeout))
	return true
}

func failureOf(errno syscall.Errno, sent bool) failure {
	switch {
	case sent:
		return failedClosed
	case localFault(errno):
		return failedLocal
	case errno == syscall.ETIMEDOUT:
		return failedTimeout
	default:
		return failedRefused
	}
}

// leave gives up an endpoint.
func (l *loop) leave(c *conn, why failure) {
	l.router.chooser.failed(c.endpoint, why)
	l.hangUp(c)
}

// hangUp closes the connection to the endpoint.
func (l *loop) hangUp(c *conn) {
	if c.server.fd >= 0 {
		if c.toCell > 0 && c.state != relaying {
			sysReset(c.server.fd) // It shall not do work for nobody.
		}
		sysClose(c.server.fd)
	}
	if c.endpoint != nil {
		c.endpoint.count(-1)
	}
	c.endpoint, c.toCell = nil, 0
	c.server = side{fd: -1}
}

// retry tries the next endpoint after one failed, if the hello may be sent once more.
func (l *loop) retry(c *conn, why failure) {
	if l.abandon(c, why) {
		l.dial(c)
	}
}

// abandon gives up an endpoint that failed. It says whether another one may be asked. If not, because this one has got bytes that
// may not be sent twice, the client is refused.
func (l *loop) abandon(c *conn, why failure) bool {
	s := c.setup
	if c.toCell > 0 {
		if !s.replayable || int(s.attempt.replayed) >= l.router.config.Dial.Replays {
			l.router.chooser.failed(c.endpoint, why)
			l.refuse(c, errNoEndpoint)
			return false
		}
		s.attempt.replayed++
	}
	l.leave(c, why)
	return true
}

// relay ends the setup: from now on bytes are moved and nothing else.
func (l *loop) relay(c *conn) {
	ce := c.endpoint.pool.cell
	ce.meters.connections.Inc()
	if first := c.setup.attempt.first(); first != ce {
		first.meters.failover.Inc()
	}
	l.unset(c)
	c.state = relaying
	c.last = l.now
	c.deadline = l.now + int64(l.router.config.Limits.IdleTimeout)
	if c.slot < 0 {
		l.wheel.add(c)
	}
}

// unset frees what only the setup needs.
func (l *loop) unset(c *conn) {
	s := c.setup
	if s == nil {
		return
	}
	l.dropHello(c)
	if c.state != sniffing {
		l.settingUp.remove(c)
	}
	c.setup = nil
	*s = setup{}
	l.setups = append(l.setups, s)
}

// until sets the deadline of a connection in setup.
func (l *loop) until(c *conn, deadline int64) {
	c.deadline = deadline
	l.wheel.sooner(c)
}

// answer is called when the endpoint that has the hello sends, or ends.
func (l *loop) answer(c *conn) {
	buffer := l.room()
	n, errno := sysRead(c.server.fd, buffer)
	switch {
	case errno == again:
		c.server.readable = false
		return
	case errno != 0 || n == 0:
		l.retry(c, failedClosed)
		return
	}
	if n < len(buffer) {
		c.server.readable = c.server.ending
	}
	l.router.chooser.answered(c.endpoint, c.setup.attempt.first())
	l.relay(c)
	c.server.rest = buffer[:n]
	l.move(c)
}

// move pumps both directions, and ends the connection when both are over.
func (l *loop) move(c *conn) {
	down := l.pump(c, &c.server, &c.client, &c.toClient)
	up := blocked
	if down != broken {
		up = l.pump(c, &c.client, &c.server, &c.toCell)
	}
	switch {
	case down == broken || up == broken:
		l.end(c, true)
	case c.client.shut && c.server.shut:
		l.end(c, false)
	case (down == unended || up == unended) && !c.pumping:
		c.pumping = true
		l.more = append(l.more, ref{c.key, c.generation})
	}
}

// event is what the kernel tells of one side of a connection.
func (l *loop) event(c *conn, server bool, events uint32) {
	s := &c.client
	if server {
		s = &c.server
	}
	if events&(unix.EPOLLIN|unix.EPOLLRDHUP|unix.EPOLLHUP|unix.EPOLLERR) != 0 {
		s.readable = true
	}
	if events&(unix.EPOLLRDHUP|unix.EPOLLHUP|unix.EPOLLERR) != 0 {
		s.ending = true
	}
	if events&(unix.EPOLLOUT|unix.EPOLLHUP|unix.EPOLLERR) != 0 {
		s.writable = true
	}
	c.last = l.now
	switch c.state {
	case sniffing:
		if !server {
			l.sniff(c)
		}
	case dialing, waiting:
		l.setupEvent(c, server, events)
	case relaying:
		// Who has sent its end and then a reset takes nothing any more.
		if s.eof && events&unix.EPOLLERR != 0 {
			l.end(c, true)
			return
		}
		l.move(c)
	}
}

func (l *loop) setupEvent(c *conn, server bool, events uint32) {
	switch {
	case !server && events&unix.EPOLLERR != 0:
		l.count(c, errGone)
		l.end(c, true)
	case !server:
		// More from the client than its hello, before any answer: it cannot be sent again together with that, so there is no
		// way back. A client that ends its direction is no such thing: it may still want the answer, for a while.
		switch {
		case c.state != waiting:
		case c.client.ending && l.now >= c.setup.dialed+int64(l.router.config.Dial.AnswerTimeout):
			l.leftAlone(c)
		case events&unix.EPOLLIN != 0 && !c.client.ending:
			l.router.chooser.answered(c.endpoint, c.setup.attempt.first())
			l.relay(c)
			l.move(c)
		}
	case c.state == dialing && c.server.writable:
		if !l.offer(c) {
			if !c.ended() {
				l.dial(c)
			}
			return
		}
		if c.state == waiting && c.server.readable {
			l.answer(c)
		} else if c.state == relaying {
			l.move(c)
		}
	case c.state == waiting && c.server.readable:
		l.answer(c)
	}
}

// due is called when a connection's slot in the wheel has come.
func (l *loop) due(c *conn) {
	switch {
	case c.state == relaying:
		c.deadline = c.last + int64(l.router.config.Limits.IdleTimeout)
		if l.now >= c.deadline {
			l.end(c, true)
			return
		}
		l.wheel.add(c)
	case l.now < c.deadline:
		l.wheel.add(c)
	case c.state == sniffing:
		l.refuse(c, errSlow)
	case c.state == dialing:
		l.retry(c, failedTimeout)
	default:
		l.silent(c)
	}
}

// silent is called when an endpoint has not answered the hello for too long. It may only be slow: another one is asked if there is one
// and the budget allows, else the client waits on, but not for ever.
func (l *loop) silent(c *conn) {
	last := c.setup.dialed + int64(l.router.config.Limits.IdleTimeout)
	if c.client.ending {
		l.leftAlone(c)
		return
	}
	if l.now >= last {
		l.router.chooser.failed(c.endpoint, failedSilent)
		l.refuse(c, errNoEndpoint)
		return
	}
	a := &c.setup.attempt
	if int(a.replayed) < l.router.config.Dial.Replays && l.router.chooser.other(a, l.random()) && l.router.chooser.mayReplay() {
		l.retry(c, failedSilent)
		return
	}
	l.until(c, last)
}

// leftAlone ends a connection whose client has ended its direction, and whose endpoint has not answered in time: most likely nobody is
// there. When cells hang, such connections would else fill the router.
func (l *loop) leftAlone(c *conn) {
	l.count(c, errGone)
	l.end(c, true)
}

// lookAgain is called for a connection in setup when the health of endpoints has changed.
func (l *loop) lookAgain(c *conn) {
	if (c.state != dialing && c.state != waiting) || !c.endpoint.down.Load() {
		return
	}
	if c.toCell > 0 && !c.setup.replayable {
		return // It has a part of a request: it is the only one that may have it.
	}
	a := &c.setup.attempt
	if int(a.replayed) < l.router.config.Dial.Replays && l.router.chooser.other(a, l.random()) {
		l.retry(c, failedDown)
	}
}
