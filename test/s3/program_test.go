package s3_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/shopset/shopset/internal/warmcache"
	"github.com/shopset/shopset/internal/warmcache/rank/bigquery/bigquerytest"
)

// program is shopset-cache itself, built once.
var program = sync.OnceValues(func() (string, error) {
	folder, err := os.MkdirTemp("", "shopset-cache-")
	if err != nil {
		return "", err
	}
	path := filepath.Join(folder, "shopset-cache")
	build := exec.Command("go", "build", "-o", path, "./cmd/shopset-cache")
	build.Dir, build.Env = "../..", append(os.Environ(), "GOWORK=off", "GOFLAGS=-buildvcs=false")
	output, err := build.CombinedOutput()
	if err != nil {
		err = fmt.Errorf("%w: %s", err, output)
	}
	return path, err
})

func TestMain(m *testing.M) {
	code := m.Run()
	if path, err := program(); err == nil {
		_ = os.RemoveAll(filepath.Dir(path))
	}
	os.Exit(code)
}

// cache runs it, and returns what it said on stdout and stderr.
func cache(t *testing.T, want int, args ...string) (stdout, stderr string) {
	t.Helper()
	path, err := program()
	if err != nil {
		t.Fatal(err)
	}
	var out, log bytes.Buffer
	command := exec.CommandContext(t.Context(), path, args...)
	command.Stdout, command.Stderr = &out, &log
	err = command.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	if got := command.ProcessState.ExitCode(); got != want {
		t.Fatalf("%v: exit code %d, want %d\n%s%s", args, got, want, out.String(), log.String())
	}
	return out.String(), log.String()
}

// pod is a folder of caches.
type pod struct {
	t       *testing.T
	storage string
	folder  string
	name    string
}

func newPod(t *testing.T, endpoint, name string) *pod {
	return &pod{t, "s3://caches/warm?region=us-east-1&path-style=true&endpoint=" + endpoint, t.TempDir(), name}
}

func (p *pod) write(name, content string) {
	p.t.Helper()
	path, old := filepath.Join(p.folder, name), time.Now().Add(-time.Minute)
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(content), 0o600), os.Chtimes(path, old, old)); err != nil {
		p.t.Fatal(err)
	}
}

func (p *pod) read(name string) string {
	content, err := os.ReadFile(filepath.Join(p.folder, name))
	if err != nil {
		return ""
	}
	return string(content)
}

func (p *pod) run(want int, command string, args ...string) (stdout, stderr string) {
	p.t.Helper()
	all := []string{command, "--storage", p.storage, "--compat", "1.42"}
	switch command {
	case "save":
		all = append(all, "--folder", p.folder, "--source", p.name)
	case "restore":
		all = append(all, "--folder", p.folder)
	case "invalidate":
		all = []string{command, "--storage", p.storage}
	}
	return cache(p.t, want, append(all, args...)...)
}

