package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/shopset/shopset/bench/internal/process"
)

// profilerVariable names the folder for the profiles.
const profilerVariable = "SHOPSET_BENCH_PROFILE"

// profilerSource becomes part of the operator's main package when it is built for a profile: the very
// program that users run has no such thing.
const profilerSource = `package main

import (
	"os"
	"os/signal"
	"path/filepath"
	"runtime/pprof"
	"syscall"
)

func init() {
	folder := os.Getenv("` + profilerVariable + `")
	file, err := os.Create(filepath.Join(folder, "cpu.pprof"))
	if err != nil {
		panic(err)
	}
	if err := pprof.StartCPUProfile(file); err != nil {
		panic(err)
	}
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGUSR2)
	go func() {
		<-signals
		pprof.StopCPUProfile()
		for _, name := range []string{"allocs", "heap"} {
			file, err := os.Create(filepath.Join(folder, name+".pprof"))
			if err != nil {
				panic(err)
			}
			if err := pprof.Lookup(name).WriteTo(file, 0); err != nil {
				panic(err)
			}
		}
		if err := os.WriteFile(filepath.Join(folder, "done"), nil, 0o600); err != nil {
			panic(err)
		}
	}()
}
`

// profiler writes an overlay for go build that adds the profiler.
func (b *bench) profiler() (overlay string, err error) {
	if b.profile, err = filepath.Abs(b.profile); err != nil {
		return "", err
	}
	if err := os.MkdirAll(b.profile, 0o755); err != nil {
		return "", err
	}
	b.operatorEnv = append(b.operatorEnv, profilerVariable+"="+b.profile)
	source := filepath.Join(b.folder, "profiler.go")
	if err := os.WriteFile(source, []byte(profilerSource), 0o600); err != nil {
		return "", err
	}
	content, err := json.Marshal(map[string]any{"Replace": map[string]string{
		filepath.Join(b.root, "cmd", "shopset-operator", "profiler.go"): source,
	}})
	if err != nil {
		return "", err
	}
	overlay = filepath.Join(b.folder, "overlay.json")
	return overlay, os.WriteFile(overlay, content, 0o600)
}

// saveProfile makes the operator write its profiles, and waits for them.
func (b *bench) saveProfile(ctx context.Context, o *operatorProcess) error {
	if b.profile == "" {
		return nil
	}
	done := filepath.Join(b.profile, "done")
	if err := os.RemoveAll(done); err != nil {
		return err
	}
	if err := syscall.Kill(o.PID(), syscall.SIGUSR2); err != nil {
		return fmt.Errorf("ask for a profile: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	return process.Until(ctx, 50*time.Millisecond, func() (bool, error) {
		_, err := os.Stat(done)
		return err == nil, nil
	})
}
