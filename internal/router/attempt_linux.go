package router

import (
	"syscall"

	"golang.org/x/sys/unix"
)

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
