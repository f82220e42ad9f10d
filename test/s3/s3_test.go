package s3_test

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/rclone/gofakes3/s3mem"

	"github.com/shopset/shopset/internal/warmcache"
	"github.com/shopset/shopset/internal/warmcache/rank"
	"github.com/shopset/shopset/internal/warmcache/storage"
	"github.com/shopset/shopset/internal/warmcache/storage/decorate"
	"github.com/shopset/shopset/internal/warmcache/storage/s3store"
	"github.com/shopset/shopset/internal/warmcache/storage/storagetest"
	"github.com/shopset/shopset/test/s3/memory"
)

// server is an S3 server with an empty bucket, "caches".
func server(t *testing.T) string {
	t.Helper()
	t.Setenv("AWS_ACCESS_KEY_ID", "key")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "secret")
	t.Setenv("AWS_EC2_METADATA_DISABLED", "true")
	backend := s3mem.New()
	s := httptest.NewServer(memory.Handler(backend))
	t.Cleanup(s.Close)
	if err := backend.CreateBucket(t.Context(), "caches"); err != nil {
		t.Fatal(err)
	}
	return s.URL
}

func open(t *testing.T, endpoint, prefix string) *s3store.Store {
	t.Helper()
	s, err := s3store.Open(t.Context(), s3store.Config{Bucket: "caches", Prefix: prefix, Endpoint: endpoint, Region: "us-east-1", PathStyle: true})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestStorage(t *testing.T) {
	for _, prefix := range []string{"", "team/warm"} {
		storagetest.Run(t, func(t *testing.T) storage.Storage { return open(t, server(t), prefix) })
		storagetest.Run(t, func(t *testing.T) storage.Storage { return decorate.Retry{Storage: open(t, server(t), prefix)} })
	}
}

// TestRefused: what will not be otherwise later is not tried again, and says what it is about.
func TestRefused(t *testing.T) {
	endpoint := server(t)
	s, err := s3store.Open(t.Context(), s3store.Config{Bucket: "nobodys", Endpoint: endpoint, Region: "us-east-1", PathStyle: true})
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := (decorate.Retry{Storage: s, Pause: time.Hour}).Get(t.Context(), "x", 0, -1); !errors.Is(err, storage.ErrRefused) || !strings.Contains(err.Error(), "nobodys") {
		t.Error(err)
	}
	for name, c := range map[string]s3store.Config{
		"https":         {Bucket: "b", Endpoint: "http://s3.example"},
		"https://HOST":  {Bucket: "b", Endpoint: "s3.example"},
		"a bucket":      {},
		"AES256":        {Bucket: "b", Encryption: "rot13"},
		"is for the":    {Bucket: "b", Key: "k"},
		"want https://": {Bucket: "b", Endpoint: "https://user:password@s3.example"},
	} {
		if _, err := s3store.Open(t.Context(), c); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%+v: %v", c, err)
		}
	}
	for _, endpoint := range []string{"http://127.0.0.2:9000", "http://[::1]:9000", "http://localhost:9000", "https://s3.example"} {
		if _, err := s3store.Open(t.Context(), s3store.Config{Bucket: "b", Endpoint: endpoint, Region: "x"}); err != nil {
			t.Error(err)
		}
	}
	if _, err := s3store.Open(t.Context(), s3store.Config{Bucket: "b", Endpoint: "http://s3.example", Region: "x", Insecure: true}); err != nil {
		t.Error(err)
	}
}

// TestEncryption: what is put says how it is to be encrypted at rest.
func TestEncryption(t *testing.T) {
	var kinds []string
	t.Setenv("AWS_ACCESS_KEY_ID", "key")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "secret")
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPut {
			kinds = append(kinds, r.Header.Get("X-Amz-Server-Side-Encryption")+" "+r.Header.Get("X-Amz-Server-Side-Encryption-Aws-Kms-Key-Id"))
		}
		w.WriteHeader(http.StatusOK)
	}))
	defer proxy.Close()
	for _, c := range []s3store.Config{{}, {Encryption: "AES256"}, {Encryption: "aws:kms", Key: "ours"}} {
		c.Bucket, c.Endpoint, c.Region, c.PathStyle = "caches", proxy.URL, "us-east-1", true
		s, err := s3store.Open(t.Context(), c)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Put(t.Context(), "x", []byte("x"), storage.Condition{}); err != nil {
			t.Fatal(err)
		}
	}
	if got := strings.Join(kinds, "|"); got != " |AES256 |aws:kms ours" {
		t.Errorf("got %s", got)
	}
}

