package proxy

import (
	"bytes"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"
)

// tunnels are the connections that were taken over after an answer 101: WebSockets, mostly. From there
// on the proxy knows nothing of what passes, only whether something does.
type tunnels struct {
	mu   sync.Mutex
	all  map[*tunnel]bool
	shut bool
}

// tunnel is the upstream's side of one. When it is closed, the client's is closed, too.
type tunnel struct {
	io.ReadWriteCloser
	owner *tunnels
	limit time.Duration
	idle  *time.Timer
	age   *time.Timer
	once  sync.Once
	err   error

	client net.Conn // nil until it is known; guarded by owner.mu
	closed bool     // as client
}

func (t *tunnels) open(upstream io.ReadWriteCloser, limits *Limits) *tunnel {
	opened := &tunnel{ReadWriteCloser: upstream, owner: t, limit: limits.UpgradedIdleTimeout}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.all == nil {
		t.all = map[*tunnel]bool{}
	}
	t.all[opened] = true
	end := func() { _ = opened.Close() } // Both sides see it; there is nobody else to tell.
	opened.idle = time.AfterFunc(limits.UpgradedIdleTimeout, end)
	opened.age = time.AfterFunc(limits.UpgradedAge, end)
	if t.shut {
		go end()
	}
	return opened
}

// to makes the client's side known, and returns it for what the upstream sends. A client that takes nothing for stall is cut.
func (t *tunnel) to(client net.Conn, stall time.Duration) io.Writer {
	t.owner.mu.Lock()
	defer t.owner.mu.Unlock()
	if t.client = client; t.closed {
		_ = client.Close()
	}
	return stallingWriter{client, stall}
}

// stallingWriter bounds each write to a connection.
type stallingWriter struct {
	net.Conn
	stall time.Duration
}

func (w stallingWriter) Write(p []byte) (int, error) {
	_ = w.SetWriteDeadline(time.Now().Add(w.stall))
	return w.Conn.Write(p)
}

// close ends all tunnels, and those that are opened later.
func (t *tunnels) close() {
	t.mu.Lock()
	t.shut = true
	all := make([]*tunnel, 0, len(t.all))
	for open := range t.all {
		all = append(all, open)
	}
	t.mu.Unlock()
	for _, open := range all {
		_ = open.Close()
	}
}

func (t *tunnel) Read(p []byte) (int, error) {
	n, err := t.ReadWriteCloser.Read(p)
	t.idle.Reset(t.limit)
	return n, err
}

func (t *tunnel) Write(p []byte) (int, error) {
	n, err := t.ReadWriteCloser.Write(p)
	t.idle.Reset(t.limit)
	return n, err
}

func (t *tunnel) Close() error {
	t.once.Do(func() {
		t.owner.mu.Lock()
		t.idle.Stop()
		t.age.Stop()
		delete(t.owner.all, t)
		t.closed = true
		client := t.client
		t.owner.mu.Unlock()
		t.err = t.ReadWriteCloser.Close()
		if client != nil { // It may be what a write waits for.
			_ = client.Close()
		}
	})
	return t.err
}

// tunnel hands the connections over after an answer 101.
func (p *pipeline) tunnel(e *exchange, response *http.Response) {
	if upgrade(response.Header) == "" || !strings.EqualFold(upgrade(response.Header), upgrade(e.request.Header)) {
		_ = response.Body.Close()
		p.failed(e, nil, errors.New("the upstream switches to another protocol than was asked for"))
		return
	}
	back, ok := response.Body.(io.ReadWriteCloser)
	if !ok {
		_ = response.Body.Close()
		p.failed(e, nil, errors.New("the upstream's connection cannot be taken over"))
		return
	}
	opened := p.tunnels.open(back, e.limits)
	defer opened.Close()
	conn, buffered, err := e.control.Hijack()
	if err != nil {
		p.failed(e, nil, err)
		return
	}
	defer conn.Close()
	client := opened.to(conn, e.limits.StallTimeout)
	if checked, ok := conn.(*checkedConn); ok {
		checked.through() // From here on it speaks another protocol.
	}
	p.filterAnswer(e, response.Header)
	header := e.Header()
	for name, values := range response.Header {
		header[name] = values
	}
	e.status = response.StatusCode // The connection is taken over, nothing else says it.
	answer := &http.Response{StatusCode: response.StatusCode, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Header: header}
	var head bytes.Buffer
	if answer.Write(&head) != nil {
		return
	}
	if _, err := client.Write(head.Bytes()); err != nil {
		return
	}
	ended := make(chan struct{}, 2)
	go func() {
		_, _ = io.Copy(opened, buffered)
		ended <- struct{}{}
	}()
	go func() {
		_, _ = io.Copy(client, opened)
		ended <- struct{}{}
	}()
	select {
	case <-ended:
	case <-e.request.Context().Done():
	}
}
