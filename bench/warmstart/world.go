package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/rclone/gofakes3"
	"github.com/rclone/gofakes3/s3mem"

	"github.com/shopset/shopset/bench/internal/process"
	"github.com/shopset/shopset/examples/platform/shopapi"
)

const bucket = "caches"

// world has an api, an S3 server, and the programs.
type world struct {
	settings
	folder string
	cache  string
	saved  int64 // bytes in the filled cache
	api    *httptest.Server
	s3     *httptest.Server
	load   *load
}

func (w *world) open(ctx context.Context) error {
	build := exec.CommandContext(ctx, "go", "build", "-o", w.folder, "./cmd/shopset-cache", "./examples/platform/cmd/shop") //nolint:gosec // Its arguments are ours.
	build.Dir = ".."                                                                                                        // The module of the repository.
	if output, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("build: %w\n%s", err, output)
	}
	backend := s3mem.New()
	if err := backend.CreateBucket(ctx, bucket); err != nil {
		return err
	}
	w.s3 = httptest.NewServer(gofakes3.New(backend).Server())
	w.api = httptest.NewServer(w.catalogue())
	w.load = newLoad(w.shops, w.products)
	return nil
}

func (w *world) close() {
	w.s3.Close()
	w.api.Close()
}

// shop starts the demo's shop over a cache folder. It has one core, so that it and not the load is what is full.
func (w *world) shop(ctx context.Context, folder string) (stop func(), err error) {
	var addresses [2]string
	for i := range addresses {
		listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		addresses[i] = listener.Addr().String()
		listener.Close()
	}
	var output bytes.Buffer
	shop, err := process.Start(filepath.Join(w.folder, "shop"), nil, []string{"LISTEN=" + addresses[0], "ADMIN_LISTEN=" + addresses[1], "API_URL=" + w.api.URL,
		"CACHE_DIR=" + folder, "GOMAXPROCS=1", "LOG_LEVEL=error"}, &output)
	if err != nil {
		return nil, err
	}
	ready, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	if err := process.Until(ready, 5*time.Millisecond, func() (bool, error) {
		if exited, err := shop.Exited(); exited {
			return false, fmt.Errorf("the shop ended: %w: %s", err, output.String())
		}
		request, err := http.NewRequestWithContext(ready, http.MethodGet, "http://"+addresses[1]+"/readyz", nil)
		if err != nil {
			return false, err
		}
		answer, err := http.DefaultClient.Do(request)
		if err != nil {
			return false, nil //nolint:nilerr // It does not listen yet.
		}
		answer.Body.Close()
		return answer.StatusCode == http.StatusOK, nil
	}); err != nil {
		_ = shop.Stop()
		return nil, err
	}
	w.load.address = addresses[0]
	return func() { _ = shop.Stop() }, nil
}

// catalogue answers as the demo's api does, for any number of shops, from memory: it is not what is measured.
func (w *world) catalogue() http.Handler {
	mux := http.NewServeMux()
	answer := func(rw http.ResponseWriter, value any) {
		rw.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(rw).Encode(value)
	}
	mux.HandleFunc("GET /v1/hosts/{host}", func(rw http.ResponseWriter, r *http.Request) {
		id, _, _ := strings.Cut(r.PathValue("host"), ".")
		answer(rw, shopapi.Shop{ID: id, Host: r.PathValue("host"), Name: "The shop " + id, Currency: "EUR"})
	})
	mux.HandleFunc("GET /v1/shops/{shop}/products", func(rw http.ResponseWriter, r *http.Request) {
		page := shopapi.ProductPage{}
		for n := range w.products {
			page.Products = append(page.Products, product(r.PathValue("shop"), int64(n+1)))
		}
		answer(rw, page)
	})
	mux.HandleFunc("GET /v1/shops/{shop}/products/{product}", func(rw http.ResponseWriter, r *http.Request) {
		id, err := strconv.ParseInt(r.PathValue("product"), 10, 64)
		if err != nil {
			http.Error(rw, "no product", http.StatusNotFound)
			return
		}
		answer(rw, product(r.PathValue("shop"), id))
	})
	return mux
}

func product(shop string, id int64) shopapi.Product {
	return shopapi.Product{ID: id, Shop: shop, Name: fmt.Sprintf("Lamp No. %d of %s", id, shop), Currency: "EUR", Category: "Home", PriceCents: 199 + 37*id, Stock: 1000,
		Description: "Made of oak and wool, by hand. It comes with a spare part and a letter from the maker."}
}

func folderBytes(folder string) (total int64, err error) {
	err = filepath.WalkDir(folder, func(_ string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		info, err := entry.Info()
		if err == nil {
			total += info.Size()
		}
		return err
	})
	return total, err
}
