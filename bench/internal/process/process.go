// Package process starts programs that cannot outlive the benchmark, and measures them.
package process

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Process is a program that was started.
type Process struct {
	command *exec.Cmd
	done    chan struct{}
	err     error
}

// Start runs a program. The kernel kills it if the benchmark dies first.
func Start(path string, args, env []string, output io.Writer) (*Process, error) {
	command := exec.Command(path, args...)
	command.Env = append(os.Environ(), env...)
	command.Stdout, command.Stderr = output, output
	command.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	p := &Process{command: command, done: make(chan struct{})}
	started := make(chan error)
	go func() {
		// The signal comes when the thread that started the program ends, so it must not end before.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := command.Start()
		started <- err
		if err == nil {
			p.err = command.Wait()
			close(p.done)
		}
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	return p, nil
}

// PID of the program.
func (p *Process) PID() int { return p.command.Process.Pid }

// Exited says whether the program has ended, and how.
func (p *Process) Exited() (bool, error) {
	select {
	case <-p.done:
		return true, p.err
	default:
		return false, nil
	}
}

// Stop asks the program to end, and kills it if it does not within 30 seconds.
func (p *Process) Stop() error {
	if exited, err := p.Exited(); exited {
		return err
	}
	if err := p.command.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	select {
	case <-p.done:
		return p.err
	case <-time.After(30 * time.Second):
		return errors.Join(fmt.Errorf("%s did not end", p.command.Path), p.command.Process.Kill())
	}
}

// Usage is what a process has used so far.
type Usage struct {
	CPU time.Duration
	// RSS is what it holds of memory now, Peak the most it ever held, in bytes.
	RSS, Peak int64
}

// Of reads the usage of a process.
func Of(pid int) (Usage, error) {
	var usage Usage
	folder := filepath.Join("/proc", strconv.Itoa(pid))
	stat, err := os.ReadFile(filepath.Join(folder, "stat"))
	if err != nil {
		return usage, err
	}
	// The name in parentheses may hold anything; the fields after it count.
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	const ticksPerSecond = 100 // USER_HZ, the same on all of Go's Linux platforms.
	for _, at := range []int{11, 12} {
		ticks, err := strconv.ParseInt(fields[at], 10, 64)
		if err != nil {
			return usage, err
		}
		usage.CPU += time.Duration(ticks) * time.Second / ticksPerSecond
	}
	status, err := os.ReadFile(filepath.Join(folder, "status"))
	if err != nil {
		return usage, err
	}
	for line := range strings.Lines(string(status)) {
		name, value, _ := strings.Cut(line, ":")
		target := map[string]*int64{"VmRSS": &usage.RSS, "VmHWM": &usage.Peak}[name]
		if target == nil {
			continue
		}
		kib, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 10, 64)
		if err != nil {
			return usage, err
		}
		*target = kib << 10
	}
	return usage, nil
}

// Children are the processes that this one started, by name.
func Children() (map[string]int, error) {
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return nil, err
	}
	children := map[string]int{}
	for _, file := range stats {
		stat, err := os.ReadFile(file)
		if err != nil {
			continue // It has ended meanwhile.
		}
		from, to := bytes.IndexByte(stat, '('), bytes.LastIndexByte(stat, ')')
		fields := strings.Fields(string(stat[to+1:]))
		if fields[1] != strconv.Itoa(os.Getpid()) {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(file)))
		if err != nil {
			return nil, err
		}
		children[string(stat[from+1:to])] = pid
	}
	return children, nil
}

// guarded is the variable that names the folder of the real programs.
const guarded = "SHOPSET_BENCH_GUARDED"

// Guard makes a folder of stand-ins for programs that a library starts: each is this very program,
// which in BecomeGuarded asks the kernel to be killed with its parent, and turns into the real one.
func Guard(folder, programs string, names ...string) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := os.Symlink(self, filepath.Join(folder, name)); err != nil {
			return err
		}
	}
	programs, err = filepath.Abs(programs)
	if err != nil {
		return err
	}
	return os.Setenv(guarded, programs)
}

// BecomeGuarded is the first thing that main calls; it returns if the program was started as itself.
func BecomeGuarded(names ...string) {
	for _, name := range names {
		if filepath.Base(os.Args[0]) != name || os.Getenv(guarded) == "" {
			continue
		}
		err := unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(syscall.SIGKILL), 0, 0, 0)
		if err == nil {
			path := filepath.Join(os.Getenv(guarded), name)
			err = syscall.Exec(path, append([]string{path}, os.Args[1:]...), os.Environ())
		}
		fmt.Fprintf(os.Stderr, "%s: %v\n", name, err)
		os.Exit(1)
	}
}

// Until polls until check says that it is done, the context ends, or an error comes.
func Until(ctx context.Context, interval time.Duration, check func() (bool, error)) error {
	for {
		if done, err := check(); done || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(interval):
		}
	}
}
