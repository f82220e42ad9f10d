package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/shopset/shopset/bench/internal/report"
)

// world is the upstream, and a folder for everything.
type world struct {
	folder   string
	upstream int
	admin    int // port of ours
	command  *exec.Cmd
}

func newWorld(ctx context.Context) (*world, error) {
	folder, err := os.MkdirTemp("", "bench-proxy-")
	if err != nil {
		return nil, err
	}
	w := &world{folder: folder}
	if err := w.fill(ctx); err != nil {
		w.close()
		return nil, err
	}
	return w, nil
}

func (w *world) fill(ctx context.Context) error {
	if err := os.Chmod(w.folder, 0o755); err != nil { //nolint:gosec // Workers of nginx read it.
		return err
	}
	if err := os.Mkdir(filepath.Join(w.folder, "files"), 0o755); err != nil { //nolint:gosec // As above.
		return err
	}
	for name, size := range map[string]int{"1k": 1 << 10, "64k": 64 << 10} {
		if _, err := w.write("files/"+name, strings.Repeat("shoes ", size/6+1)[:size]); err != nil {
			return err
		}
	}
	pair, err := makePair()
	if err != nil {
		return err
	}
	if _, err := w.write("pair.pem", pair); err != nil {
		return err
	}
	if w.upstream, err = freePort(); err != nil {
		return err
	}
	path, err := w.write("upstream.conf", fmt.Sprintf(upstreamConfig, w.folder, w.upstream))
	if err != nil {
		return err
	}
	w.command = exec.Command("nginx", "-c", path, "-e", filepath.Join(w.folder, "upstream.log")) //nolint:noctx,gosec // It is killed by close.
	if err := start(w.command); err != nil {
		return err
	}
	return await(ctx, w.upstream)
}

func makePair() (string, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return "", err
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "localhost"}, DNSNames: []string{"localhost"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return "", err
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return "", err
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})) + string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})), nil
}

func (w *world) close() {
	if w.command != nil {
		end(w.command)
	}
	_ = os.RemoveAll(w.folder)
}

// ours builds shopset-proxy, once.
func (w *world) ours() (string, error) {
	path := filepath.Join(w.folder, "shopset-proxy")
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	build := exec.Command("go", "build", "-o", path, "./cmd/shopset-proxy") //nolint:noctx,gosec // It takes seconds.
	build.Dir = ".."                                                        // The module of the repository: its dependencies are none of this one's.
	if output, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build: %w\n%s", err, output)
	}
	return path, nil
}

// pool keeps the buffers of the ReverseProxy.
type pool struct{ pool sync.Pool }

func (p *pool) Get() []byte {
	if b, ok := p.pool.Get().(*[]byte); ok {
		return *b
	}
	return make([]byte, 32<<10)
}

func (p *pool) Put(b []byte) { p.pool.Put(&b) }

func freePort() (int, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer listener.Close()
	return listener.Addr().(*net.TCPAddr).Port, nil
}

func start(command *exec.Cmd) error {
	command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	command.Stderr = os.Stderr
	return command.Start()
}

func end(command *exec.Cmd) {
	_ = syscall.Kill(-command.Process.Pid, syscall.SIGTERM)
	timer := time.AfterFunc(10*time.Second, func() { _ = syscall.Kill(-command.Process.Pid, syscall.SIGKILL) })
	defer timer.Stop()
	_ = command.Wait() // It was told to end.
}

