package admin

import (
	"context"
	"fmt"
	"net/http"
	"net/http/pprof" //nolint:gosec // Nobody serves the default mux, which it also adds to.
	"sort"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// DefaultAddress is the address of the admin port of all programs. The operator knows the port by
// the name "admin".
const DefaultAddress = ":9090"

// checkTimeout bounds all readiness checks of one probe together.
const checkTimeout = time.Second

// Check reports whether something the program needs works; nil means that it does.
type Check func(context.Context) error

// Server answers on the admin port. Make one with New.
type Server struct {
	mux      *http.ServeMux
	registry Registry
	stopping atomic.Bool

	mu     sync.Mutex
	checks map[string]Check
}

// Registry holds the metrics of a program.
type Registry interface {
	prometheus.Registerer
	prometheus.Gatherer
}

// New returns a Server with /healthz, /readyz and /metrics, and the metrics of the Go runtime and
// the process registered.
func New() *Server {
	registry := prometheus.NewRegistry()
	registry.MustRegister(
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	)
	return NewWithRegistry(registry)
}

// NewWithRegistry is New for a program whose framework has a registry of its own.
func NewWithRegistry(registry Registry) *Server {
	s := &Server{
		mux:      http.NewServeMux(),
		registry: registry,
		checks:   map[string]Check{},
	}
	s.mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintln(w, "ok")
	})
	s.mux.HandleFunc("GET /readyz", s.ServeReady)
	s.mux.Handle("GET /metrics", promhttp.HandlerFor(s.registry, promhttp.HandlerOpts{}))
	// What is slow in production is found in production. The command line is left out, as it may name secrets.
	s.mux.HandleFunc("GET /debug/pprof/", pprof.Index)
	s.mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	s.mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	return s
}

// Registry is where a program registers its own metrics.
func (s *Server) Registry() prometheus.Registerer { return s.registry }

// Handle adds a page to the admin port; pattern is that of http.ServeMux.
func (s *Server) Handle(pattern string, h http.Handler) { s.mux.Handle(pattern, h) }

// AddCheck makes readiness depend on check. A second check of the same name replaces the first.
func (s *Server) AddCheck(name string, check Check) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.checks[name] = check
}

// Once is a check for the start: it passes for good when check has passed, or when the limit is over. So a
// program gets no traffic that it could not serve yet, and does not become unready because of others later.
func Once(limit time.Duration, check Check) Check {
	var passed atomic.Bool
	end := time.Now().Add(limit)
	return func(ctx context.Context) error {
		if passed.Load() || !time.Now().Before(end) {
			return nil
		}
		err := check(ctx)
		if err == nil {
			passed.Store(true)
		}
		return err
	}
}

// Stop makes the program unready for good. Run calls it at the first signal.
func (s *Server) Stop() { s.stopping.Store(true) }

// ServeHTTP makes the Server usable in an http.Server and in tests.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.mux.ServeHTTP(w, r) }

// ServeReady answers as /readyz does.
func (s *Server) ServeReady(w http.ResponseWriter, r *http.Request) {
	if s.stopping.Load() {
		http.Error(w, "stopping", http.StatusServiceUnavailable)
		return
	}
	if failed := s.failedChecks(r.Context()); len(failed) > 0 {
		http.Error(w, strings.Join(failed, "\n"), http.StatusServiceUnavailable)
		return
	}
	fmt.Fprintln(w, "ok")
}

// failedChecks runs all checks at once and returns one line for each that failed, sorted.
func (s *Server) failedChecks(ctx context.Context) []string {
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()

	s.mu.Lock()
	results := make(chan string, len(s.checks))
	waiting := make(map[string]bool, len(s.checks))
	for name, check := range s.checks {
		waiting[name] = true
		go func() {
			if err := check(ctx); err != nil {
				results <- name + "\x00" + err.Error()
				return
			}
			results <- name + "\x00"
		}()
	}
	s.mu.Unlock()

	var failed []string
	for len(waiting) > 0 {
		select {
		case result := <-results:
			name, problem, _ := strings.Cut(result, "\x00")
			delete(waiting, name)
			if problem != "" {
				failed = append(failed, name+": "+problem)
			}
		case <-ctx.Done():
			for name := range waiting {
				failed = append(failed, name+": no answer within "+checkTimeout.String())
			}
			clear(waiting)
		}
	}
	sort.Strings(failed)
	return failed
}
