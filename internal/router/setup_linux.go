package router

// helloMemory bounds the hellos of all clients that are not served yet, and keptMemory what is held for those that do not take what is
// sent to them. Neither may grow with the number of clients.
const (
	helloMemory = 64 << 20
	keptMemory  = 128 << 20
)

// beginHello gives a connection a buffer for its hello, with room for a PROXY header in front.
func (l *loop) beginHello(c *conn) {
	s := c.setup
	s.hello = l.buffers.take(smallBuffer)[:maxSentProxy]
	l.hellos += cap(s.hello)
	l.reading.add(c)
}

// growHello doubles the buffer, up to the limit.
func (l *loop) growHello(s *setup) {
	limit := s.sniffer.limit() + maxSentProxy
	if cap(s.hello) >= limit {
		return
	}
	larger := append(make([]byte, 0, min(2*cap(s.hello), limit)), s.hello...)
	l.hellos += cap(larger) - cap(s.hello)
	l.buffers.give(s.hello)
	s.hello = larger
}

// dropHello takes the buffer back.
func (l *loop) dropHello(c *conn) {
	s := c.setup
	if s.hello == nil {
		return
	}
	if c.state == sniffing {
		l.reading.remove(c)
	}
	l.hellos -= cap(s.hello)
	l.buffers.give(s.hello)
	s.hello = nil
}

// makeRoom cuts the slowest clients when all hellos together take too much memory: those that began longest ago and have not finished.
// A client that means well needs milliseconds. The one that has just sent something stays.
func (l *loop) makeRoom(but *conn) {
	for c := l.reading.last; c != nil && l.hellos > l.mostHellos; {
		next := c.previousSetup
		if c != but {
			l.refuse(c, errSlow)
		}
		c = next
	}
}

// room is what may be read into: less while many clients and endpoints do not take what was read for them, as it has to be kept.
func (l *loop) room() []byte {
	if l.kept >= l.mostKept {
		return l.buffer[:smallBuffer]
	}
	return l.buffer
}

// setupList has connections that are set up, the newest first.
type setupList struct{ first, last *conn }

func (s *setupList) add(c *conn) {
	c.nextSetup = s.first
	if s.first != nil {
		s.first.previousSetup = c
	} else {
		s.last = c
	}
	s.first = c
}

func (s *setupList) remove(c *conn) {
	if c.previousSetup != nil {
		c.previousSetup.nextSetup = c.nextSetup
	} else if s.first == c {
		s.first = c.nextSetup
	}
	if c.nextSetup != nil {
		c.nextSetup.previousSetup = c.previousSetup
	} else if s.last == c {
		s.last = c.previousSetup
	}
	c.previousSetup, c.nextSetup = nil, nil
}
