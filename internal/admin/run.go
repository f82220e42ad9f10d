package admin

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"sync/atomic"
	"syscall"
	"time"
)

// Service is one server of a program: Serve returns when the server has ended, Shutdown ends it
// gracefully within the context's deadline. Serve returns http.ErrServerClosed or nil after a
// Shutdown.
type Service interface {
	Serve() error
	Shutdown(context.Context) error
}

// Options say how Run serves the admin port and how it ends.
type Options struct {
	// Address of the admin port; DefaultAddress when empty.
	Address string
	// Grace is how long requests under way may take after the first signal; 25 s when zero, which
	// fits into Kubernetes' default of 30 s.
	Grace time.Duration
}

// Run serves the admin port and all services until the context ends, SIGTERM or SIGINT arrives, or
// one of them fails. It then makes the program unready, shuts the services down and the admin port
// last. The error is the first failure, nil after a clean end.
func (s *Server) Run(ctx context.Context, o Options, services ...Service) error {
	if o.Address == "" {
		o.Address = DefaultAddress
	}
	if o.Grace == 0 {
		o.Grace = 25 * time.Second
	}
	listener, err := net.Listen("tcp", o.Address)
	if err != nil {
		return fmt.Errorf("admin port: %w", err)
	}
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGTERM, os.Interrupt)
	defer stop()

	adminServer := newHTTP(listener, s)
	failures := make(chan error, len(services)+1)
	for _, service := range append([]Service{adminServer}, services...) {
		go func() {
			if err := service.Serve(); err != nil && !errors.Is(err, http.ErrServerClosed) {
				failures <- err
			}
		}()
	}

	var failure error
	select {
	case <-ctx.Done():
		slog.Info("stopping", "grace", o.Grace.String())
	case failure = <-failures:
		slog.Error("stopping after a failure", "error", failure)
	}
	s.Stop()
	stop() // A second signal ends the program at once.

	graceful, cancel := context.WithTimeout(context.WithoutCancel(ctx), o.Grace)
	defer cancel()
	done := make(chan error, len(services))
	for _, service := range services {
		go func() { done <- service.Shutdown(graceful) }()
	}
	for range services {
		if err := <-done; err != nil && failure == nil {
			failure = fmt.Errorf("shutdown: %w", err)
		}
	}
	return errors.Join(failure, adminServer.server.Shutdown(graceful))
}

// HTTP makes a Service of a handler, with limits on slow clients that no internal server should be
// without. Its Shutdown goes on taking requests for a moment, and says in each answer that it is the
// last one on its connection (RFC 9112, 9.6): who sends a request over a connection while that is closed
// cannot know what became of it.
func HTTP(listener net.Listener, handler http.Handler) Service { return newHTTP(listener, handler) }

// linger is how long connections are waited for before those that nobody uses are closed.
const linger = 2 * time.Second

type httpService struct {
	listener net.Listener
	server   *http.Server
	stopping atomic.Bool
	open     atomic.Int64 // connections
}

func newHTTP(listener net.Listener, handler http.Handler) *httpService {
	h := &httpService{listener: listener}
	h.server = &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if h.stopping.Load() {
				w.Header().Set("Connection", "close")
			}
			handler.ServeHTTP(w, r)
		}),
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          slog.NewLogLogger(slog.Default().Handler(), slog.LevelWarn),
		ConnState: func(_ net.Conn, state http.ConnState) {
			switch state {
			case http.StateNew:
				h.open.Add(1)
			case http.StateClosed, http.StateHijacked:
				h.open.Add(-1)
			}
		},
	}
	return h
}

func (h *httpService) Serve() error { return h.server.Serve(h.listener) }

func (h *httpService) Shutdown(ctx context.Context) error {
	h.stopping.Store(true)
	look := time.NewTicker(20 * time.Millisecond)
	defer look.Stop()
	for end := time.Now().Add(linger); h.open.Load() > 0 && time.Now().Before(end) && ctx.Err() == nil; {
		<-look.C
	}
	return h.server.Shutdown(ctx)
}
