package router

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/shopset/shopset/internal/admin"
	"github.com/shopset/shopset/internal/routetable"
)

var (
	errSlow   = errors.New("hello did not arrive in time")
	errGone   = errors.New("client left")
	errSource = errors.New("too many connections from one source")
)

// engine accepts connections and moves their bytes.
type engine interface {
	// start begins to serve. Addresses are those that it listens on.
	start() (addresses [kinds]net.Addr, err error)
	// closeListeners stops accepting; end cuts what is open and waits until all is freed.
	closeListeners()
	end()
	// wake tells that health or table changed.
	wake()
}

// Router is the program. It is an admin.Service.
type Router struct {
	config  *Config
	chooser *chooser
	limiter *limiter
	meters  *meters
	tables  *tables
	engine  engine
	log     *slog.Logger
	stop    context.CancelFunc
	ctx     context.Context
	probes  sync.WaitGroup
	done    chan struct{}

	// bound are the addresses of ports that listen on one address only.
	bound [kinds]netip.AddrPort

	// Addresses that are listened on, once Start has returned; nil for a port that there is not.
	Addresses [kinds]net.Addr
}

// New makes a Router of a checked configuration, and starts listening and looking for tables. source is where tables come from
// beside the files, nil for nowhere; it runs until the context ends.
func New(config *Config, server *admin.Server, source Source) (*Router, error) {
	config.fill()
	m := newMeters(server.Registry())
	ctx, stop := context.WithCancel(context.Background())
	r := &Router{
		config: config, meters: m, log: slog.Default(), ctx: ctx, stop: stop, done: make(chan struct{}),
		limiter: newLimiter(config.Limits.Connections, config.Limits.PerSource),
		chooser: &chooser{health: config.Health, failover: config.Failover, log: slog.Default(), meters: m, clock: now},
	}
	r.chooser.replays.Store(maxReplayBudget)
	m.gauges(server.Registry(), r.chooser, r.limiter)
	var err error
	if r.engine, err = newEngine(r); err != nil {
		stop()
		return nil, err
	}
	r.chooser.wake = r.engine.wake
	r.tables = newTables(r)
	if err = r.tables.start(ctx, source); err == nil {
		r.Addresses, err = r.engine.start()
	}
	if err != nil {
		r.Close()
		return nil, err
	}
	server.AddCheck("table", func(context.Context) error {
		if r.chooser.view.Load() == nil {
			return errNoTable
		}
		return nil
	})
	r.debug(server)
	return r, nil
}

func newEngine(r *Router) (engine, error) {
	if r.config.Engine == EnginePlain {
		return newPlain(r), nil
	}
	return newLoops(r)
}

// use makes a table the one in use.
func (r *Router) use(t *routetable.Table) error {
	return r.chooser.apply(t, r.config.DrainDeadline, func(ctx context.Context, e *endpoint) {
		r.probes.Go(func() { r.chooser.watch(ctx, e) })
	})
}

// Serve implements admin.Service.
func (r *Router) Serve() error {
	<-r.done
	return nil
}

// Shutdown implements admin.Service: it goes on accepting for the configured delay, then waits until all connections have
// ended, and cuts them when the context does.
func (r *Router) Shutdown(ctx context.Context) error {
	defer close(r.done)
	select {
	case <-ctx.Done():
	case <-time.After(r.config.Shutdown.Delay):
	}
	r.engine.closeListeners()
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	for r.limiter.total.Load() > 0 && ctx.Err() == nil {
		select {
		case <-ctx.Done():
			r.log.Warn("connections are cut", "number", r.limiter.total.Load())
		case <-ticker.C:
		}
	}
	r.Close()
	return nil
}

// Close ends everything at once.
func (r *Router) Close() {
	r.engine.closeListeners()
	r.engine.end()
	r.stop()
	r.tables.wait() // A table that comes now would begin new probes.
	r.chooser.close()
	r.probes.Wait()
}

func (r *Router) port(k kind) *Port {
	if k == kindHTTP {
		return r.config.HTTP
	}
	return r.config.TLS
}

func (r *Router) defaultHost(k kind) string { return r.port(k).DefaultHost }

// behind says whether connections from an address begin with a PROXY header.
func (r *Router) behind(k kind, client netip.Addr) bool {
	for _, network := range r.port(k).ProxyProtocol {
		if network.Contains(client) {
			return true
		}
	}
	return false
}

// eachPort calls f for the ports that there are.
func (r *Router) eachPort(f func(kind, *Port) error) error {
	for k := range kinds {
		if port := r.port(k); port != nil {
			if err := f(k, port); err != nil {
				return fmt.Errorf("%s port: %w", k, err)
			}
		}
	}
	return nil
}
