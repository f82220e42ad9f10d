package warmcache

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/shopset/shopset/internal/warmcache/storage"
	"github.com/shopset/shopset/internal/warmcache/storage/local"
)

// small is a disk of some bytes.
func small(t *testing.T, bytes int) string {
	t.Helper()
	folder := t.TempDir()
	if err := unix.Mount("tmpfs", folder, "tmpfs", 0, fmt.Sprint("size=", bytes)); err != nil {
		t.Fatalf("a small disk wants root: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(folder, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return folder
}

// TestFullDisk: what fits is there whole, the rest is not there at all, and nothing is left over.
func TestFullDisk(t *testing.T) {
	s, here, there := newStorage(t), t.TempDir(), small(t, 3<<20)
	files := map[string]string{"large": strings.Repeat("x", 600<<10)}
	for i := range 20 {
		files[fmt.Sprintf("f/%d", i)] = strings.Repeat("y", 3000)
	}
	var shops []string
	for i := range 10 {
		shops = append(shops, fmt.Sprint("s", i))
		fill(t, filepath.Join(here, shops[i]), files)
		save(t, s, here, shops[i])
	}
	report := restore(t, s, there, shops, func(c *RestoreConfig) { c.Workers = 2 })
	if report.Shops < 2 || report.Shops > 4 || report.Failed == 0 || report.OverBudget == 0 || !strings.Contains(fmt.Sprint(report.Errors), "no space") {
		t.Errorf("%s: %v", report, report.Errors)
	}
	whole := 0
	for _, shop := range shops {
		if got := tree(t, filepath.Join(there, shop)); len(got) > 0 {
			whole++
			same(t, got, files)
		}
	}
	if whole != report.Shops {
		t.Errorf("%d shops are there, the report says %d", whole, report.Shops)
	}
}

// TestFullStorage: a save that does not fit leaves the snapshot before, and nothing of itself that is taken for one.
func TestFullStorage(t *testing.T) {
	folder, here, there := small(t, 2<<20), t.TempDir(), t.TempDir()
	s, err := local.Open(folder)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	fill(t, filepath.Join(here, "a"), map[string]string{"x": "fits"})
	save(t, s, here, "a")
	noise := make([]byte, 3<<20)
	random := rand.NewChaCha8([32]byte{1})
	_, _ = random.Read(noise)
	fill(t, filepath.Join(here, "a"), map[string]string{"large": string(noise)})
	if _, err := Save(t.Context(), SaveConfig{Storage: s, Folder: here, Shop: "a", Compatibility: "v1"}); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("got %v", err)
	}
	restore(t, s, there, []string{"a"})
	same(t, tree(t, filepath.Join(there, "a")), map[string]string{"x": "fits"})
	if err := os.Remove(filepath.Join(here, "a", "large")); err != nil {
		t.Fatal(err)
	}
	fill(t, filepath.Join(here, "a"), map[string]string{"y": "fits, too"})
	if result := save(t, s, here, "a"); result.Busy || result.Generation != 2 {
		t.Errorf("after there is room again: %+v", result)
	}
}

// mortal kills its process at a call, before or after it has happened.
type mortal struct {
	storage.Storage
	mu    sync.Mutex
	calls int
	at    int
	after bool
}

func (m *mortal) die(after bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !after {
		m.calls++
	}
	if m.calls == m.at && m.after == after {
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {}
	}
}

func (m *mortal) Put(ctx context.Context, key string, content []byte, c storage.Condition) (string, error) {
	m.die(false)
	tag, err := m.Storage.Put(ctx, key, content, c)
	m.die(true)
	return tag, err
}

func (m *mortal) Get(ctx context.Context, key string, offset, length int64) (io.ReadCloser, storage.Info, error) {
	m.die(false)
	body, info, err := m.Storage.Get(ctx, key, offset, length)
	m.die(true)
	return body, info, err
}

// TestMain is also the process that is killed: WARM_DO says what it does, WARM_AT at which call it dies.
func TestMain(m *testing.M) {
	if os.Getenv("WARM_DO") == "" {
		os.Exit(m.Run())
	}
	if err := victim(); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
}

func victim() error {
	s, err := local.Open(os.Getenv("WARM_STORAGE"))
	if err != nil {
		return err
	}
	at, err := strconv.Atoi(os.Getenv("WARM_AT"))
	if err != nil {
		return err
	}
	from := &mortal{Storage: s, at: at, after: os.Getenv("WARM_AFTER") == "true"}
	folder := os.Getenv("WARM_FOLDER")
	fmt.Println("begun")
	if os.Getenv("WARM_DO") == "save" {
		_, err = Save(context.Background(), SaveConfig{Storage: from, Folder: folder, Shop: "a", Compatibility: "v1"})
		return err
	}
	report, err := Restore(context.Background(), RestoreConfig{Storage: from, Folder: folder, Compatibility: "v1", Shops: []Shop{{Name: "a"}, {Name: "b"}, {Name: "c"}}})
	if err == nil {
		err = errors.Join(report.Errors...)
	}
	return err
}

// kill runs a process until it kills itself at a call, or until it is killed after some time; it says whether it was.
func kill(t *testing.T, do, storage, folder string, at int, after bool, moment time.Duration) bool {
	t.Helper()
	command := exec.Command(os.Args[0])
	command.Env = append(os.Environ(), "WARM_DO="+do, "WARM_STORAGE="+storage, "WARM_FOLDER="+folder, fmt.Sprint("WARM_AT=", at), fmt.Sprint("WARM_AFTER=", after))
	output, err := command.StdoutPipe()
	if err == nil {
		err = command.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(output)
	if !lines.Scan() || lines.Text() != "begun" {
		t.Fatalf("it said %q", lines.Text())
	}
	if at == 0 {
		timer := time.AfterFunc(moment, func() { _ = command.Process.Kill() })
		defer timer.Stop()
	}
	said := ""
	for lines.Scan() {
		said += lines.Text() + "\n"
	}
	err = command.Wait()
	status, ok := command.ProcessState.Sys().(syscall.WaitStatus)
	if ok && status.Signaled() {
		return true
	}
	if err != nil {
		t.Fatalf("%v: %s", err, said)
	}
	return false
}

// instants are every call of a process, before and after it has happened, and times at random.
func instants(t *testing.T, try func(at int, after bool, moment time.Duration) (killed bool)) {
	t.Helper()
	for _, after := range []bool{false, true} {
		for at := 1; ; at++ {
			if at > 100 {
				t.Fatal("it never ends")
			}
			if !try(at, after, 0) {
				break
			}
		}
	}
	random := rand.New(rand.NewPCG(3, 3)) //nolint:gosec // It is a test.
	for range 15 {
		try(0, false, time.Duration(random.IntN(25000))*time.Microsecond)
	}
}

// TestSaverIsKilled: kill -9, at any call and at any time: there is the snapshot before or the new one, whole, and the next saver
// goes on.
func TestSaverIsKilled(t *testing.T) {
	before, after := map[string]string{"a": "1", "b": strings.Repeat("2", 1<<20)}, map[string]string{"a": "other", "c": strings.Repeat("3", 2<<20)}
	instants(t, func(at int, happened bool, moment time.Duration) bool {
		store, here, there := t.TempDir(), t.TempDir(), t.TempDir()
		s, err := local.Open(store)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		fill(t, filepath.Join(here, "a"), before)
		save(t, s, here, "a")
		if err := os.RemoveAll(filepath.Join(here, "a")); err != nil {
			t.Fatal(err)
		}
		fill(t, filepath.Join(here, "a"), after)
		killed := kill(t, "save", store, here, at, happened, moment)
		restore(t, s, there, []string{"a"})
		got := tree(t, filepath.Join(there, "a"))
		if isNew := reflect.DeepEqual(got, after); !isNew && (!killed || !reflect.DeepEqual(got, before)) {
			t.Errorf("call %d, happened %v, %s: %d files are there", at, happened, moment, len(got))
		}
		late := func(c *SaveConfig) { c.Now = func() time.Time { return time.Now().Add(2 * LeaseTime) } }
		if result := save(t, s, here, "a", late); result.Busy || result.Files != len(after) {
			t.Errorf("call %d: the next save: %+v", at, result)
		}
		if _, _, err := Verify(t.Context(), s, "v1", "a"); err != nil {
			t.Errorf("call %d: %v", at, err)
		}
		return killed
	})
}

// TestRestorerIsKilled: kill -9 likewise: a shop is there whole or not at all, and the next restore clears up and completes it.
func TestRestorerIsKilled(t *testing.T) {
	store, here := t.TempDir(), t.TempDir()
	s, err := local.Open(store)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	files := map[string]string{"large": strings.Repeat("x", 3<<20)}
	for i := range 50 {
		files[fmt.Sprintf("%d/%d", i%5, i)] = strings.Repeat("y", i)
	}
	for _, shop := range []string{"a", "b", "c"} {
		fill(t, filepath.Join(here, shop), files)
		save(t, s, here, shop)
	}
	instants(t, func(at int, happened bool, moment time.Duration) bool {
		there := t.TempDir()
		killed := kill(t, "restore", store, there, at, happened, moment)
		for _, shop := range []string{"a", "b", "c"} {
			if got := tree(t, filepath.Join(there, shop)); len(got) > 0 || !killed {
				same(t, got, files)
			}
		}
		report := restore(t, s, there, []string{"a", "b", "c"}) // It looks for what is left over.
		if report.Shops != 3 {
			t.Errorf("call %d: the next restore: %+v", at, report)
		}
		for _, shop := range []string{"a", "b", "c"} {
			same(t, tree(t, filepath.Join(there, shop)), files)
		}
		return killed
	})
}

// TestContinue: when the time is over the rest follows, and who waits is told at the time.
func TestContinue(t *testing.T) {
	s, here, there := newStorage(t), t.TempDir(), t.TempDir()
	var shops []string
	for i := range 4 {
		shops = append(shops, fmt.Sprint("s", i))
		fill(t, filepath.Join(here, shops[i]), map[string]string{"x": "x"})
		save(t, s, here, shops[i])
	}
	over, told := make(chan struct{}), 0
	report := restore(t, s, there, shops, func(c *RestoreConfig) {
		c.Time, c.Continue, c.Workers = 20*time.Millisecond, true, 1
		c.Pace = NewPace(0.5)
		c.AtDeadline = func(r Report) {
			told++
			if r.Shops > 1 || !r.Expired || r.Took < 20*time.Millisecond {
				t.Errorf("at the deadline: %+v", r)
			}
			close(over)
		}
		c.Validate = func(_ context.Context, shop, _ string) error {
			if shop == "s1" { // It takes until after the deadline.
				<-over
			}
			return nil
		}
	})
	if told != 1 || report.Shops != 4 || !report.Expired || report.OverBudget != 0 {
		t.Errorf("told %d times, %+v", told, report)
	}
}

// TestTwoRestores: one does not take away what another is at.
func TestTwoRestores(t *testing.T) {
	s, here, there := newStorage(t), t.TempDir(), t.TempDir()
	files := map[string]string{"x": "x", "sub/y": "y"}
	fill(t, filepath.Join(here, "a"), files)
	fill(t, filepath.Join(here, "b"), files)
	save(t, s, here, "a")
	save(t, s, here, "b")
	report := restore(t, s, there, []string{"a"}, func(c *RestoreConfig) {
		c.Validate = func(ctx context.Context, _, _ string) error {
			other, err := Restore(ctx, RestoreConfig{Storage: s, Folder: there, Compatibility: "v1", Shops: []Shop{{Name: "b"}, {Name: "a"}}})
			if err != nil || other.Shops != 2 {
				t.Errorf("%+v %v", other, err)
			}
			return nil
		}
	})
	if report.Shops != 1 {
		t.Errorf("%+v", report)
	}
	for _, shop := range []string{"a", "b"} {
		same(t, tree(t, filepath.Join(there, shop)), files)
	}
}

// TestPace: on average no more than what is allowed, whatever was left unused before.
func TestPace(t *testing.T) {
	now, cpu, slept := time.Unix(0, 0), time.Duration(0), time.Duration(0)
	p := newPace(0.25, func() time.Time { return now }, func() time.Duration { return cpu }, func(_ context.Context, d time.Duration) error {
		slept += d
		now = now.Add(d)
		return nil
	})
	work := func(d time.Duration) {
		now, cpu = now.Add(d), cpu+d
		if err := p.Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	for range 1000 {
		work(10 * time.Millisecond)
	}
	if part := cpu.Seconds() / now.Sub(time.Unix(0, 0)).Seconds(); part > 0.253 || part < 0.24 {
		t.Errorf("%.3f cores", part)
	}
	now, slept = now.Add(time.Hour), 0 // An idle hour is no credit.
	for range 100 {
		work(10 * time.Millisecond)
	}
	if slept < 2*time.Second {
		t.Errorf("after an idle hour it slept %s in a second of work", slept)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := (*Pace)(nil).Wait(ctx); !errors.Is(err, context.Canceled) || NewPace(0) != nil {
		t.Error("no pace", err)
	}
}
