package s3_test

import (
	"fmt"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/rclone/gofakes3"
	"github.com/rclone/gofakes3/s3mem"

	"github.com/shopset/shopset/internal/warmcache"
	"github.com/shopset/shopset/internal/warmcache/storage"
	"github.com/shopset/shopset/internal/warmcache/storage/s3store"
	"github.com/shopset/shopset/internal/warmcache/storage/storagetest"
)

// bucket is an empty one on a server of its own.
func bucket(t *testing.T, prefix string) storage.Storage {
	t.Helper()
	t.Setenv("AWS_ACCESS_KEY_ID", "key")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "secret")
	t.Setenv("AWS_EC2_METADATA_DISABLED", "true")
	backend := s3mem.New()
	server := httptest.NewServer(gofakes3.New(backend, gofakes3.WithAutoBucket(true)).Server())
	t.Cleanup(server.Close)
	if err := backend.CreateBucket(t.Context(), "caches"); err != nil {
		t.Fatal(err)
	}
	s, err := s3store.Open(t.Context(), s3store.Config{Bucket: "caches", Prefix: prefix, Endpoint: server.URL, Region: "us-east-1", PathStyle: true})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestStorage(t *testing.T) {
	for _, prefix := range []string{"", "team/warm"} {
		storagetest.Run(t, func(t *testing.T) storage.Storage { return bucket(t, prefix) })
	}
}

// TestThereAndBack saves and restores shops by way of a bucket.
func TestThereAndBack(t *testing.T) {
	s, here, there := bucket(t, "x"), t.TempDir(), t.TempDir()
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
	if removed, _, err := warmcache.GC(t.Context(), s, "1.2", 0, time.Now().Add(time.Hour), false); err != nil || removed != 0 {
		t.Errorf("%d removed, %v", removed, err)
	}
}
