package operator_test

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/shopset/shopset/internal/operator"
)

// TestHTTPConnections: only a Pod that answers as agreed counts; where else it points to is not asked.
func TestHTTPConnections(t *testing.T) {
	elsewhere := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		t.Error("a redirect was followed")
	}))
	defer elsewhere.Close()
	for name, test := range map[string]struct {
		handler http.HandlerFunc
		want    int64
		failure string
	}{
		"answers": {func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(`{"open": 7}`)) }, 7, ""},
		"redirects": {func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, elsewhere.URL, http.StatusFound)
		}, 0, "302"},
		"says nothing":     {func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(`{}`)) }, 0, `{"open": N}`},
		"says less than 0": {func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(`{"open": -1}`)) }, 0, `{"open": N}`},
		"says very much":   {func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(strings.Repeat(" ", 1<<20))) }, 0, `{"open": N}`},
		"is not well":      {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500) }, 0, "500"},
		"ends the call":    {func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, 0, "EOF"},
		"is not HTTP at all": {func(w http.ResponseWriter, _ *http.Request) {
			connection, _, err := w.(http.Hijacker).Hijack()
			if err == nil {
				_, _ = connection.Write([]byte("hello\n"))
				_ = connection.Close()
			}
		}, 0, "malformed"},
	} {
		t.Run(name, func(t *testing.T) {
			server := httptest.NewServer(test.handler)
			defer server.Close()
			got, err := operator.NewHTTPConnections().Open(t.Context(), server.Listener.Addr().String(), "/connections")
			if got != test.want || (err == nil) != (test.failure == "") || err != nil && !strings.Contains(err.Error(), test.failure) {
				t.Fatalf("%d %v, want %d %q", got, err, test.want, test.failure)
			}
			if err != nil && strings.Contains(err.Error(), "127.0.0.1") {
				t.Fatalf("the address would make the status change: %v", err)
			}
		})
	}
}

// TestHTTPConnectionsSilent: nobody listens, and nobody answers, are not zero connections.
func TestHTTPConnectionsSilent(t *testing.T) {
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := operator.NewHTTPConnections().Open(ctx, listener.Addr().String(), "/"); err == nil {
		t.Fatal("counted without an answer")
	}
	if err := listener.Close(); err != nil {
		t.Fatal(err)
	}
	_, err = operator.NewHTTPConnections().Open(t.Context(), listener.Addr().String(), "/")
	if err == nil || strings.Contains(err.Error(), "127.0.0.1") || !strings.Contains(err.Error(), "refused") {
		t.Fatalf("nobody listens: %v", err)
	}
}
