// Command warmstart measures what a warm cache is worth: the demo's shop with an empty cache, with one that shopset-cache restored,
// and when it has served for a long time, under the same load. See the README of bench/.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/shopset/shopset/bench/internal/report"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench warmstart:", err)
		os.Exit(1)
	}
}

// settings of a run.
type settings struct {
	shops, products, clients int
	watch, steady            time.Duration
}

func run(ctx context.Context) (err error) {
	var s settings
	flag.IntVar(&s.shops, "shops", 1500, "how many shops")
	flag.IntVar(&s.products, "products", 12, "products of each")
	flag.IntVar(&s.clients, "clients", 8, "requests at once")
	flag.DurationVar(&s.watch, "watch", 60*time.Second, "how long a started instance is watched")
	flag.DurationVar(&s.steady, "steady", 15*time.Second, "how long the steady state is measured")
	root := flag.String("folder", "/dev/shm", "where the caches are; memory, so that the disk is not what is measured")
	flag.Parse()

	w := &world{settings: s}
	if w.folder, err = os.MkdirTemp(*root, "bench-warmstart-"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(w.folder)) }()
	if err := w.open(ctx); err != nil {
		return err
	}
	defer w.close()
	return w.measure(ctx)
}

// measure takes all figures.
func (w *world) measure(ctx context.Context) error {
	filled, err := w.fill(ctx)
	if err != nil {
		return err
	}
	filled.tell("steady", 0)
	coverage, err := w.keep(ctx)
	if err != nil {
		return err
	}
	report.Say("%s", coverage)

	cold, err := w.start(ctx, "cold", w.watch, nil)
	if err != nil {
		return err
	}
	full, err := w.restored(ctx, "warm")
	if err != nil {
		return err
	}
	// As if a budget allowed for half of the bytes.
	half, err := w.restored(ctx, "warm_half", "--budget-bytes", fmt.Sprint(w.saved/2))
	if err != nil {
		return err
	}
	// At two times, because nobody has the machine for himself.
	steady := (filled.rate() + full.tail()) / 2
	report.Result("warmstart.steady_rps", steady, "1/s")
	lost := cold.lost(steady)
	cold.report("cold", lost)
	for _, warm := range []*instance{full, half} {
		own := warm.lost(steady)
		warm.report(warm.name, own)
		report.Result("warmstart."+warm.name+"_restore_s", warm.restore.Seconds(), "s")
		report.Result("warmstart."+warm.name+"_penalty_gone", 100*(1-own/lost), "%")
		// The Pod serves nothing while it is restored; other Pods do, but honestly it is a cost of this way.
		report.Result("warmstart."+warm.name+"_penalty_gone_with_restore", 100*(1-(own+warm.restore.Seconds()*steady)/lost), "%")
	}
	return nil
}

// fill visits every page of every shop, and then measures.
func (w *world) fill(ctx context.Context) (*series, error) {
	report.Say("filling the caches of %d shops", w.shops)
	w.cache = filepath.Join(w.folder, "filled")
	stop, err := w.shop(ctx, w.cache)
	if err != nil {
		return nil, err
	}
	defer stop()
	if err := w.load.everything(ctx, w.clients); err != nil {
		return nil, err
	}
	return w.load.run(ctx, w.clients, w.steady)
}

// keep ranks the shops by an access log and saves their caches.
func (w *world) keep(ctx context.Context) (string, error) {
	log := filepath.Join(w.folder, "access.log")
	if err := w.load.accessLog(log, 200_000); err != nil {
		return "", err
	}
	if _, err := w.cacheManager(ctx, "save", "--folder", w.cache, "--bytes-per-second", "0", "--settle", "0s"); err != nil {
		return "", err
	}
	output, err := w.cacheManager(ctx, "rank", "--out", w.ranking(), log)
	if err != nil {
		return "", err
	}
	w.saved, err = folderBytes(w.cache)
	return output, err
}

func (w *world) ranking() string { return filepath.Join(w.folder, "ranking.json") }

// instance is one that was started and watched.
type instance struct {
	*series
	name    string
	restore time.Duration
}

// restored starts an instance with a cache that was restored.
func (w *world) restored(ctx context.Context, name string, budget ...string) (*instance, error) {
	folder := filepath.Join(w.folder, name)
	var took time.Duration
	i, err := w.start(ctx, name, w.watch, func() error {
		began := time.Now()
		output, err := w.cacheManager(ctx, "restore", append([]string{"--strict", "--folder", folder, "--ranking", w.ranking()}, budget...)...)
		took = time.Since(began)
		report.Say("%s: %s", name, output)
		return err
	})
	if i != nil {
		i.restore = took
	}
	return i, err
}

// start starts an instance over a folder of its own and watches it from its first request on.
func (w *world) start(ctx context.Context, name string, watch time.Duration, prepare func() error) (*instance, error) {
	folder := filepath.Join(w.folder, name)
	if err := os.Mkdir(folder, 0o755); err != nil { //nolint:gosec // As caches have it.
		return nil, err
	}
	if prepare != nil {
		if err := prepare(); err != nil {
			return nil, err
		}
	}
	stop, err := w.shop(ctx, folder)
	if err != nil {
		return nil, err
	}
	defer stop()
	report.Say("watching %s for %s", name, watch)
	result, err := w.load.run(ctx, w.clients, watch)
	return &instance{series: result, name: name}, errors.Join(err, os.RemoveAll(folder))
}

// cacheManager runs shopset-cache over the S3 server, and returns the last line that it wrote.
func (w *world) cacheManager(ctx context.Context, command string, args ...string) (string, error) {
	all := append([]string{command, "--storage", "s3://" + bucket + "/warm?region=us-east-1&path-style=true&endpoint=" + w.s3.URL, "--compat", "1"}, args...)
	process := exec.CommandContext(ctx, filepath.Join(w.folder, "shopset-cache"), all...) //nolint:gosec // It was built here.
	process.Env = append(os.Environ(), "AWS_ACCESS_KEY_ID=key", "AWS_SECRET_ACCESS_KEY=secret", "AWS_EC2_METADATA_DISABLED=true")
	output, err := process.CombinedOutput()
	lines := strings.Split(strings.TrimSpace(string(output)), "\n")
	if err != nil {
		return "", fmt.Errorf("shopset-cache %s: %w: %s", command, err, lines[len(lines)-1])
	}
	return lines[len(lines)-1], nil
}
