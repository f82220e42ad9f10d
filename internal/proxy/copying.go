package proxy

import (
	"bytes"
	"io"
	"net/http"
	"sync"
)

// copying is an answer on its way into the store. It is read as fast as its upstream sends it, however slowly its client
// takes it: others wait for it. What is read and not taken counts against a budget; an answer that finds none left, or is
// copied for another client already, goes to its client as any other.
type copying struct {
	store            *store
	page             *page
	flight           *pageFlight
	primary, variant string
	length           int64 // -1 when nobody knows
	source           io.Reader
	held             int64 // of the budget
	ended            chan struct{}

	mu      sync.Mutex
	more    sync.Cond
	data    []byte
	taken   int    // of data, by the client
	rest    []byte // what did not fit any more
	stopped bool   // nothing is gathered any more
	err     error  // how the answer ended; nil if its rest is still to be read
}

// atOnce is the length up to which an answer is read before the first byte goes to its client: it is there, mostly.
const atOnce = 16 << 10

// storing begins to copy an answer that may be stored, and returns nil for others. The answer is as its upstream sent it.
func (p *pipeline) storing(e *exchange, response *http.Response) *copying {
	s := e.role.store
	if s == nil {
		return nil
	}
	if !e.joined && e.fallback == "" && response.StatusCode == http.StatusOK && response.ContentLength <= s.pageLimit() && s.takes(e) && !noStore(e.request.Header) {
		if made := newPage(response.Header, e.start); made != nil {
			primary := primaryKey(e, p.trusted)
			return &copying{store: s, primary: primary, variant: variantKey(primary, made.vary, e.request.Header), page: made,
				flight: e.flight, length: response.ContentLength}
		}
	}
	s.land(e.flight, nil, "") // Nobody needs to wait for it.
	return nil
}

// pageLimit bounds one page, budget all copies under way.
func (s *store) pageLimit() int64 { return int64(min(s.config.PageBytes, s.config.Bytes)) }

func (s *store) budget() int64 { return max(int64(s.config.Bytes)/4, s.pageLimit()) }

// from returns a reader for an answer's body that copies it. end must be called when nobody reads from it any more, and
// before the body is closed.
func (c *copying) from(body io.Reader, buffers *bufferPool) io.Reader {
	if c == nil || !c.begin() {
		return body
	}
	c.source, c.ended, c.more.L = body, make(chan struct{}), &c.mu
	if c.length >= 0 && c.length <= atOnce {
		c.gather(buffers)
	} else {
		go c.gather(buffers)
	}
	return c
}

func (c *copying) begin() bool {
	c.store.mu.Lock()
	busy := c.store.copies[c.variant]
	c.store.copies[c.variant] = true
	c.store.mu.Unlock()
	if busy {
		c.store.land(c.flight, nil, "")
	}
	return !busy
}

// gather reads until the end of the answer, or until there is no room.
func (c *copying) gather(buffers *bufferPool) {
	defer close(c.ended)
	buffer := buffers.Get()
	defer buffers.Put(buffer)
	for {
		n, err := c.source.Read(buffer)
		c.mu.Lock()
		room := c.grow(n)
		if room {
			c.data = append(c.data, buffer[:n]...)
		} else {
			c.rest = bytes.Clone(buffer[:n])
		}
		c.mu.Unlock()
		if room && err == nil {
			c.more.Signal()
			continue
		}
		c.landed(room && err == io.EOF)
		c.mu.Lock()
		c.stopped, c.err = true, err
		c.mu.Unlock()
		c.more.Signal()
		return
	}
}

// grow makes room for more bytes, as far as page and budget go.
func (c *copying) grow(by int) bool {
	have, need, limit := int64(cap(c.data)), int64(len(c.data)+by), c.store.pageLimit()
	if need <= have {
		return true
	}
	size := min(max(need, 2*have, c.length), limit)
	if need > limit || c.store.held.Add(size-have) > c.store.budget() {
		if need <= limit {
			c.store.held.Add(have - size)
		}
		return false
	}
	c.held += size - have
	c.data = append(make([]byte, 0, size), c.data...)
	return true
}

// landed ends the copy, which is stored if it is whole.
func (c *copying) landed(whole bool) {
	result := (*page)(nil)
	if whole && (c.length < 0 || c.length == int64(len(c.data))) {
		result = c.page
		result.body = c.data[:len(c.data):len(c.data)]
		if result.body == nil {
			result.body = []byte{}
		}
		if len(result.vary) > 0 {
			c.store.pages.Set(c.primary, &page{vary: result.vary, fresh: result.fresh})
		}
		c.store.pages.Set(c.variant, result)
	}
	c.store.mu.Lock()
	delete(c.store.copies, c.variant)
	c.store.mu.Unlock()
	c.store.land(c.flight, result, c.variant)
}

// Read implements io.Reader, for the client.
func (c *copying) Read(p []byte) (int, error) {
	c.mu.Lock()
	for c.taken == len(c.data) && !c.stopped {
		c.more.Wait()
	}
	if c.taken == len(c.data) && len(c.rest) > 0 { // From here on it costs no more than any other.
		c.data, c.taken, c.rest = c.rest, 0, nil
		c.release()
	}
	n := copy(p, c.data[c.taken:])
	c.taken += n
	err := c.err
	c.mu.Unlock()
	switch {
	case n > 0:
		return n, nil
	case err != nil:
		return 0, err
	}
	return c.source.Read(p) // There was no room for all; from here it comes as it is sent.
}

// end waits for what is being read: the body is not to be closed before.
func (c *copying) end() {
	if c == nil || c.ended == nil {
		return
	}
	<-c.ended
	c.release()
}

func (c *copying) release() {
	c.store.held.Add(-c.held)
	c.held = 0
}
