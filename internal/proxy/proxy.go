package proxy

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/shopset/shopset/internal/admin"
)

// Proxy serves the traffic ports of one configuration. Make one with New. It is an admin.Service.
type Proxy struct {
	config       *Config
	certificates *certificateFiles // nil without https
	connections  connections
	tunnels      tunnels
	metrics      *metrics
	servers      []portServer
	draining     atomic.Bool
}

// portServer is one traffic port.
type portServer struct {
	*http.Server
	listener net.Listener
	tls      bool
}

// Check reports what besides the configuration itself would keep a proxy from starting.
func Check(config *Config) error {
	if config.HTTPS == nil {
		return nil
	}
	_, err := openCertificate(config.HTTPS.Certificate, config.HTTPS.Key)
	return err
}

// New opens the ports and readies all that serves them; Serve starts. Metrics, checks and pages go
// to the admin server, access log lines to log.
func New(config *Config, adminServer *admin.Server, log io.Writer) (*Proxy, error) {
	p := &Proxy{config: config}
	p.metrics = newMetrics(adminServer.Registry(), &p.connections)
	handler, err := p.newPipeline(log)
	if err != nil {
		return nil, err
	}
	if err := p.open(handler, adminServer.Registry()); err != nil {
		p.closeListeners()
		return nil, err
	}
	adminServer.Handle("GET /connections", &p.connections)
	return p, nil
}

func (p *Proxy) newPipeline(log io.Writer) (*pipeline, error) {
	roles := map[string]*role{}
	for name, config := range p.config.Roles {
		role, err := newRole(name, config, p.metrics.retries.WithLabelValues(name).Inc)
		if err != nil {
			return nil, err
		}
		roles[name] = role
	}
	handler := &pipeline{
		limits:    &p.config.Limits,
		trusted:   p.config.TrustedProxies,
		routes:    newRoutes(p.config.Routes, roles),
		forwarder: newForwarder(p.config.TrustedProxies, &p.tunnels, slog.Default()),
		metrics:   p.metrics,
		draining:  p.draining.Load,
	}
	if p.config.AccessLog {
		handler.access = slog.New(slog.NewJSONHandler(log, nil))
	}
	return handler, nil
}

// open makes the servers and their listeners.
func (p *Proxy) open(handler *pipeline, registry prometheus.Registerer) error {
	if https := p.config.HTTPS; https != nil {
		var err error
		if p.certificates, err = openCertificate(https.Certificate, https.Key); err != nil {
			return err
		}
		registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "shopset_proxy_certificate_expiry_seconds",
			Help: "When the certificate in use ends, in seconds since 1970.",
		}, func() float64 { return float64(p.certificates.expires().Unix()) }))
		if err := p.listen("https", https.Address, handler, p.certificates); err != nil {
			return err
		}
	}
	if plain := p.config.HTTP; plain != nil {
		if plain.Mode == ModeRedirect {
			redirecting := *handler
			redirecting.redirectPort = plain.RedirectPort
			handler = &redirecting
		}
		if err := p.listen("http", plain.Address, handler, nil); err != nil {
			return err
		}
	}
	return nil
}

func (p *Proxy) listen(name, address string, handler http.Handler, certificates Certificates) error {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return fmt.Errorf("%s port: %w", name, err)
	}
	limits := p.config.Limits
	server := portServer{
		listener: countingListener{listener, &p.connections},
		tls:      certificates != nil,
		Server: &http.Server{
			Handler:           handler,
			ReadHeaderTimeout: limits.HeaderTimeout, // the TLS handshake takes this limit, too
			IdleTimeout:       limits.IdleTimeout,
			MaxHeaderBytes:    int(limits.HeaderBytes),
			ConnContext:       connContext,
			HTTP2: &http.HTTP2Config{
				MaxConcurrentStreams: limits.Streams,
				SendPingTimeout:      limits.IdleTimeout,
				PingTimeout:          limits.HeaderTimeout,
				WriteByteTimeout:     limits.StallTimeout,
			},
			// Every scanner of the internet causes these lines.
			ErrorLog: slog.NewLogLogger(slog.Default().With("port", name).Handler(), slog.LevelDebug),
		},
	}
	if certificates != nil {
		server.TLSConfig = &tls.Config{
			MinVersion:     tls.VersionTLS12,
			GetCertificate: certificates.GetCertificate,
		}
	}
	p.servers = append(p.servers, server)
	return nil
}

// Addresses returns where the ports listen, https first.
func (p *Proxy) Addresses() []net.Addr {
	var addresses []net.Addr
	for _, server := range p.servers {
		addresses = append(addresses, server.listener.Addr())
	}
	return addresses
}

// Serve implements admin.Service.
func (p *Proxy) Serve() error {
	if p.certificates != nil {
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		go p.certificates.watch(ctx, p.config.HTTPS.Reload, func(error) { p.metrics.reloads.Inc() })
	}
	ended := make(chan error, len(p.servers))
	for _, server := range p.servers {
		go func() {
			if server.tls {
				ended <- server.ServeTLS(server.listener, "", "")
			} else {
				ended <- server.Serve(server.listener)
			}
		}()
	}
	var failure error
	for range p.servers {
		if err := <-ended; err != nil && !errors.Is(err, http.ErrServerClosed) {
			failure = err
			p.closeListeners()
		}
	}
	return failure
}

// Shutdown implements admin.Service. It still accepts for the configured delay, because clients and
// routers learn only by and by that this Pod is leaving; then it finishes what is under way.
func (p *Proxy) Shutdown(ctx context.Context) error {
	p.draining.Store(true)
	delay := time.NewTimer(p.config.Shutdown.Delay)
	defer delay.Stop()
	select {
	case <-delay.C:
	case <-ctx.Done():
	}
	p.tunnels.close() // http.Server does not know them
	done := make(chan error, len(p.servers))
	for _, server := range p.servers {
		go func() {
			err := server.Shutdown(ctx)
			if err != nil {
				err = fmt.Errorf("cut %d connections with a request under way: %w", p.connections.active.Load(), err)
			}
			done <- err
		}()
	}
	var failure error
	for range p.servers {
		if err := <-done; err != nil {
			failure = err
		}
	}
	for _, server := range p.servers {
		server.Close() // cuts what the deadline left
	}
	return failure
}

func (p *Proxy) closeListeners() {
	for _, server := range p.servers {
		server.listener.Close()
	}
}
