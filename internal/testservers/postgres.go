package testservers

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// shared is the server of this test binary. The watcher removes its folder after the end.
var shared = sync.OnceValues(startPostgres)

var databases atomic.Int64

// Postgres makes an empty database for the test, on a server that all tests of the binary share,
// and returns its URL.
func Postgres(t testing.TB) string {
	t.Helper()
	server, err := shared()
	if err != nil {
		t.Fatal(err)
	}
	name := fmt.Sprintf("test%d", databases.Add(1))
	if err := execute(server, "CREATE DATABASE "+name); err != nil {
		t.Fatalf("database for the test: %v", err)
	}
	t.Cleanup(func() {
		if err := execute(server, "DROP DATABASE "+name+" WITH (FORCE)"); err != nil {
			t.Errorf("database of the test: %v", err)
		}
	})
	return server.databaseURL(name)
}

// NewPostgres starts an empty PostgreSQL for the test that can be taken down and up again. Its URL
// comes from URL. It keeps its data meanwhile.
func NewPostgres(t testing.TB) *Server {
	t.Helper()
	server, err := startPostgres()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.close)
	return server
}

// URL returns the URL of the server's default database; it is for PostgreSQL only.
func (s *Server) URL() string { return s.databaseURL("postgres") }

func (s *Server) databaseURL(database string) string {
	return fmt.Sprintf("postgres://postgres@%s/%s?sslmode=disable", s.Address(), database)
}

func execute(s *Server, statement string) error {
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	connection, err := pgx.Connect(ctx, s.URL())
	if err != nil {
		return err
	}
	defer connection.Close(ctx)
	_, err = connection.Exec(ctx, statement)
	return err
}

func startPostgres() (*Server, error) {
	const folder = "/usr/lib/postgresql/*/bin"
	program, err := find("postgres", "postgresql", folder)
	if err != nil {
		return nil, err
	}
	credential, err := unprivileged()
	if err != nil {
		return nil, err
	}
	data, err := initialised(filepath.Join(filepath.Dir(program), "initdb"), credential)
	if err != nil {
		return nil, err
	}
	dir, unwatch, err := newDir("shopset-postgres-")
	if err != nil {
		return nil, err
	}
	s := &Server{name: "PostgreSQL", dir: dir, watch: unwatch, kill: syscall.SIGQUIT}
	clone := filepath.Join(dir, "data")
	if out, err := exec.CommandContext(context.Background(), "cp", "-a", "--reflink=auto", data, clone).CombinedOutput(); err != nil {
		s.close()
		return nil, fmt.Errorf("copy of the initialised folder: %w: %s", err, out)
	}
	if err := own(dir, credential); err != nil {
		s.close()
		return nil, err
	}
	s.command = func() *exec.Cmd {
		cmd := exec.CommandContext(context.Background(), program, "-D", clone, "-p", strconv.Itoa(s.port),
			"-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories=", "-c", "fsync=off",
			"-c", "full_page_writes=off", "-c", "max_connections=200",
			"-c", "autovacuum=off", "-c", "shared_buffers=32MB", "-c", "dynamic_shared_memory_type=mmap")
		cmd.Dir = dir
		// SIGQUIT: an immediate end that takes the server's children along.
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGQUIT, Credential: credential}
		return cmd
	}
	s.ready = func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		connection, err := pgx.Connect(ctx, s.URL())
		if err != nil {
			return err
		}
		defer connection.Close(ctx)
		var folder string
		if err := connection.QueryRow(ctx, "SHOW data_directory").Scan(&folder); err != nil {
			return err
		}
		return isIn(folder, clone)
	}
	if err := s.startSomewhere(); err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

var (
	initOnce sync.Once
	initDir  string
	initErr  error
)

// initialised runs initdb once for this test binary and returns the folder to clone, which lives as
// long as the binary.
func initialised(initdb string, credential *syscall.Credential) (string, error) {
	initOnce.Do(func() {
		dir, _, err := newDir("shopset-initdb-")
		if err != nil {
			initErr = err
			return
		}
		if initErr = own(dir, credential); initErr != nil {
			return
		}
		initDir = filepath.Join(dir, "data")
		cmd := exec.CommandContext(context.Background(), initdb, "-D", initDir, "-U", "postgres", "-A", "trust", "--no-sync",
			"--encoding=UTF8", "--locale=C.UTF-8", "--no-instructions")
		cmd.Dir = dir
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: credential}
		if out, err := cmd.CombinedOutput(); err != nil {
			initErr = fmt.Errorf("initdb: %w: %s", err, out)
		}
	})
	return initDir, initErr
}

// unprivileged returns who PostgreSQL runs as: nil for the present user, unless that is root.
func unprivileged() (*syscall.Credential, error) {
	if os.Getuid() != 0 {
		return nil, nil
	}
	for _, name := range []string{"postgres", "nobody"} {
		account, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, err1 := strconv.ParseUint(account.Uid, 10, 32)
		gid, err2 := strconv.ParseUint(account.Gid, 10, 32)
		if err1 == nil && err2 == nil {
			return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
		}
	}
	return nil, fmt.Errorf("PostgreSQL does not run as root, and there is no user postgres or nobody")
}

func own(dir string, credential *syscall.Credential) error {
	if credential == nil {
		return nil
	}
	return os.Chown(dir, int(credential.Uid), int(credential.Gid))
}
