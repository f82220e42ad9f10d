// Command operator measures how fast the operator brings up many ShopSets, side by side with a bare
// client and with kubectl; see the README of bench/.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/go-logr/logr"
	ctrl "sigs.k8s.io/controller-runtime"

	"github.com/shopset/shopset/bench/internal/process"
)

// bench is what all parts of a run share.
type bench struct {
	root, folder string
	// assets holds the real programs of the control plane, guarded their stand-ins.
	assets, guarded string
	operator        string
	operatorEnv     []string
	concurrency     int
	profile         string
}

func main() {
	process.BecomeGuarded("etcd", "kube-apiserver")
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "bench operator:", err)
		os.Exit(1)
	}
}

type options struct {
	small, large, kubectl    int
	smallRounds, largeRounds int
	rest, limit              time.Duration
}

func run(ctx context.Context) (err error) {
	b := &bench{assets: os.Getenv("KUBEBUILDER_ASSETS")}
	o := options{}
	flag.IntVar(&o.large, "n", 1000, "how many ShopSets")
	flag.IntVar(&o.small, "small", 100, "how many ShopSets in the small runs; 0 leaves them out")
	flag.IntVar(&o.kubectl, "kubectl", 100, "how many ShopSets kubectl applies, at most -small; 0 leaves kubectl out")
	flag.IntVar(&o.largeRounds, "rounds", 2, "how often the bare client and the operator take turns")
	flag.IntVar(&o.smallRounds, "small-rounds", 3, "the same for the small runs")
	flag.DurationVar(&o.rest, "rest", time.Minute, "how long the operator is watched at rest")
	flag.DurationVar(&o.limit, "limit", 30*time.Minute, "when to give up")
	flag.IntVar(&b.concurrency, "concurrency", 0, "the operator's --concurrency; 0 is its default")
	flag.StringVar(&b.profile, "profile", "", "folder for CPU and heap profiles of the operator's last run")
	flag.Parse()
	if b.assets == "" {
		return errors.New("KUBEBUILDER_ASSETS is not set: run `make bench-operator`, or set it to the output of `localcluster assets`")
	}
	ctrl.SetLogger(logr.Discard())
	ctx, cancel := context.WithTimeout(ctx, o.limit)
	defer cancel()
	if b.root, err = repositoryRoot(); err != nil {
		return err
	}
	if b.folder, err = os.MkdirTemp("", "shopset-bench-"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(b.folder)) }()
	// What the control planes keep, too, ends with this folder.
	if err := os.Setenv("TMPDIR", b.folder); err != nil {
		return err
	}
	b.guarded = filepath.Join(b.folder, "programs")
	if err := os.Mkdir(b.guarded, 0o700); err != nil {
		return err
	}
	if err := process.Guard(b.guarded, b.assets, "etcd", "kube-apiserver"); err != nil {
		return err
	}
	if err := b.build(ctx); err != nil {
		return err
	}
	return b.compare(ctx, o)
}

// build makes the operator as its image has it.
func (b *bench) build(ctx context.Context) error {
	b.operator = filepath.Join(b.folder, "shopset-operator")
	arguments := []string{"build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w", "-o", b.operator}
	if b.profile != "" {
		overlay, err := b.profiler()
		if err != nil {
			return err
		}
		arguments = append(arguments, "-overlay", overlay)
	}
	command := exec.CommandContext(ctx, "go", append(arguments, "./cmd/shopset-operator")...)
	command.Dir = b.root
	command.Env = append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off")
	command.Stdout, command.Stderr = os.Stderr, os.Stderr
	return command.Run()
}

func repositoryRoot() (string, error) {
	at, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for dir := at; dir != filepath.Dir(dir); dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.work")); !errors.Is(err, fs.ErrNotExist) {
			return dir, err
		}
	}
	return "", fmt.Errorf("%s is not in the ShopSet repository", at)
}
