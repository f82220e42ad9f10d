package router

import (
	"net/netip"

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
