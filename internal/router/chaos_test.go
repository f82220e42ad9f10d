package router

import (
	"crypto/tls"
	"io"
	mathrand "math/rand/v2"
	"net"
	"net/netip"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/shopset/shopset/internal/routetable"
)

// moody is a backend that behaves in another way each time.
func moody(seed uint64) func(net.Conn, *proxied) {
	var mu sync.Mutex
	random := mathrand.New(mathrand.NewPCG(seed, 1))
	large := make([]byte, 300<<10)
	return func(conn net.Conn, _ *proxied) {
		mu.Lock()
		mood := random.IntN(8)
		mu.Unlock()
		switch mood {
		case 0: // Closes without a word.
		case 1:
			_ = conn.(*net.TCPConn).SetLinger(0)
		case 2: // Says nothing for a while.
			<-time.After(30 * time.Millisecond)
		case 3: // Ends its direction first.
			_, _ = conn.Write([]byte("hi\n"))
			_ = conn.(*net.TCPConn).CloseWrite()
			_, _ = io.Copy(io.Discard, conn)
		case 4:
			_, _ = conn.Write(large)
			_ = conn.(*net.TCPConn).SetLinger(0)
		default:
			_, _ = conn.Write([]byte("hi\n"))
			_, _ = conn.Write(large)
			_, _ = io.Copy(conn, conn)
		}
	}
}

// TestChaos opens connections that end in every way, to backends that do, while tables come that drain, remove and change cells. In the
// end nothing may be left: no connection is counted, no descriptor is open, no goroutine runs.
func TestChaos(t *testing.T) {
	eachEngine(t, func(t *testing.T, engine string) {
		before, goroutines := descriptors(t), runtime.NumGoroutine()
		t.Run("run", func(t *testing.T) { chaos(t, engine) })
		eventually(t, "the goroutines have ended", func() bool { return runtime.NumGoroutine() <= goroutines })
		eventually(t, "the descriptors are closed", func() bool {
			runtime.GC() // Go keeps pipes of its own splice until then.
			return descriptors(t) <= before
		})
	})
}

func chaos(t *testing.T, engine string) {
	cells := map[string][]*backend{}
	for i, name := range []string{"a", "b", "c"} {
		cells[name] = []*backend{newBackend(t, moody(uint64(2*i))), newBackend(t, moody(uint64(2*i+1)))}
	}
	f := newFleet(t, cells)
	r := startRouter(t, f, engine, func(c *Config) {
		c.Health.Interval, c.Dial.AnswerTimeout, c.DrainDeadline = 10*time.Millisecond, 10*time.Millisecond, 20*time.Millisecond
		c.Failover.SlowStart, c.Limits.HelloTimeout = 20*time.Millisecond, 100*time.Millisecond
	})
	hello := hello(t, &tls.Config{ServerName: f.host("a"), InsecureSkipVerify: true})
	request := []byte("GET / HTTP/1.1\r\nHost: " + f.host("b") + "\r\n\r\n")
	var clients sync.WaitGroup
	for i := range 16 {
		clients.Go(func() {
			random := mathrand.New(mathrand.NewPCG(7, uint64(i)))
			for range 40 {
				k, first := kindTLS, hello
				if random.IntN(3) == 0 {
					k, first = kindHTTP, request
				}
				visit(r.address(k), first, random)
			}
		})
	}
	var done atomic.Bool
	var publisher sync.WaitGroup
	publisher.Go(func() {
		all := f.table.Cells
		for i := 0; !done.Load(); i++ {
			f.table.Cells = append([]routetable.Cell(nil), all...)
			switch c := &f.table.Cells[i/4%3]; i % 4 {
			case 0:
				c.State = routetable.Drain
			case 1:
				c.Endpoints.HTTPS = c.Endpoints.HTTPS[:1]
			case 2:
				f.table.Cells = f.table.Cells[1:]
			default:
				c.Probe = &routetable.Probe{Port: c.Endpoints.HTTP[0].Port(), Path: "/"}
			}
			f.table.Version++
			r.tables.offer("test", f.envelope())
			<-time.After(5 * time.Millisecond)
		}
	})
	clients.Wait()
	done.Store(true)
	publisher.Wait()
	eventually(t, "no connection is counted", func() bool {
		open := r.limiter.total.Load()
		for _, ce := range r.chooser.view.Load().cells {
			open += ce.open.Load()
		}
		return open == 0
	})
	for i := range r.limiter.shards {
		if left := r.limiter.shards[i].count; len(left) > 0 {
			t.Errorf("sources are counted still: %v", left)
		}
	}
}

// visit is one connection of a client that behaves in another way each time.
func visit(address string, first []byte, random *mathrand.Rand) {
	conn, err := net.DialTCP("tcp", nil, net.TCPAddrFromAddrPort(netip.MustParseAddrPort(address)))
	if err != nil {
		return
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(patience))
	mood := random.IntN(7)
	if mood == 0 {
		_, _ = conn.Write(first[:random.IntN(len(first))])
		return
	}
	half := random.IntN(len(first))
	_, _ = conn.Write(first[:half])
	_, _ = conn.Write(first[half:])
	switch mood {
	case 1: // Leaves before the answer.
	case 2:
		_ = conn.SetLinger(0)
	case 3: // Leaves in the middle.
		_, _ = io.ReadFull(conn, make([]byte, 5000))
		_ = conn.SetLinger(0)
	case 4:
		_ = conn.CloseWrite()
		_, _ = io.Copy(io.Discard, conn)
	default:
		_, _ = conn.Write(make([]byte, 100<<10))
		_ = conn.CloseWrite()
		_, _ = io.Copy(io.Discard, conn)
	}
}
