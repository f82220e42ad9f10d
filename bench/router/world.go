package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"

	"github.com/shopset/shopset/bench/internal/layer4"
	"github.com/shopset/shopset/bench/internal/process"
	"github.com/shopset/shopset/bench/internal/report"
)

// world is the backends, the contenders, and a folder for everything.
type world struct {
	settings settings
	folder   string
	hosts    []string
	hellos   [][]byte
	backends []int
	servers  []*process.Process
	running  []*running
	admin    map[string]int

	mu      sync.Mutex
	slowest float64 // requests per second
	// directP99 is that of the way without a router, in microseconds, when it was measured last.
	directP99 float64
}

// running is a contender that was started.
type running struct {
	name    string
	address string
	command *process.Process // nil is the way without a router
}

func newWorld(ctx context.Context, s settings) (*world, error) {
	folder, err := os.MkdirTemp("", "bench-router-")
	if err != nil {
		return nil, err
	}
	w := &world{settings: s, folder: folder, admin: map[string]int{}}
	if err := w.fill(ctx); err != nil {
		w.close()
		return nil, err
	}
	return w, nil
}

// hostCount is the number of shops.
const hostCount = 1000

func (w *world) fill(ctx context.Context) error {
	if err := os.Chmod(w.folder, 0o755); err != nil { //nolint:gosec // Workers of nginx read it.
		return err
	}
	for i := range hostCount {
		host := fmt.Sprintf("shop-%04d.example", i)
		hello, err := layer4.Hello(host)
		if err != nil {
			return err
		}
		w.hosts, w.hellos = append(w.hosts, host), append(w.hellos, hello)
	}
	program, err := os.Executable()
	if err != nil {
		return err
	}
	for range cells {
		port, err := layer4.FreePort()
		if err != nil {
			return err
		}
		server, err := process.Start(program, []string{"backend", fmt.Sprintf("127.0.0.1:%d", port)}, nil, os.Stderr)
		if err != nil {
			return err
		}
		w.servers, w.backends = append(w.servers, server), append(w.backends, port)
		if err := layer4.Await(ctx, port); err != nil {
			return err
		}
	}
	endpoints := make([][]int, cells)
	for i, port := range w.backends {
		endpoints[i] = []int{port}
	}
	if _, err := layer4.NewTables(w.folder, endpoints); err != nil {
		return err
	}
	for _, c := range contenders {
		if !strings.Contains(","+w.settings.only+",", ","+c.name+",") {
			continue
		}
		if err := w.start(ctx, c); err != nil {
			return fmt.Errorf("%s: %w", c.name, err)
		}
	}
	return nil
}

func (w *world) start(ctx context.Context, c contender) error {
	if c.prepare == nil {
		w.running = append(w.running, &running{name: c.name, address: fmt.Sprintf("127.0.0.1:%d", w.backends[0])})
		return nil
	}
	port, err := layer4.FreePort()
	if err != nil {
		return err
	}
	command, err := c.prepare(w, port)
	if err != nil {
		return err
	}
	p, err := process.Start(command.Path, command.Args[1:], command.Env, os.Stderr)
	if err != nil {
		return err
	}
	w.running = append(w.running, &running{name: c.name, address: fmt.Sprintf("127.0.0.1:%d", port), command: p})
	return layer4.Await(ctx, port)
}

func (w *world) close() {
	for _, r := range w.running {
		if r.command != nil {
			stop(r.name, r.command)
		}
	}
	for _, server := range w.servers {
		stop("backend", server)
	}
	_ = os.RemoveAll(w.folder)
}

func stop(name string, p *process.Process) {
	var ended *exec.ExitError
	if err := p.Stop(); err != nil && !errors.As(err, &ended) {
		report.Say("%s: %v", name, err)
	}
}

// most is how many connections a router is told to take.
func (w *world) most() int { return w.settings.idle + 200 }

// all is the process and its children, which are nginx' workers.
func (r *running) all() []int {
	if r.command == nil {
		return nil
	}
	pid := r.command.PID()
	list := []int{pid}
	content, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	if err != nil {
		return list
	}
	for _, field := range strings.Fields(string(content)) {
		var child int
		if _, err := fmt.Sscan(field, &child); err == nil {
			list = append(list, child)
		}
	}
	return list
}

func (r *running) cpu() time.Duration {
	total := time.Duration(0)
	for _, pid := range r.all() {
		if usage, err := process.Of(pid); err == nil {
			total += usage.CPU
		}
	}
	return total
}

func (r *running) rss() (int64, error) {
	total := int64(0)
	for _, pid := range r.all() {
		usage, err := process.Of(pid)
		if err != nil {
			return 0, err
		}
		total += usage.RSS
	}
	return total, nil
}

// profile keeps a CPU profile of ours while it is measured.
func (w *world) profile(name string) {
	response, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d/debug/pprof/profile?seconds=%d", w.admin["ours"], max(1, int(w.settings.duration.Seconds())-1))) //nolint:noctx // It ends by itself.
	if err != nil {
		report.Say("profile: %v", err)
		return
	}
	defer response.Body.Close()
	content, err := io.ReadAll(response.Body)
	if err := errors.Join(err, os.WriteFile(w.settings.profile+"."+name, content, 0o600)); err != nil {
		report.Say("profile: %v", err)
	}
}