// TestPoison: a bad Pod's snapshot, and those of the Pods that believed it, are revoked by one command, and the one before is
// restored; what was invalidated does not come back.
func TestPoison(t *testing.T) {
	endpoint := server(t)
	good, bad, victim := newPod(t, endpoint, "pod-good"), newPod(t, endpoint, "pod-bad"), newPod(t, endpoint, "pod-victim")
	good.write("a.example/x", "good")
	good.run(0, "save")
	bad.write("a.example/x", "poison, and longer")
	bad.write("b.example/x", "poison")
	bad.run(0, "save")
	// In quarantine nothing young is believed.
	fresh := newPod(t, endpoint, "pod-new")
	fresh.run(0, "restore", "--quarantine", "1h", "a.example", "b.example")
	if got := fresh.read("a.example/x"); got != "" {
		t.Errorf("in quarantine: %q", got)
	}
	victim.run(0, "restore", "a.example", "b.example")
	if got := victim.read("a.example/x"); got != "poison, and longer" {
		t.Fatalf("the newest is %q", got)
	}
	victim.write("a.example/y", "its own")
	victim.run(0, "save", "a.example")
	dry, _ := fresh.run(0, "revoke", "--source", "pod-bad", "--dry-run")
	if !strings.Contains(dry, "a.example: 2 snapshots would be revoked") || !strings.Contains(dry, "b.example: 1 snapshots would be revoked") {
		t.Errorf("dry: %s", dry)
	}
	if said, _ := fresh.run(0, "revoke", "--source", "pod-bad"); !strings.Contains(said, "a.example: 2 snapshots revoked") {
		t.Errorf("it says %s", said)
	}
	fresh.run(0, "restore", "a.example", "b.example")
	if fresh.read("a.example/x") != "good" || fresh.read("a.example/y") != "" || fresh.read("b.example/x") != "" {
		t.Errorf("after it was revoked: %q %q %q", fresh.read("a.example/x"), fresh.read("a.example/y"), fresh.read("b.example/x"))
	}
	if list, _ := fresh.run(0, "ls"); strings.Count(list, "revoked") != 3 || !strings.Contains(list, "pod-victim") {
		t.Errorf("ls: %s", list)
	}
	fresh.run(0, "invalidate", "--dry-run", "a.example")
	fresh.run(0, "invalidate", "a.example")
	last := newPod(t, endpoint, "pod-last")
	last.run(0, "restore", "a.example")
	if got := last.read("a.example/x"); got != "" {
		t.Errorf("what was invalidated came back: %q", got)
	}
	good.run(0, "save")
	last.run(0, "restore", "a.example")
	if got := last.read("a.example/x"); got != "good" {
		t.Errorf("saved again: %q", got)
	}
	if said, _ := good.run(0, "verify"); strings.Count(said, ": good") != 2 {
		t.Errorf("verify: %s", said)
	}
	if said, _ := good.run(0, "gc", "--grace", "0s", "--dry-run"); !strings.Contains(said, "would be removed") {
		t.Errorf("gc: %s", said)
	}
	good.run(0, "gc", "--grace", "0s")
	good.run(0, "verify")
}

// TestFiles: the report, the metrics, the ranking, and what goes to which output.
func TestFiles(t *testing.T) {
	endpoint := server(t)
	p, folder := newPod(t, endpoint, "pod-1"), t.TempDir()
	var log strings.Builder
	for i := range 4 {
		shop := fmt.Sprintf("s%d.example", i)
		p.write(shop+"/x", strings.Repeat("x", 100<<10))
		log.WriteString(strings.Repeat(fmt.Sprintf(`{"shop":"%s","time":"%s"}`+"\n", shop, time.Now().UTC().Format(time.RFC3339)), 40-10*i))
	}
	log.WriteString(strings.Repeat(`{"shop":"../../etc/passwd"}`+"\n", 50))
	p.run(0, "save")
	logFile, ranking, report, metrics := filepath.Join(folder, "access.log"), filepath.Join(folder, "ranking.json"), filepath.Join(folder, "report.json"), filepath.Join(folder, "cache.prom")
	penalties := filepath.Join(folder, "penalties.csv")
	if err := errors.Join(os.WriteFile(logFile, []byte(log.String()), 0o600), os.WriteFile(penalties, []byte("shop,penalty\ns3.example,1.5\n"), 0o600)); err != nil {
		t.Fatal(err)
	}
	out, said := p.run(0, "rank", "--budgets", "150KB,1GB", logFile)
	var made struct{ Shops []struct{ Name string } }
	if err := json.Unmarshal([]byte(out), &made); err != nil || len(made.Shops) != 4 || made.Shops[0].Name != "s0.example" {
		t.Errorf("stdout has more than the ranking: %v\n%s", err, out)
	}
	if !strings.Contains(said, "0.0 GB: top 1 shops = 40 % of requests") || !strings.Contains(said, "1.0 GB: top 4 shops = 100 % of requests") {
		t.Errorf("it says %s", said)
	}
	p.run(0, "rank", "--dry-run", "--out", ranking, logFile)
	if _, err := os.Stat(ranking); err == nil {
		t.Error("a dry run wrote the ranking")
	}
	p.run(0, "rank", "--out", ranking, "--penalties", penalties, "--top", "3", logFile)
	there := newPod(t, endpoint, "pod-2")
	_, said = there.run(0, "restore", "--ranking", ranking, "--report", report, "--metrics-file", metrics, "--budget-bytes", "220KiB")
	content, err := os.ReadFile(report)
	var r warmcache.Report
	if err == nil {
		err = json.Unmarshal(content, &r)
	}
	// The third is slow when it is cold: it comes first.
	if err != nil || r.Shops != 2 || r.Restored[0].Shop != "s3.example" && r.Restored[1].Shop != "s3.example" || r.Share < 0.49 || r.Share > 0.51 || r.OverBudget != 1 {
		t.Errorf("%v %s\n%s", err, content, said)
	}
	if text, err := os.ReadFile(metrics); err != nil || !strings.Contains(string(text), "shopset_cache_restored_share 0.") || !strings.Contains(string(text), `shopset_cache_restore_shops{result="over_budget"} 1`) {
		t.Errorf("%v %s", err, text)
	}
	if said != "" {
		t.Errorf("a program's log is on stdout; stderr has %s", said)
	}
}

