package testservers_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/shopset/shopset/internal/testservers"
)

func query(t *testing.T, url, statement string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	connection, err := pgx.Connect(ctx, url)
	if err != nil {
		t.Fatal(err)
	}
	defer connection.Close(ctx)
	var answer string
	if err := connection.QueryRow(ctx, statement).Scan(&answer); err != nil {
		t.Fatal(err)
	}
	return answer
}

func execute(t *testing.T, url, statement string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	connection, err := pgx.Connect(ctx, url)
	if err != nil {
		t.Fatal(err)
	}
	defer connection.Close(ctx)
	if _, err := connection.Exec(ctx, statement); err != nil {
		t.Fatal(err)
	}
}

func command(t *testing.T, address, line string) string {
	t.Helper()
	connection, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer connection.Close()
	fmt.Fprintf(connection, "%s\r\n", line)
	answer, err := bufio.NewReader(connection).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(answer)
}

func TestPostgresGivesEachTestItsOwnDatabase(t *testing.T) {
	one, two := testservers.Postgres(t), testservers.Postgres(t)
	execute(t, one, "CREATE TABLE a (n int)")
	if got := query(t, two, "SELECT count(*)::text FROM pg_tables WHERE tablename = 'a'"); got != "0" {
		t.Fatalf("the second database has the table of the first: %s", got)
	}
}

func TestPostgresKeepsItsDataWhileDown(t *testing.T) {
	server := testservers.NewPostgres(t)
	execute(t, server.URL(), "CREATE TABLE a AS SELECT 42 AS n")
	server.Down(t)
	if _, err := net.Dial("tcp", server.Address()); err == nil {
		t.Fatal("the server is down and still listens")
	}
	server.Up(t)
	if got := query(t, server.URL(), "SELECT n::text FROM a"); got != "42" {
		t.Fatalf("got %s", got)
	}
}

func TestRedisKeepsItsDataWhileDown(t *testing.T) {
	server := testservers.NewRedis(t)
	command(t, server.Address(), "SET a 42")
	server.Down(t)
	if _, err := net.Dial("tcp", server.Address()); err == nil {
		t.Fatal("the server is down and still listens")
	}
	server.Up(t)
	command(t, server.Address(), "PING")
	connection, err := net.Dial("tcp", server.Address())
	if err != nil {
		t.Fatal(err)
	}
	defer connection.Close()
	fmt.Fprint(connection, "GET a\r\n")
	reader := bufio.NewReader(connection)
	reader.ReadString('\n')
	if got, _ := reader.ReadString('\n'); strings.TrimSpace(got) != "42" {
		t.Fatalf("got %q", got)
	}
}

// TestNothingIsLeftWhenTheTestBinaryIsKilled runs this test binary again, kills it while its
// servers are up, and waits until they and their folders are gone.
func TestNothingIsLeftWhenTheTestBinaryIsKilled(t *testing.T) {
	tmp := t.TempDir()
	if err := os.Chmod(tmp, 0o755); err != nil {
		t.Fatal(err)
	}
	for dir := tmp; dir != os.TempDir() && len(dir) > 1; dir = dir[:strings.LastIndex(dir, "/")] {
		os.Chmod(dir, 0o755)
	}
	child := exec.Command(os.Args[0], "-test.run=^TestHelperHoldsServers$")
	child.Env = append(os.Environ(), "TESTSERVERS_HELPER=1", "TMPDIR="+tmp)
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	var addresses []string
	for scanner := bufio.NewScanner(out); scanner.Scan(); {
		if fields := strings.Fields(scanner.Text()); len(fields) == 3 && fields[0] == "UP" {
			addresses = fields[1:]
			break
		}
	}
	if len(addresses) != 2 {
		child.Process.Kill()
		t.Fatal("the helper did not start its servers")
	}
	child.Process.Kill()
	child.Wait()
	deadline := time.Now().Add(15 * time.Second)
	for {
		alive := ""
		for _, address := range addresses {
			if connection, err := net.Dial("tcp", address); err == nil {
				connection.Close()
				alive += " " + address
			}
		}
		left, _ := os.ReadDir(tmp)
		if alive == "" && len(left) == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("left behind: listeners%s, folders %v", alive, left)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func TestHelperHoldsServers(t *testing.T) {
	if os.Getenv("TESTSERVERS_HELPER") == "" {
		t.Skip("only for TestNothingIsLeftWhenTheTestBinaryIsKilled")
	}
	fmt.Println("UP", testservers.Redis(t), testservers.NewPostgres(t).Address())
	select {}
}

// TestAForeignServerIsNotTaken has the port of a server taken by another one while it is down.
func TestAForeignServerIsNotTaken(t *testing.T) {
	for name, make := range map[string]func(testing.TB) *testservers.Server{"Redis": testservers.NewRedis, "PostgreSQL": testservers.NewPostgres} {
		t.Run(name, func(t *testing.T) {
			server, foreign := make(t), make(t)
			server.Down(t)
			// What answers at the server's address is the foreign one.
			listener, err := net.Listen("tcp", server.Address())
			if err != nil {
				t.Fatal(err)
			}
			defer listener.Close()
			go func() {
				for {
					conn, err := listener.Accept()
					if err != nil {
						return
					}
					go func() {
						defer conn.Close()
						upstream, err := net.Dial("tcp", foreign.Address())
						if err != nil {
							return
						}
						defer upstream.Close()
						go io.Copy(upstream, conn)
						io.Copy(conn, upstream)
					}()
				}
			}()
			if err := server.TryUp(); err == nil {
				t.Error("the foreign server was taken for the own one")
			}
			listener.Close()
			server.Up(t)
		})
	}
}
