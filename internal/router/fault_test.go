package router

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/shopset/shopset/internal/routetable"
)

func (r *testRouter) ready() (int, string) {
	recorder := httptest.NewRecorder()
	r.server.ServeHTTP(recorder, httptest.NewRequest("GET", "/readyz", nil))
	return recorder.Code, recorder.Body.String()
}

// quiet makes probes so rare that only connections tell about health.
func quiet(c *Config) { c.Health.Interval = time.Hour }

func TestRefusedEndpoint(t *testing.T) {
	eachEngine(t, func(t *testing.T, engine string) {
		f, backends := threeCells(t)
		r := startRouter(t, f, engine, quiet)
		backends["a"].listener.Close()
		for i := range 20 {
			if cell, _ := r.served(f.host("a", "b")); cell != "b" {
				t.Fatalf("connection %d went to %s", i, cell)
			}
		}
		if got := r.metric("shopset_router_endpoint_failures_total", `cell="a",reason="refused"`); got != 1 {
			t.Errorf("%v refused connections, want only the first", got)
		}
		if got := r.metric("shopset_router_failovers_total", `cell="a"`); got != 20 {
			t.Errorf("%v failovers", got)
		}
	})
}

func TestNextEndpointBeforeNextCell(t *testing.T) {
	eachEngine(t, func(t *testing.T, engine string) {
		dead, one, two := newBackend(t, nil), newBackend(t, say("one")), newBackend(t, say("two"))
		other := newBackend(t, say("b"))
		f := newFleet(t, map[string][]*backend{"a": {dead, one, two}, "b": {other}})
		r := startRouter(t, f, engine, quiet)
		dead.listener.Close()
		for range 50 {
			if cell, _ := r.served(f.host("a")); cell == "b" {
				t.Fatal("the other cell was asked")
			}
		}
		if one.count() < 10 || two.count() < 10 {
			t.Errorf("%d and %d connections: they do not share them", one.count(), two.count())
		}
	})
}

// TestEndpointThatDropsHellos accepts, reads, and then closes or resets: the hello goes to another one.
func TestEndpointThatDropsHellos(t *testing.T) {
	eachEngine(t, func(t *testing.T, engine string) {
		for name, drop := range map[string]func(net.Conn, *proxied){
			"closes": func(net.Conn, *proxied) {},
			"resets": func(conn net.Conn, _ *proxied) { _ = conn.(*net.TCPConn).SetLinger(0) },
		} {
			bad, good := newBackend(t, drop), newBackend(t, say("b"))
			f := newFleet(t, map[string][]*backend{"a": {bad}, "b": {good}})
			r := startRouter(t, f, engine, quiet)
			for range 10 {
				if cell, _ := r.served(f.host("a")); cell != "b" {
					t.Fatalf("%s: served by %s", name, cell)
				}
			}
			if n := bad.count(); n != 3 {
				t.Errorf("%s: it was asked %d times, want 3 until it counts as down", name, n)
			}
		}
	})
}

// TestPoisonHelloStops sends a hello that no endpoint survives: it must not get to all of them.
func TestPoisonHelloStops(t *testing.T) {
	eachEngine(t, func(t *testing.T, engine string) {
		cells := map[string][]*backend{}
		var all []*backend
		for _, name := range []string{"a", "b", "c", "d", "e"} {
			b := newBackend(t, func(net.Conn, *proxied) {})
			all = append(all, b)
			cells[name] = []*backend{b}
		}
		f := newFleet(t, cells)
		r := startRouter(t, f, engine, quiet)
		conn := r.connect(f.host("a"))
		if got, err := io.ReadAll(conn); err != nil || string(got) != "\x15\x03\x03\x00\x02\x02\x50" {
			t.Fatalf("%x %v", got, err)
		}
		total := 0
		for _, b := range all {
			total += b.count()
		}
		if total != 3 {
			t.Errorf("the hello reached %d endpoints, want one and two more", total)
		}
	})
}

