package keeper

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/shopset/shopset/hack/localcluster/internal/component"
)

const dialTimeout = 5 * time.Second

// forward listens on a port of the loopback and leads every connection to a port of the node.
func forward(f component.Forward, node netip.Addr) error {
	listener, err := net.Listen("tcp4", net.JoinHostPort("127.0.0.1", strconv.Itoa(f.Host)))
	if err != nil {
		return err
	}
	go serve(listener, net.JoinHostPort(node.String(), strconv.Itoa(f.Node)))
	return nil
}

func serve(listener net.Listener, target string) {
	for {
		conn, err := listener.Accept()
		if err != nil {
			time.Sleep(50 * time.Millisecond) // out of descriptors; it passes
			continue
		}
		go func() {
			defer conn.Close()
			upstream, err := net.DialTimeout("tcp4", target, dialTimeout)
			if err != nil {
				reset(conn)
				return
			}
			defer upstream.Close()
			done := make(chan struct{})
			go func() {
				pipe(upstream.(*net.TCPConn), conn.(*net.TCPConn))
				close(done)
			}()
			pipe(conn.(*net.TCPConn), upstream.(*net.TCPConn))
			<-done
		}()
	}
}

// pipe copies one direction and passes its end on, so that half-closed connections keep working.
func pipe(dst, src *net.TCPConn) {
	if _, err := io.Copy(dst, src); err != nil {
		reset(dst)
		reset(src)
		return
	}
	_ = dst.CloseWrite()
}

// reset makes the close of a connection a refusal that its other end cannot mistake for an end.
func reset(conn net.Conn) {
	_ = conn.(*net.TCPConn).SetLinger(0)
	_ = conn.Close()
}

// relayDNS answers queries on port 53 of the host's end of the link with what a name server says,
// which the node itself cannot reach. It hears only what comes over the link: an address of this
// machine can be reached from outside, too.
func relayDNS(link string, host netip.Addr, resolver netip.AddrPort) error {
	conn, listener, err := listenOn(link, netip.AddrPortFrom(host, 53))
	if err != nil {
		return fmt.Errorf("DNS relay: %w", err)
	}
	go serve(listener, resolver.String())
	go relayUDP(conn, resolver)
	return nil
}

// listenOn listens for what comes in by one interface.
func listenOn(link string, address netip.AddrPort) (*net.UDPConn, net.Listener, error) {
	config := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) error {
		var failure error
		err := raw.Control(func(fd uintptr) {
			failure = unix.SetsockoptString(int(fd), unix.SOL_SOCKET, unix.SO_BINDTODEVICE, link)
		})
		return errors.Join(err, failure)
	}}
	packets, err := config.ListenPacket(context.Background(), "udp4", address.String())
	if err != nil {
		return nil, nil, err
	}
	listener, err := config.Listen(context.Background(), "tcp4", address.String())
	if err != nil {
		_ = packets.Close()
		return nil, nil, err
	}
	return packets.(*net.UDPConn), listener, nil
}

func relayUDP(conn *net.UDPConn, resolver netip.AddrPort) {
	for {
		query := make([]byte, 4096)
		n, client, err := conn.ReadFromUDPAddrPort(query)
		if err != nil {
			time.Sleep(50 * time.Millisecond)
			continue
		}
		if n < dnsHeader {
			continue
		}
		go func() {
			answer, err := Exchange(query[:n], resolver, 2*time.Second)
			if err != nil {
				answer = servFail(query[:n])
			}
			_, _ = conn.WriteToUDPAddrPort(answer, client)
		}()
	}
}

const dnsHeader = 12

// Exchange sends one DNS query and returns the answer.
func Exchange(query []byte, server netip.AddrPort, limit time.Duration) ([]byte, error) {
	conn, err := net.DialTimeout("udp", server.String(), limit)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(limit))
	if _, err := conn.Write(query); err != nil {
		return nil, err
	}
	answer := make([]byte, 4096)
	n, err := conn.Read(answer)
	if err == nil && n < dnsHeader {
		err = io.ErrUnexpectedEOF
	}
	return answer[:n], err
}

// servFail turns a query into the answer that its server has failed.
func servFail(query []byte) []byte {
	const response, codeMask, serverFailure = 0x80, 0x0f, 2
	query[2] |= response
	query[3] = query[3]&^codeMask | serverFailure
	return query
}
