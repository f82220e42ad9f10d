package main

import (
	"bufio"
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/mutate"
)

// unpacked builds a Debian image of this repository (or takes the one of the last build) and unpacks
// it, to run it much as a container runtime would: own process and mount namespaces, the image's user
// and environment, its own /proc.
type unpacked struct {
	t     *testing.T
	root  string
	user  string
	env   []string
	start []string
}

func unpack(t *testing.T, imageName string) *unpacked {
	t.Helper()
	if testing.Short() {
		t.Skip("takes minutes when the image is not built yet")
	}
	if os.Getuid() != 0 {
		t.Skip("needs root for chroot")
	}
	repository, err := repositoryRoot()
	if err != nil {
		t.Fatal(err)
	}
	state := os.Getenv("SHOPSET_STATE")
	if state == "" {
		state = filepath.Join(repository, ".state")
	}
	recipes, err := readRecipes("images.yaml")
	if err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(state, "images")
	build(t, repository, out, recipes, imageName)
	image := open(t, out, imageName)
	config, err := image.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	u := &unpacked{t: t, root: t.TempDir(), user: config.Config.User, env: config.Config.Env, start: config.Config.Entrypoint}
	content := mutate.Extract(image)
	defer content.Close()
	extract := exec.Command("tar", "--extract", "--numeric-owner", "--preserve-permissions", "--directory", u.root)
	extract.Stdin = content
	if output, err := extract.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, output)
	}
	for _, folder := range []string{"proc", "dev"} {
		if err := os.MkdirAll(filepath.Join(u.root, folder), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return u
}

// command is a process in the image. It is the first one of its PID namespace, so that all others end
// when it is killed.
func (u *unpacked) command(env []string, arguments ...string) *exec.Cmd {
	script := `root=$1 user=$2; shift 2; mount --make-rprivate / && mount --rbind /dev "$root/dev" && mount -t proc proc "$root/proc" && exec chroot --userspec="$user" "$root" "$@"`
	all := append([]string{"-c", script, "sh", u.root, u.user, "/usr/bin/env", "-i"}, u.env...)
	all = append(append(all, env...), arguments...)
	command := exec.Command("sh", all...)
	command.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID | syscall.CLONE_NEWNS | syscall.CLONE_NEWIPC}
	command.WaitDelay = 5 * time.Second
	return command
}

// run starts the image's entrypoint; the end of the test kills it.
func (u *unpacked) run(env []string, arguments ...string) (kill func(), log *bytes.Buffer) {
	u.t.Helper()
	command := u.command(env, append(u.start, arguments...)...)
	log = &bytes.Buffer{}
	command.Stdout, command.Stderr = log, log
	if err := command.Start(); err != nil {
		u.t.Fatal(err)
	}
	var killed bool
	kill = func() {
		if !killed {
			killed = true
			command.Process.Kill()
			command.Wait()
		}
	}
	u.t.Cleanup(kill)
	return kill, log
}

func freePort(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	_, port, _ := net.SplitHostPort(listener.Addr().String())
	return port
}

func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !holds(); <-time.After(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within a minute: %s", what)
		}
	}
}

func TestRedisImage(t *testing.T) {
	u := unpack(t, "redis")
	port := freePort(t)
	_, log := u.run(nil, "--port", port, "--requirepass", "secret")
	var conn net.Conn
	eventually(t, "Redis listens", func() (ok bool) {
		var err error
		conn, err = net.Dial("tcp", "127.0.0.1:"+port)
		return err == nil
	})
	defer conn.Close()
	reader := bufio.NewReader(conn)
	for _, step := range []struct{ send, want string }{
		{"SET a b", "-NOAUTH"}, {"AUTH secret", "+OK"}, {"SET a b", "+OK"}, {"GET a", "$1"}, {"", "b"}, {"CONFIG GET maxmemory", "*2"},
	} {
		if step.send != "" {
			fmt.Fprintf(conn, "%s\r\n", step.send)
		}
		if line, err := reader.ReadString('\n'); err != nil || !strings.HasPrefix(line, step.want) {
			t.Fatalf("%s: got %q %v\n%s", step.send, line, err, log)
		}
	}
}

