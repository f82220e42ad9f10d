package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/shopset/shopset/bench/internal/layer4"
)

// contender is one router of connections.
type contender struct {
	name string
	// prepare writes its configuration for a port, and returns the command; nil is the way without a router.
	prepare func(w *world, port int) (*exec.Cmd, error)
}

var contenders = []contender{
	{"direct", nil},
	{"haproxy", prepareHAProxy},
	{"nginx", prepareNginx},
	{"ours", func(w *world, port int) (*exec.Cmd, error) { return prepareOurs(w, port, "ours", "epoll") }},
	{"plain", func(w *world, port int) (*exec.Cmd, error) { return prepareOurs(w, port, "plain", "plain") }},
}

func (w *world) write(name, content string) (string, error) {
	path := filepath.Join(w.folder, name)
	return path, os.WriteFile(path, []byte(content), 0o644) //nolint:gosec // Workers of nginx read it.
}

func prepareHAProxy(w *world, port int) (*exec.Cmd, error) {
	var hosts strings.Builder
	for i, host := range w.hosts {
		fmt.Fprintf(&hosts, "%s cell%d\n", host, i%cells)
	}
	if _, err := w.write("hosts.map", hosts.String()); err != nil {
		return nil, err
	}
	var backends strings.Builder
	for i, backend := range w.backends {
		fmt.Fprintf(&backends, "backend cell%d\n  server one 127.0.0.1:%d send-proxy-v2\n", i, backend)
	}
	splice := ""
	if w.settings.haproxySplice {
		splice = "  option splice-auto\n"
	}
	path, err := w.write("haproxy.cfg", fmt.Sprintf(`
global
  nbthread 2
  maxconn %[5]d
  maxpipes 400
defaults
  mode tcp
  timeout client 10m
  timeout server 10m
  timeout connect 1s
%[1]sfrontend all
  bind 127.0.0.1:%[2]d
  tcp-request inspect-delay 5s
  tcp-request content accept if { req.ssl_hello_type 1 }
  use_backend %%[req.ssl_sni,lower,map(%[3]s/hosts.map,cell0)]
%[4]s`, splice, port, w.folder, backends.String(), w.most()))
	return exec.Command("haproxy", "-db", "-f", path), err //nolint:noctx,gosec // It is killed at the end.
}

func prepareNginx(w *world, port int) (*exec.Cmd, error) {
	var hosts, upstreams strings.Builder
	for i, host := range w.hosts {
		fmt.Fprintf(&hosts, "    %s cell%d;\n", host, i%cells)
	}
	for i, backend := range w.backends {
		fmt.Fprintf(&upstreams, "  upstream cell%d { server 127.0.0.1:%d; }\n", i, backend)
	}
	path, err := w.write("nginx.conf", fmt.Sprintf(`
load_module /usr/lib/nginx/modules/ngx_stream_module.so;
user root;
daemon off;
pid %[1]s/nginx.pid;
error_log %[1]s/nginx.log error;
worker_processes 2;
events { worker_connections %[6]d; }
stream {
  map_hash_max_size 4096;
  map_hash_bucket_size 128;
  map $ssl_preread_server_name $cell {
    default cell0;
%[2]s  }
%[3]s  server {
    listen 127.0.0.1:%[4]d backlog=4096 reuseport;
    ssl_preread on;
    proxy_pass $cell;
    proxy_protocol on;
    proxy_buffer_size %[5]s;
    proxy_timeout 10m;
    tcp_nodelay on;
  }
}
`, w.folder, hosts.String(), upstreams.String(), port, w.settings.nginxBuffer, 2*w.most()))
	return exec.Command("nginx", "-c", path, "-e", filepath.Join(w.folder, "nginx.log")), err //nolint:noctx,gosec // It is killed at the end.
}

func prepareOurs(w *world, port int, name, engine string) (*exec.Cmd, error) {
	program, err := layer4.Router(w.folder)
	if err != nil {
		return nil, err
	}
	admin, err := layer4.FreePort()
	if err != nil {
		return nil, err
	}
	w.admin[name] = admin
	path, err := w.write(name+".yaml", fmt.Sprintf(`
admin: 127.0.0.1:%d
tls: {address: "127.0.0.1:%d"}
table: {file: %[3]s/table, publicKeys: %[3]s/keys.pem}
engine: %s
limits: {perSource: 0, connections: %d}
`, admin, port, w.folder, engine, w.most()))
	command := exec.Command(program, "--config", path) //nolint:noctx,gosec // It is killed at the end.
	command.Env = append(os.Environ(), "LOG_LEVEL=warn")
	return command, err
}