// TestStrict: whatever is wrong, a Pod starts, unless somebody wants it otherwise.
func TestStrict(t *testing.T) {
	endpoint := server(t)
	p := newPod(t, endpoint, "pod-1")
	for _, args := range [][]string{{"--ranking", "/nowhere"}, {"--folder-mode", "9", "a"}, {"--storage", "s3://nobodys?region=x&path-style=true&endpoint=" + endpoint, "a"},
		{"--storage", "s3://b?endpoint=http://s3.example", "a"}, {"--storage", "", "a"}, {"--compat", "../x", "a"}, {"--workers", "0", "a"},
		{"--a-flag-of-tomorrow", "a"}, {"--workers", "many", "a"}} {
		p.run(0, "restore", args...)
		p.run(1, "restore", append([]string{"--strict"}, args...)...)
	}
	for _, args := range [][]string{{"rank"}, {"rank", "/nowhere"}, {"rank", "--bigquery-table", "x", "-"}, {"rank", "--max-bytes-billed", "x"}, {"nothing"}, {}, {"ls"},
		{"revoke", "--storage", t.TempDir(), "--compat", "1"}, {"gc", "--storage", t.TempDir()}, {"gc", "--storage", t.TempDir(), "--compat", "1", "--grace", "-1h"}, {"save", "--storage", t.TempDir(), "--compat", "1"}, {"save", "--storage", "ftp://x", "--compat", "1"}} {
		cache(t, 1, args...)
	}
}

// TestOldReleases: what releases that do not run any more have left is dropped, all at once, and not before somebody wants it.
func TestOldReleases(t *testing.T) {
	endpoint := server(t)
	p := newPod(t, endpoint, "pod-1")
	p.write("a.example/x", "of a")
	p.run(0, "save")
	p.run(0, "save", "--compat", "1.43")
	said, _ := cache(t, 0, "gc", "--storage", p.storage, "--all-keys", "--unused", "720h", "--dry-run")
	for _, want := range []string{"1.42: 0 snapshots of 0 shops would be dropped", "1.43: 0 objects of 0 KiB would be removed"} {
		if !strings.Contains(said, want) {
			t.Errorf("%q is missing in %s", want, said)
		}
	}
	// Nothing is that old; and what was saved today is never dropped.
	cache(t, 0, "gc", "--storage", p.storage, "--all-keys", "--unused", "720h")
	cache(t, 1, "gc", "--storage", p.storage, "--all-keys", "--unused", "1s")
	if said, _ := p.run(0, "verify"); !strings.Contains(said, "a.example: good") {
		t.Errorf("it says %s", said)
	}
}

