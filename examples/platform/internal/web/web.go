// Package web is what the three programs of the demo platform share around their handlers: metrics,
// a deadline for each request, bounded bodies, recovery from a panic, and security headers.
//
// It promises that a request takes no longer than its timeout, slow clients included, and that the
// metrics have bounded cardinality: they are labelled with the route's pattern, never with a path.
package web

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"runtime/debug"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/shopset/shopset/internal/admin"
)

// Options say how Wrap guards a handler.
type Options struct {
	// Program is a part of the metrics' names: shopset_<program>_….
	Program string
	// Registry takes the metrics.
	Registry prometheus.Registerer
	// Timeout bounds each request.
	Timeout time.Duration
	// MaxBody bounds each request's body in bytes.
	MaxBody int64
}

// Wrap guards a mux and measures it.
func Wrap(mux *http.ServeMux, o Options) http.Handler {
	requests := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "shopset_" + o.Program + "_requests_total",
		Help: "Requests by route and status code.",
	}, []string{"route", "code"})
	seconds := prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name:    "shopset_" + o.Program + "_request_seconds",
		Help:    "Duration of requests by route.",
		Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5},
	}, []string{"route"})
	o.Registry.MustRegister(requests, seconds)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		began := time.Now()
		ctx, cancel := context.WithTimeout(r.Context(), o.Timeout)
		defer cancel()
		r = r.WithContext(ctx)
		control := http.NewResponseController(w)
		// The answer must still get through when the handler used up its time. A connection without
		// deadlines exists only in tests.
		_ = control.SetWriteDeadline(began.Add(o.Timeout + 5*time.Second))
		// Without a body, and after its end, the server watches the connection, and a deadline that passes meanwhile cancels the
		// context of every later request on it, while the connection is kept. At the end of a body net/http takes it away.
		if r.Body != http.NoBody {
			_ = control.SetReadDeadline(began.Add(o.Timeout))
			r.Body = http.MaxBytesReader(w, r.Body, o.MaxBody)
		}
		recorder := &recorder{ResponseWriter: w}
		defer func() {
			if problem := recover(); problem != nil {
				if err, ok := problem.(error); ok && errors.Is(err, http.ErrAbortHandler) {
					panic(problem)
				}
				slog.Error("panic", "problem", fmt.Sprint(problem), "method", r.Method, "path", r.URL.Path, "stack", string(debug.Stack()))
				if recorder.code == 0 {
					http.Error(recorder, "internal error", http.StatusInternalServerError)
				}
			}
			route := r.Pattern
			if route == "" {
				route = "none"
			}
			requests.WithLabelValues(route, strconv.Itoa(max(recorder.code, 200))).Inc()
			seconds.WithLabelValues(route).Observe(time.Since(began).Seconds())
		}()
		header := w.Header()
		header.Set("X-Content-Type-Options", "nosniff")
		header.Set("Referrer-Policy", "strict-origin-when-cross-origin")
		mux.ServeHTTP(recorder, r)
	})
}

// recorder remembers the status code.
type recorder struct {
	http.ResponseWriter
	code int
}

func (r *recorder) WriteHeader(code int) {
	if r.code == 0 {
		r.code = code
	}
	r.ResponseWriter.WriteHeader(code)
}

func (r *recorder) Write(p []byte) (int, error) {
	if r.code == 0 {
		r.code = http.StatusOK
	}
	return r.ResponseWriter.Write(p)
}

// Unwrap lets http.ResponseController reach the connection.
func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }

// HTML answers with a page. The policy allows nothing but the shop's own style sheet and forms.
func HTML(w http.ResponseWriter, code int, page []byte) {
	header := w.Header()
	header.Set("Content-Type", "text/html; charset=utf-8")
	header.Set("Content-Length", strconv.Itoa(len(page)))
	header.Set("Content-Security-Policy",
		"default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'")
	if code >= 500 {
		header.Set("Retry-After", "2")
	}
	if header.Get("Cache-Control") == "" {
		header.Set("Cache-Control", "no-store")
	}
	w.WriteHeader(code)
	w.Write(page)
}

// JSON answers with a value.
func JSON(w http.ResponseWriter, code int, value any) {
	content, err := json.Marshal(value)
	if err != nil {
		slog.Error("answer", "error", err)
		code, content = http.StatusInternalServerError, []byte(`{"error":{"code":"internal","message":"internal error"}}`)
	}
	header := w.Header()
	header.Set("Content-Type", "application/json")
	header.Set("Cache-Control", "no-store")
	if code == http.StatusServiceUnavailable {
		header.Set("Retry-After", "1")
	}
	w.WriteHeader(code)
	w.Write(append(content, '\n'))
}

// Run serves a program until a signal ends it.
func Run(a *admin.Server, listen, adminListen string, handler http.Handler) error {
	var config net.ListenConfig
	listener, err := config.Listen(context.Background(), "tcp", listen)
	if err != nil {
		return fmt.Errorf("LISTEN: %w", err)
	}
	slog.Info("listening", "address", listener.Addr().String(), "admin", adminListen)
	return a.Run(context.Background(), admin.Options{Address: adminListen}, admin.HTTP(listener, handler))
}
