package proxy

import (
	"fmt"
	"hash/maphash"
	"log/slog"
	"math/bits"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/shopset/shopset/internal/admin"
)

// Serving says when a cell no longer serves: when most requests of most shops end with an error of the server, in spite of all
// fallbacks. /serving at the admin port tells routers, who then take the shops elsewhere. It is not readiness: with nobody
// in front who has another cell, what still works must be served.
type Serving struct {
	// Share of the requests, and of the shops, in percent that must fail. 0 turns it off. Default 50.
	Share int `yaml:"share"`
	// Shops is how many shops must fail at least: one that is broken by itself would be so in any cell. Default 3.
	Shops int `yaml:"shops"`
	// Requests is how many must fail at least: in a quiet hour a few say nothing. Default 6.
	Requests int `yaml:"requests"`
	// Window is how long back is looked at; two fifths of it are enough if these were as bad. Default 5s.
	Window time.Duration `yaml:"window"`
	// Hold is how long a cell is said not to serve. It doubles up to 16 times that when it fails again soon after. Default 10s.
	Hold time.Duration `yaml:"hold"`
}

func (s *Serving) problems(p *problems) {
	p.percent("serving.share", s.Share)
	if s.Shops < 1 || s.Shops > 1000 {
		p.add("serving.shops", "want 1 to 1000")
	}
	if s.Requests < 1 {
		p.add("serving.requests", "want 1 or more")
	}
	p.positive("serving.window", s.Window)
	p.positive("serving.hold", s.Hold)
}

// maxHolds is how many times Hold a cell is said not to serve at most.
const maxHolds = 16

// serving judges by what clients got. The path of a request that went well has no lock.
type serving struct {
	config Serving
	seed   maphash.Seed
	now    func() time.Time
	// tally is of the present part of the window.
	tally atomic.Pointer[tally]

	// failed is when it began not to serve (Unix nanoseconds), 0 when it serves; asked is that somebody was told so.
	failed atomic.Int64
	asked  atomic.Bool

	mu     sync.Mutex
	until  time.Time // of not serving
	holds  int       // the last time
	reason string
}

// windowParts is how many tallies make a window, and leastParts over how many a cell is judged at least, unless there are fewer: what went
// well before everything broke would outweigh for seconds what fails since.
const (
	windowParts = 10
	leastParts  = 4
)

// tally counts a part of a window. Shops are bits by their hash: two that share one count as one, of 4096.
type tally struct {
	before            *tally // the part before, within the window; guarded by serving.mu
	began             time.Time
	requests, failed  atomic.Int64
	shops, failedShop [64]atomic.Uint64
}

func newServing(config Serving, now func() time.Time) *serving {
	s := &serving{config: config, seed: maphash.MakeSeed(), now: now}
	s.tally.Store(&tally{began: now()})
	return s
}

// note counts an answer of a role of the cell to a shop's client.
func (s *serving) note(host string, failed bool) {
	if s.config.Share == 0 || s.failed.Load() != 0 && !s.recovered() {
		return
	}
	t := s.current()
	sum := maphash.String(s.seed, host)
	word, bit := sum>>6&63, uint64(1)<<(sum&63)
	t.requests.Add(1)
	if t.shops[word].Load()&bit == 0 {
		t.shops[word].Or(bit)
	}
	if !failed {
		return
	}
	t.failed.Add(1)
	t.failedShop[word].Or(bit)
	s.judge(t)
}

