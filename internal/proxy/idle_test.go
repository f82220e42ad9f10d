package proxy

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
)

// idleClients tells a second run of this test, which is the clients, where the proxy is and how many there are of them.
const idleClients = "SHOPSET_TEST_IDLE_CLIENTS"

// TestManyIdleConnections: ten thousand clients that want nothing cost memory alone, and do not keep others from being served.
// The clients are a process of their own, so that one end of each connection counts against its limit of open files.
func TestManyIdleConnections(t *testing.T) {
	if text := os.Getenv(idleClients); text != "" {
		holdIdle(t, text)
		return
	}
	many := 10_000
	var limit syscall.Rlimit // Go has raised it already as far as it may.
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	if limit.Cur < uint64(many+500) {
		many = int(limit.Cur) / 2
		t.Logf("only %d connections: no more than %d files may be open here", many, limit.Cur)
	}
	e := start(t, toShop(origin(t, echo("shop")).URL)+"limits: {headerTimeout: 10m, idleTimeout: 10m}\n") // However slow this machine is.
	command := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestManyIdleConnections$")
	command.Env = append(os.Environ(), fmt.Sprintf("%s=%s %d", idleClients, strings.TrimPrefix(e.http, "http://"), many))
	stdin, err := command.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := command.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	said, err := bufio.NewReader(stdout).ReadString('\n')
	if said != "all are connected\n" {
		rest, _ := io.ReadAll(stdout)
		t.Fatalf("the clients say %q %s %v", said, rest, err)
	}
	eventually(t, "all are open", func() bool { return e.connections.open.Load() == int64(many) })
	if status, _, _ := do(t, client(t, false), newRequest(t, http.MethodGet, e.http+"/", nil)); status != http.StatusOK {
		t.Errorf("somebody who wants something gets %d", status)
	}
	if n := e.connections.open.Load(); n < int64(many) {
		t.Errorf("%d connections are left of %d", n, many)
	}
	stdin.Close() // It is how the clients learn that it is over.
	if _, err := io.Copy(io.Discard, stdout); err != nil {
		t.Error(err)
	}
	if err := command.Wait(); err != nil {
		t.Error(err)
	}
	eventually(t, "all are gone", func() bool { return e.connections.open.Load() <= 1 })
}

// holdIdle opens connections, says so, and holds them until its standard input ends. It is told where and how many.
func holdIdle(t *testing.T, text string) {
	address, number, _ := strings.Cut(text, " ")
	many, err := strconv.Atoi(number)
	if err != nil {
		t.Fatal(err)
	}
	const dialers = 50
	conns := make([]net.Conn, many)
	var group sync.WaitGroup
	for first := range dialers {
		group.Go(func() {
			for i := first; i < many; i += dialers {
				conn, err := net.DialTimeout("tcp", address, testPatience)
				if err != nil {
					t.Error(err)
					return
				}
				conns[i] = conn
			}
		})
	}
	group.Wait()
	if !t.Failed() {
		fmt.Println("all are connected")
		_, _ = io.Copy(io.Discard, os.Stdin)
	}
	for _, conn := range conns {
		if conn != nil {
			conn.Close()
		}
	}
}
