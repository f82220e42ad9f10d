package proxy

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// TestReadyOnceUpstreamsAreReached: a proxy that starts is not ready before its upstreams take connections, and stays ready
// when they do not later on.
func TestReadyOnceUpstreamsAreReached(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := listener.Addr().String()
	_ = listener.Close()
	e := start(t, "startup: {wait: 1m}\n"+toShop("http://"+address))
	ready := func() (int, string) {
		answer := httptest.NewRecorder()
		e.admin.ServeHTTP(answer, httptest.NewRequest(http.MethodGet, "/readyz", nil))
		return answer.Code, answer.Body.String()
	}
	if code, body := ready(); code != http.StatusServiceUnavailable || !strings.Contains(body, "shop at "+address) {
		t.Errorf("without its upstream the proxy says %d %q", code, body)
	}
	listener, err = net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the proxy is ready", func() bool { code, _ := ready(); return code == http.StatusOK })
	_ = listener.Close()
	if code, body := ready(); code != http.StatusOK {
		t.Errorf("an upstream that goes makes the proxy unready: %d %q", code, body)
	}
}

// TestStartupEnds: a role that is down holds up nobody for longer than it may.
func TestStartupEnds(t *testing.T) {
	g := greeting{until: time.Now().Add(-time.Second)}
	if err := g.check(&pipeline{roles: map[string]*role{"shop": {upstreams: []*upstream{{name: "shop:8080"}}}}}); err != nil {
		t.Error(err)
	}
}

// TestRefusedLooksAgain: a name is looked up anew when its address takes no connection.
func TestRefusedLooksAgain(t *testing.T) {
	config := Role{URL: "http://shop.test:8080"}
	config.fill()
	target := config.targets()[0]
	target.Resolve = time.Hour
	u, err := newUpstream(&config, target, true)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(u.close)
	var looks atomic.Int32
	u.lookup = func(context.Context, string) ([]netip.Addr, error) {
		if looks.Add(1) == 1 {
			return []netip.Addr{netip.MustParseAddr("192.0.2.1")}, nil
		}
		return []netip.Addr{netip.MustParseAddr("192.0.2.2")}, nil
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { defer close(ended); u.run(ctx, time.Time{}) }()
	t.Cleanup(func() { cancel(); <-ended })
	at := func(address string) func() bool {
		return func() bool { return (*u.endpoints.Load())[0].address == address }
	}
	eventually(t, "the first address", at("192.0.2.1:8080"))
	eventually(t, "the second address", func() bool { u.lookAgain(); return at("192.0.2.2:8080")() })
	if refused(errors.New("no dial")) || !refused(&net.OpError{Op: "dial", Err: errors.New("refused")}) {
		t.Error("what was refused is not told from what was not")
	}
}

// TestRefusedTwice: who refuses connections for a moment, as a Service does while its Pods change, costs nobody a page; who goes on
// refusing is asked three times.
func TestRefusedTwice(t *testing.T) {
	shop := origin(t, func(http.ResponseWriter, *http.Request) {})
	for _, test := range []struct {
		refusals, dials int32
		refusal         error
		want            int
	}{
		{2, 3, syscall.ECONNREFUSED, http.StatusOK}, {3, 3, syscall.ECONNREFUSED, http.StatusBadGateway},
		{2, 2, os.ErrDeadlineExceeded, http.StatusBadGateway}, // It has cost enough time.
	} {
		var dials atomic.Int32
		e := start(t, toShop(shop.URL))
		direct := e.current.Load().roles["shop"].upstreams[0].direct
		dial := direct.dial
		direct.dial = func(ctx context.Context, network, address string) (net.Conn, error) {
			if dials.Add(1) <= test.refusals {
				return nil, &net.OpError{Op: "dial", Net: network, Err: test.refusal}
			}
			return dial(ctx, network, address)
		}
		if status, _, _ := ask(t, e, "/"); status != test.want || dials.Load() != test.dials {
			t.Errorf("%v, %d times: %d after %d connections", test.refusal, test.refusals, status, dials.Load())
		}
	}
}