// TestRequestIsNotRepeated checks that a request without TLS, which may have been acted upon, goes to one endpoint only.
func TestRequestIsNotRepeated(t *testing.T) {
	eachEngine(t, func(t *testing.T, engine string) {
		bad, good := newBackend(t, func(net.Conn, *proxied) {}), newBackend(t, say("b"))
		f := newFleet(t, map[string][]*backend{"a": {bad}, "b": {good}})
		r := startRouter(t, f, engine, quiet)
		conn, err := net.Dial("tcp", r.address(kindHTTP))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		_, _ = io.WriteString(conn, "POST /order HTTP/1.1\r\nHost: "+f.host("a")+"\r\nContent-Length: 0\r\n\r\n")
		if got, _ := io.ReadAll(conn); len(got) > 0 || good.count() != 0 || bad.count() != 1 {
			t.Errorf("%q, a was asked %d times, b %d times", got, bad.count(), good.count())
		}
	})
}

// hangingEndpoint is another process that serves as an endpoint, and can be stopped.
func hangingEndpoint(name string) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		os.Exit(1)
	}
	fmt.Println(l.Addr())
	b := &backend{listener: l, serve: say(name)}
	for {
		conn, err := l.Accept()
		if err != nil {
			os.Exit(1)
		}
		go b.handle(conn)
	}
}

func startProcess(t *testing.T, name string) (*exec.Cmd, *backend) {
	t.Helper()
	command := exec.Command(os.Args[0], "hanging-endpoint", name)
	command.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := command.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = command.Process.Kill(); _ = command.Wait() })
	address, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	return command, &backend{address: netip.MustParseAddrPort(strings.TrimSpace(address))}
}

// TestHungProcess stops the process of a cell: its kernel still takes connections. Whoever waits for it is served by the next
// cell once the probes find it; when it goes on, its hosts come back.
func TestHungProcess(t *testing.T) {
	eachEngine(t, func(t *testing.T, engine string) {
		command, hung := startProcess(t, "a")
		good := newBackend(t, say("b"))
		f := newFleet(t, map[string][]*backend{"a": {hung}, "b": {good}})
		r := startRouter(t, f, engine, func(c *Config) {
			c.Dial.AnswerTimeout = time.Hour // The probes alone shall find it.
			c.Health.Timeout = 250 * time.Millisecond
			c.Failover.SlowStart = 50 * time.Millisecond
		})
		host := f.host("a")
		if cell, _ := r.served(host); cell != "a" {
			t.Fatal(cell)
		}
		if err := command.Process.Signal(syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the process stands still", func() bool {
			stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", command.Process.Pid))
			return err == nil && strings.Contains(string(stat), ") T ")
		})
		if cell, _ := r.served(host); cell != "b" {
			t.Fatal(cell)
		}
		if got := r.metric("shopset_router_endpoint_failures_total", `cell="a",reason="down"`); got != 1 {
			t.Errorf("%v connections were moved by a probe", got)
		}
		if got := r.state(host, "a"); got != "down" {
			t.Error(got)
		}
		if err := command.Process.Signal(syscall.SIGCONT); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the host comes back", func() bool { cell, _ := r.served(host); return cell == "a" })
	})
}

// TestSilentEndpoint answers probes, but no client: only the wait for an answer finds it.
func TestSilentEndpoint(t *testing.T) {
	eachEngine(t, func(t *testing.T, engine string) {
		silent := newBackend(t, func(conn net.Conn, _ *proxied) { _, _ = io.Copy(io.Discard, conn) })
		good := newBackend(t, say("b"))
		f := newFleet(t, map[string][]*backend{"a": {silent}, "b": {good}})
		r := startRouter(t, f, engine, func(c *Config) { c.Dial.AnswerTimeout = 30 * time.Millisecond })
		for range 3 {
			if cell, _ := r.served(f.host("a")); cell != "b" {
				t.Fatal(cell)
			}
		}
		if got := r.metric("shopset_router_endpoint_failures_total", `cell="a",reason="silent"`); got != 3 {
			t.Errorf("%v times silent", got)
		}
	})
}

