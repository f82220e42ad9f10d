package router

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/shopset/shopset/internal/routetable"
)

func TestIdleConnectionsAreClosed(t *testing.T) {
	eachEngine(t, func(t *testing.T, engine string) {
		f, _ := threeCells(t)
		r := startRouter(t, f, engine, func(c *Config) { c.Limits.IdleTimeout = 500 * time.Millisecond })
		conn := r.connect(f.host("a"))
		line(t, conn)
		if n, err := conn.Read(make([]byte, 1)); err == nil {
			t.Fatalf("%d bytes", n)
		}
	})
}

// TestOneWayIsNotIdle lets only the endpoint speak, for longer than the idle time: something moves, so nothing is closed.
func TestOneWayIsNotIdle(t *testing.T) {
	eachEngine(t, func(t *testing.T, engine string) {
		t.Parallel() // Both wait.
		const idle = 2 * time.Second
		b := newBackend(t, func(conn net.Conn, _ *proxied) {
			for end := time.Now().Add(2 * idle); time.Now().Before(end); <-time.After(idle / 50) {
				if _, err := io.WriteString(conn, "."); err != nil {
					return
				}
			}
			_, _ = io.WriteString(conn, "end\n")
		})
		f := newFleet(t, map[string][]*backend{"a": {b}})
		r := startRouter(t, f, engine, func(c *Config) { c.Limits.IdleTimeout = idle })
		if got := line(t, r.connect("shop.example")); !strings.HasSuffix(got, ".end") {
			t.Error(got)
		}
	})
}

func TestDrain(t *testing.T) {
	eachEngine(t, func(t *testing.T, engine string) {
		f, _ := threeCells(t)
		r := startRouter(t, f, engine, nil)
		host := f.host("a", "b")
		old := r.connect(host)
		line(t, old)
		f.cell("a").State = routetable.Drain
		f.publish()
		eventually(t, "new connections go to b", func() bool { cell, _ := r.served(host); return cell == "b" })
		if r.metric("shopset_router_connections", `cell="a"`) != 1 {
			t.Error("the connection from before is not counted")
		}
		if _, err := old.Write([]byte("still here\n")); err != nil {
			t.Fatal(err)
		}
		if got, err := tryLine(old); got != "still here" {
			t.Fatalf("%q %v", got, err)
		}
		old.Close()
		eventually(t, "no connection to a is left", func() bool { return r.metric("shopset_router_connections", `cell="a"`) == 0 })
		f.cell("a").State = routetable.Active
		f.publish()
		eventually(t, "a serves again", func() bool { cell, _ := r.served(host); return cell == "a" })
	})
}

// TestConnectionsToWhatIsGone counts them as long as there are any: by that people see when a cell may be deleted.
func TestConnectionsToWhatIsGone(t *testing.T) {
	eachEngine(t, func(t *testing.T, engine string) {
		f, backends := threeCells(t)
		r := startRouter(t, f, engine, nil)
		conn := r.connect(f.host("a"))
		line(t, conn)
		f.cell("a").Endpoints.HTTPS = []netip.AddrPort{backends["b"].address} // The Pod ends, and another one comes.
		f.publish()
		eventually(t, "version 2", func() bool { return r.metric("shopset_router_table_version", "") == 2 })
		if got := r.metric("shopset_router_connections", `cell="a"`); got != 1 {
			t.Errorf("%v connections after the Pod has left the table", got)
		}
		f.table.Cells = f.table.Cells[1:]
		f.publish()
		eventually(t, "version 3", func() bool { return r.metric("shopset_router_table_version", "") == 3 })
		if got := r.metric("shopset_router_connections", `cell="a"`); got != 1 {
			t.Errorf("%v connections after the cell has left the table", got)
		}
		conn.Close()
		eventually(t, "none is left", func() bool { return r.metric("shopset_router_connections", `cell="a"`) == 0 })
	})
}

