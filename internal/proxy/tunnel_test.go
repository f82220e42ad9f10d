package proxy

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"testing"
)

// echoing is an upstream that takes connections over and sends back what it gets.
func echoing(t *testing.T) string {
	t.Helper()
	return origin(t, func(w http.ResponseWriter, _ *http.Request) {
		conn, buffered, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
		io.Copy(conn, buffered)
	}).URL
}

// upgrade takes a connection through a proxy over.
func switchOver(t *testing.T, e *edge) (net.Conn, *bufio.Reader) {
	t.Helper()
	conn := raw(t, e.http, "GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
	reader := bufio.NewReader(conn)
	response, err := http.ReadResponse(reader, nil)
	if err != nil || response.StatusCode != http.StatusSwitchingProtocols {
		t.Fatal(response, err)
	}
	response.Body.Close()
	return conn, reader
}

// TestUpgradedConnectionsEnd has clients that hold on to a WebSocket for ever, silent and busy ones.
func TestUpgradedConnectionsEnd(t *testing.T) {
	shop := toShop(echoing(t))
	for name, limits := range map[string]string{
		"silent": "limits: {upgradedIdleTimeout: 50ms}\n",
		"old":    "limits: {upgradedAge: 50ms}\n",
	} {
		t.Run(name, func(t *testing.T) {
			e := start(t, shop+limits)
			conn, reader := switchOver(t, e)
			ended := make(chan struct{})
			go func() {
				defer close(ended)
				for name == "old" { // never silent
					if _, err := io.WriteString(conn, "x"); err != nil {
						return
					}
					if _, err := reader.ReadByte(); err != nil {
						return
					}
				}
				io.Copy(io.Discard, reader)
			}()
			eventually(t, "the connection is gone", func() bool { return e.page("GET", "/connections") == `{"open":0,"active":0}` })
			<-ended
		})
	}
}

// TestSlowReadersOfTunnels: a client that takes nothing of what its upstream sends is cut by each of the limits, and by a stop.
func TestSlowReadersOfTunnels(t *testing.T) {
	flood := origin(t, func(w http.ResponseWriter, _ *http.Request) {
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		_, err = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
		for much := make([]byte, 1<<20); err == nil; {
			_, err = conn.Write(much)
		}
	}).URL
	for name, limits := range map[string]string{
		"stalled": "stallTimeout: 50ms",
		"old":     "upgradedAge: 50ms",
		"silent":  "upgradedIdleTimeout: 50ms",
		"stopped": "bodyTimeout: 1m",
	} {
		t.Run(name, func(t *testing.T) {
			e := start(t, toShop(flood)+"limits: {"+limits+"}\n")
			switchOver(t, e)
			if name == "stopped" {
				ctx, cancel := context.WithTimeout(t.Context(), testPatience)
				defer cancel()
				if err := e.Shutdown(ctx); err != nil {
					t.Error(err)
				}
			}
			eventually(t, "the connection is gone", func() bool { return e.page("GET", "/connections") == `{"open":0,"active":0}` })
		})
	}
}

// TestAStopEndsUpgradedConnections lets the clients of WebSockets go elsewhere.
func TestAStopEndsUpgradedConnections(t *testing.T) {
	e := start(t, toShop(echoing(t)))
	_, reader := switchOver(t, e)
	if err := e.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
	if _, err := reader.ReadByte(); err == nil {
		t.Error("the client was sent something")
	}
	eventually(t, "the connection is gone", func() bool { return e.page("GET", "/connections") == `{"open":0,"active":0}` })
}
