package router

import (
	"net"
	"runtime"
	"sync"

	"golang.org/x/sys/unix"
)

const defaultEngine = EngineEpoll

// descriptorLimit is how many file descriptors the process may have. Go raises the soft limit to the hard one.
func descriptorLimit() int {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return 1024
	}
	return int(min(limit.Cur, 1<<30))
}

// loops is the engine "epoll".
type loops struct {
	router *Router
	list   []*loop
	ended  sync.WaitGroup
	// mu guards the descriptors of the loops: nobody shall wake one by a number that is another file's meanwhile.
	mu     sync.RWMutex
	closed bool
}

func newLoops(r *Router) (engine, error) {
	e := &loops{router: r}
	// A loop that returns from the kernel must find a processor of Go's scheduler free, else it waits for one; two more are for
	// probes, the admin port and the collector. Measured: 15 % less CPU per connection.
	if most := r.config.Loops + 2; runtime.GOMAXPROCS(0) < most {
		runtime.GOMAXPROCS(most)
	}
	for range r.config.Loops {
		l, err := newLoop(r)
		if err != nil {
			e.end()
			return nil, err
		}
		e.list = append(e.list, l)
		e.ended.Go(l.run)
	}
	return e, nil
}

func (e *loops) start() (addresses [kinds]net.Addr, err error) {
	// Loops wait in the kernel meanwhile, so they are given their listeners as commands.
	err = e.router.eachPort(func(k kind, port *Port) error {
		list, address, err := listen(k, port, len(e.list))
		if err != nil {
			return err
		}
		addresses[k] = address
		if at := unmapped(address.(*net.TCPAddr).AddrPort()); !at.Addr().IsUnspecified() {
			e.router.bound[k] = at
		}
		for i, li := range list {
			e.list[i].offered <- li
			e.list[i].wake()
		}
		return nil
	})
	return addresses, err
}

func (e *loops) closeListeners() { e.tell(commandClose) }

func (e *loops) end() {
	e.tell(commandEnd)
	e.ended.Wait()
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return
	}
	e.closed = true
	for _, l := range e.list {
		sysClose(l.epoll)
		sysClose(l.waker)
	}
}

func (e *loops) wake() { e.tell(0) }

// tell gives all loops a command, and wakes them.
func (e *loops) tell(what uint32) {
	e.mu.RLock()
	defer e.mu.RUnlock()
	if e.closed {
		return
	}
	for _, l := range e.list {
		l.tell(what)
	}
}
