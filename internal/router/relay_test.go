package router

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"net"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"
)

// script is what one side of a connection does: how much it sends, in which pieces, whether it ends its direction before or after
// it has read everything, and how slowly it reads.
type script struct {
	bytes, piece, read int
	endEarly, lazy     bool
}

func randomScript(r *mathrand.Rand) script {
	sizes := []int{0, 1, 100, 5000, 70_000, 300_000, 1_500_000, 5_000_000}
	return script{
		bytes: sizes[r.IntN(len(sizes))], piece: []int{1000, 16 << 10, 1 << 20}[r.IntN(3)], read: []int{700, 16 << 10, 256 << 10}[r.IntN(3)],
		endEarly: r.IntN(2) == 0, lazy: r.IntN(4) == 0,
	}
}

// play does what a script says, and returns the checksum of what came from the other side.
func (s script) play(conn *net.TCPConn, first []byte, seed uint64) (sum [32]byte, n int64, err error) {
	sent := make(chan error, 1)
	send := func() {
		source := mathrand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), byte(seed >> 16)})
		buffer := make([]byte, s.piece)
		for left := s.bytes; left > 0; {
			part := buffer[:min(left, len(buffer))]
			_, _ = source.Read(part)
			if _, err := conn.Write(part); err != nil {
				sent <- err
				return
			}
			left -= len(part)
		}
		sent <- conn.CloseWrite()
	}
	if s.endEarly {
		go send()
	}
	hash := sha256.New()
	hash.Write(first)
	n = int64(len(first))
	buffer := make([]byte, s.read)
	for {
		m, err := conn.Read(buffer)
		hash.Write(buffer[:m])
		n += int64(m)
		if err == io.EOF {
			break
		}
		if err != nil {
			return sum, n, fmt.Errorf("read after %d bytes: %w", n, err)
		}
		if s.lazy && n > 0 && n%31 == 0 {
			<-time.After(time.Millisecond)
		}
	}
	if !s.endEarly {
		send()
	}
	return [32]byte(hash.Sum(nil)), n, <-sent
}

// expected is the checksum of what a script sends.
func (s script) expected(seed uint64) [32]byte {
	source := mathrand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), byte(seed >> 16)})
	hash := sha256.New()
	buffer := make([]byte, s.piece)
	for left := s.bytes; left > 0; {
		part := buffer[:min(left, len(buffer))]
		_, _ = source.Read(part)
		hash.Write(part)
		left -= len(part)
	}
	return [32]byte(hash.Sum(nil))
}

// TestNoByteIsLost runs random scripts on both sides of many connections at once.
func TestNoByteIsLost(t *testing.T) { eachEngine(t, noByteIsLost) }

func noByteIsLost(t *testing.T, engine string) {
	const connections = 60
	scripts := make([][2]script, connections)
	random := mathrand.New(mathrand.NewPCG(3, 4))
	for i := range scripts {
		scripts[i] = [2]script{randomScript(random), randomScript(random)}
		// One of them has to begin to end.
		if !scripts[i][0].endEarly && !scripts[i][1].endEarly {
			scripts[i][i%2].endEarly = true
		}
	}
	failed := make(chan error, 2*connections)
	var done sync.WaitGroup
	b := newBackend(t, func(conn net.Conn, first *proxied) {
		defer done.Done()
		_, _ = conn.Write([]byte{'!'})
		// Behind the hello comes the number of the script.
		rest, err := after(conn, first.rest)
		if err != nil {
			failed <- err
			return
		}
		i := int(binary.BigEndian.Uint32(rest))
		sum, n, err := scripts[i][1].play(conn.(*net.TCPConn), rest[4:], uint64(i)*2+1)
		if err == nil && sum != scripts[i][0].expected(uint64(i)*2) {
			err = fmt.Errorf("%d bytes arrived, of %d, or other ones", n, scripts[i][0].bytes)
		}
		if err != nil {
			failed <- fmt.Errorf("backend %d (%+v): %w", i, scripts[i], err)
		}
	})
	f := newFleet(t, map[string][]*backend{"a": {b}})
	r := startRouter(t, f, engine, nil)
	done.Add(2 * connections)
	for i := range connections {
		conn := r.connect("shop.example")
		go func() {
			defer done.Done()
			one := make([]byte, 1)
			if _, err := io.ReadFull(conn, one); err != nil {
				failed <- fmt.Errorf("client %d: %w", i, err)
				return
			}
			_, _ = conn.Write(binary.BigEndian.AppendUint32(nil, uint32(i)))
			sum, n, err := scripts[i][0].play(conn, nil, uint64(i)*2)
			if err == nil && sum != scripts[i][1].expected(uint64(i)*2+1) {
				err = fmt.Errorf("%d bytes arrived, of %d, or other ones", n, scripts[i][1].bytes)
			}
			if err != nil {
				failed <- fmt.Errorf("client %d (%+v): %w", i, scripts[i], err)
			}
		}()
	}
	done.Wait()
	select {
	case err := <-failed:
		t.Fatal(err)
	default:
	}
	eventually(t, "all connections have ended", func() bool { return r.limiter.total.Load() == 0 })
}

