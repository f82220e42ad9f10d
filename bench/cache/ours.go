package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/shopset/shopset/bench/internal/process"
	"github.com/shopset/shopset/bench/internal/report"
	"github.com/shopset/shopset/internal/warmcache"
	"github.com/shopset/shopset/internal/warmcache/rank"
)

// environment has the credentials that the server does not look at.
func environment() []string {
	return append(os.Environ(), "AWS_ACCESS_KEY_ID=key", "AWS_SECRET_ACCESS_KEY=secret", "AWS_EC2_METADATA_DISABLED=true", "AWS_DEFAULT_REGION=us-east-1", "HOSTNAME=bench")
}

// measured runs a program and says how long it took and the most memory that it had, in MiB.
func measured(ctx context.Context, name string, args ...string) (took time.Duration, rss float64, err error) {
	var output bytes.Buffer
	command := exec.CommandContext(ctx, name, args...) //nolint:gosec // Its arguments are ours.
	command.Env, command.Stdout, command.Stderr = environment(), &output, &output
	if name == "rclone" { // It knows what it needs, and fails on some of what the others take.
		command.Env = slices.DeleteFunc(command.Env, func(line string) bool { return strings.HasPrefix(line, "AWS_") })
	}
	began := time.Now()
	if err := command.Start(); err != nil {
		return 0, 0, err
	}
	watched, ended := make(chan float64), make(chan struct{})
	go func() { watched <- watch(command.Process.Pid, ended) }()
	err = command.Wait()
	took = time.Since(began)
	close(ended)
	rss = <-watched
	if err != nil {
		return took, 0, fmt.Errorf("%w: %.2000s", err, output.String())
	}
	if strings.HasSuffix(name, "shopset-cache") {
		report.Say("%s: %.1f s, %.1f s of CPU, %.0f MiB", args[0], took.Seconds(), command.ProcessState.UserTime().Seconds()+command.ProcessState.SystemTime().Seconds(), rss)
	}
	return took, rss, nil
}

// watch returns the most memory that a process had, in MiB. What wait4 says is of no use: the kernel counts what the benchmark itself
// had when it forked.
func watch(pid int, ended <-chan struct{}) (peak float64) {
	for {
		select {
		case <-ended:
			return peak
		case <-time.After(5 * time.Millisecond):
			if usage, err := process.Of(pid); err == nil {
				peak = max(peak, float64(usage.Peak)/(1<<20))
			}
		}
	}
}

func (w *world) ours(command string, more ...string) []string {
	return append([]string{command, "--storage", "s3://" + bucket + "/ours?region=us-east-1&path-style=true&endpoint=" + w.server.URL, "--compat", "1",
		"--folder", w.tree}, more...)
}

// save saves all shops without bounds, then again, unchanged, and then once more with the bounds that a sidecar has.
func (w *world) save(ctx context.Context) error {
	unbound := []string{"--cpus", "0", "--bytes-per-second", "0", "--read-bytes-per-second", "0"}
	took, rss, err := measured(ctx, w.program, w.ours("save", unbound...)...)
	if err != nil {
		return err
	}
	sent := w.received()
	report.Result("cache.save_files_per_s", float64(w.files)/took.Seconds(), "1/s")
	report.Result("cache.save_rss_mib", rss, "MiB")
	took, _, err = measured(ctx, w.program, w.ours("save", unbound...)...)
	if err != nil {
		return err
	}
	report.Result("cache.unchanged_files_per_s", float64(w.files)/took.Seconds(), "1/s")
	report.Result("cache.incremental_ratio", float64(w.received()-sent)/float64(sent), "")
	began := cpu()
	took, _, err = measured(ctx, w.program, w.ours("save", "--cpus", "0.25")...)
	if err != nil {
		return err
	}
	report.Result("cache.save_cpus", (cpu()-began).Seconds()/took.Seconds(), "cores; 0.25 are allowed, after a tenth of a second at the start")
	ranking := &rank.Ranking{Total: 1}
	for i := range w.shops {
		ranking.Shops = append(ranking.Shops, rank.Shop{Name: shopName(i), Share: 1 / float64(w.shops)})
	}
	var text bytes.Buffer
	if err := ranking.Write(&text); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(w.folder, "ranking.json"), text.Bytes(), 0o600)
}

// own is what the benchmark itself has used.
func own() time.Duration { return used(syscall.RUSAGE_SELF) }

// cpu is what all programs have used that were started and have ended.
func cpu() time.Duration { return used(syscall.RUSAGE_CHILDREN) }

func used(whose int) time.Duration {
	var usage syscall.Rusage
	if syscall.Getrusage(whose, &usage) != nil {
		return 0
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

// restore restores all shops, by a process of its own: files per second, its start included, and its memory in MiB.
func (w *world) restore(ctx context.Context) (rate, rss float64, used time.Duration, err error) {
	target, result := filepath.Join(w.folder, "restored"), filepath.Join(w.folder, "report.json")
	args := w.ours("restore", "--ranking", filepath.Join(w.folder, "ranking.json"), "--budget-time", "0", "--strict", "--workers", fmt.Sprint(threads), "--report", result)
	args = append(args, "--folder", target) // The last one holds.
	began := cpu()
	took, rss, err := measured(ctx, w.program, args...)
	used = cpu() - began
	if err != nil {
		return 0, 0, used, err
	}
	content, err := os.ReadFile(result)
	var said warmcache.Report
	if err == nil {
		err = json.Unmarshal(content, &said)
	}
	if err == nil && int(said.Files) != w.files {
		err = fmt.Errorf("%d files of %d were restored", said.Files, w.files)
	}
	return float64(w.files) / took.Seconds(), rss, used, errors.Join(err, os.RemoveAll(target))
}
