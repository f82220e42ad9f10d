// Command cache measures saving and restoring many small files by shopset-cache beside tar with zstd and tools that copy file by file,
// all over the same S3 server, and beside the bare creation of the same files. See the README of bench/.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/shopset/shopset/bench/internal/report"
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

func run(ctx context.Context) error {
	w := &world{}
	full := flag.Bool("full", false, "a million files instead of 100,000")
	flag.IntVar(&w.shops, "shops", 500, "how many shops")
	each := flag.Int("files", 200, "files of each shop")
	folder := flag.String("folder", "/dev/shm", "where the trees are; memory, so that the disk is not what is measured")
	flag.IntVar(&w.rounds, "rounds", 3, "how often the bare limit, ours and tar take turns")
	peers := flag.Bool("peers", true, "rclone, aws s3 sync and s5cmd, file by file, with a part of the shops")
	flag.Parse()
	if *full {
		*each = 2000
	}
	w.files = w.shops * *each
	var err error
	if w.folder, err = os.MkdirTemp(*folder, "bench-cache-"); err != nil {
		return err
	}
	defer os.RemoveAll(w.folder)
	w.program = filepath.Join(w.folder, "shopset-cache")
	build := exec.CommandContext(ctx, "go", "build", "-o", w.program, "./cmd/shopset-cache")
	build.Dir, build.Env = "..", append(os.Environ(), "GOWORK=off")
	if output, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("go build: %w\n%s", err, output)
	}
	if err := w.prepare(ctx, *each); err != nil {
		return err
	}
	defer w.server.Close()
	report.Say("%d shops, %d files, %d MiB", w.shops, w.files, w.bytes>>20)
	ours, err := w.compare(ctx)
	if err != nil || !*peers {
		return err
	}
	for _, p := range fileByFile(w) {
		if _, err := exec.LookPath(p.program); err != nil {
			report.Say("%s is not here", p.name)
			continue
		}
		restored, err := w.peer(ctx, p)
		if err != nil {
			return fmt.Errorf("%s: %w", p.name, err)
		}
		report.Result("cache.ratio_"+p.name, ours/restored, "")
	}
	return nil
}

// compare runs what goes through all files, in turns, and returns how fast ours restores.
func (w *world) compare(ctx context.Context) (ours float64, err error) {
	if err := w.save(ctx); err != nil {
		return 0, fmt.Errorf("save: %w", err)
	}
	if err := w.tarSave(ctx); err != nil {
		return 0, fmt.Errorf("tar: %w", err)
	}
	var bare, restored, tar, rss, ofLimit, ofTar, ofCPU []float64
	for round := range w.rounds {
		limit, limitCPU, err := w.bare()
		if err != nil {
			return 0, fmt.Errorf("bare: %w", err)
		}
		rate, memory, oursCPU, err := w.restore(ctx)
		if err != nil {
			return 0, fmt.Errorf("restore: %w", err)
		}
		other, err := w.tarRestore(ctx)
		if err != nil {
			return 0, fmt.Errorf("tar: %w", err)
		}
		report.Say("round %d: bare %.0f, ours %.0f, tar %.0f files/s", round+1, limit, rate, other)
		bare, restored, tar, rss = append(bare, limit), append(restored, rate), append(tar, other), append(rss, memory)
		ofLimit, ofTar = append(ofLimit, rate/limit), append(ofTar, rate/other)
		ofCPU = append(ofCPU, limitCPU.Seconds()/oursCPU.Seconds())
	}
	ours = report.Median(restored)
	report.Result("cache.limit_files_per_s", report.Median(bare), "1/s")
	report.Result("cache.restore_files_per_s", ours, "1/s")
	report.Result("cache.tar_restore_files_per_s", report.Median(tar), "1/s")
	report.Result("cache.ratio_limit", report.Median(ofLimit), "")
	report.Result("cache.cpu_ratio_limit", report.Median(ofCPU), "")
	report.Result("cache.ratio_tar", report.Median(ofTar), "")
	report.Result("cache.rss_mib", report.Median(rss), "MiB")
	return ours, nil
}
