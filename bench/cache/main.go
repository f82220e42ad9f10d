// Command cache measures saving and restoring many small files by shopset-cache beside tar with zstd and rclone, over the same S3
// server, and beside the bare creation of the same files. See the README of bench/.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/http/httptest"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/rclone/gofakes3"
	"github.com/rclone/gofakes3/s3mem"

	"github.com/shopset/shopset/bench/internal/report"
	"github.com/shopset/shopset/internal/warmcache"
	"github.com/shopset/shopset/internal/warmcache/storage/s3store"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench cache:", err)
		os.Exit(1)
	}
}

// world is a tree of shops, and an S3 server in memory.
type world struct {
	folder, tree string
	shops, files int
	bytes        int64
	server       *httptest.Server
	store        *s3store.Store
}

const bucket = "caches"

func run(ctx context.Context) error {
	shops := flag.Int("shops", 500, "how many shops")
	each := flag.Int("files", 200, "files of each shop")
	folder := flag.String("folder", "/dev/shm", "where the trees are; memory, so that the disk is not what is measured")
	withRclone := flag.Bool("rclone", true, "rclone, file by file, with a tenth of the shops")
	flag.Parse()
	w := &world{shops: *shops, files: *shops * *each}
	var err error
	if w.folder, err = os.MkdirTemp(*folder, "bench-cache-"); err != nil {
		return err
	}
	defer os.RemoveAll(w.folder)
	if err := w.prepare(ctx, *each); err != nil {
		return err
	}
	defer w.server.Close()
	report.Say("%d shops, %d files, %d MiB", w.shops, w.files, w.bytes>>20)
	limit, err := w.bare()
	if err != nil {
		return err
	}
	report.Result("cache.limit_files_per_s", limit, "1/s")
	ours, err := w.ours(ctx)
	if err != nil {
		return fmt.Errorf("ours: %w", err)
	}
	report.Result("cache.ratio_limit", ours/limit, "")
	tar, err := w.tar(ctx)
	if err != nil {
		return fmt.Errorf("tar: %w", err)
	}
	report.Result("cache.ratio_tar", ours/tar, "")
	if *withRclone {
		rclone, err := w.rclone(ctx, max(1, w.shops/10))
		if err != nil {
			return fmt.Errorf("rclone: %w", err)
		}
		report.Result("cache.ratio_rclone", ours/rclone, "")
	}
	return nil
}

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
	w.server = httptest.NewServer(gofakes3.New(backend).Server())
	for name, value := range map[string]string{"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_EC2_METADATA_DISABLED": "true"} {
		if err := os.Setenv(name, value); err != nil {
			return err
		}
	}
	var err error
	w.store, err = s3store.Open(ctx, s3store.Config{Bucket: bucket, Endpoint: w.server.URL, Region: "us-east-1", PathStyle: true})
	return err
}

// bare creates the same files, with as many threads as ours has, from contents in memory.
func (w *world) bare() (float64, error) {
	target := filepath.Join(w.folder, "bare")
	contents := make([][]struct {
		path    string
		content []byte
	}, w.shops)
	for i := range w.shops {
		shop := filepath.Join(w.tree, shopName(i))
		if err := filepath.WalkDir(shop, func(path string, entry os.DirEntry, err error) error {
			if err != nil || entry.IsDir() {
				return err
			}
			content, err := os.ReadFile(path)
			name, _ := filepath.Rel(w.tree, path)
			contents[i] = append(contents[i], struct {
				path    string
				content []byte
			}{filepath.Join(target, name), content})
			return err
		}); err != nil {
			return 0, err
		}
	}
	began := time.Now()
	var next atomic.Int64
	var group sync.WaitGroup
	failures := make([]error, 8)
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
	took := time.Since(began)
	return float64(w.files) / took.Seconds(), errors.Join(errors.Join(failures...), os.RemoveAll(target))
}

