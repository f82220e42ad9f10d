package router

import (
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// pipe is what splice moves bytes through. Only connections with bytes in flight have one.
type pipe struct {
	read, write int32
	held        int
}

// pipes are those of one loop that nobody uses.
type pipes struct{ free []*pipe }

const (
	// pipeBytes is the size that a pipe is asked to have. Measured here: CPU per byte falls by a third from 64 KiB to 512 KiB, and
	// not by much more from there to 1 MiB, which is the most.
	pipeBytes = 512 << 10
	// keptPipes is how many idle ones a loop keeps.
	keptPipes = 32
	// mostPipes bounds those of all loops: beyond 64 MiB (fs.pipe-user-pages-soft) the kernel gives an unprivileged user pipes of
	// two pages only. Who gets none is served through the loop's buffer.
	mostPipes = 96
)

var openPipes atomic.Int32

// take returns a pipe, nil if there are too many.
func (p *pipes) take() *pipe {
	if n := len(p.free); n > 0 {
		taken := p.free[n-1]
		p.free = p.free[:n-1]
		return taken
	}
	if openPipes.Add(1) > mostPipes {
		openPipes.Add(-1)
		return nil
	}
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_NONBLOCK|unix.O_CLOEXEC); err != nil {
		openPipes.Add(-1)
		return nil
	}
	_, _ = unix.FcntlInt(uintptr(fds[0]), unix.F_SETPIPE_SZ, pipeBytes) // It works with the usual size, too.
	return &pipe{read: int32(fds[0]), write: int32(fds[1])}
}

// give takes a pipe back. One with bytes in it is closed: they belong to nobody else.
func (p *pipes) give(used *pipe) {
	if used.held != 0 || len(p.free) >= keptPipes {
		sysClose(used.read)
		sysClose(used.write)
		openPipes.Add(-1)
		return
	}
	p.free = append(p.free, used)
}

func (p *pipes) close() {
	for _, free := range p.free {
		sysClose(free.read)
		sysClose(free.write)
		openPipes.Add(-1)
	}
	p.free = nil
}
