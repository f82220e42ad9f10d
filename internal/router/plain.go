package router

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// plain is the engine of two goroutines for each connection. It is for systems without epoll, and to fall back to: the same
// decisions, simpler machinery, about two thirds of the speed.
type plain struct {
	router    *Router
	listeners []net.Listener
	accepting sync.WaitGroup
	closing   atomic.Bool // no new connections
	serving   sync.WaitGroup

	mu     sync.Mutex
	open   map[*plainConn]struct{}
	closed bool
}

func newPlain(r *Router) *plain { return &plain{router: r, open: map[*plainConn]struct{}{}} }

func (p *plain) start() (addresses [kinds]net.Addr, err error) {
	err = p.router.eachPort(func(k kind, port *Port) error {
		l, err := net.Listen("tcp", port.Address)
		if err != nil {
			return err
		}
		p.listeners = append(p.listeners, l)
		addresses[k] = l.Addr()
		p.accepting.Go(func() { p.accept(k, l) })
		return nil
	})
	return addresses, err
}

func (p *plain) closeListeners() {
	p.closing.Store(true)
	for _, l := range p.listeners {
		l.Close()
	}
	p.accepting.Wait()
}

func (p *plain) end() {
	p.closeListeners()
	p.mu.Lock()
	p.closed = true
	for c := range p.open {
		c.close(false)
	}
	p.mu.Unlock()
	p.serving.Wait()
}

// wake cuts connections to cells without traffic; the others look for themselves.
func (p *plain) wake() {
	at := now()
	if !p.router.chooser.cutting(at) {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.open {
		if e := c.endpoint; e != nil {
			if leaving := e.pool.cell.leaving.Load(); leaving > 0 && at >= leaving {
				c.close(false)
			}
		}
	}
}

func (p *plain) accept(k kind, l net.Listener) {
	limiter, m := p.router.limiter, p.router.meters
	for {
		for paused := false; limiter.full(); paused = true {
			if !paused {
				m.pauses.Inc()
			}
			time.Sleep(50 * time.Millisecond)
			if p.closing.Load() {
				return
			}
		}
		conn, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			m.pauses.Inc()
			time.Sleep(50 * time.Millisecond) // Most likely there is no file descriptor left.
			continue
		}
		m.accept[k].Inc()
		c := &plainConn{p: p, client: conn.(*net.TCPConn)}
		peer := unmapped(conn.RemoteAddr().(*net.TCPAddr).AddrPort())
		c.from, c.uncounted = source(peer.Addr()), p.router.behind(k, peer.Addr())
		if !c.uncounted && !limiter.take(c.from) {
			m.refuse(k, errSource)
			conn.Close()
			continue
		}
		limiter.total.Add(1)
		p.serving.Go(func() {
			if p.add(c) {
				c.serve(k)
			}
			p.remove(c)
		})
	}
}

func (p *plain) add(c *plainConn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.open[c] = struct{}{}
	return !p.closed
}

func (p *plain) remove(c *plainConn) {
	p.mu.Lock()
	delete(p.open, c)
	p.mu.Unlock()
	c.close(false)
	if c.counted() {
		p.router.limiter.give(c.from)
	}
	p.router.limiter.total.Add(-1)
}

// serve takes a connection from its first byte to its last.
func (c *plainConn) serve(k kind) {
	r := c.p.router
	hello, s, host, err := c.sniff(k)
	if err == nil && host == "" {
		if host = r.defaultHost(k); host == "" {
			err = errNoServerName
		}
	}
	var a attempt
	if err == nil {
		_, err = r.chooser.start(&a, k, host, nil)
	}
	if err == nil {
		err = c.connect(&a, hello, s)
	}
	if err != nil {
		c.refuse(k, err)
		return
	}
	c.relay(&a)
}

