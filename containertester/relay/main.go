// Command relay runs in a container beside those under test and leads their connections to mocks in another
// process, which this container cannot reach: that process comes here instead.
//
// Each connection to the control port begins with a line, TOKEN VERB NUMBER:
//
//	TOKEN hold 0        stays open; the relay ends with the last of these
//	TOKEN listen PORT   answers the port (a free one for 0), then a number for each connection to it;
//	                    when it ends, the port is closed
//	TOKEN take NUMBER   from here on is that connection
//
// It is built from this one file, by the package that starts it.
package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"
)

// patience is how long a connection waits to be taken, a control connection may be silent at first, and
// the relay stays without anybody.
const patience = 10 * time.Second

type relay struct {
	token string

	mu      sync.Mutex
	waiting map[int]net.Conn
	next    int
	holders int
	idle    *time.Timer
}

func main() {
	listener, err := net.Listen("tcp", ":1")
	if err != nil {
		fmt.Fprintln(os.Stderr, "relay:", err)
		os.Exit(1)
	}
	r := &relay{token: os.Getenv("RELAY_TOKEN"), waiting: map[int]net.Conn{}, idle: time.AfterFunc(patience, func() { os.Exit(0) })}
	for {
		conn, err := listener.Accept()
		if err != nil {
			fmt.Fprintln(os.Stderr, "relay:", err)
			os.Exit(1)
		}
		go r.serve(conn.(*net.TCPConn))
	}
}

func (r *relay) serve(conn *net.TCPConn) {
	_ = conn.SetReadDeadline(time.Now().Add(patience))
	var token, verb string
	var number int
	// Read byte by byte: what follows the line belongs to somebody else.
	if _, err := fmt.Fscanf(oneByte{conn}, "%s %s %d\n", &token, &verb, &number); err != nil || token != r.token {
		_ = conn.Close()
		return
	}
	_ = conn.SetReadDeadline(time.Time{})
	switch verb {
	case "hold":
		r.hold(conn)
	case "listen":
		r.listen(conn, number)
	case "take":
		if taken, ok := r.take(number).(*net.TCPConn); ok {
			splice(conn, taken)
		}
	}
	_ = conn.Close()
}

type oneByte struct{ io.Reader }

func (o oneByte) Read(p []byte) (int, error) { return o.Reader.Read(p[:min(1, len(p))]) }

func (r *relay) hold(conn net.Conn) {
	r.mu.Lock()
	r.holders++
	r.idle.Stop()
	r.mu.Unlock()
	_, _ = io.WriteString(conn, "held\n")
	_, _ = io.Copy(io.Discard, conn)
	r.mu.Lock()
	r.holders--
	last := r.holders == 0
	r.mu.Unlock()
	if last {
		os.Exit(0)
	}
}

func (r *relay) listen(control net.Conn, port int) {
	listener, err := net.Listen("tcp", fmt.Sprintf(":%d", port))
	if err != nil {
		fmt.Fprintln(control, "error:", err)
		return
	}
	go func() {
		_, _ = bufio.NewReader(control).ReadByte() // Nothing is sent: it ends with the connection.
		_ = listener.Close()
	}()
	fmt.Fprintln(control, listener.Addr().(*net.TCPAddr).Port)
	var numbers []int
	for {
		conn, err := listener.Accept()
		if err != nil {
			for _, number := range numbers {
				r.drop(number)
			}
			return
		}
		r.mu.Lock()
		r.next++
		number := r.next
		r.waiting[number] = conn
		r.mu.Unlock()
		numbers = append(numbers, number)
		time.AfterFunc(patience, func() { r.drop(number) })
		fmt.Fprintln(control, number)
	}
}

// drop resets a connection that nobody has taken.
func (r *relay) drop(number int) {
	if conn, ok := r.take(number).(*net.TCPConn); ok {
		_ = conn.SetLinger(0)
		_ = conn.Close()
	}
}

func (r *relay) take(number int) net.Conn {
	r.mu.Lock()
	defer r.mu.Unlock()
	conn := r.waiting[number]
	delete(r.waiting, number)
	return conn
}

// splice leads both connections into each other: an end is an end there, and a reset a reset.
func splice(a, b *net.TCPConn) {
	var group sync.WaitGroup
	group.Go(func() { lead(a, b) })
	lead(b, a)
	group.Wait()
	_ = a.Close()
	_ = b.Close()
}

func lead(to, from *net.TCPConn) {
	if _, err := io.Copy(to, from); err != nil && !errors.Is(err, net.ErrClosed) {
		for _, conn := range []*net.TCPConn{to, from} {
			_ = conn.SetLinger(0)
			_ = conn.Close()
		}
		return
	}
	_ = to.CloseWrite()
}