func TestPostgresImage(t *testing.T) {
	u := unpack(t, "postgres")
	port := freePort(t)
	env := []string{"POSTGRES_USER=shop", "POSTGRES_PASSWORD=secret", "POSTGRES_DB=shop data"}
	query := func(password, sql string) (string, error) {
		output, err := u.command([]string{"PGPASSWORD=" + password}, "psql", "-h", "127.0.0.1", "-p", port, "-U", "shop", "-d", "shop data",
			"-w", "-At", "-v", "ON_ERROR_STOP=1", "-c", sql).CombinedOutput()
		return strings.TrimSpace(string(output)), err
	}
	ready := func(log *bytes.Buffer) {
		t.Helper()
		eventually(t, "PostgreSQL answers", func() bool { got, _ := query("secret", "SELECT 1"); return got == "1" })
	}

	// A first start that is killed in the middle, a good one, and a restart after a crash.
	kill, _ := u.run(env, "-p", port)
	eventually(t, "initdb is at work", func() bool {
		_, err := os.Stat(filepath.Join(u.root, "var/lib/postgresql/data/fresh/PG_VERSION"))
		return err == nil
	})
	kill()
	if _, err := os.Stat(filepath.Join(u.root, "var/lib/postgresql/data/15")); err == nil {
		t.Log("the first start was killed too late to test its recovery")
	}
	kill, log := u.run(env, "-p", port)
	ready(log)
	if got, err := query("secret", "CREATE TABLE t (x text); INSERT INTO t VALUES ('ä'); SHOW server_encoding"); err != nil || !strings.HasSuffix(got, "UTF8") {
		t.Fatalf("%s %v", got, err)
	}
	if got, err := query("wrong", "SELECT 1"); err == nil || !strings.Contains(got, "password authentication failed") {
		t.Errorf("a wrong password: %s %v", got, err)
	}
	kill()
	_, log = u.run(env, "-p", port)
	ready(log)
	if got, err := query("secret", "SELECT x FROM t"); err != nil || got != "ä" {
		t.Errorf("after a restart: %q %v", got, err)
	}
}

func TestPostgresImageWantsAPassword(t *testing.T) {
	u := unpack(t, "postgres")
	output, err := u.command(nil, u.start...).CombinedOutput()
	if err == nil || !strings.Contains(string(output), "POSTGRES_PASSWORD: want a password for POSTGRES_USER") {
		t.Fatalf("%s %v", output, err)
	}
}

// TestDebianImagesAreThin looks for what has no use in an image.
func TestDebianImagesAreThin(t *testing.T) {
	for _, imageName := range []string{"redis", "postgres"} {
		u := unpack(t, imageName)
		for _, path := range []string{"usr/share/man", "usr/share/locale", "var/lib/apt", "etc/apt", "usr/share/perl5"} {
			if _, err := os.Stat(filepath.Join(u.root, path)); err == nil {
				t.Errorf("%s has /%s", imageName, path)
			}
		}
	}
}

// TestAMissingProgramIsInstalled has a bare machine: nothing that an image needs is there.
func TestAMissingProgramIsInstalled(t *testing.T) {
	root, bin := t.TempDir(), t.TempDir()
	asked := filepath.Join(root, "asked")
	write(t, filepath.Join(root, "hack/ensure-packages"), "#!/bin/sh\necho \"$@\" >>"+asked+"\necho no such package\nexit 1\n")
	if err := os.Chmod(filepath.Join(root, "hack/ensure-packages"), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", bin)
	image := DebianImage{Name: "x", Suite: "bookworm", Packages: []string{"x"}, Runtime: Runtime{User: "1:1", Entrypoint: []string{"/x"}}}
	err := (&builder{root: root, out: t.TempDir(), log: &bytes.Buffer{}}).build(t.Context(), &Recipes{Debian: []DebianImage{image}}, nil)
	if content, _ := os.ReadFile(asked); string(content) != "mmdebstrap\n" {
		t.Fatalf("ensure-packages was called with %q, then %v", content, err)
	}
	if err == nil || !strings.Contains(err.Error(), "mmdebstrap is missing") || !strings.Contains(err.Error(), "no such package") {
		t.Fatal(err)
	}
}