// TestDefaultRanking: who is told nothing else saves and restores what the ranking in the storage says; a ranking of nothing does not
// take its place.
func TestDefaultRanking(t *testing.T) {
	endpoint := server(t)
	p, folder := newPod(t, endpoint, "pod-1"), t.TempDir()
	for _, shop := range []string{"a.example", "b.example"} {
		p.write(shop+"/x", "of "+shop)
	}
	full, empty := filepath.Join(folder, "full.log"), filepath.Join(folder, "empty.log")
	if err := errors.Join(os.WriteFile(full, []byte(`{"shop":"b.example"}`+"\n"), 0o600), os.WriteFile(empty, nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	p.run(0, "rank", "--out", "@default", full)
	p.run(1, "rank", "--out", "@default", empty)
	p.run(0, "save")
	if list, _ := p.run(0, "ls"); strings.Contains(list, "a.example") || !strings.Contains(list, "b.example") {
		t.Errorf("saved: %s", list)
	}
	p.run(0, "save", "a.example")
	fresh := newPod(t, endpoint, "pod-2")
	fresh.run(0, "restore")
	if fresh.read("a.example/x") != "" || fresh.read("b.example/x") != "of b.example" {
		t.Errorf("restored: %q %q", fresh.read("a.example/x"), fresh.read("b.example/x"))
	}
}

func free(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return listener.Addr().String()
}

// TestKeep: the sidecar restores what the init container had no time for, is ready, saves, tells metrics, and ends when it is asked to.
func TestKeep(t *testing.T) {
	endpoint := server(t)
	first := newPod(t, endpoint, "pod-1")
	for _, shop := range []string{"a", "b", "c"} {
		first.write(shop+"/x", "of "+shop)
	}
	first.run(0, "save")
	p, folder, address := newPod(t, endpoint, "pod-2"), t.TempDir(), free(t)
	report := filepath.Join(folder, "report.json")
	p.run(0, "restore", "--budget-files", "1", "--report", report, "a", "b", "c")
	if p.read("a/x") != "of a" || p.read("b/x") != "" {
		t.Fatal("the init container")
	}
	if err := os.Remove(filepath.Join(p.folder, "a/x")); err != nil { // Something that must not come back: it is restored already.
		t.Fatal(err)
	}
	// More than pod-1 has saved: of as many, pod-1's would be good enough.
	p.write("a/own", "of pod-2")
	p.write("a/more", "of pod-2")
	path, err := program()
	if err != nil {
		t.Fatal(err)
	}
	keep := exec.Command(path, "keep", "--storage", p.storage, "--compat", "1.42", "--folder", p.folder, "--source", "pod-2", "--report", report, "--every", "1s", "--admin", address, "a", "b", "c")
	var log bytes.Buffer
	keep.Stdout, keep.Stderr = &log, &log
	if err := keep.Start(); err != nil {
		t.Fatal(err)
	}
	stopped := false
	defer func() {
		if !stopped {
			_ = keep.Process.Kill()
			_ = keep.Wait()
		}
	}()
	get := func(path string) string {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+address+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			return ""
		}
		defer response.Body.Close()
		body, _ := io.ReadAll(response.Body)
		return fmt.Sprint(response.StatusCode, " ", string(body))
	}
	until(t, func() bool { return strings.HasPrefix(get("/readyz"), "200") })
	if p.read("b/x") != "of b" || p.read("c/x") != "of c" || p.read("a/x") != "" {
		t.Errorf("%q %q %q\n%s", p.read("a/x"), p.read("b/x"), p.read("c/x"), log.String())
	}
	until(t, func() bool { return strings.Contains(get("/metrics"), `shopset_cache_saves_total{result="saved"}`) })
	metrics := get("/metrics")
	for _, want := range []string{"shopset_cache_restored_files 3", `shopset_cache_restore_shops{result="restored"} 3`, "shopset_cache_storage_requests_total", "shopset_cache_saved_generation 2"} {
		if !strings.Contains(metrics, want) {
			t.Errorf("%s is missing in\n%s", want, metrics)
		}
	}
	if err := keep.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	err = keep.Wait()
	stopped = true
	if err != nil {
		t.Errorf("%v\n%s", err, log.String())
	}
	third := newPod(t, endpoint, "pod-3")
	third.run(0, "restore", "a")
	if third.read("a/own") != "of pod-2" {
		t.Error("it did not save")
	}
}

// TestSeveralPods: the sidecar that only saves leaves a shop to the Pod that saved it just now; who saves once means it.
func TestSeveralPods(t *testing.T) {
	endpoint := server(t)
	first, second := newPod(t, endpoint, "pod-1"), newPod(t, endpoint, "pod-2")
	first.write("a/x", "of pod-1")
	first.run(0, "save")
	second.write("a/x", "of pod-2")
	path, err := program()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	address := free(t)
	sidecar := exec.CommandContext(ctx, path, "save", "--storage", second.storage, "--compat", "1.42", "--folder", second.folder, "--source", "pod-2", "--every", "1s", "--settle", "20ms", "--admin", address, "a")
	if err := sidecar.Start(); err != nil {
		t.Fatal(err)
	}
	until(t, func() bool {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+"/metrics", nil)
		if err != nil {
			t.Fatal(err)
		}
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			return false
		}
		defer response.Body.Close()
		body, _ := io.ReadAll(response.Body)
		return strings.Contains(string(body), `shopset_cache_saves_total{result="recent"}`)
	})
	cancel()
	_ = sidecar.Wait() // It was killed.
	third := newPod(t, endpoint, "pod-3")
	third.run(0, "restore", "a")
	if got := third.read("a/x"); got != "of pod-1" {
		t.Errorf("the sidecar saved %q", got)
	}
	second.run(0, "save")
	fourth := newPod(t, endpoint, "pod-4")
	fourth.run(0, "restore", "a")
	if got := fourth.read("a/x"); got != "of pod-2" {
		t.Errorf("saved once it is %q", got)
	}
}

