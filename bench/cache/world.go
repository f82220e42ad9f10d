package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rclone/gofakes3"
	"github.com/rclone/gofakes3/s3mem"
)

// world is a tree of shops, and an S3 server in memory.
type world struct {
	folder, tree, program string
	shops, files, rounds  int
	bytes                 int64
	server                *httptest.Server
	put                   atomic.Int64 // bytes that the server was sent
}

// received is how much all have sent to the server.
func (w *world) received() int64 { return w.put.Load() }

const bucket = "caches"

// threads create files, in ours and at the limit.
const threads = 8

func shopName(i int) string { return fmt.Sprintf("shop-%04d", i) }

// prepare makes the tree: sizes as compiled templates and fragments have, text that compresses as such.
func (w *world) prepare(ctx context.Context, each int) error {
	w.tree = filepath.Join(w.folder, "tree")
	random := rand.New(rand.NewPCG(1, 2)) //nolint:gosec // No secret.
	words := strings.Fields("div class product price cart shop template include if else end range title link image alt href button form input label span strong cache header footer")
	old := time.Now().Add(-time.Hour)
	for i := range w.shops {
		for j := range each {
			var text strings.Builder
			size := 300 + int(random.ExpFloat64()*2500)
			for text.Len() < size {
				fmt.Fprintf(&text, "<%s>%d ", words[random.IntN(len(words))], random.IntN(100000))
			}
			path := filepath.Join(w.tree, shopName(i), fmt.Sprint("t", j%10), fmt.Sprintf("f-%d.php", j))
			if j < 10 {
				if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil { //nolint:gosec // As caches have it.
					return err
				}
			}
			if err := os.WriteFile(path, []byte(text.String()), 0o644); err != nil { //nolint:gosec // As above.
				return err
			}
			if err := os.Chtimes(path, old, old); err != nil {
				return err
			}
			w.bytes += int64(text.Len())
		}
	}
	backend := s3mem.New()
	if err := backend.CreateBucket(ctx, bucket); err != nil {
		return err
	}
	fake := gofakes3.New(backend).Server()
	w.server = httptest.NewServer(http.HandlerFunc(func(answer http.ResponseWriter, r *http.Request) {
		w.put.Add(max(0, r.ContentLength))
		fake.ServeHTTP(answer, r)
	}))
	return nil
}

type content struct {
	path    string
	content []byte
}

// load reads the tree into memory, by shop.
func (w *world) load(target string) ([][]content, error) {
	contents := make([][]content, w.shops)
	for i := range w.shops {
		if err := filepath.WalkDir(filepath.Join(w.tree, shopName(i)), func(path string, entry os.DirEntry, err error) error {
			if err != nil || entry.IsDir() {
				return err
			}
			read, err := os.ReadFile(path)
			name, _ := filepath.Rel(w.tree, path)
			contents[i] = append(contents[i], content{filepath.Join(target, name), read})
			return err
		}); err != nil {
			return nil, err
		}
	}
	return contents, nil
}

// bare creates the same files, with as many threads as ours has, from contents in memory: files per second, and the CPU for it.
func (w *world) bare() (rate float64, used time.Duration, err error) {
	target := filepath.Join(w.folder, "bare")
	contents, err := w.load(target)
	if err != nil {
		return 0, 0, err
	}
	debug.FreeOSMemory()
	began, before := time.Now(), own()
	var next atomic.Int64
	var group sync.WaitGroup
	failures := make([]error, threads)
	for worker := range failures {
		group.Go(func() {
			for i := int(next.Add(1)) - 1; i < w.shops; i = int(next.Add(1)) - 1 {
				made := map[string]bool{}
				for _, f := range contents[i] {
					if folder := filepath.Dir(f.path); !made[folder] {
						made[folder] = true
						failures[worker] = errors.Join(failures[worker], os.MkdirAll(folder, 0o755)) //nolint:gosec // As caches have it.
					}
					failures[worker] = errors.Join(failures[worker], os.WriteFile(f.path, f.content, 0o644)) //nolint:gosec // As above.
				}
			}
		})
	}
	group.Wait()
	took, used := time.Since(began), own()-before
	contents = nil
	debug.FreeOSMemory()
	return float64(w.files) / took.Seconds(), used, errors.Join(errors.Join(failures...), os.RemoveAll(target))
}