// after returns at least four bytes that follow the ClientHello at the begin of b.
func after(conn net.Conn, b []byte) ([]byte, error) {
	for {
		if len(b) >= recordHeader {
			if end := recordHeader + int(binary.BigEndian.Uint16(b[3:])); len(b) >= end+4 {
				return b[end:], nil
			}
		}
		more := make([]byte, 1024)
		n, err := conn.Read(more)
		if err != nil {
			return nil, err
		}
		b = append(b, more[:n]...)
	}
}

// TestResetsPassThrough resets one side: the other must not see an orderly end.
func TestResetsPassThrough(t *testing.T) {
	eachEngine(t, func(t *testing.T, engine string) {
		served := make(chan error, 1)
		b := newBackend(t, func(conn net.Conn, first *proxied) {
			_, _ = conn.Write([]byte("hi\n"))
			what, err := tryLine(conn)
			if strings.HasSuffix(what, "reset") {
				_ = conn.(*net.TCPConn).SetLinger(0)
				return
			}
			served <- err
		})
		f := newFleet(t, map[string][]*backend{"a": {b}})
		r := startRouter(t, f, engine, nil)
		conn := r.connect("shop.example")
		line(t, conn)
		_, _ = conn.Write([]byte("reset\n"))
		if _, err := conn.Read(make([]byte, 1)); err == nil || err == io.EOF {
			t.Errorf("the client sees %v", err)
		}
		conn = r.connect("shop.example")
		line(t, conn)
		_ = conn.SetLinger(0)
		conn.Close()
		if err := <-served; err == nil || err == io.EOF {
			t.Errorf("the endpoint sees %v", err)
		}
	})
}

// descriptors is how many the process has open.
func descriptors(t *testing.T) int {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

// TestNoDescriptorLeaks ends connections in every way, many times, and counts what is open before and after.
func TestNoDescriptorLeaks(t *testing.T) {
	eachEngine(t, func(t *testing.T, engine string) {
		before := descriptors(t)
		t.Run("run", func(t *testing.T) {
			large := make([]byte, 2<<20)
			b := newBackend(t, func(conn net.Conn, _ *proxied) {
				_, _ = conn.Write([]byte("hi\n"))
				_, _ = conn.Write(large)
			})
			closes := newBackend(t, func(net.Conn, *proxied) {})
			f := newFleet(t, map[string][]*backend{"a": {b, closes}})
			r := startRouter(t, f, engine, quiet)
			for i := range 200 {
				conn := r.connect("shop.example")
				switch i % 4 {
				case 0:
					conn.Close() // Before the answer.
				case 1:
					line(t, conn)
					_ = conn.SetLinger(0)
					conn.Close() // In the middle, with much under way.
				case 2:
					line(t, conn)
					_, _ = io.Copy(io.Discard, conn)
					conn.Close()
				default:
					line(t, conn)
					_ = conn.CloseWrite()
					_, _ = io.Copy(io.Discard, conn)
					conn.Close()
				}
			}
			eventually(t, "all connections have ended", func() bool { return r.limiter.total.Load() == 0 })
			for k := range kinds {
				for _, e := range *r.chooser.view.Load().cells[0].pools[k].endpoints.Load() {
					if n := e.open.Load(); n != 0 {
						t.Errorf("%s still counts %d connections", e.address, n)
					}
				}
			}
		})
		eventually(t, "the descriptors are closed", func() bool {
			runtime.GC() // Go keeps pipes of its own splice until then.
			return descriptors(t) <= before
		})
	})
}

// TestManyIdleConnections holds a thousand, sees that they hold no pipe, and that each still works.
func TestManyIdleConnections(t *testing.T) {
	if defaultEngine != EngineEpoll {
		t.Skip("only the engine epoll is made for this")
	}
	f, _ := threeCells(t)
	r := startRouter(t, f, EngineEpoll, nil)
	var all []*net.TCPConn
	for i := range 1000 {
		conn := r.connect(fmt.Sprintf("shop-%d.example", i))
		line(t, conn)
		all = append(all, conn)
	}
	if got := r.metric("shopset_router_clients", ""); got != 1000 {
		t.Errorf("%v clients", got)
	}
	for i, conn := range all {
		_ = conn.SetDeadline(time.Now().Add(patience))
		fmt.Fprintf(conn, "%d\n", i)
		for got := ""; got != fmt.Sprint(i); {
			var err error
			if got, err = tryLine(conn); err != nil {
				t.Fatal(err)
			}
		}
	}
}