// TestDrainDeadline checks that connections to a cell that is drained, or that no table has any more, are cut in the end.
func TestDrainDeadline(t *testing.T) {
	eachEngine(t, func(t *testing.T, engine string) {
		for what, leave := range map[string]func(*fleet){
			"drained": func(f *fleet) { f.cell("a").State = routetable.Drain },
			"removed": func(f *fleet) { f.table.Cells = f.table.Cells[1:] },
		} {
			f, _ := threeCells(t)
			r := startRouter(t, f, engine, func(c *Config) { c.DrainDeadline = 100 * time.Millisecond })
			conn := r.connect(f.host("a"))
			line(t, conn)
			leave(f)
			f.publish()
			if _, err := conn.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("%s: the connection stays: %v", what, err)
			}
			if got := r.metric("shopset_router_connections_total", `cell="a"`); (got == 0) != (what == "removed") {
				t.Errorf("%s: the metrics of the cell count %v", what, got)
			}
		}
	})
}

func TestShutdownWaitsForConnections(t *testing.T) {
	eachEngine(t, func(t *testing.T, engine string) {
		f, _ := threeCells(t)
		r := startRouter(t, f, engine, nil)
		conn := r.connect(f.host("a"))
		line(t, conn)
		ended := make(chan error, 1)
		go func() { ended <- r.Shutdown(t.Context()) }()
		eventually(t, "no new connections", func() bool {
			other, err := net.Dial("tcp", r.address(kindTLS))
			if err != nil {
				return true
			}
			other.Close()
			return false
		})
		if _, err := conn.Write([]byte("and more\n")); err != nil {
			t.Fatal(err)
		}
		if got := line(t, conn); got != "and more" {
			t.Fatal(got)
		}
		select {
		case <-ended:
			t.Fatal("it ended with a connection open")
		default:
		}
		conn.Close()
		if err := <-ended; err != nil {
			t.Fatal(err)
		}
	})
}

// TestFullRouterEnds shuts down while it waits for room to accept more.
func TestFullRouterEnds(t *testing.T) {
	eachEngine(t, func(t *testing.T, engine string) {
		f, _ := threeCells(t)
		r := startRouter(t, f, engine, func(c *Config) { c.Limits.Connections = 1; c.Loops = 1 })
		line(t, r.connect(f.host("a")))
		r.connect(f.host("b"))
		eventually(t, "a pause", func() bool { return r.metric("shopset_router_accept_pauses_total", "") > 0 })
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		ended := make(chan error, 1)
		go func() { ended <- r.Shutdown(ctx) }()
		select {
		case err := <-ended:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(patience):
			t.Fatal("it does not end")
		}
	})
}

func TestShutdownHasADeadline(t *testing.T) {
	eachEngine(t, func(t *testing.T, engine string) {
		f, _ := threeCells(t)
		r := startRouter(t, f, engine, nil)
		conn := r.connect(f.host("a"))
		line(t, conn)
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		if err := r.Shutdown(ctx); err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Read(make([]byte, 1)); err == nil {
			t.Fatal("the connection is not cut")
		}
	})
}

func TestNotReadyWithoutATable(t *testing.T) {
	eachEngine(t, func(t *testing.T, engine string) {
		f, _ := threeCells(t)
		envelope := f.envelope()
		f.write([]byte("nonsense"))
		r := startRouter(t, f, engine, nil)
		if code, body := r.ready(); code != http.StatusServiceUnavailable || !strings.Contains(body, "no routing table yet") {
			t.Fatal(code, body)
		}
		conn := r.connect(f.host("a"))
		if got, err := io.ReadAll(conn); err != nil || string(got) != "\x15\x03\x03\x00\x02\x02\x50" {
			t.Fatalf("%x %v", got, err)
		}
		f.write(envelope)
		eventually(t, "ready", func() bool { code, _ := r.ready(); return code == http.StatusOK })
	})
}
