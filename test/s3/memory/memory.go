// Package memory is an S3 server in memory.
package memory

import (
	"bytes"
	"io"
	"net/http"
	"sync"

	"github.com/rclone/gofakes3"
)

// maxConditional bounds the body of a conditional write, which is kept until it is its turn.
const maxConditional = 256 << 20

// Handler serves a backend. Conditional writes are carried out one after the other: gofakes3 looks at the condition and writes in two
// steps, and of several that replace the same object at once more than one could succeed, which S3 excludes.
func Handler(backend gofakes3.Backend, options ...gofakes3.Option) http.Handler {
	server := gofakes3.New(backend, options...).Server()
	var mu sync.Mutex
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPut && (r.Header.Get("If-Match") != "" || r.Header.Get("If-None-Match") != "") {
			body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxConditional))
			if err != nil {
				http.Error(w, err.Error(), http.StatusBadRequest)
				return
			}
			r.Body = io.NopCloser(bytes.NewReader(body))
			mu.Lock()
			defer mu.Unlock()
		}
		server.ServeHTTP(w, r)
	})
}
