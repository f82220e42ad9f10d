package main

import (
	"crypto/tls"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// contender is one proxy.
type contender struct {
	name string
	// prepare writes its configuration for a port without TLS and one with, and returns the command.
	prepare func(w *world, plain, secure int) (*exec.Cmd, error)
}

// oursFiltered is ours with a realistic set of filters: its figures are those of cases of their own.
const oursFiltered = "ours_filters"

func contenders(s settings) []contender {
	list := []contender{
		{"nginx", prepareNginx},
		{"haproxy", prepareHAProxy},
		{"reverseproxy", prepareReverseProxy},
		{"ours", func(w *world, plain, secure int) (*exec.Cmd, error) {
			return prepareOurs(w, plain, secure, "ours", bareConfig)
		}},
		{oursFiltered, func(w *world, plain, secure int) (*exec.Cmd, error) {
			return prepareOurs(w, plain, secure, "filters", filtersConfig())
		}},
	}
	if s.caddy != "" {
		list = append(list, contender{"caddy", func(w *world, plain, secure int) (*exec.Cmd, error) { return prepareCaddy(w, s.caddy, plain, secure) }})
	}
	if s.traefik != "" {
		list = append(list, contender{"traefik", func(w *world, plain, secure int) (*exec.Cmd, error) {
			return prepareTraefik(w, s.traefik, plain, secure)
		}})
	}
	return list
}

func (w *world) write(name, content string) (string, error) {
	path := filepath.Join(w.folder, name)
	return path, os.WriteFile(path, []byte(content), 0o644) //nolint:gosec // Workers of nginx read it.
}

// upstreamConfig is an nginx that only answers.
const upstreamConfig = `
user root;
daemon off;
pid %[1]s/upstream.pid;
error_log %[1]s/upstream.log error;
worker_processes 1;
events { worker_connections 4096; }
http {
  access_log off;
  client_body_temp_path %[1]s/u1; proxy_temp_path %[1]s/u2; fastcgi_temp_path %[1]s/u3; uwsgi_temp_path %[1]s/u4; scgi_temp_path %[1]s/u5;
  keepalive_requests 1000000000;
  sendfile on;
  server {
    listen 127.0.0.1:%[2]d backlog=4096;
    root %[1]s/files;
    default_type text/plain;
  }
}
`

const nginxConfig = `
user root;
daemon off;
pid %[1]s/nginx.pid;
error_log %[1]s/nginx.log error;
worker_processes 2;
events { worker_connections 8192; }
http {
  access_log off;
  client_body_temp_path %[1]s/n1; proxy_temp_path %[1]s/n2; fastcgi_temp_path %[1]s/n3; uwsgi_temp_path %[1]s/n4; scgi_temp_path %[1]s/n5;
  keepalive_requests 1000000000;
  upstream shop { server 127.0.0.1:%[2]d; keepalive 256; keepalive_requests 1000000000; }
  server {
    listen 127.0.0.1:%[3]d backlog=4096 reuseport;
    listen 127.0.0.1:%[4]d ssl http2 backlog=4096 reuseport;
    ssl_certificate %[1]s/pair.pem;
    ssl_certificate_key %[1]s/pair.pem;
    ssl_protocols TLSv1.3;
    location / {
      proxy_pass http://shop;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_set_header Host $host;
      proxy_set_header X-Forwarded-For $remote_addr;
      proxy_buffers 8 64k;
      proxy_buffer_size 16k;
    }
  }
}
`

func prepareNginx(w *world, plain, secure int) (*exec.Cmd, error) {
	path, err := w.write("nginx.conf", fmt.Sprintf(nginxConfig, w.folder, w.upstream, plain, secure))
	return exec.Command("nginx", "-c", path, "-e", filepath.Join(w.folder, "nginx.log")), err //nolint:noctx,gosec // It is killed at the end.
}

func prepareHAProxy(w *world, plain, secure int) (*exec.Cmd, error) {
	path, err := w.write("haproxy.cfg", fmt.Sprintf(`
global
  nbthread 2
  maxconn 5000
  ssl-default-bind-options ssl-min-ver TLSv1.3
defaults
  mode http
  timeout client 30s
  timeout server 30s
  timeout connect 1s
  option forwardfor
  http-reuse always
frontend all
  bind 127.0.0.1:%d
  bind 127.0.0.1:%d ssl crt %s/pair.pem alpn h2,http/1.1
  default_backend shop
backend shop
  server one 127.0.0.1:%d
`, plain, secure, w.folder, w.upstream))
	return exec.Command("haproxy", "-db", "-f", path), err //nolint:noctx,gosec // It is killed at the end.
}

const bareConfig = `
roles:
  shop: {url: "http://127.0.0.1:UPSTREAM"}
routes: [{prefix: /, role: shop}]
accessLog: false
`

// filtersConfig is what a platform has: many hosts, headers, cookies, a limit, the log.
func filtersConfig() string {
	var b strings.Builder
	b.WriteString(`
roles:
  shop:
    url: "http://127.0.0.1:UPSTREAM"
    requestHeaders: [{set: X-Shop-Host, to: "${host}"}, {set: X-Client, to: "${client}"}, {remove: X-Internal}]
    responseHeaders: [{set: Strict-Transport-Security, to: "max-age=63072000"}, {remove: Server}, {set: X-Served-By, to: "${role}"}]
    requestCookies: {deny: ["_ga*"]}
    responseCookies: {secure: true, httpOnly: true}
  cart: {url: "http://127.0.0.1:UPSTREAM"}
rateLimits: [{name: clients, key: [client], requests: 900000, burst: 900000}]
access: [{name: bots, denyAgents: ["(?i)badbot"]}]
accessLog: true
routes:
- {prefix: /, role: shop}
- {prefix: /cart, role: cart}
`)
	for i := range 10000 {
		fmt.Fprintf(&b, "- {prefix: /mc, role: cart, hosts: [shop-%05d.example]}\n", i)
	}
	return b.String()
}

func prepareOurs(w *world, plain, secure int, name, config string) (*exec.Cmd, error) {
	program, err := w.ours()
	if err != nil {
		return nil, err
	}
	w.admin, err = freePort()
	if err != nil {
		return nil, err
	}
	text := fmt.Sprintf("admin: 127.0.0.1:%[4]d\nhttps: {address: \"127.0.0.1:%[1]d\", certificate: %[2]s/pair.pem, key: %[2]s/pair.pem}\nhttp: {address: \"127.0.0.1:%[3]d\", mode: serve}\n",
		secure, w.folder, plain, w.admin) + "limits: {connectionAge: 1h}\n" + strings.ReplaceAll(config, "UPSTREAM", fmt.Sprint(w.upstream))
	path, err := w.write(name+".yaml", text)
	return exec.Command(program, "--config", path), err //nolint:noctx,gosec // It is killed at the end.
}

func prepareReverseProxy(w *world, plain, secure int) (*exec.Cmd, error) {
	program, err := os.Executable()
	return exec.Command(program, "reverseproxy", "-plain", fmt.Sprint(plain), "-secure", fmt.Sprint(secure), "-upstream", fmt.Sprint(w.upstream), "-pair", filepath.Join(w.folder, "pair.pem")), err //nolint:noctx,gosec // It is killed at the end.
}

// reverseProxy is what the standard library has, with its buffers kept.
func reverseProxy(args []string) error {
	flags := flag.NewFlagSet("reverseproxy", flag.ContinueOnError)
	plain, secure := flags.Int("plain", 0, "port"), flags.Int("secure", 0, "port with TLS")
	upstream, pair := flags.Int("upstream", 0, "port"), flags.String("pair", "", "certificate and key")
	if err := flags.Parse(args); err != nil {
		return err
	}
	target, err := url.Parse(fmt.Sprintf("http://127.0.0.1:%d", *upstream))
	if err != nil {
		return err
	}
	handler := &httputil.ReverseProxy{
		Rewrite:    func(r *httputil.ProxyRequest) { r.SetURL(target); r.SetXForwarded() },
		Transport:  &http.Transport{MaxIdleConnsPerHost: 256, DisableCompression: true},
		BufferPool: &pool{},
		ErrorLog:   log.New(io.Discard, "", 0),
	}
	server := &http.Server{Handler: handler, ReadHeaderTimeout: time.Minute, ErrorLog: log.New(io.Discard, "", 0), TLSConfig: &tls.Config{MinVersion: tls.VersionTLS13}}
	open, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", *plain))
	if err != nil {
		return err
	}
	// A server of its own: two listeners of one would set HTTP/2 up at the same time.
	go func() {
		_ = (&http.Server{Handler: handler, ReadHeaderTimeout: time.Minute, ErrorLog: server.ErrorLog}).Serve(open)
	}()
	listener, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", *secure))
	if err != nil {
		return err
	}
	return server.ServeTLS(listener, *pair, *pair)
}

func prepareCaddy(w *world, program string, plain, secure int) (*exec.Cmd, error) {
	path, err := w.write("Caddyfile", fmt.Sprintf(`
{
  admin off
  auto_https off
  log {
    level ERROR
  }
  servers {
    protocols h1 h2
  }
}
http://:%d {
  bind 127.0.0.1
  reverse_proxy 127.0.0.1:%[2]d
}
https://:%[3]d {
  bind 127.0.0.1
  tls %[4]s/pair.pem %[4]s/pair.pem {
    protocols tls1.3
  }
  reverse_proxy 127.0.0.1:%[2]d
}
`, plain, w.upstream, secure, w.folder))
	command := exec.Command(program, "run", "--config", path, "--adapter", "caddyfile") //nolint:noctx,gosec // It is killed at the end.
	command.Env = append(os.Environ(), "XDG_DATA_HOME="+w.folder, "XDG_CONFIG_HOME="+w.folder, "HOME="+w.folder)
	return command, err
}

func prepareTraefik(w *world, program string, plain, secure int) (*exec.Cmd, error) {
	routes, err := w.write("traefik-routes.yaml", fmt.Sprintf(`
tls: {certificates: [{certFile: %[1]s/pair.pem, keyFile: %[1]s/pair.pem}], stores: {default: {defaultCertificate: {certFile: %[1]s/pair.pem, keyFile: %[1]s/pair.pem}}}}
http:
  routers:
    plain: {rule: "PathPrefix(`+"`/`"+`)", service: shop, entryPoints: [plain]}
    secure: {rule: "PathPrefix(`+"`/`"+`)", service: shop, entryPoints: [secure], tls: {}}
  services:
    shop: {loadBalancer: {servers: [{url: "http://127.0.0.1:%[2]d"}]}}
`, w.folder, w.upstream))
	if err != nil {
		return nil, err
	}
	return exec.Command(program, "--entrypoints.plain.address=127.0.0.1:"+fmt.Sprint(plain), "--entrypoints.secure.address=127.0.0.1:"+fmt.Sprint(secure), //nolint:noctx,gosec // It is killed at the end.
		"--providers.file.filename="+routes, "--log.level=ERROR", "--global.checknewversion=false", "--global.sendanonymoususage=false"), nil
}
