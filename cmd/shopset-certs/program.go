package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/rueidis"

	"github.com/shopset/shopset/internal/admin"
	"github.com/shopset/shopset/internal/certrecord"
	"github.com/shopset/shopset/internal/certs"
	"github.com/shopset/shopset/internal/certs/acme"
	"github.com/shopset/shopset/internal/certs/storage"
	"github.com/shopset/shopset/internal/certs/storage/postgres"
	"github.com/shopset/shopset/internal/certs/storage/sqlite"
)

// program is all that the commands need.
type program struct {
	config  *certs.Config
	storage storage.Storage
	service *certs.Service
	clients *certs.Clients
	tls     *tls.Config
	redis   *certrecord.Redis
	issuer  *acme.Issuer
}

// open opens everything that the configuration names; all that is wrong with it is told at once.
func open(ctx context.Context, config *certs.Config) (*program, error) {
	p := &program{config: config}
	keys, errKeys := certrecord.ReadKeyring(config.Keyring)
	var errClients, errTLS, errRoots, errStorage, errRedis error
	p.clients, errClients = certs.ReadClients(config.Clients)
	if config.TLS != nil {
		p.tls, errTLS = serverTLS(config.TLS)
	}
	var roots *x509.CertPool
	if config.ACME != nil && config.ACME.Roots != "" {
		roots, errRoots = certrecord.ReadPool("acme.roots", config.ACME.Roots)
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	p.storage, errStorage = openStorage(ctx, config.Storage)
	var options rueidis.ClientOption
	if config.Redis != nil {
		options, errRedis = config.Redis.Options("redis")
	}
	if err := errors.Join(errKeys, errClients, errTLS, errRoots, errStorage, errRedis); err != nil {
		p.close()
		return nil, err
	}
	p.service = certs.NewService(p.storage, keys, slog.Default())
	if config.Redis != nil {
		p.redis = certrecord.NewRedis(options)
	}
	if a := config.ACME; a != nil {
		client := &http.Client{Transport: &http.Transport{Proxy: http.ProxyFromEnvironment, TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}}}
		p.issuer = acme.New(acme.Config{Directory: a.Directory, Email: a.Email, Parallel: a.Parallel, Client: client}, p.storage, p.service)
	}
	return p, nil
}

func (p *program) close() {
	if p.redis != nil {
		p.redis.Close()
	}
	if p.storage != nil {
		if err := p.storage.Close(); err != nil {
			slog.Warn("the storage was not closed", "error", err)
		}
	}
}

func openStorage(ctx context.Context, address string) (storage.Storage, error) {
	if path, ok := strings.CutPrefix(address, "sqlite:"); ok {
		s, err := sqlite.Open(ctx, path)
		if err != nil {
			return nil, err
		}
		return s, nil
	}
	s, err := postgres.Open(ctx, address)
	if err != nil {
		return nil, err
	}
	return s, nil
}

func serverTLS(config *certs.TLSConfig) (*tls.Config, error) {
	pair, err := tls.LoadX509KeyPair(config.Certificate, config.Key)
	if err != nil {
		return nil, fmt.Errorf("tls: %w", err)
	}
	result := &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}
	if config.ClientCA != "" {
		if result.ClientCAs, err = certrecord.ReadPool("tls.clientCA", config.ClientCA); err != nil {
			return nil, err
		}
		result.ClientAuth = tls.VerifyClientCertIfGiven
	}
	return result, nil
}

// republish has all records written to Redis anew, sealed with the first key.
func (p *program) republish(ctx context.Context) error {
	if p.redis == nil {
		return nil
	}
	return certs.NewPublisher(p.service, p.redis).Republish(ctx)
}

func (p *program) serve() error {
	listener, err := net.Listen("tcp", p.config.Listen)
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	if p.tls != nil {
		p.tls.NextProtos = []string{"http/1.1"}
		listener = tls.NewListener(listener, p.tls)
	}
	server := admin.New()
	server.AddCheck("storage", p.storage.Ping)
	api := certs.NewAPI(p.service, p.clients)
	server.Registry().MustRegister(api.Collectors()...)
	server.Registry().MustRegister(expiring(p.storage))
	services := []admin.Service{admin.HTTP(listener, api.Handler())}
	if p.redis != nil {
		publisher := certs.NewPublisher(p.service, p.redis)
		p.service.PublishTo(publisher)
		server.Registry().MustRegister(lag(publisher))
		services = append(services, background(publisher.Run))
	}
	if p.issuer != nil {
		server.Registry().MustRegister(p.issuer.Collectors()...)
		services = append(services, background(p.issuer.Run))
	}
	slog.Info("serving the certificate API", "address", listener.Addr().String(), "tls", p.tls != nil, "redis", p.redis != nil, "acme", p.issuer != nil)
	return server.Run(context.Background(), admin.Options{Address: p.config.Admin}, services...)
}

func lag(publisher *certs.Publisher) prometheus.Collector {
	return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Namespace: "shopset_certs", Name: "redis_lag_changes",
		Help: "How many changes Redis is behind; -1 when the storage does not tell."}, func() float64 {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		n, err := publisher.Lag(ctx)
		if err != nil {
			return -1
		}
		return float64(n)
	})
}

// expiring counts the certificates near their end when it is asked, but not again within a minute.
func expiring(s storage.Storage) prometheus.Collector {
	return &expiry{storage: s, desc: prometheus.NewDesc("shopset_certs_certificates_expiring",
		"Certificates near their end: late ones, of whose time more than five sixths are over, and expired ones, which are late too.", []string{"state"}, nil)}
}

type expiry struct {
	storage storage.Storage
	desc    *prometheus.Desc

	mu            sync.Mutex
	counted       time.Time
	late, expired int64
	err           error
}

// Describe implements prometheus.Collector.
func (e *expiry) Describe(ch chan<- *prometheus.Desc) { ch <- e.desc }

// Collect implements prometheus.Collector. While the storage does not tell, there is no figure.
func (e *expiry) Collect(ch chan<- prometheus.Metric) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if now := time.Now(); now.Sub(e.counted) > time.Minute || e.err != nil {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		e.late, e.expired, e.err = e.storage.Expiring(ctx, now)
		e.counted = now
	}
	if e.err != nil {
		slog.Warn("certificates near their end are not counted", "error", e.err)
		return
	}
	ch <- prometheus.MustNewConstMetric(e.desc, prometheus.GaugeValue, float64(e.late), "late")
	ch <- prometheus.MustNewConstMetric(e.desc, prometheus.GaugeValue, float64(e.expired), "expired")
}

// running is a service that runs until it is told to end.
type running struct {
	run    func(context.Context)
	ctx    context.Context //nolint:containedctx // It is how the service ends.
	cancel context.CancelFunc
	group  sync.WaitGroup
}

func background(run func(context.Context)) admin.Service {
	ctx, cancel := context.WithCancel(context.Background())
	r := &running{run: run, ctx: ctx, cancel: cancel}
	r.group.Add(1)
	return r
}

func (r *running) Serve() error {
	defer r.group.Done()
	r.run(r.ctx)
	return nil
}

func (r *running) Shutdown(ctx context.Context) error {
	r.cancel()
	done := make(chan struct{})
	go func() { r.group.Wait(); close(done) }()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
