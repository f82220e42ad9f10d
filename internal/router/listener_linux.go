package router

import (
	"context"
	"fmt"
	"net"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// listener is one loop's own socket of a port: the kernel spreads new connections over those of all loops by their addresses.
type listener struct {
	kind kind
	fd   int32
}

// listen opens a port once for each loop. The first one finds the port if the address leaves it open.
func listen(k kind, port *Port, loops int) (list []*listener, address net.Addr, err error) {
	at := port.Address
	for range loops {
		fd, bound, err := listenOnce(at, port.Backlog)
		if err != nil {
			for _, l := range list {
				sysClose(l.fd)
			}
			return nil, nil, fmt.Errorf("%s port: %w", k, err)
		}
		list = append(list, &listener{kind: k, fd: fd})
		at, address = bound.String(), bound
	}
	return list, address, nil
}

func listenOnce(address string, backlog int) (int32, net.Addr, error) {
	config := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) error {
		var failed error
		err := raw.Control(func(fd uintptr) { failed = options(int(fd)) })
		if err != nil {
			return err
		}
		return failed
	}}
	config.SetMultipathTCP(false)
	l, err := config.Listen(context.Background(), "tcp", address)
	if err != nil {
		return -1, nil, err
	}
	defer l.Close()
	raw, err := l.(*net.TCPListener).SyscallConn()
	if err != nil {
		return -1, nil, err
	}
	own := -1
	var failed error
	// A copy is the loop's, so that Go's runtime does not watch it.
	err = raw.Control(func(fd uintptr) {
		if own, failed = unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 0); failed == nil {
			failed = unix.Listen(own, backlog)
		}
	})
	if err == nil {
		err = failed
	}
	if err != nil {
		return -1, nil, err
	}
	return int32(own), l.Addr(), nil
}

// options of a listening socket; those of TCP are inherited by the connections.
func options(fd int) error {
	for _, o := range [][3]int{
		{unix.SOL_SOCKET, unix.SO_REUSEPORT, 1},
		{unix.IPPROTO_TCP, unix.TCP_NODELAY, 1},
		{unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1},
		{unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, int(keepAlive / time.Second)},
		{unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, int(keepAlive / time.Second / 4)},
	} {
		if err := unix.SetsockoptInt(fd, o[0], o[1], o[2]); err != nil {
			return err
		}
	}
	return nil
}

// keepAlive is the silence after which the kernel asks whether a client is still there.
const keepAlive = time.Minute

// serve takes a listener into the loop.
func (l *loop) serve(li *listener) {
	key := uint32(len(l.listeners))
	l.listeners = append(l.listeners, li)
	if errno := sysEpollAdd(l.epoll, li.fd, unix.EPOLLIN, key, special); errno != 0 {
		l.router.log.Error("port is not served", "port", li.kind.String(), "error", errno)
	}
}

// accept takes new connections, a bounded number, so that those that are open have their turn. It says whether there may be more.
func (l *loop) accept(li *listener) (more bool) {
	for range acceptsAtOnce {
		if l.router.limiter.full() {
			l.pause()
			return false
		}
		fd, client, errno := sysAccept(li.fd)
		switch errno {
		case 0:
			l.router.meters.accept[li.kind].Inc()
			l.adopt(fd, li, client)
		case again:
			return false
		case syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM:
			l.resumeAt = l.now + pauseMillis*1e6
			l.pause()
			return false
		default: // A client that left meanwhile, and such.
		}
	}
	return true
}

// pause stops accepting: connections wait in the kernel.
func (l *loop) pause() {
	if l.paused || l.closing { // The numbers of listeners that are closed may be those of connections.
		return
	}
	l.paused = true
	l.router.meters.pauses.Inc()
	for key, li := range l.listeners {
		sysEpollModify(l.epoll, li.fd, 0, uint32(key), special)
	}
}

func (l *loop) resume() {
	l.paused = false
	for key, li := range l.listeners {
		sysEpollModify(l.epoll, li.fd, unix.EPOLLIN, uint32(key), special)
	}
}

// lastAccepts bounds how often a listener that closes is asked for what waits: 4096 connections, the usual backlog.
const lastAccepts = 4096 / acceptsAtOnce

// closeListeners takes what already waits, and stops listening.
func (l *loop) closeListeners() {
	if l.closing {
		return
	}
	l.closing = true
	for _, li := range l.listeners {
		for range lastAccepts {
			if !l.accept(li) {
				break
			}
		}
		sysClose(li.fd)
	}
}
