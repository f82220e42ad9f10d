package proxy

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/shopset/shopset/internal/admin"
	"github.com/shopset/shopset/internal/certstore"
)

// Proxy serves the traffic ports of one configuration. Make one with New. It is an admin.Service.
type Proxy struct {
	config      *Config
	files       *certificateFiles // nil without
	domains     *certstore.Store  // nil without
	externals   *externals
	connections connections
	tunnels     tunnels
	logins      *logins
	metrics     *metrics
	accessLog   *accessLog
	fronts      []*front
	draining    atomic.Bool
	current     atomic.Pointer[pipeline]
	reloading   sync.Mutex
	closers     []func()
	greeting    greeting
	serving     *serving
	follow      func() // looks at the configuration file; nil for nobody

	// ctx ends with the proxy, and everything that runs beside it.
	ctx    context.Context //nolint:containedctx // It is how the proxy ends.
	cancel context.CancelFunc
	beside sync.WaitGroup
}

// Check reports what besides the configuration itself would keep a proxy from starting: files that it names.
func Check(config *Config) error {
	var problems []error
	if config.HTTPS != nil && config.HTTPS.Certificate != "" {
		if _, err := openCertificate(config.HTTPS.Certificate, config.HTTPS.Key); err != nil {
			problems = append(problems, err)
		}
	}
	if config.Certificates != nil {
		_, closeAll, err := config.Certificates.open(nil)
		if err == nil {
			closeAll()
		}
		problems = append(problems, err)
	}
	probe := &Proxy{config: config, logins: newLogins(), metrics: newMetrics(prometheus.NewRegistry(), &connections{}, 0)}
	made, err := probe.newPipeline(config)
	if err == nil {
		made.redis.close()
	}
	problems = append(problems, err)
	return errors.Join(problems...)
}

// New opens the ports and readies all that serves them; Serve starts. Metrics, checks and pages go
// to the admin server, access log lines to log.
func New(config *Config, adminServer *admin.Server, log io.Writer) (*Proxy, error) {
	p := &Proxy{config: config, logins: newLogins(), greeting: greeting{until: time.Now().Add(config.Startup.Wait)}}
	p.serving = newServing(config.Serving, time.Now)
	p.ctx, p.cancel = context.WithCancel(context.Background())
	p.metrics = newMetrics(adminServer.Registry(), &p.connections, config.TopShops)
	p.externals = newExternals(p.metrics)
	p.beside.Go(func() { p.externals.run(p.ctx, externalSweep) })
	if config.AccessLog {
		p.accessLog = newAccessLog(log, p.metrics.dropped)
	}
	if err := p.open(adminServer.Registry()); err != nil {
		p.closeAll()
		return nil, err
	}
	adminServer.AddCheck("upstreams", func(context.Context) error { return p.greeting.check(p.current.Load()) })
	adminServer.Registry().MustRegister(p.serving.metric())
	adminServer.Handle("GET /serving", p.serving.page(adminServer))
	adminServer.Handle("GET /connections", &p.connections)
	adminServer.Handle("GET /debug/routes", p.explainPage())
	return p, nil
}

// open opens everything that the configuration names.
func (p *Proxy) open(registry prometheus.Registerer) error {
	if err := p.openCertificates(registry); err != nil {
		return err
	}
	first, err := p.newPipeline(p.config)
	if err != nil {
		return err
	}
	p.use(first)
	if https := p.config.HTTPS; https != nil {
		secure, err := p.tlsConfig()
		if err != nil {
			return err
		}
		front, err := p.newFront("https", https.Address, secure, https.ProxyProtocol, 0)
		if err != nil {
			return err
		}
		p.fronts = append(p.fronts, front)
	}
	if plain := p.config.HTTP; plain != nil {
		redirectPort := 0
		if plain.Mode == ModeRedirect {
			redirectPort = plain.RedirectPort
		}
		front, err := p.newFront("http", plain.Address, nil, plain.ProxyProtocol, redirectPort)
		if err != nil {
			return err
		}
		p.fronts = append(p.fronts, front)
	}
	return nil
}

// openCertificates opens the files and the store.
func (p *Proxy) openCertificates(registry prometheus.Registerer) error {
	if https := p.config.HTTPS; https != nil && https.Certificate != "" {
		var err error
		if p.files, err = openCertificate(https.Certificate, https.Key); err != nil {
			return err
		}
		registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "shopset_proxy_certificate_expiry_seconds",
			Help: "When the certificate in the files ends, in seconds since 1970.",
		}, func() float64 { return float64(p.files.expires().Unix()) }))
	}
	if p.config.Certificates == nil {
		return nil
	}
	store, closeStore, err := p.config.Certificates.open(nil)
	if err != nil {
		return err
	}
	p.closers = append(p.closers, closeStore)
	p.domains = store
	registry.MustRegister(store.Collectors()...)
	return nil
}