func await(ctx context.Context, port int) error {
	deadline := time.Now().Add(30 * time.Second)
	for {
		conn, err := net.DialTimeout("tcp", fmt.Sprintf("127.0.0.1:%d", port), time.Second)
		if err == nil {
			return conn.Close()
		}
		if time.Now().After(deadline) || ctx.Err() != nil {
			return fmt.Errorf("nothing serves at port %d: %w", port, err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

type figure struct {
	load, what string
	value      float64
	unit       string
}

// contend starts a contender, measures it and ends it.
func (w *world) contend(ctx context.Context, s settings, c contender, wanted func(load) bool) (figures []figure, err error) {
	plain, errPlain := freePort()
	secure, errSecure := freePort()
	if err := errors.Join(errPlain, errSecure); err != nil {
		return nil, err
	}
	command, err := c.prepare(w, plain, secure)
	if err != nil {
		return nil, err
	}
	if err := start(command); err != nil {
		return nil, err
	}
	defer end(command)
	if err := errors.Join(await(ctx, plain), await(ctx, secure)); err != nil {
		return nil, err
	}
	for _, l := range loads {
		if !wanted(l) {
			continue
		}
		address := fmt.Sprintf("http://127.0.0.1:%d%s", plain, l.path)
		if l.secure {
			address = fmt.Sprintf("https://127.0.0.1:%d%s", secure, l.path)
		}
		best := result{}
		if s.profile != "" {
			go w.profile(s, l)
		}
		mallocs, requests := w.counters(c)
		used, asked := cpu(command.Process.Pid), 0.0
		for range s.rounds {
			r, err := measure(ctx, s, l, address)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", l.name, err)
			}
			asked += r.requests
			if r.rps > best.rps {
				best = r
			}
		}
		used = cpu(command.Process.Pid) - used
		report.Say("%s %s: %.0f/s, p99 %.2f ms", c.name, l.name, best.rps, best.p99)
		if after, more := w.counters(c); more > requests {
			figures = append(figures, figure{l.name, "allocs_per_req", (after - mallocs) / (more - requests), ""})
			asked = more - requests
		}
		if asked > 0 {
			figures = append(figures, figure{l.name, "cpu_us_per_req", 1e6 * used / asked, "us"})
		}
		if l.path == "/1k" {
			half, err := w.halfLoad(ctx, s, l, address, best.rps)
			if err != nil {
				return nil, fmt.Errorf("%s at half load: %w", l.name, err)
			}
			figures = append(figures, figure{l.name, "half_load_added_p99_ms", half, "ms"})
		}
		figures = append(figures, figure{l.name, "rps", best.rps, "1/s"}, figure{l.name, "p99_ms", best.p99, "ms"},
			figure{l.name, "rss_mib", rss(command.Process.Pid), "MiB"})
	}
	return figures, nil
}

// counters are how many objects ours has allocated, and requests it has served.
func (w *world) counters(c contender) (mallocs, requests float64) {
	if !strings.HasPrefix(c.name, "ours") {
		return 0, 0
	}
	response, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d/metrics", w.admin)) //nolint:noctx // It answers at once.
	if err != nil {
		return 0, 0
	}
	defer response.Body.Close()
	content, err := io.ReadAll(response.Body)
	if err != nil {
		return 0, 0
	}
	for line := range strings.Lines(string(content)) {
		name, text, _ := strings.Cut(strings.TrimSpace(line), " ")
		value, err := strconv.ParseFloat(text, 64)
		switch {
		case err != nil:
		case name == "go_memstats_mallocs_total":
			mallocs = value
		case strings.HasPrefix(name, "shopset_proxy_requests_total{"):
			requests += value
		}
	}
	return mallocs, requests
}

// halfLoad is how much later the slowest hundredth of the answers comes than from the upstream itself, with half as many
// requests as the contender can serve.
func (w *world) halfLoad(ctx context.Context, s settings, l load, address string, rps float64) (float64, error) {
	const connections = 16
	pace := max(1, int(rps/2/connections))
	with, err := atPace(ctx, s, l.h2, address, connections, pace)
	if err != nil {
		return 0, err
	}
	without, err := atPace(ctx, s, false, fmt.Sprintf("http://127.0.0.1:%d%s", w.upstream, l.path), connections, pace)
	return with - without, err
}

func atPace(ctx context.Context, s settings, h2 bool, address string, connections, pace int) (p99 float64, err error) {
	arguments := []string{fmt.Sprintf("-c%d", connections), "-t1", "--rps=" + strconv.Itoa(pace)}
	if h2 {
		arguments = append(arguments, fmt.Sprintf("-m%d", h2Paces))
	} else {
		arguments = append(arguments, "--h1")
	}
	_, p99, err = h2load(ctx, s, address, arguments...)
	return p99, err
}

// profile keeps a CPU profile of ours while it is measured.
func (w *world) profile(s settings, l load) {
	response, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d/debug/pprof/profile?seconds=%.0f", w.admin, s.duration.Seconds()-1)) //nolint:noctx // It ends by itself.
	if err != nil {
		report.Say("profile: %v", err)
		return
	}
	defer response.Body.Close()
	content, err := io.ReadAll(response.Body)
	if err := errors.Join(err, os.WriteFile(s.profile+"."+l.name, content, 0o600)); err != nil {
		report.Say("profile: %v", err)
	}
}

// rss is the memory of a process and its children, which share none.
func rss(pid int) float64 {
	total := 0.0
	for _, id := range append(children(pid), pid) {
		content, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", id))
		if err != nil {
			continue
		}
		if match := regexp.MustCompile(`VmRSS:\s+(\d+) kB`).FindSubmatch(content); match != nil {
			kib, _ := strconv.ParseFloat(string(match[1]), 64)
			total += kib / 1024
		}
	}
	return total
}

// cpu is the time that a process and its children have used, in seconds.
func cpu(pid int) float64 {
	const ticks = 100 // a second, on all that Linux runs on
	total := 0.0
	for _, id := range append(children(pid), pid) {
		content, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", id))
		if err != nil {
			continue
		}
		// What follows the name, which may hold anything: the 14th and 15th of all.
		if fields := strings.Fields(string(content[strings.LastIndexByte(string(content), ')')+1:])); len(fields) > 13 {
			user, _ := strconv.ParseFloat(fields[11], 64)
			system, _ := strconv.ParseFloat(fields[12], 64)
			total += (user + system) / ticks
		}
	}
	return total
}

func children(pid int) (ids []int) {
	content, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	if err != nil {
		return nil
	}
	for _, text := range strings.Fields(string(content)) {
		if id, err := strconv.Atoi(text); err == nil {
			ids = append(ids, id)
		}
	}
	return ids
}
