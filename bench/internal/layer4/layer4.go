// Package layer4 is a server and a client that say no more than a router of connections must see: a real ClientHello, a short
// answer, and then as many bytes as were asked for. There is no TLS behind it, so that what is measured is moving bytes.
//
// After the answer to the hello the client may send requests of eight bytes: how many bytes it wants, as a number.
package layer4

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// AnswerBytes is the size of the answer to a hello.
const AnswerBytes = 128

// RequestBytes is the size of a request.
const RequestBytes = 8

// Server serves behind a listener. Connections begin with a PROXY header of any version, or with none. Answers have its name
// in them.
type Server struct{ Name byte }

// Serve accepts until the listener is closed.
func (s Server) Serve(l net.Listener) error {
	for {
		conn, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			return err
		}
		go func() {
			defer conn.Close()
			_ = s.serve(conn) // The client has left.
		}()
	}
}

var filler = make([]byte, 1<<20)

func (s Server) serve(conn net.Conn) error {
	if err := readHello(conn); err != nil {
		return err
	}
	// As a record of TLS, which health checks want to see.
	answer := make([]byte, AnswerBytes)
	copy(answer, []byte{0x16, 3, 3, 0, AnswerBytes - 5, s.Name})
	if _, err := conn.Write(answer); err != nil {
		return err
	}
	request := make([]byte, RequestBytes)
	for {
		if _, err := io.ReadFull(conn, request); err != nil {
			return err
		}
		for left := binary.BigEndian.Uint64(request); left > 0; {
			n, err := conn.Write(filler[:min(left, uint64(len(filler)))])
			if err != nil {
				return err
			}
			left -= uint64(n)
		}
	}
}

// readHello takes a PROXY header, if there is one, and one TLS record off a connection. Little is read at once, as what follows is not
// its own.
func readHello(conn net.Conn) error {
	buffer := make([]byte, 4096)
	n := 0
	for {
		m, err := conn.Read(buffer[n:])
		if err != nil {
			return err
		}
		n += m
		begin := 0
		switch {
		case n >= 16 && string(buffer[:12]) == "\r\n\r\n\x00\r\nQUIT\n":
			begin = 16 + int(binary.BigEndian.Uint16(buffer[14:]))
		case strings.HasPrefix(string(buffer[:n]), "PROXY "):
			line, _, ok := strings.Cut(string(buffer[:n]), "\r\n")
			if !ok {
				continue
			}
			begin = len(line) + 2
		case n < 16:
			continue
		}
		if n >= begin+5 && n >= begin+5+int(binary.BigEndian.Uint16(buffer[begin+3:])) {
			return nil
		}
		if n == len(buffer) {
			return errors.New("no hello")
		}
	}
}

// Hello is the ClientHello of crypto/tls for a host.
func Hello(host string) ([]byte, error) {
	client, server := net.Pipe()
	defer server.Close()
	go func() {
		_ = tls.Client(client, &tls.Config{ServerName: host, MinVersion: tls.VersionTLS12}).HandshakeContext(context.Background()) // It has no server.
		client.Close()
	}()
	r := bufio.NewReader(server)
	header, err := r.Peek(5)
	if err != nil {
		return nil, err
	}
	hello := make([]byte, 5+int(binary.BigEndian.Uint16(header[3:])))
	_, err = io.ReadFull(r, hello)
	return hello, err
}

// Client is one connection through a router.
type Client struct {
	Conn *net.TCPConn
	raw  syscall.RawConn
	// Server is the name of the one that answered.
	Server byte
	answer [AnswerBytes]byte
}

// Dial connects, sends the hello and reads the answer, all within the timeout.
func Dial(address string, hello []byte, timeout time.Duration) (*Client, error) {
	conn, err := net.DialTimeout("tcp", address, timeout)
	if err != nil {
		return nil, err
	}
	c := &Client{Conn: conn.(*net.TCPConn)}
	_ = conn.SetDeadline(time.Now().Add(timeout))
	if _, err = conn.Write(hello); err == nil {
		_, err = io.ReadFull(conn, c.answer[:])
	}
	if err == nil && c.answer[0] != 0x16 {
		err = fmt.Errorf("an alert instead of an answer: %x", c.answer[:8])
	}
	if err != nil {
		conn.Close()
		return nil, err
	}
	_ = conn.SetDeadline(time.Time{})
	c.Server = c.answer[5]
	c.raw, err = c.Conn.SyscallConn()
	return c, err
}

// Get asks for bytes and waits until all are there. They are thrown away in the kernel, as a real client's work with them is the same
// whoever brought them.
func (c *Client) Get(bytes int64) error {
	var request [RequestBytes]byte
	binary.BigEndian.PutUint64(request[:], uint64(bytes))
	if _, err := c.Conn.Write(request[:]); err != nil {
		return err
	}
	var failed error
	for bytes > 0 && failed == nil {
		if err := c.raw.Read(func(fd uintptr) bool {
			n, err := discard(int(fd), int(min(bytes, 1<<20)))
			switch {
			case err == syscall.EAGAIN:
				return false
			case err != 0:
				failed = os.NewSyscallError("recv", err)
			case n == 0:
				failed = io.ErrUnexpectedEOF
			default:
				bytes -= int64(n)
			}
			return true
		}); err != nil {
			return err
		}
	}
	return failed
}

// discard receives without copying (tcp(7), MSG_TRUNC).
func discard(fd, n int) (int, syscall.Errno) {
	got, _, errno := unix.Syscall6(unix.SYS_RECVFROM, uintptr(fd), 0, uintptr(n), unix.MSG_TRUNC|unix.MSG_DONTWAIT, 0, 0)
	return int(got), errno
}