func (w *world) ours(ctx context.Context) (restored float64, err error) {
	save := func() (sent int64, took time.Duration, err error) {
		began := time.Now()
		for i := range w.shops {
			result, err := warmcache.Save(ctx, warmcache.SaveConfig{Storage: w.store, Folder: w.tree, Shop: shopName(i), Compatibility: "1"})
			if err != nil {
				return 0, 0, err
			}
			sent += result.SentBytes
		}
		return sent, time.Since(began), nil
	}
	sent, took, err := save()
	if err != nil {
		return 0, err
	}
	report.Result("cache.ours_save_files_per_s", float64(w.files)/took.Seconds(), "1/s")
	again, took, err := save()
	if err != nil {
		return 0, err
	}
	report.Result("cache.ours_unchanged_files_per_s", float64(w.files)/took.Seconds(), "1/s")
	report.Result("cache.incremental_ratio", float64(again)/float64(sent), "")
	target := filepath.Join(w.folder, "ours")
	var shops []warmcache.Shop
	for i := range w.shops {
		shops = append(shops, warmcache.Shop{Name: shopName(i)})
	}
	best := 0.0
	for range 2 {
		if err := os.Mkdir(target, 0o755); err != nil { //nolint:gosec // As caches have it.
			return 0, err
		}
		runtime.GC()
		began := time.Now()
		result, err := warmcache.Restore(ctx, warmcache.RestoreConfig{Storage: w.store, Folder: target, Compatibility: "1", Shops: shops})
		took := time.Since(began)
		if err == nil && (result.Failed > 0 || int(result.Files) != w.files) {
			err = fmt.Errorf("%s: %w", result, errors.Join(result.Errors...))
		}
		if err := errors.Join(err, os.RemoveAll(target)); err != nil {
			return 0, err
		}
		best = max(best, float64(w.files)/took.Seconds())
	}
	report.Result("cache.ours_restore_files_per_s", best, "1/s")
	return best, nil
}

// tar streams one archive of everything, compressed by zstd, from a file in memory.
func (w *world) tar(ctx context.Context) (float64, error) {
	archive, target := filepath.Join(w.folder, "all.tar.zst"), filepath.Join(w.folder, "tar")
	began := time.Now()
	if output, err := exec.CommandContext(ctx, "tar", "-C", w.tree, "-I", "zstd -1", "-cf", archive, ".").CombinedOutput(); err != nil { //nolint:gosec // Its arguments are ours.
		return 0, fmt.Errorf("%w: %s", err, output)
	}
	report.Result("cache.tar_save_files_per_s", float64(w.files)/time.Since(began).Seconds(), "1/s")
	if err := os.Mkdir(target, 0o755); err != nil { //nolint:gosec // As caches have it.
		return 0, err
	}
	began = time.Now()
	if output, err := exec.CommandContext(ctx, "tar", "-C", target, "-I", "zstd", "-xf", archive).CombinedOutput(); err != nil { //nolint:gosec // Its arguments are ours.
		return 0, fmt.Errorf("%w: %s", err, output)
	}
	rate := float64(w.files) / time.Since(began).Seconds()
	report.Result("cache.tar_restore_files_per_s", rate, "1/s")
	return rate, errors.Join(os.RemoveAll(target), os.Remove(archive))
}

// rclone copies file by file, as file tools do.
func (w *world) rclone(ctx context.Context, shops int) (float64, error) {
	remote := fmt.Sprintf(":s3,provider=Other,access_key_id=key,secret_access_key=secret,region=us-east-1,endpoint=%q,force_path_style=true:%s/rclone", w.server.URL, bucket)
	part, target := filepath.Join(w.folder, "part"), filepath.Join(w.folder, "rclone")
	files := shops * (w.files / w.shops)
	if err := os.Mkdir(part, 0o755); err != nil { //nolint:gosec // As caches have it.
		return 0, err
	}
	for i := range shops {
		if err := os.Rename(filepath.Join(w.tree, shopName(i)), filepath.Join(part, shopName(i))); err != nil {
			return 0, err
		}
	}
	copyAll := func(from, to string) (float64, error) {
		began := time.Now()
		command := exec.CommandContext(ctx, "rclone", "copy", "--config", "/dev/null", "--transfers", "32", "--checkers", "32", "--no-traverse", from, to) //nolint:gosec // Its arguments are ours.
		command.Env = slices.DeleteFunc(os.Environ(), func(line string) bool { return strings.HasPrefix(line, "AWS_") })                                   // It knows what it needs.
		output, err := command.CombinedOutput()
		if err != nil {
			return 0, fmt.Errorf("%w: %.500s", err, output)
		}
		return float64(files) / time.Since(began).Seconds(), nil
	}
	saved, err := copyAll(part, remote)
	if err != nil {
		return 0, err
	}
	report.Result("cache.rclone_save_files_per_s", saved, "1/s")
	restored, err := copyAll(remote, target)
	if err != nil {
		return 0, err
	}
	report.Result("cache.rclone_restore_files_per_s", restored, "1/s")
	return restored, nil
}
