package node

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/shopset/shopset/hack/localcluster/internal/component"
	"github.com/shopset/shopset/hack/localcluster/internal/layout"
)

const (
	firstBackoff = 200 * time.Millisecond
	lastBackoff  = 5 * time.Second
	// A component that ran this long was well; its next death starts the backoff anew.
	wellAfter  = 20 * time.Second
	probeEvery = 20 * time.Millisecond
)

type unit struct {
	component.Component
	status  Status
	backoff time.Duration
	ready   chan struct{}
}

type supervisor struct {
	statusFile string
	logs       string

	mu    sync.Mutex // guards units' statuses and byPID; held while a process starts
	units []*unit
	byPID map[int]*unit
}

func newSupervisor(spec component.Spec) *supervisor {
	s := &supervisor{
		statusFile: filepath.Join(layout.NodeRoot, "run", "status.json"),
		logs:       filepath.Join(layout.NodeRoot, "logs"),
		byPID:      make(map[int]*unit),
	}
	for _, c := range spec.All() {
		s.units = append(s.units, &unit{
			Component: c,
			status:    Status{Name: c.Name, State: Waiting},
			ready:     make(chan struct{}),
		})
	}
	return s
}

// run starts everything and reaps for ever.
func (s *supervisor) run() error {
	s.mu.Lock()
	s.write()
	s.mu.Unlock()
	for _, u := range s.units {
		go s.first(u)
	}
	for {
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, 0, nil)
		switch {
		case err == unix.EINTR:
		case err == unix.ECHILD: // before the first component
			time.Sleep(probeEvery)
		case err != nil:
			return fmt.Errorf("wait: %w", err)
		default:
			s.ended(pid, status)
		}
	}
}

// first starts a component once all that it needs is ready.
func (s *supervisor) first(u *unit) {
	for _, name := range u.Needs {
		<-s.unit(name).ready
	}
	s.start(u)
	for !probe(u.Ready) {
		time.Sleep(probeEvery)
	}
	close(u.ready)
}

func (s *supervisor) unit(name string) *unit {
	for _, u := range s.units {
		if u.Name == name {
			return u
		}
	}
	panic("no component " + name)
}

// start starts the process of a component. The lock is held across the start, so that a process
// that dies at once is not reaped before it is known.
func (s *supervisor) start(u *unit) {
	s.mu.Lock()
	defer s.mu.Unlock()
	pid, err := s.spawn(u)
	if err != nil {
		slog.Error("component does not start", "component", u.Name, "err", err)
		u.status.LastExit = err.Error()
		s.retry(u)
		return
	}
	u.status.State, u.status.PID, u.status.Started = Running, pid, time.Now()
	s.byPID[pid] = u
	slog.Info("component started", "component", u.Name, "pid", pid, "restarts", u.status.Restarts)
	s.write()
}

func (s *supervisor) spawn(u *unit) (int, error) {
	log, err := os.OpenFile(filepath.Join(s.logs, u.Name+".log"), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
	if err != nil {
		return 0, err
	}
	defer log.Close()
	null, err := os.Open(os.DevNull)
	if err != nil {
		return 0, err
	}
	defer null.Close()
	process, err := os.StartProcess(u.Path, append([]string{u.Path}, u.Args...), &os.ProcAttr{
		Dir:   "/",
		Env:   Environment(),
		Files: []*os.File{null, log, log},
		Sys:   &syscall.SysProcAttr{Setsid: true},
	})
	if err != nil {
		return 0, err
	}
	pid := process.Pid
	return pid, process.Release() // run reaps it
}

// Environment is that of every process of the node.
func Environment() []string {
	return []string{
		"PATH=" + filepath.Join(layout.NodeRoot, "bin") + ":/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		"HOME=/root",
		"LANG=C.UTF-8",
	}
}

// ended notes the end of a process. Most are none of ours: what a dead parent left behind.
func (s *supervisor) ended(pid int, status unix.WaitStatus) {
	s.mu.Lock()
	defer s.mu.Unlock()
	u, ours := s.byPID[pid]
	if !ours {
		return
	}
	delete(s.byPID, pid)
	u.status.LastExit = describe(status)
	slog.Error("component died", "component", u.Name, "pid", pid, "exit", u.status.LastExit)
	s.retry(u)
}

// retry starts a component again after its backoff. The caller holds the lock.
func (s *supervisor) retry(u *unit) {
	if time.Since(u.status.Started) > wellAfter {
		u.backoff = 0
	}
	u.backoff = min(max(2*u.backoff, firstBackoff), lastBackoff)
	u.status.State, u.status.PID = Backoff, 0
	u.status.Restarts++
	time.AfterFunc(u.backoff, func() { s.start(u) })
	s.write()
}

func describe(status unix.WaitStatus) string {
	if status.Signaled() {
		return "killed by " + unix.SignalName(status.Signal())
	}
	return fmt.Sprintf("exit code %d", status.ExitStatus())
}

// write publishes the statuses. The caller holds the lock.
func (s *supervisor) write() {
	statuses := make([]Status, 0, len(s.units))
	for _, u := range s.units {
		statuses = append(statuses, u.status)
	}
	if err := writeStatus(s.statusFile, statuses); err != nil {
		slog.Error("status file", "err", err)
	}
}
