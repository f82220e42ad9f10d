package router

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// side is one end of a connection: the client, or the endpoint. What was read from it and not yet written to the other side is
// in rest or in pipe.
type side struct {
	fd int32 // -1 is none
	// readable and writable say that a call may succeed: set by an event, cleared when it does not.
	readable, writable bool
	// ending says that the peer has closed its direction, or the connection is broken: read until the end shows.
	ending bool
	// eof says that all was read, shut that the direction to this side was closed.
	eof, shut bool
	// armed says that the kernel tells when it can be written to again: asked for when that is first wanted.
	armed  bool
	full   uint8 // reads in a row that filled the buffer
	rest   []byte
	buffer []byte // the pooled one that rest is in
	pipe   *pipe
}

const (
	// readBytes is the size of the buffer that each loop reads into.
	readBytes = 64 << 10
	// fullReads is after how many full buffers in a row splice takes over.
	fullReads = 1
	// turnBytes is how much one direction moves until it is another connection's turn.
	turnBytes = 1 << 20
)

// moved is how a turn ended.
type outcome uint8

const (
	blocked outcome = iota // wait for an event
	unended                // there may be more right now
	broken                 // a side is dead
)

// pump moves bytes from one side to the other, and counts them, until one would block.
func (l *loop) pump(c *conn, from, to *side, count *int64) outcome {
	for turn := 0; ; {
		if n, result := l.flush(from, to); result != unended {
			*count += int64(n)
			if result == blocked {
				l.arm(c, to)
			}
			return result
		} else if n > 0 {
			*count += int64(n)
			turn += n
		}
		if from.eof {
			// Where the other direction has ended already, closing says it all.
			if !to.shut && (!to.eof || !from.shut) {
				sysShutdownWrite(to.fd)
			}
			to.shut = true
			l.unpipe(from)
			return blocked
		}
		// A turn ends with nothing in the loop's buffer: the next connection reads into it.
		if turn >= turnBytes {
			return unended
		}
		if !from.readable {
			l.unpipe(from)
			return blocked
		}
		if !to.writable {
			return blocked // Nothing is read that could not be passed on.
		}
		n, errno := l.take(from)
		switch {
		case errno == again:
			from.readable, from.full = false, 0
		case errno != 0:
			return broken
		case n == 0:
			from.eof = true
		}
	}
}

// arm asks the kernel to tell when a side can be written to again.
func (l *loop) arm(c *conn, s *side) {
	if s.armed {
		return
	}
	s.armed = true
	key := c.key << 1
	if s == &c.server {
		key |= 1
	}
	sysEpollModify(l.epoll, s.fd, edges|unix.EPOLLOUT, key, c.generation)
}

// take reads once: through a pipe if much comes, else into the buffer of the loop, from where it is written at once.
func (l *loop) take(from *side) (int, syscall.Errno) {
	if from.full >= fullReads {
		if from.pipe == nil {
			from.pipe = l.pipes.take()
		}
		if from.pipe != nil {
			n, errno := sysSplice(from.fd, from.pipe.write, pipeBytes)
			if errno == 0 {
				from.pipe.held = n
			}
			return n, errno
		}
	}
	buffer := l.room()
	n, errno := sysRead(from.fd, buffer)
	if errno != 0 || n == 0 {
		return n, errno
	}
	if n == len(buffer) {
		from.full = min(from.full+1, fullReads)
	} else {
		from.full = 0
		from.readable = from.ending // Less than asked for: all was read. What comes next brings a new event.
	}
	from.rest = buffer[:n]
	return n, 0
}

// flush writes what was read before. It returns unended when nothing is left.
func (l *loop) flush(from, to *side) (int, outcome) {
	total := 0
	for from.pipe != nil && from.pipe.held > 0 {
		if !to.writable {
			return total, blocked
		}
		n, errno := sysSplice(from.pipe.read, to.fd, from.pipe.held)
		switch {
		case errno == again:
			to.writable = false
		case errno != 0:
			return total, broken
		default:
			from.pipe.held -= n
			total += n
		}
	}
	for len(from.rest) > 0 {
		if !to.writable {
			l.keep(from)
			return total, blocked
		}
		n, errno := sysWrite(to.fd, from.rest)
		switch {
		case errno == again:
			to.writable = false
		case errno != 0:
			from.rest = nil
			return total, broken
		default:
			from.rest = from.rest[n:]
			total += n
		}
	}
	if from.buffer != nil {
		l.release(from)
	}
	return total, unended
}

// keep moves what could not be written out of the loop's buffer.
func (l *loop) keep(s *side) {
	if s.buffer != nil {
		return
	}
	s.buffer = l.buffers.take(len(s.rest))
	s.rest = append(s.buffer[:0], s.rest...)
	s.buffer = s.buffer[:0]
	l.kept += cap(s.buffer)
}

func (l *loop) release(s *side) {
	if s.buffer != nil {
		l.kept -= cap(s.buffer)
		l.buffers.give(s.buffer)
	}
	s.buffer, s.rest = nil, nil
}

// unpipe gives an empty pipe back: idle connections hold none.
func (l *loop) unpipe(s *side) {
	if s.pipe != nil && s.pipe.held == 0 {
		l.pipes.give(s.pipe)
		s.pipe = nil
	}
}

// buffers are for bytes that could not be passed on at once, and for hellos. They come in two sizes.
type buffers struct{ small, large [][]byte }

const (
	smallBuffer = 4 << 10
	keptBuffers = 64
)

func (b *buffers) take(size int) []byte {
	list, capacity := &b.small, smallBuffer
	if size > smallBuffer {
		list, capacity = &b.large, max(size, readBytes+maxSentProxy)
	}
	if n := len(*list); n > 0 && cap((*list)[n-1]) >= size {
		taken := (*list)[n-1]
		*list = (*list)[:n-1]
		return taken[:0]
	}
	return make([]byte, 0, capacity)
}

func (b *buffers) give(used []byte) {
	list := &b.small
	if cap(used) > smallBuffer {
		list = &b.large
	}
	if len(*list) < keptBuffers {
		*list = append(*list, used)
	}
}
