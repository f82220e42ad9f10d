package main

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/shopset/shopset/bench/internal/report"
)

// contender is one way to serve many domains.
type contender struct {
	name string
	// prepare writes what it needs and returns the command that serves at a port.
	prepare func(ctx context.Context, w *world, port int) (*exec.Cmd, error)
	// most is how many domains it is tried with, and why no more.
	most int
	why  string
}

func contenders(s settings) []contender {
	list := []contender{
		{name: "ours", prepare: prepareOurs},
		{name: "nginx_lua", prepare: prepareNginx},
		{name: "haproxy", prepare: prepareHAProxy, most: 100_000, why: "it loads all certificates at its start"},
	}
	if s.caddy != "" {
		list = append(list, contender{name: "caddy", most: 10_000, why: "it fetches each certificate at each handshake",
			prepare: func(ctx context.Context, w *world, port int) (*exec.Cmd, error) {
				return prepareCaddy(ctx, s.caddy, w, port)
			}})
	}
	return list
}

func prepareOurs(_ context.Context, w *world, port int) (*exec.Cmd, error) {
	program, err := os.Executable()
	if err != nil {
		return nil, err
	}
	return exec.Command(program, "serve", "-listen", fmt.Sprintf("127.0.0.1:%d", port), "-redis", w.address), nil //nolint:noctx // It is killed at the end.
}

// The parsed certificates are kept by each worker, as the documentation of lua-resty-core advises.
const nginxConfig = `
user root;
load_module /usr/lib/nginx/modules/ndk_http_module.so;
load_module /usr/lib/nginx/modules/ngx_http_lua_module.so;
daemon off;
pid %[1]s/nginx.pid;
error_log %[1]s/error.log error;
worker_processes 2;
events { worker_connections 8192; }
http {
  access_log off;
  client_body_temp_path %[1]s/body;
  proxy_temp_path %[1]s/proxy;
  fastcgi_temp_path %[1]s/fastcgi;
  uwsgi_temp_path %[1]s/uwsgi;
  scgi_temp_path %[1]s/scgi;
  lua_package_path "/usr/share/lua/5.1/?.lua;;";
  init_by_lua_block { require "resty.core" cache = require("resty.lrucache").new(1000000) }
  server {
    listen 127.0.0.1:%[2]d ssl reuseport backlog=4096;
    ssl_certificate %[1]s/default.pem;
    ssl_certificate_key %[1]s/default.pem;
    ssl_protocols TLSv1.2 TLSv1.3;
    ssl_session_tickets off;
    ssl_certificate_by_lua_block {
      local ssl = require "ngx.ssl"
      local name = ssl.server_name()
      if not name then return ngx.exit(ngx.ERROR) end
      local pair = cache:get(name)
      if not pair then
        local redis = require("nginx.redis"):new()
        redis:set_timeout(2000)
        local ok, err = redis:connect("127.0.0.1", %[3]s)
        if not ok then return ngx.exit(ngx.ERROR) end
        local values = redis:hmget("pem:" .. name, "chain", "key")
        redis:set_keepalive(60000, 64)
        if not values or values[1] == ngx.null then return ngx.exit(ngx.ERROR) end
        pair = { ssl.parse_pem_cert(values[1]), ssl.parse_pem_priv_key(values[2]) }
        cache:set(name, pair, 3600)
      end
      ssl.clear_certs()
      ssl.set_cert(pair[1])
      ssl.set_priv_key(pair[2])
    }
    location / { return 200 "ok\n"; }
  }
}
`

func prepareNginx(ctx context.Context, w *world, port int) (*exec.Cmd, error) {
	folder := filepath.Join(w.folder, "nginx")
	if err := os.MkdirAll(folder, 0o755); err != nil { //nolint:gosec // Its workers read it.
		return nil, err
	}
	if err := os.Chmod(w.folder, 0o755); err != nil { //nolint:gosec // As above.
		return nil, err
	}
	values, err := w.client.Do(ctx, w.client.B().Hmget().Key("pem:"+domain(0)).Field("chain", "key").Build()).AsStrSlice()
	if err != nil {
		return nil, err
	}
	_, redisPort, _ := net.SplitHostPort(w.address)
	for name, content := range map[string]string{"default.pem": values[0] + values[1], "nginx.conf": fmt.Sprintf(nginxConfig, folder, port, redisPort)} {
		if err := os.WriteFile(filepath.Join(folder, name), []byte(content), 0o600); err != nil {
			return nil, err
		}
	}
	return exec.Command("nginx", "-c", filepath.Join(folder, "nginx.conf"), "-e", filepath.Join(folder, "error.log")), nil //nolint:noctx,gosec // It is killed at the end.
}

func prepareHAProxy(ctx context.Context, w *world, port int) (*exec.Cmd, error) {
	certificates, err := w.files(ctx)
	if err != nil {
		return nil, err
	}
	config := fmt.Sprintf(`
global
  nbthread 2
  maxconn 5000
  tune.ssl.cachesize 0
  ssl-default-bind-options no-tls-tickets ssl-min-ver TLSv1.2
defaults
  mode http
  timeout client 10s
  timeout server 10s
  timeout connect 1s
frontend all
  bind 127.0.0.1:%d ssl crt %s/ strict-sni
  http-request return status 200 content-type text/plain string ok
`, port, certificates)
	path := filepath.Join(w.folder, "haproxy.cfg")
	if err := os.WriteFile(path, []byte(config), 0o600); err != nil {
		return nil, err
	}
	return exec.Command("haproxy", "-db", "-f", path), nil //nolint:noctx,gosec // It is killed at the end.
}

