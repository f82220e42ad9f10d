package platform_test

import (
	"bytes"
	"encoding/base64"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/shopset/shopset/examples/platform/buyer"
	"github.com/shopset/shopset/internal/testservers"
)

// running is a program as it runs in a container.
type running struct {
	address, admin string
	cmd            *exec.Cmd
	output         bytes.Buffer
}

func freeAddress(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer listener.Close()
	return listener.Addr().String()
}

func launch(t *testing.T, program string, variables ...string) *running {
	t.Helper()
	r := &running{address: freeAddress(t), admin: freeAddress(t)}
	r.cmd = exec.Command(program)
	// Nothing else of the environment, no folder that can be written, and nobody's user.
	r.cmd.Env = slices.Concat(variables, []string{"LISTEN=" + r.address, "ADMIN_LISTEN=" + r.admin})
	r.cmd.Dir = "/"
	r.cmd.Stdout, r.cmd.Stderr = &r.output, &r.output
	if os.Getuid() == 0 {
		r.cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65532, Gid: 65532}}
	}
	must(t, r.cmd.Start())
	t.Cleanup(func() { r.cmd.Process.Kill(); r.cmd.Wait() })
	return r
}

func (r *running) awaitReady(t *testing.T) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for {
		problem := "no answer"
		if response, err := http.Get("http://" + r.admin + "/readyz"); err == nil {
			body, _ := io.ReadAll(response.Body)
			response.Body.Close()
			if response.StatusCode == 200 {
				return
			}
			problem = string(body)
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: %s", r.cmd.Path, problem)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// build builds the three programs with the test's own settings, so that the packages come from the
// build cache, and returns their folder.
func build(t *testing.T) string {
	t.Helper()
	bin := openDir(t)
	if out, err := exec.Command("go", "build", "-o", bin, "./cmd/...").CombinedOutput(); err != nil {
		t.Fatal(err, string(out))
	}
	return bin
}

// openDir makes a folder that every user may enter and write to.
func openDir(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	must(t, os.Chmod(filepath.Dir(dir), 0o755))
	must(t, os.Chmod(dir, 0o777))
	return dir
}

// TestThePrograms runs the three programs as their images do, as an unknown user, makes a purchase,
// and ends them with SIGTERM. It also starts each without a valid configuration.
func TestThePrograms(t *testing.T) {
	bin, cache := build(t), openDir(t)
	for program, want := range map[string]int{"api": 2, "cart": 4, "shop": 2} {
		run := exec.Command(filepath.Join(bin, program))
		run.Env = []string{"LISTEN=8080"}
		out, err := run.CombinedOutput()
		lines := strings.Split(strings.TrimSpace(string(out)), "\n")
		if err == nil || len(lines) != want || !strings.HasPrefix(lines[0], program+": LISTEN is \"8080\"") {
			t.Errorf("%s: %v, want %d lines, got %s", program, err, want, out)
		}
	}
	database := launch(t, filepath.Join(bin, "api"), "DATABASE_URL="+testservers.Postgres(t), "SEED_CATALOGUE=true")
	url1 := "API_URL=http://" + database.address
	cart := launch(t, filepath.Join(bin, "cart"), url1, "REDIS_URL=redis://"+testservers.Redis(t),
		"COOKIE_KEYS="+base64.StdEncoding.EncodeToString(make([]byte, 32)))
	shop := launch(t, filepath.Join(bin, "shop"), url1, "CACHE_DIR="+cache)
	programs := []*running{database, cart, shop}
	mux := http.NewServeMux()
	mux.Handle("/", forward(shop))
	mux.Handle("/cart", forward(cart))
	mux.Handle("/cart/", forward(cart))
	front := httptest.NewTLSServer(mux)
	defer front.Close()
	for _, program := range programs {
		program.awaitReady(t)
	}
	_, err := buyer.Buy(t.Context(), buyer.Options{
		Shop: "shop-50.shops.example", Address: front.Listener.Addr().String(), Insecure: true,
	})
	must(t, err)
	for _, program := range programs {
		must(t, program.cmd.Process.Signal(syscall.SIGTERM))
	}
	for _, program := range programs {
		if err := program.cmd.Wait(); err != nil {
			t.Errorf("%s: %v", program.cmd.Path, err)
		}
		for _, line := range strings.Split(strings.TrimSpace(program.output.String()), "\n") {
			if !strings.HasPrefix(line, `{"time":`) {
				t.Errorf("%s: not a line of JSON: %s", program.cmd.Path, line)
			}
		}
	}
	if files, _ := filepath.Glob(cache + "/shop-50/fragment/*"); len(files) < 20 {
		t.Errorf("%d fragments in the cache", len(files))
	}
}

// forward is a proxy that passes the Host header on.
func forward(r *running) http.Handler {
	target := &url.URL{Scheme: "http", Host: r.address}
	return &httputil.ReverseProxy{Rewrite: func(p *httputil.ProxyRequest) {
		p.SetURL(target)
		p.Out.Host = p.In.Host
	}}
}
