package testservers

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Redis starts an empty Redis for the test and returns its address, host:port.
func Redis(t testing.TB) string {
	t.Helper()
	return NewRedis(t).Address()
}

// NewRedis starts an empty Redis for the test that can be taken down and up again. It keeps its
// data meanwhile.
func NewRedis(t testing.TB) *Server {
	t.Helper()
	program, err := find("redis-server", "redis-server", "/usr/bin")
	if err != nil {
		t.Fatal(err)
	}
	dir, unwatch, err := newDir("shopset-redis-")
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{name: "Redis", dir: dir, watch: unwatch, kill: syscall.SIGKILL}
	s.command = func() *exec.Cmd {
		// The append-only file is written before each answer, so that a kill loses nothing.
		cmd := exec.CommandContext(context.Background(), program, "--bind", "127.0.0.1", "--port", strconv.Itoa(s.port), "--dir", dir,
			"--save", "", "--appendonly", "yes", "--appendfsync", "no", "--daemonize", "no")
		cmd.Dir = dir
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		return cmd
	}
	s.ready = func(ctx context.Context) error { return ping(ctx, s.Address(), dir) }
	t.Cleanup(s.close)
	if err := s.startSomewhere(); err != nil {
		t.Fatal(err)
	}
	return s
}

// ping asks the server for its folder, by which it is known.
func ping(ctx context.Context, address, dir string) error {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	var dialer net.Dialer
	connection, err := dialer.DialContext(ctx, "tcp", address)
	if err != nil {
		return err
	}
	defer connection.Close()
	if err := connection.SetDeadline(time.Now().Add(time.Second)); err != nil {
		return err
	}
	fmt.Fprint(connection, "CONFIG GET dir\r\n")
	// The answer is an array of two strings: *2 $3 dir $N FOLDER.
	reader, answer := bufio.NewReader(connection), ""
	for range 5 {
		if answer, err = reader.ReadString('\n'); err != nil {
			return err
		}
		if strings.HasPrefix(answer, "-") {
			break
		}
	}
	return isIn(strings.TrimSpace(answer), dir)
}
