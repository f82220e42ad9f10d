package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// TestStopLosesNoRequest replaces proxies under load, as a rolling restart does: clients that never
// repeat anything use two of them like a Service, which stops to send new connections to one that
// is not ready. No request may fail.
func TestStopLosesNoRequest(t *testing.T) {
	for _, h2 := range []bool{false, true} {
		t.Run(fmt.Sprintf("h2=%t", h2), func(t *testing.T) {
			shop := origin(t, func(w http.ResponseWriter, r *http.Request) {
				body, _ := io.ReadAll(r.Body)
				w.Write(body)
			})
			config := toShop(shop.URL)
			first, second := start(t, config), start(t, config)
			first.config.Shutdown.Delay = 200 * time.Millisecond

			var service atomic.Pointer[edge]
			service.Store(first)
			dial := func(ctx context.Context, network, _ string) (net.Conn, error) {
				address := strings.TrimPrefix(service.Load().https, "https://")
				return new(net.Dialer).DialContext(ctx, network, address)
			}
			var sent atomic.Int64
			stop := make(chan struct{})
			var clients sync.WaitGroup
			for range 8 {
				c := client(t, h2)
				c.Transport.(*http.Transport).DialContext = dial
				clients.Go(func() {
					for {
						select {
						case <-stop:
							return
						default:
						}
						// A POST with a body of unknown length is never repeated by the client.
						request, _ := http.NewRequest(http.MethodPost, "https://shop.example/", io.MultiReader(strings.NewReader("x")))
						response, err := c.Do(request)
						if err != nil {
							t.Errorf("lost: %v", err)
							return
						}
						body, err := io.ReadAll(response.Body)
						response.Body.Close()
						if response.StatusCode != 200 || string(body) != "x" || err != nil {
							t.Errorf("lost: %d %q %v", response.StatusCode, body, err)
						}
						sent.Add(1)
					}
				})
			}
			eventually(t, "load", func() bool { return sent.Load() > 200 })
			stopped := make(chan error, 1)
			go func() { stopped <- first.Shutdown(t.Context()) }()
			eventually(t, "the proxy drains", first.draining.Load)
			service.Store(second) // some time after readiness went off
			if err := <-stopped; err != nil {
				t.Errorf("Shutdown: %v", err)
			}
			after := sent.Load()
			eventually(t, "load on the other proxy", func() bool { return sent.Load() > after+200 })
			close(stop)
			clients.Wait()
			if got := first.page("GET", "/connections"); got != `{"open":0,"active":0}` {
				t.Errorf("the stopped proxy has connections: %s", got)
			}
		})
	}
}

// TestStopFinishesAndThenCuts has two slow requests: one ends in time, one does not.
func TestStopFinishesAndThenCuts(t *testing.T) {
	release := make(chan struct{})
	shop := origin(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/never" {
			<-r.Context().Done()
			return
		}
		<-release
		io.WriteString(w, "finished")
	})
	e := start(t, toShop(shop.URL))
	results := map[string]chan string{"/slow": make(chan string, 1), "/never": make(chan string, 1)}
	for path, result := range results {
		c := client(t, path == "/slow")
		go func() {
			response, err := c.Get(e.https + path)
			if err != nil {
				result <- "error"
				return
			}
			defer response.Body.Close()
			body, _ := io.ReadAll(response.Body)
			result <- string(body)
		}()
	}
	eventually(t, "both are under way", func() bool { return e.page("GET", "/connections") == `{"open":2,"active":2}` })

	deadline, expire := context.WithCancel(t.Context())
	stopped := make(chan error, 1)
	go func() { stopped <- e.Shutdown(deadline) }()
	eventually(t, "new connections are refused", func() bool {
		conn, err := net.Dial("tcp", strings.TrimPrefix(e.http, "http://"))
		if err == nil {
			conn.Close()
		}
		return err != nil
	})
	close(release)
	if got := <-results["/slow"]; got != "finished" {
		t.Errorf("the slow request got %q", got)
	}
	eventually(t, "one is left", func() bool { return e.page("GET", "/connections") == `{"open":1,"active":1}` })
	expire()
	if got := <-results["/never"]; got != "error" {
		t.Errorf("the endless request got %q", got)
	}
	if err := <-stopped; !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "cut 1 connections") {
		t.Errorf("Shutdown: %v", err)
	}
}

// TestOldConnectionsEnd keeps a busy client from staying for ever.
func TestOldConnectionsEnd(t *testing.T) {
	limits := "limits: {connectionAge: 1ns}\n"
	shop := toShop(origin(t, echo("shop")).URL)
	for name, url := range map[string]string{
		"https":    start(t, shop+limits).https,
		"redirect": start(t, shop+limits+"http: {address: \"127.0.0.1:0\"}\n").http,
	} {
		response, err := client(t, false).Get(url + "/")
		if err != nil {
			t.Fatal(err)
		}
		io.Copy(io.Discard, response.Body)
		response.Body.Close()
		if !response.Close {
			t.Errorf("%s: the connection was kept", name)
		}
	}
}
