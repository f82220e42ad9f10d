package shop_test

import (
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"os"
	"testing"
)

// visit makes one request, which has to succeed.
func visit(b *testing.B, p *program, host, path string) {
	if code, body := p.get(host, path); code != http.StatusOK {
		b.Fatal(code, body)
	}
}

// quiet keeps the log of compilations out of the results.
func quiet(b *testing.B) {
	before := slog.SetLogLoggerLevel(slog.LevelError)
	b.Cleanup(func() { slog.SetLogLoggerLevel(before) })
}

// BenchmarkHome compares the first request of a shop on a new Pod with the later ones.
func BenchmarkHome(b *testing.B) {
	quiet(b)
	api := newAPI(b)
	b.Run("cold", func(b *testing.B) {
		dir := b.TempDir()
		p := start(b, api, dir)
		for n := 0; b.Loop(); n++ {
			visit(b, p, fmt.Sprintf("shop-%d.shops.example", n), "/")
		}
	})
	b.Run("warm", func(b *testing.B) {
		p := start(b, api, b.TempDir())
		visit(b, p, host, "/")
		for b.Loop() {
			visit(b, p, host, "/")
		}
	})
}

// BenchmarkInstance is the first thousand requests of a new Pod over 50 shops, some far more visited
// than others, half of them for the home page and half for a product.
func BenchmarkInstance(b *testing.B) {
	quiet(b)
	const requests, shops = 1000, 50
	api := newAPI(b)
	serve := func(b *testing.B, dir string) {
		p := start(b, api, dir)
		random := rand.New(rand.NewPCG(1, 2))
		popular := rand.NewZipf(random, 1.2, 3, shops-1)
		for range requests {
			path := "/"
			if random.IntN(2) == 0 {
				path = fmt.Sprintf("/products/%d", 1001+random.IntN(20))
			}
			visit(b, p, fmt.Sprintf("shop-%02d.shops.example", popular.Uint64()+1), path)
		}
	}
	report := func(b *testing.B) {
		b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N*requests), "µs/request")
	}
	b.Run("cold", func(b *testing.B) {
		for b.Loop() {
			dir, err := os.MkdirTemp(b.TempDir(), "cold")
			if err != nil {
				b.Fatal(err)
			}
			serve(b, dir)
		}
		report(b)
	})
	b.Run("warm", func(b *testing.B) {
		dir := b.TempDir()
		serve(b, dir)
		for b.Loop() {
			serve(b, dir)
		}
		report(b)
	})
}