// sniff reads until the host is known.
func (c *plainConn) sniff(k kind) ([]byte, *sniffer, string, error) {
	r := c.p.router
	peer := unmapped(c.client.RemoteAddr().(*net.TCPAddr).AddrPort())
	s := &sniffer{kind: k, behind: r.behind(k, peer.Addr())}
	_ = c.client.SetReadDeadline(time.Now().Add(r.config.Limits.HelloTimeout))
	b := make([]byte, 0, smallHello)
	for {
		if len(b) == cap(b) {
			if cap(b) >= s.limit() {
				return nil, s, "", errHelloSize
			}
			b = append(make([]byte, 0, min(2*cap(b), s.limit())), b...)
		}
		n, err := c.client.Read(b[len(b):cap(b)])
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return nil, s, "", errSlow
		}
		if err != nil {
			return nil, s, "", errGone
		}
		b = b[:len(b)+n]
		host, done, err := s.feed(b)
		if c.uncounted && s.client.IsValid() { // The PROXY header has just told who it is.
			c.from = source(s.client.Addr())
			if c.uncounted = !r.limiter.take(c.from); c.uncounted {
				return nil, s, "", errSource
			}
		}
		if err != nil {
			return nil, s, "", err
		}
		if !done {
			continue
		}
		_ = c.client.SetReadDeadline(time.Time{})
		if !s.client.IsValid() {
			s.client, s.called = peer, unmapped(c.client.LocalAddr().(*net.TCPAddr).AddrPort())
		}
		return b, s, host, nil
	}
}

const smallHello = 4 << 10

// connect offers the hello to endpoints until one takes it.
func (c *plainConn) connect(a *attempt, hello []byte, s *sniffer) error {
	r := c.p.router
	replayable := s.replayable(hello)
	var send []byte
	if r.config.SendProxy {
		send = appendProxyV2(send, s.client, s.called)
	}
	send = append(send, hello[s.begin:]...)
	for {
		e := r.chooser.next(a, rand.Uint32()) //nolint:gosec // It spreads load.
		if e == nil {
			return errNoEndpoint
		}
		sent, why := c.offer(e, a, send, replayable)
		if why == failures {
			return nil
		}
		r.chooser.failed(e, why)
		c.drop(e)
		if sent {
			if !replayable || int(a.replayed) >= r.config.Dial.Replays {
				return errNoEndpoint
			}
			a.replayed++
		}
	}
}

// offer gives the hello to an endpoint and waits for the first byte of the answer, if the hello could be sent to another one. The
// failure is failures if there was none.
func (c *plainConn) offer(e *endpoint, a *attempt, send []byte, replayable bool) (sent bool, why failure) {
	r := c.p.router
	begin := time.Now()
	ctx, cancel := context.WithTimeout(r.ctx, r.config.Dial.Timeout)
	defer cancel()
	conn, err := (&net.Dialer{KeepAlive: -1}).DialContext(ctx, "tcp", e.address.String())
	if err != nil {
		if localFault(err) {
			return false, failedLocal
		}
		if timeout, ok := errors.AsType[net.Error](err); ok && timeout.Timeout() {
			return false, failedTimeout
		}
		return false, failedRefused
	}
	e.pool.cell.meters.dial.Observe(time.Since(begin).Seconds())
	c.attach(e, conn.(*net.TCPConn))
	_ = conn.SetWriteDeadline(time.Now().Add(r.config.Dial.Timeout))
	if n, err := conn.Write(send); err != nil {
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return n > 0, failedTimeout
		}
		return n > 0, failedClosed
	}
	_ = conn.SetWriteDeadline(time.Time{})
	c.up += int64(len(send))
	if replayable {
		if why := c.await(e, a, begin); why != failures {
			return true, why
		}
	}
	r.chooser.answered(e, a.first())
	return true, failures
}

// await reads the first bytes of the answer into c.early.
func (c *plainConn) await(e *endpoint, a *attempt, begin time.Time) failure {
	r := c.p.router
	early := make([]byte, smallHello)
	patience := begin.Add(r.config.Dial.AnswerTimeout)
	last := begin.Add(r.config.Limits.IdleTimeout)
	for {
		_ = c.server.SetReadDeadline(time.Now().Add(downPoll))
		n, err := c.server.Read(early)
		if n > 0 {
			_ = c.server.SetReadDeadline(time.Time{})
			c.early = early[:n]
			return failures
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			return failedClosed
		}
		more := int(a.replayed) < r.config.Dial.Replays && r.chooser.other(a, rand.Uint32()) //nolint:gosec // It spreads load.
		switch at := time.Now(); {
		case more && e.down.Load():
			return failedDown
		case at.After(last):
			return failedSilent
		case at.After(patience):
			if more && r.chooser.mayReplay() {
				return failedSilent
			}
			patience = last
		}
	}
}

// downPoll is how often a connection that waits looks whether its endpoint went down.
const downPoll = 50 * time.Millisecond

func (c *plainConn) refuse(k kind, why error) {
	c.p.router.meters.refuse(k, why)
	if text := refusal(k, why); text != "" {
		_ = c.client.SetWriteDeadline(time.Now().Add(time.Second))
		_, _ = io.WriteString(c.client, text)
	}
}
