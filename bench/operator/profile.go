package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"k8s.io/client-go/rest"

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
	err := process.Until(ctx, 50*time.Millisecond, func() (bool, error) {
		_, err := os.Stat(done)
		return err == nil, nil
	})
	if err != nil {
		return err
	}
	// When it is started anew it begins a new file.
	return os.Rename(filepath.Join(b.profile, "cpu.pprof"), filepath.Join(b.profile, "operator-cpu.pprof"))
}

// profileServer profiles the API server for a while under the operator's load.
func (b *bench) profileServer(ctx context.Context, cp *controlPlane) error {
	if b.profile == "" {
		return nil
	}
	client, err := rest.HTTPClientFor(cp.adminConfig)
	if err != nil {
		return err
	}
	url := strings.TrimSuffix(cp.adminConfig.Host, "/") + "/debug/pprof/profile?seconds=20"
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	content, err := io.ReadAll(response.Body)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(b.profile, "apiserver-cpu.pprof"), content, 0o600)
}
