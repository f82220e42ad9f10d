package testservers

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"
)

// startTimeout bounds the start of one server.
const startTimeout = 20 * time.Second

// Server is one server process that can be taken down and up again on the same port with the same
// data.
type Server struct {
	name  string
	dir   string
	port  int
	kill  syscall.Signal
	watch func()
	// command makes the process, ready reports whether it answers, and not another server in its place.
	command func() *exec.Cmd
	ready   func(context.Context) error

	mu      sync.Mutex
	process *process
}

// Address returns the server's host:port.
func (s *Server) Address() string { return fmt.Sprintf("127.0.0.1:%d", s.port) }

// Up starts the server if it is down and returns when it answers.
func (s *Server) Up(t testing.TB) {
	t.Helper()
	if err := s.start(); err != nil {
		t.Fatal(err)
	}
}

// Down ends the server at once, as a crash would, and returns when it is gone.
func (s *Server) Down(t testing.TB) {
	t.Helper()
	s.stop()
}

func (s *Server) start() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.process != nil {
		return nil
	}
	p, err := startProcess(s.command())
	if err != nil {
		return fmt.Errorf("start %s: %w", s.name, err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	for {
		problem := s.ready(ctx)
		select {
		case <-p.ended: // Whoever answers is somebody else.
			return fmt.Errorf("%s ended at its start: %s", s.name, bytes.TrimSpace(p.output.Bytes()))
		default:
		}
		if problem == nil {
			s.process = p
			return nil
		}
		select {
		case <-p.ended:
			continue
		case <-ctx.Done():
			p.end(syscall.SIGKILL)
			return fmt.Errorf("%s does not answer within %s: %w: %s", s.name, startTimeout, problem, p.output.Bytes())
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// isIn says by the folder that a server names whether it is the one that was started in dir.
func isIn(folder, dir string) error {
	theirs, err := os.Stat(folder)
	if err != nil {
		return fmt.Errorf("another server is at this address: %w", err)
	}
	ours, err := os.Stat(dir)
	if err == nil && !os.SameFile(theirs, ours) {
		err = fmt.Errorf("another server is at this address: its folder is %q", folder)
	}
	return err
}

func (s *Server) stop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.process != nil {
		s.process.end(s.kill)
		s.process = nil
	}
}

// close ends the server and removes its folder.
func (s *Server) close() {
	s.stop()
	os.RemoveAll(s.dir)
	s.watch()
}

// startSomewhere starts the server on a free port. Another process may take the port between the
// look and the start, so it tries several.
func (s *Server) startSomewhere() error {
	var err error
	for range 5 {
		if s.port, err = freePort(); err != nil {
			return err
		}
		if err = s.start(); err == nil {
			return nil
		}
	}
	return err
}

func freePort() (int, error) {
	var err error
	for range 50 {
		port := 15000 + rand.IntN(15000)
		var listener net.Listener
		var config net.ListenConfig
		if listener, err = config.Listen(context.Background(), "tcp", fmt.Sprintf("127.0.0.1:%d", port)); err == nil {
			listener.Close()
			return port, nil
		}
	}
	return 0, fmt.Errorf("no free port: %w", err)
}

type process struct {
	cmd    *exec.Cmd
	ended  chan struct{}
	output lockedBuffer
}

// startProcess starts cmd so that it dies with this process.
func startProcess(cmd *exec.Cmd) (*process, error) {
	p := &process{cmd: cmd, ended: make(chan struct{})}
	cmd.Stdout, cmd.Stderr = &p.output, &p.output
	started := make(chan error)
	go func() {
		// The thread must outlive the server: its end is what the kernel takes for the parent's.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait() // Servers are ended by signals, which makes an error of each end.
			close(p.ended)
		}
	}()
	return p, <-started
}

// end sends the signal and, when that does not help, SIGKILL; it returns when the process is gone.
func (p *process) end(signal syscall.Signal) {
	_ = p.cmd.Process.Signal(signal) // It may have ended already.
	select {
	case <-p.ended:
	case <-time.After(10 * time.Second):
		_ = p.cmd.Process.Kill()
		<-p.ended
	}
}

// newDir makes a folder that is removed when this process ends in whatever way. The returned
// function ends the watcher.
func newDir(prefix string) (dir string, unwatch func(), err error) {
	if dir, err = os.MkdirTemp("", prefix); err != nil {
		return "", nil, err
	}
	script := `cat >/dev/null; i=0; while [ -e "$1" ] && [ $i -lt 100 ]; do rm -rf -- "$1"; i=$((i+1)); [ ! -e "$1" ] || sleep 0.1; done`
	watcher := exec.CommandContext(context.Background(), "sh", "-c", script, "sh", dir)
	watcher.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	pipe, err := watcher.StdinPipe()
	if err != nil {
		return "", nil, err
	}
	if err := watcher.Start(); err != nil {
		os.RemoveAll(dir)
		return "", nil, fmt.Errorf("watcher of %s: %w", dir, err)
	}
	// A pipe that nobody holds would be closed by the garbage collector.
	watched.Store(dir, pipe)
	return dir, func() {
		watched.Delete(dir)
		pipe.Close()
		_ = watcher.Wait()
	}, nil
}

// watched holds the pipes of all watchers by folder.
var watched sync.Map

// find returns the path of a program, installing the package when it is missing.
func find(program, debianPackage string, patterns ...string) (string, error) {
	if path := lookup(program, patterns); path != "" {
		return path, nil
	}
	installer, err := ensurePackages()
	if err != nil {
		return "", fmt.Errorf("%s is missing: %w", program, err)
	}
	if out, err := exec.CommandContext(context.Background(), installer, debianPackage).CombinedOutput(); err != nil {
		return "", fmt.Errorf("%s is missing: %s %s: %w: %s", program, installer, debianPackage, err, out)
	}
	if path := lookup(program, patterns); path != "" {
		return path, nil
	}
	return "", fmt.Errorf("%s is missing, also after the installation of %s", program, debianPackage)
}

func lookup(program string, patterns []string) string {
	for _, pattern := range patterns {
		// The last match is the newest version.
		if matches, _ := filepath.Glob(filepath.Join(pattern, program)); len(matches) > 0 {
			return matches[len(matches)-1]
		}
	}
	path, _ := exec.LookPath(program)
	return path
}

// ensurePackages finds the installer in the repository that the test runs in.
func ensurePackages() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		path := filepath.Join(dir, "hack", "ensure-packages")
		if _, err := os.Stat(path); err == nil {
			return path, nil
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return "", errors.New("hack/ensure-packages not found above the working folder")
		}
		dir = parent
	}
}

// lockedBuffer keeps the end of a server's output.
type lockedBuffer struct {
	mu      sync.Mutex
	content []byte
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.content = append(b.content, p...)
	if extra := len(b.content) - 16<<10; extra > 0 {
		b.content = append([]byte(nil), b.content[extra:]...)
	}
	return len(p), nil
}

// Bytes returns a copy of what is kept.
func (b *lockedBuffer) Bytes() []byte {
	b.mu.Lock()
	defer b.mu.Unlock()
	return bytes.Clone(b.content)
}
