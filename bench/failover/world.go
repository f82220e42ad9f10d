package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/shopset/shopset/bench/internal/layer4"
	"github.com/shopset/shopset/bench/internal/process"
	"github.com/shopset/shopset/bench/internal/report"
	"github.com/shopset/shopset/internal/routetable"
)

// contender is a router with its settings.
type contender struct {
	name    string
	prepare func(w *world, port int) (program, config string, arguments []string, err error)
}

var contenders = []contender{
	{"ours", prepareOurs},
	{"haproxy_default", func(w *world, port int) (string, string, []string, error) {
		return prepareHAProxy(w, port, "  timeout connect 5s\n", "check")
	}},
	{"haproxy_aggressive", func(w *world, port int) (string, string, []string, error) {
		return prepareHAProxy(w, port, `  timeout connect 300ms
  timeout check 200ms
  retries 5
  option redispatch 1
  option ssl-hello-chk
`, "check check-send-proxy inter 200ms fall 2 rise 2 observe layer4 error-limit 1 on-error mark-down")
	}},
}

var cellNames = []byte("abc")

// world is the cells and one router in front.
type world struct {
	folder string
	// programs is where shopset-router is built, for all rounds.
	programs string
	cells    []*process.Process
	router   *process.Process
	tables   *layer4.Tables
	ports    [][]int
	address  string
	hosts    []string
	hellos   [][]byte
	first    []bool  // whether the first cell is that of the host
	order    [][]int // cells of the host
}

// hostCount is the number of shops.
const hostCount = 300

func newWorld(ctx context.Context, programs string, c contender) (*world, error) {
	folder, err := os.MkdirTemp("", "bench-failover-")
	if err != nil {
		return nil, err
	}
	w := &world{folder: folder, programs: programs}
	if err := errors.Join(w.startCells(ctx), w.place(), w.startRouter(ctx, c)); err != nil {
		w.close()
		return nil, err
	}
	return w, nil
}

func (w *world) startCells(ctx context.Context) error {
	program, err := os.Executable()
	if err != nil {
		return err
	}
	for i := range cells {
		arguments := []string{"cell", string(cellNames[i])}
		var ports []int
		for range endpoints {
			port, err := layer4.FreePort()
			if err != nil {
				return err
			}
			ports = append(ports, port)
			arguments = append(arguments, fmt.Sprintf("127.0.0.1:%d", port))
		}
		cell, err := process.Start(program, arguments, nil, os.Stderr)
		if err != nil {
			return err
		}
		w.cells, w.ports = append(w.cells, cell), append(w.ports, ports)
		for _, port := range ports {
			if err := layer4.Await(ctx, port); err != nil {
				return err
			}
		}
	}
	w.tables, err = layer4.NewTables(w.folder, w.ports)
	return err
}

// place finds the cells of all hosts; HAProxy gets the same ones as a map.
func (w *world) place() error {
	function, err := w.tables.Table.Function()
	if err != nil {
		return err
	}
	for i := range hostCount {
		host := fmt.Sprintf("shop-%04d.example", i)
		hello, err := layer4.Hello(host)
		if err != nil {
			return err
		}
		order := function.Place(host, nil)
		w.hosts, w.hellos, w.order, w.first = append(w.hosts, host), append(w.hellos, hello), append(w.order, order), append(w.first, order[0] == 0)
	}
	return nil
}

func (w *world) startRouter(ctx context.Context, c contender) error {
	port, err := layer4.FreePort()
	if err != nil {
		return err
	}
	program, config, arguments, err := c.prepare(w, port)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(w.folder, "config"), []byte(config), 0o600); err != nil {
		return err
	}
	w.address = fmt.Sprintf("127.0.0.1:%d", port)
	if w.router, err = process.Start(program, arguments, []string{"LOG_LEVEL=error"}, nil); err != nil {
		return err
	}
	return layer4.Await(ctx, port)
}

func prepareOurs(w *world, port int) (program, config string, arguments []string, err error) {
	admin, err := layer4.FreePort()
	if err != nil {
		return "", "", nil, err
	}
	program, err = layer4.Router(w.programs)
	return program, fmt.Sprintf(`
admin: 127.0.0.1:%d
tls: {address: "%s"}
table: {file: %[3]s/table, publicKeys: %[3]s/keys.pem}
limits: {perSource: 0}
`, admin, fmt.Sprintf("127.0.0.1:%d", port), w.folder), []string{"--config", filepath.Join(w.folder, "config")}, err
}

// prepareHAProxy makes a backend of each order of cells that hosts have: the servers of the first, and those of the others as backups.
func prepareHAProxy(w *world, port int, options, check string) (program, config string, arguments []string, err error) {
	var hosts, backends strings.Builder
	seen := map[string]bool{}
	for i, host := range w.hosts {
		name := fmt.Sprintf("cells%d%d%d", w.order[i][0], w.order[i][1], w.order[i][2])
		fmt.Fprintf(&hosts, "%s %s\n", host, name)
		if seen[name] {
			continue
		}
		seen[name] = true
		fmt.Fprintf(&backends, "backend %s\n", name)
		for place, cell := range w.order[i] {
			for j, p := range w.ports[cell] {
				backup := ""
				if place > 0 {
					backup = " backup"
				}
				fmt.Fprintf(&backends, "  server c%d-%d 127.0.0.1:%d send-proxy-v2 %s%s\n", cell, j, p, check, backup)
			}
		}
	}
	if err := os.WriteFile(filepath.Join(w.folder, "hosts.map"), []byte(hosts.String()), 0o600); err != nil {
		return "", "", nil, err
	}
	path, err := exec.LookPath("haproxy")
	return path, fmt.Sprintf(`
global
  nbthread 2
  maxconn 5000
defaults
  mode tcp
  timeout client 1m
  timeout server 1m
%sfrontend all
  bind 127.0.0.1:%d
  tcp-request inspect-delay 5s
  tcp-request content accept if { req.ssl_hello_type 1 }
  use_backend %%[req.ssl_sni,lower,map(%s/hosts.map)]
%s`, options, port, w.folder, backends.String()), []string{"-db", "-f", filepath.Join(w.folder, "config")}, err
}

// signal sends one to the first cell.
func (w *world) signal(s syscall.Signal) error { return syscall.Kill(w.cells[0].PID(), s) }

// drain publishes a table in which the first cell takes no hosts.
func (w *world) drain() error {
	w.tables.Table.Cells[0].State = routetable.Drain
	return w.tables.Publish()
}

func (w *world) close() {
	for _, cell := range w.cells {
		_ = syscall.Kill(cell.PID(), syscall.SIGCONT) // It may have ended already.
	}
	for _, p := range append(w.cells, w.router) {
		if p == nil {
			continue
		}
		var ended *exec.ExitError
		if err := p.Stop(); err != nil && !errors.As(err, &ended) {
			report.Say("%v", err)
		}
	}
	_ = os.RemoveAll(w.folder)
}