// TestSlowFleetIsNotAskedTwice lets all endpoints answer late: each connection waits, as there is nobody better to ask.
func TestSlowFleetIsNotAskedTwice(t *testing.T) {
	eachEngine(t, func(t *testing.T, engine string) {
		slow := newBackend(t, func(conn net.Conn, first *proxied) {
			<-time.After(150 * time.Millisecond)
			say("a")(conn, first)
		})
		f := newFleet(t, map[string][]*backend{"a": {slow}})
		r := startRouter(t, f, engine, func(c *Config) { quiet(c); c.Dial.AnswerTimeout = 20 * time.Millisecond })
		if cell, _ := r.served("shop.example"); cell != "a" {
			t.Fatal(cell)
		}
		if slow.count() != 1 {
			t.Errorf("it was asked %d times", slow.count())
		}
	})
}

// TestSilenceEnds has nobody else to ask: the client is told so in the end, instead of being kept for ever.
func TestSilenceEnds(t *testing.T) {
	eachEngine(t, func(t *testing.T, engine string) {
		silent := newBackend(t, func(conn net.Conn, _ *proxied) { _, _ = io.Copy(io.Discard, conn) })
		f := newFleet(t, map[string][]*backend{"a": {silent}})
		r := startRouter(t, f, engine, func(c *Config) {
			quiet(c)
			c.Dial.AnswerTimeout, c.Limits.IdleTimeout = 10*time.Millisecond, 100*time.Millisecond
		})
		if got, err := io.ReadAll(r.connect("shop.example")); err != nil || string(got) != "\x15\x03\x03\x00\x02\x02\x50" {
			t.Errorf("%x %v", got, err)
		}
		if silent.count() != 1 {
			t.Errorf("it was asked %d times", silent.count())
		}
	})
}

// TestUnreachableEndpoint has a full accept queue: no answer to the SYN.
func TestUnreachableEndpoint(t *testing.T) {
	eachEngine(t, func(t *testing.T, engine string) {
		full := fullListener(t)
		good := newBackend(t, say("b"))
		f := newFleet(t, map[string][]*backend{"a": {full}, "b": {good}})
		r := startRouter(t, f, engine, func(c *Config) { quiet(c); c.Dial.Timeout = 250 * time.Millisecond })
		for range 4 {
			if cell, _ := r.served(f.host("a")); cell != "b" {
				t.Fatal(cell)
			}
		}
		if got := r.metric("shopset_router_endpoint_failures_total", `cell="a",reason="timeout"`); got != 2 {
			t.Errorf("%v timeouts, want 2 until it counts as down", got)
		}
	})
}

// fullListener is an address whose kernel does not answer any more: its queue is full.
func fullListener(t *testing.T) *backend {
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { syscall.Close(fd) })
	if err := syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Listen(fd, 0); err != nil {
		t.Fatal(err)
	}
	name, err := syscall.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	address := netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), uint16(name.(*syscall.SockaddrInet4).Port))
	for {
		conn, err := net.DialTimeout("tcp", address.String(), 50*time.Millisecond)
		if err != nil {
			return &backend{address: address}
		}
		t.Cleanup(func() { conn.Close() })
	}
}

// TestProbeOfTheTable asks where the table says, and a cell that answers 5xx is left.
func TestProbeOfTheTable(t *testing.T) {
	eachEngine(t, func(t *testing.T, engine string) {
		f, _ := threeCells(t)
		status := make(chan string, 1)
		status <- "503 Service Unavailable"
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		go func() {
			for {
				conn, err := l.Accept()
				if err != nil {
					return
				}
				head, _ := bufio.NewReader(conn).ReadString('\n')
				text := <-status
				if head != "GET /readyz HTTP/1.1\r\n" {
					text = "404 Not Found"
				}
				fmt.Fprintf(conn, "HTTP/1.1 %s\r\n\r\n", text)
				status <- text
				conn.Close()
			}
		}()
		f.cell("a").Probe = &routetable.Probe{Port: uint16(l.Addr().(*net.TCPAddr).Port), Path: "/readyz"}
		f.publish()
		r := startRouter(t, f, engine, func(c *Config) { c.Failover.SlowStart = time.Millisecond })
		host := f.host("a", "c")
		eventually(t, "a is left", func() bool { cell, _ := r.served(host); return cell == "c" })
		<-status
		status <- "204 No Content"
		eventually(t, "a serves again", func() bool { cell, _ := r.served(host); return cell == "a" })
	})
}
