package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/shopset/shopset/bench/internal/report"
)

// tarSave streams one archive of everything, compressed by zstd, and puts it on the server.
func (w *world) tarSave(ctx context.Context) error {
	archive := filepath.Join(w.folder, "all.tar.zst")
	began := time.Now()
	if _, _, err := measured(ctx, "tar", "-C", w.tree, "-I", "zstd -1 -T1", "-cf", archive, "."); err != nil {
		return err
	}
	file, err := os.Open(archive)
	if err != nil {
		return err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPut, w.server.URL+"/"+bucket+"/tar/all.tar.zst", file)
	if err != nil {
		return err
	}
	request.ContentLength = info.Size()
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("the server says %s", response.Status)
	}
	report.Result("cache.tar_save_files_per_s", float64(w.files)/time.Since(began).Seconds(), "1/s")
	return os.Remove(archive)
}

// tarRestore streams it from the server into files.
func (w *world) tarRestore(ctx context.Context) (float64, error) {
	target := filepath.Join(w.folder, "tar")
	if err := os.Mkdir(target, 0o755); err != nil { //nolint:gosec // As caches have it.
		return 0, err
	}
	began := time.Now()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, w.server.URL+"/"+bucket+"/tar/all.tar.zst", nil)
	if err != nil {
		return 0, err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return 0, err
	}
	defer response.Body.Close()
	command := exec.CommandContext(ctx, "tar", "-C", target, "-I", "zstd", "-xf", "-") //nolint:gosec // Its arguments are ours.
	command.Stdin = response.Body
	if output, err := command.CombinedOutput(); err != nil {
		return 0, fmt.Errorf("%w: %.500s", err, output)
	}
	return float64(w.files) / time.Since(began).Seconds(), os.RemoveAll(target)
}

// tool copies file by file. part says with how many shops of a hundred, because it would take too long with all.
type tool struct {
	name, program string
	part          int
	copy          func(from, to string) []string
	remote        string
}

func fileByFile(w *world) []tool {
	endpoint := w.server.URL
	return []tool{
		{"rclone", "rclone", 10, func(from, to string) []string {
			return []string{"copy", "--config", "/dev/null", "--transfers", "32", "--checkers", "32", "--no-traverse", from, to}
		}, fmt.Sprintf(":s3,provider=Other,access_key_id=key,secret_access_key=secret,region=us-east-1,endpoint=%q,force_path_style=true:%s/rclone", endpoint, bucket)},
		{"aws_s3_sync", "/usr/bin/aws", 4, func(from, to string) []string {
			return []string{"--endpoint-url", endpoint, "--no-progress", "s3", "sync", "--quiet", from, to}
		}, "s3://" + bucket + "/aws"},
		{"s5cmd", "s5cmd", 10, func(from, to string) []string {
			return []string{"--endpoint-url", endpoint, "--log", "error", "sync", from, to}
		}, "s3://" + bucket + "/s5cmd/*"},
	}
}

// peer saves and restores a part of the shops; it returns how many files per second were restored.
func (w *world) peer(ctx context.Context, t tool) (float64, error) {
	shops := max(1, w.shops*t.part/100)
	part, target := filepath.Join(w.folder, "part-"+t.name), filepath.Join(w.folder, "from-"+t.name)
	if err := errors.Join(os.Mkdir(part, 0o755), os.Mkdir(target, 0o755)); err != nil { //nolint:gosec // As caches have it.
		return 0, err
	}
	for i := range shops {
		if err := os.Rename(filepath.Join(w.tree, shopName(i)), filepath.Join(part, shopName(i))); err != nil {
			return 0, err
		}
	}
	defer func() {
		for i := range shops { // For the next.
			_ = os.Rename(filepath.Join(part, shopName(i)), filepath.Join(w.tree, shopName(i)))
		}
	}()
	files := float64(shops * (w.files / w.shops))
	for _, step := range []struct{ name, from, to string }{{"save", part + "/", t.remote}, {"restore", t.remote, target + "/"}} {
		if t.name == "s5cmd" && step.name == "save" {
			step.to = step.to[:len(step.to)-1]
		}
		took, _, err := measured(ctx, t.program, t.copy(step.from, step.to)...)
		if err != nil {
			return 0, err
		}
		report.Result(fmt.Sprintf("cache.%s_%s_files_per_s", t.name, step.name), files/took.Seconds(), "1/s")
		if step.name == "restore" {
			return files / took.Seconds(), os.RemoveAll(target)
		}
	}
	return 0, nil
}