// TestLogs: access logs in a bucket, with keys that others chose, compressed or not; one connection breaks in the middle of each.
func TestLogs(t *testing.T) {
	endpoint := server(t)
	target, err := url.Parse(endpoint)
	if err != nil {
		t.Fatal(err)
	}
	broken := map[string]bool{}
	flaky := httputil.NewSingleHostReverseProxy(target)
	flaky.ErrorLog = log.New(io.Discard, "", 0)
	flaky.ModifyResponse = func(r *http.Response) error {
		if path := r.Request.URL.Path; r.Request.Method == http.MethodGet && strings.Contains(path, "logs/") && !broken[path] {
			broken[path] = true
			r.Body = io.NopCloser(io.LimitReader(r.Body, 5000))
		}
		return nil
	}
	proxy := httptest.NewServer(flaky)
	defer proxy.Close()
	random := rand.New(rand.NewPCG(1, 1))
	want := 0
	put := func(key string, pack func([]byte) []byte) {
		var text bytes.Buffer
		for range 2000 {
			want++
			fmt.Fprintf(&text, `{"shop":"s-%d.example","time":"2026-11-23T11:00:00Z","noise":"%d"}`+"\n", random.IntN(3), random.Uint64())
		}
		request, err := http.NewRequestWithContext(t.Context(), http.MethodPut, endpoint+"/caches/"+key, bytes.NewReader(pack(text.Bytes())))
		if err != nil {
			t.Fatal(err)
		}
		response, err := http.DefaultClient.Do(request)
		if err != nil || response.StatusCode != http.StatusOK {
			t.Fatal(err, response)
		}
		response.Body.Close()
	}
	encoder, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	put("logs/dt=2026-11-23/a%20b.json", func(b []byte) []byte { return b })
	put("logs/dt=2026-11-23/b.gz", func(b []byte) []byte {
		var packed bytes.Buffer
		w := gzip.NewWriter(&packed)
		_, _ = w.Write(b)
		_ = w.Close()
		return packed.Bytes()
	})
	put("logs/c.zst", func(b []byte) []byte { return encoder.EncodeAll(b, nil) })
	put("other/d.json", func(b []byte) []byte { return b })
	want -= 2000
	c := rank.NewCounter(time.Now(), 0, 100)
	s := open(t, proxy.URL, "logs/")
	result, err := rank.Logs{Name: "logs", Walk: s.Logs}.Count(t.Context(), c)
	if err != nil || result.Lines != want || result.Skipped != 0 || len(c.Rank(rank.Worth{}).Shops) != 3 || len(broken) != 3 {
		t.Errorf("%+v of %d, %v, %d broken", result, want, err, len(broken))
	}
}

// TestThereAndBack saves and restores shops by way of a bucket.
func TestThereAndBack(t *testing.T) {
	s, here, there := open(t, server(t), "x"), t.TempDir(), t.TempDir()
	old := time.Now().Add(-time.Minute)
	var shops []warmcache.Shop
	for i := range 5 {
		shop := fmt.Sprintf("shop-%d", i)
		shops = append(shops, warmcache.Shop{Name: shop, Share: 0.1})
		for j := range 200 {
			path := filepath.Join(here, shop, fmt.Sprint(j%5), fmt.Sprint(j))
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, fmt.Appendf(nil, "file %d of %s", j, shop), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.Chtimes(path, old, old); err != nil {
				t.Fatal(err)
			}
		}
		for range 2 {
			if _, err := warmcache.Save(t.Context(), warmcache.SaveConfig{Storage: s, Folder: here, Shop: shop, Compatibility: "1.2"}); err != nil {
				t.Fatal(err)
			}
		}
	}
	report, err := warmcache.Restore(t.Context(), warmcache.RestoreConfig{Storage: s, Folder: there, Compatibility: "1.2", Shops: shops})
	if err != nil || report.Shops != 5 || report.Files != 1000 || len(report.Errors) > 0 {
		t.Fatalf("%+v %v", report, err)
	}
	if content, err := os.ReadFile(filepath.Join(there, "shop-3/2/7")); err != nil || string(content) != "file 7 of shop-3" {
		t.Errorf("%q %v", content, err)
	}
	if removed, err := warmcache.GC(t.Context(), s, "1.2", 0, time.Now().Add(time.Hour), false); err != nil || removed.Objects != 0 {
		t.Errorf("%+v removed, %v", removed, err)
	}
}