func until(t *testing.T, good func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !good() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatal("it takes too long")
		}
	}
}

// TestBigQuery: the command asks, pays no more than is allowed, and says both numbers.
func TestBigQuery(t *testing.T) {
	rows := []bigquerytest.Row{{Shop: "a.example", Time: time.Now(), Requests: 30}, {Shop: "b.example", Time: time.Now(), Requests: 10}}
	s := bigquerytest.New(t, "shops-prod.logs.requests", rows)
	s.Reads = 5000
	flags := []string{"rank", "--bigquery-table", "shops-prod.logs.requests", "--bigquery-endpoint", s.URL, "--shop-field", "host", "--time-field", "at", "--requests-field", "n"}
	if _, said := cache(t, 1, append(flags, "--max-bytes-billed", "4000")...); !strings.Contains(said, "would read 5000 bytes, and 4000 are allowed") {
		t.Errorf("it says %s", said)
	}
	if _, said := cache(t, 0, append(flags, "--dry-run")...); !strings.Contains(said, "would read 5000 bytes") || len(s.Queries()) != 0 {
		t.Errorf("a dry run asked %d times, and said %s", len(s.Queries()), said)
	}
	out, said := cache(t, 0, flags...)
	var made struct {
		Shops []struct {
			Name  string
			Share float64
		}
	}
	if err := json.Unmarshal([]byte(out), &made); err != nil || len(made.Shops) != 2 || made.Shops[0].Name != "a.example" || math.Abs(made.Shops[0].Share-0.75) > 1e-9 {
		t.Errorf("%v %s %s", err, out, said)
	}
}