// current is the tally of the present part; whoever finds it over begins the next.
func (s *serving) current() *tally {
	part := s.config.Window / windowParts
	t := s.tally.Load()
	if s.now().Sub(t.began) < part {
		return t
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	t = s.tally.Load()
	now := s.now()
	if now.Sub(t.began) < part {
		return t // Somebody else began it.
	}
	next := &tally{began: now, before: t}
	for p := next; p.before != nil; p = p.before {
		if now.Sub(p.before.began) >= s.config.Window {
			p.before = nil
			break
		}
	}
	s.tally.Store(next)
	return next
}

// counts are sums over tallies.
type counts struct {
	requests, failed   int64
	shops, failedShops [64]uint64
}

func (c *counts) add(t *tally) {
	c.requests += t.requests.Load()
	c.failed += t.failed.Load()
	for i := range t.shops {
		c.shops[i] |= t.shops[i].Load()
		c.failedShops[i] |= t.failedShop[i].Load()
	}
}

func ones(words *[64]uint64) (n int) {
	for _, word := range words {
		n += bits.OnesCount64(word)
	}
	return n
}

// tooMany says whether that is a cell that does not serve.
func (s *serving) tooMany(c *counts) bool {
	share := s.config.Share
	if c.failed < int64(s.config.Requests) || c.failed*100 < int64(share)*c.requests {
		return false
	}
	failed := ones(&c.failedShops)
	return failed >= s.config.Shops && failed*100 >= share*ones(&c.shops)
}

// judge says whether the cell serves, after a failure: by the last part of the window, or a longer one.
func (s *serving) judge(t *tally) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failed.Load() != 0 || s.tally.Load() != t {
		return
	}
	now := s.now()
	var sum counts
	over := s.config.Window
	for p := t; ; p = p.before {
		sum.add(p)
		if p.before != nil && now.Sub(p.began) < leastParts*s.config.Window/windowParts {
			continue
		}
		if s.tooMany(&sum) {
			if p.before != nil {
				over = now.Sub(p.began).Round(time.Millisecond)
			}
			break
		}
		if p.before == nil {
			return
		}
	}
	if now.Sub(s.until) < time.Duration(s.holds)*s.config.Hold { // Not so at first, when holds is 0.
		s.holds = min(2*s.holds, maxHolds)
	} else {
		s.holds = 1
	}
	hold := time.Duration(s.holds) * s.config.Hold
	s.until = now.Add(hold)
	s.reason = fmt.Sprintf("%d of %d requests in %s failed, of %d of %d shops", sum.failed, sum.requests, over, ones(&sum.failedShops), ones(&sum.shops))
	s.asked.Store(false)
	s.failed.Store(now.UnixNano())
	slog.Warn("the cell does not serve; routers that ask for it go elsewhere", "because", s.reason, "for", hold)
}

// recovered ends not serving when its time is over.
func (s *serving) recovered() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failed.Load() == 0 {
		return true
	}
	if s.now().Before(s.until) {
		return false
	}
	s.tally.Store(&tally{began: s.now()})
	s.failed.Store(0)
	slog.Info("the cell is tried again")
	return true
}

// problem says why the cell does not serve, and empty that it does. Who asks is taken for a router.
func (s *serving) problem() string {
	if s.failed.Load() == 0 || s.recovered() {
		return ""
	}
	s.asked.Store(true)
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.reason
}

// leaves says whether a connection should end, so that its client comes back by way of a router that knows. It is told to those
// alone that were there before: who comes in spite of it came because it is nowhere better.
func (s *serving) leaves(since time.Time) bool {
	failed := s.failed.Load()
	return failed != 0 && s.asked.Load() && since.UnixNano() < failed
}

// page is GET /serving: 200 while the cell serves and the program is ready.
func (s *serving) page(server *admin.Server) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if problem := s.problem(); problem != "" {
			http.Error(w, problem, http.StatusServiceUnavailable)
			return
		}
		server.ServeReady(w, r)
	})
}

// metric is 1 while the cell serves.
func (s *serving) metric() prometheus.Collector {
	return prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "shopset_proxy_serving",
		Help: "1 while the cell serves, 0 while most requests of most shops fail.",
	}, func() float64 {
		if s.failed.Load() != 0 && !s.recovered() {
			return 0
		}
		return 1
	})
}

// failing says whether an exchange counts against the cell.
func (e *exchange) failing() bool {
	switch {
	case e.status == http.StatusNotImplemented || e.status == http.StatusHTTPVersionNotSupported:
		return false
	case e.status >= 500:
		return true
	}
	return e.failure != "" && e.fallback == "" && e.status != statusClientGone
}
