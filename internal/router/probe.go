package router

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"strings"
	"time"
)

// watch probes an endpoint until the context ends: the first time at once, then at the interval, at a moment of its own so that
// neither all routers nor all endpoints are in step.
func (c *chooser) watch(ctx context.Context, e *endpoint) {
	timer := time.NewTimer(rand.N(c.health.Interval)) //nolint:gosec // Nothing hangs on it.
	defer timer.Stop()
	probe := c.health.probe(e)
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		begin := time.Now()
		err := probe(ctx)
		if ctx.Err() != nil {
			return
		}
		switch {
		case err == nil:
			e.pool.cell.meters.good.Inc()
			c.probed(e, true)
		case localFault(err):
			e.pool.cell.meters.unmade.Inc() // It says nothing about the endpoint.
		default:
			e.pool.cell.meters.bad.Inc()
			if !e.down.Load() {
				c.log.Debug("probe", "cell", e.pool.cell.name, "address", e.address.String(), "error", err)
			}
			c.probed(e, false)
		}
		timer.Reset(max(c.health.Interval-time.Since(begin), time.Millisecond))
	}
}

// probe returns the function that probes an endpoint: what the table says, else what the configuration does.
func (h *Health) probe(e *endpoint) func(context.Context) error {
	address, how, path, least := e.address.String(), h.TLS, h.Path, statusAny
	if e.pool.kind == kindHTTP {
		how = h.HTTP
	}
	proxied := h.sendProxy
	if e.probe != nil {
		address = netip.AddrPortFrom(e.address.Addr(), e.probe.Port).String()
		how, path, least, proxied = ProbeHTTP, e.probe.Path, statusGood, false
	}
	return func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, h.Timeout)
		defer cancel()
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
		if err != nil {
			return err
		}
		defer conn.Close()
		if how == ProbeTCP {
			return nil
		}
		deadline, _ := ctx.Deadline()
		if err := conn.SetDeadline(deadline); err != nil {
			return err
		}
		var out []byte
		if proxied {
			out = appendProxyLocal(out)
		}
		if how == ProbeHTTP {
			return askHTTP(conn, out, path, h.Host, least)
		}
		return askTLS(conn, out)
	}
}

// The first digits of statuses that pass.
const (
	statusAny  = "1234"
	statusGood = "2"
)

// probeHello is a ClientHello that no server of today can agree to: TLS 1.0 with one cipher suite that was never assigned. The
// program behind the port must read it to say so, and spends neither a key operation nor a certificate on it.
var probeHello = []byte{
	22, 3, 1, 0, 45, // record
	1, 0, 0, 41, // ClientHello
	3, 1, // version
	's', 'h', 'o', 'p', 's', 'e', 't', '-', 'r', 'o', 'u', 't', 'e', 'r', ' ', 'p', 'r', 'o', 'b', 'e', 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, // random
	0,              // no session
	0, 2, 0x0a, 10, // a suite of GREASE (RFC 8701)
	1, 0, // no compression
}

// askTLS wants any byte: an alert is an answer.
func askTLS(conn net.Conn, begin []byte) error {
	if _, err := conn.Write(append(begin, probeHello...)); err != nil {
		return err
	}
	_, err := io.ReadFull(conn, make([]byte, 1))
	return err
}

// askHTTP wants a status that begins with one of the given digits.
func askHTTP(conn net.Conn, begin []byte, path, host, digits string) error {
	begin = fmt.Appendf(begin, "GET %s HTTP/1.1\r\nHost: %s\r\nUser-Agent: shopset-router\r\nConnection: close\r\n\r\n", path, host)
	if _, err := conn.Write(begin); err != nil {
		return err
	}
	head := make([]byte, len("HTTP/1.1 200"))
	if _, err := io.ReadFull(conn, head); err != nil {
		return err
	}
	if !bytes.HasPrefix(head, []byte("HTTP/1.")) || !strings.Contains(digits, string(head[9])) {
		return fmt.Errorf("answer %q", head)
	}
	return nil
}