// tlsConfig is that of the https port. A name that has no record gets the certificate of the files, if there is one: with
// one that does not cover the name the client learns more than with a broken handshake, and shops below the platform's
// own domain need no record.
func (p *Proxy) tlsConfig() (*tls.Config, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: []string{"h2", "http/1.1"}}
	if p.domains == nil {
		config.GetCertificate = p.files.GetCertificate
		return config, nil
	}
	config.GetCertificate = func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
		certificate, err := p.domains.GetCertificate(hello)
		if err != nil && p.files != nil {
			if own := p.files.current.Load(); errors.Is(err, certstore.ErrNoName) || own.Leaf != nil && own.Leaf.VerifyHostname(hello.ServerName) == nil {
				return own, nil
			}
		}
		return certificate, err
	}
	if err := p.domains.TicketKeys(p.ctx, config); err != nil {
		return nil, err
	}
	// A ticket of TLS 1.2 holds what its session is encrypted with: who learns the keys of tickets later could read what was
	// recorded. Those of 1.3 do not.
	old := config.Clone()
	old.SessionTicketsDisabled = true
	config.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		if slices.Contains(hello.SupportedVersions, tls.VersionTLS13) {
			return nil, nil //nolint:nilnil // That is how the usual one is taken.
		}
		return old, nil
	}
	return config, nil
}

// newPipeline makes what serves requests of a configuration.
func (p *Proxy) newPipeline(config *Config) (*pipeline, error) {
	made := &pipeline{
		config: config, limits: &config.Limits, trusted: config.TrustedProxies, domains: p.domains, roles: map[string]*role{},
		refuseWithout: config.Certificates != nil && config.Certificates.WithoutRecord == HostsRefuse,
		refuseUnknown: config.Certificates != nil && config.Certificates.UnknownHosts == HostsRefuse,
		tunnels:       &p.tunnels, buffers: newBufferPool(), metrics: p.metrics, draining: p.draining.Load, serving: p.serving, accessLog: p.accessLog,
		externals: p.externals, bodyLimit: int64(config.Limits.BodyBytes),
	}
	var problems []error
	note := func(err error) {
		if err != nil {
			problems = append(problems, err)
		}
	}
	before := p.current.Load()
	if before == nil {
		before = &pipeline{}
	}
	for _, name := range config.roleNames() {
		role, err := newRole(name, config.Roles[name], p.metrics.retries.WithLabelValues(name).Inc, before.roles[name])
		if err != nil {
			note(err)
			continue
		}
		made.roles[name] = role
		made.bodyLimit = max(made.bodyLimit, int64(role.config.BodyBytes))
	}
	for _, role := range made.roles {
		steps, err := newFallbacks(role, made.roles)
		note(err)
		role.fallbacks = steps
	}
	var err error
	made.rules, err = newAccess(config.Access, p.logins)
	note(err)
	made.redis, err = openRedis(config.redis(), before.redis)
	note(err)
	made.limiters, err = newLimiters(config.RateLimits, made.redis.client(), before.limiters)
	note(err)
	made.maintenancePages, err = readPages(config.Maintenance.Page)
	note(err)
	if len(problems) > 0 {
		if made.redis != before.redis {
			made.redis.close()
		}
		return nil, errors.Join(problems...)
	}
	made.routes = newRoutes(config.Routes, made.roles)
	return made, nil
}

// Addresses returns where the ports listen, https first.
func (p *Proxy) Addresses() []net.Addr {
	var addresses []net.Addr
	for _, front := range p.fronts {
		addresses = append(addresses, front.listener.Addr())
	}
	return addresses
}

// Serve implements admin.Service.
func (p *Proxy) Serve() error {
	if p.files != nil {
		p.beside.Go(func() {
			p.files.watch(p.ctx, p.config.HTTPS.Reload, func(error) { p.metrics.reloads.Inc() })
		})
	}
	if p.domains != nil {
		p.beside.Go(func() { p.domains.Run(p.ctx) })
	}
	if p.follow != nil {
		p.beside.Go(p.follow)
	}
	ended := make(chan error, len(p.fronts))
	for _, front := range p.fronts {
		go func() { ended <- front.serve() }()
	}
	var failure error
	for range p.fronts {
		if err := <-ended; err != nil {
			failure = err
			for _, front := range p.fronts {
				front.close()
			}
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
	done := make(chan error, len(p.fronts))
	for _, front := range p.fronts {
		go func() {
			err := front.shutdown(ctx)
			if err != nil {
				err = fmt.Errorf("cut %d connections with a request under way: %w", p.connections.active.Load(), err)
			}
			done <- err
		}()
	}
	var failure error
	for range p.fronts {
		if err := <-done; err != nil {
			failure = err
		}
	}
	for _, front := range p.fronts {
		front.close() // cuts what the deadline left
	}
	p.closeAll()
	return failure
}

// closeAll ends everything.
func (p *Proxy) closeAll() {
	p.cancel()
	for _, front := range p.fronts {
		front.close()
	}
	for _, closeIt := range p.closers {
		closeIt()
	}
	p.beside.Wait()
	if p.accessLog != nil {
		p.accessLog.close()
	}
	if last := p.current.Load(); last != nil {
		last.retire(nil)
	}
	if p.externals != nil {
		p.externals.close()
	}
}