// prepareCaddy serves the certificates over HTTP as well, which its http certificate manager asks at each handshake.
func prepareCaddy(ctx context.Context, program string, w *world, port int) (*exec.Cmd, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	server := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		values, err := w.client.Do(r.Context(), w.client.B().Hmget().Key("pem:"+r.URL.Query().Get("server_name")).Field("chain", "key").Build()).AsStrSlice()
		if err != nil || values[0] == "" {
			http.NotFound(rw, r)
			return
		}
		_, _ = rw.Write([]byte(values[0] + values[1]))
	})}
	go func() { _ = server.Serve(listener) }()
	context.AfterFunc(ctx, func() { _ = server.Close() })
	config := fmt.Sprintf(`
{
  admin off
  auto_https disable_redirects
  log {
    level ERROR
  }
}
https://:%d {
  bind 127.0.0.1
  tls {
    get_certificate http %s
  }
  respond "ok"
}
`, port, (&url.URL{Scheme: "http", Host: listener.Addr().String(), Path: "/"}).String())
	path := filepath.Join(w.folder, "Caddyfile")
	if err := os.WriteFile(path, []byte(config), 0o600); err != nil {
		return nil, err
	}
	command := exec.Command(program, "run", "--config", path, "--adapter", "caddyfile") //nolint:noctx,gosec // It is killed at the end.
	command.Env = append(os.Environ(), "XDG_DATA_HOME="+w.folder, "XDG_CONFIG_HOME="+w.folder, "HOME="+w.folder)
	return command, nil
}

type figure struct {
	name  string
	value float64
	unit  string
}

// contend starts a contender, measures it and ends it.
func (w *world) contend(ctx context.Context, s settings, c contender) ([]figure, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	command, err := c.prepare(ctx, w, port)
	if err != nil {
		return nil, err
	}
	command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	log, err := os.Create(filepath.Join(w.folder, c.name+".log"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	command.Stdout, command.Stderr = log, log
	began := time.Now()
	if err := command.Start(); err != nil {
		return nil, err
	}
	ended := make(chan struct{})
	go func() { defer close(ended); _ = command.Wait(); cancel() }() // Nobody waits for one that has ended.
	defer func() {
		_ = syscall.Kill(-command.Process.Pid, syscall.SIGKILL) // It and its workers.
		<-ended
	}()
	l := &load{world: w, address: fmt.Sprintf("127.0.0.1:%d", port), settings: s}
	if err := l.await(ctx, startLimit); err != nil {
		text, _ := os.ReadFile(log.Name())
		return nil, fmt.Errorf("%w\n%.2000s", err, text)
	}
	start := time.Since(began).Seconds()
	empty := rss(command.Process.Pid)
	report.Say("%s with %d domains: ready after %.2f s", c.name, w.domains, start)
	figures := []figure{{"start_s", start, "s"}}
	cold, err := l.cold(ctx)
	if err != nil {
		return nil, fmt.Errorf("cold: %w", err)
	}
	if cold.done == w.domains {
		figures = append(figures, figure{"bytes_per_cert", float64(rss(command.Process.Pid)-empty) / float64(w.domains), "B"})
	}
	warm, err := l.warm(ctx, cold.done)
	if err != nil {
		return nil, fmt.Errorf("warm: %w", err)
	}
	figures = append(figures,
		figure{"cold_handshakes_per_s", cold.perSecond(), "1/s"}, figure{"cold_p50_ms", cold.quantile(0.5), "ms"}, figure{"cold_p99_ms", cold.quantile(0.99), "ms"},
		figure{"handshakes_per_s", warm.perSecond(), "1/s"}, figure{"warm_p50_ms", warm.quantile(0.5), "ms"}, figure{"warm_p99_ms", warm.quantile(0.99), "ms"},
		figure{"rss_mib", float64(rss(command.Process.Pid)) / (1 << 20), "MiB"})
	if c.name == "ours" || c.name == "nginx_lua" {
		flooded, err := l.flooded(ctx, cold.done)
		if err != nil {
			return nil, fmt.Errorf("flood: %w", err)
		}
		figures = append(figures, figure{"flooded_share", flooded, "ratio"})
	}
	return figures, nil
}

// rss is the memory of a process and those below it, in bytes.
func rss(pid int) (total int) {
	children, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	for _, child := range strings.Fields(string(children)) {
		if n, err := strconv.Atoi(child); err == nil {
			total += rss(n)
		}
	}
	file, err := os.Open(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return total
	}
	defer file.Close()
	for scanner := bufio.NewScanner(file); scanner.Scan(); {
		if rest, ok := strings.CutPrefix(scanner.Text(), "VmRSS:"); ok {
			kib, _ := strconv.Atoi(strings.TrimSuffix(strings.TrimSpace(rest), " kB"))
			total += kib << 10
		}
	}
	return total
}
