package warmcache

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/shopset/shopset/internal/warmcache/storage"
	"github.com/shopset/shopset/internal/warmcache/storage/local"
)

func newStorage(t testing.TB) storage.Storage {
	t.Helper()
	s, err := local.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// fill writes files that are old enough to be saved.
func fill(t testing.TB, folder string, files map[string]string) {
	t.Helper()
	for name, content := range files {
		path := filepath.Join(folder, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o640); err != nil {
			t.Fatal(err)
		}
		old := time.Now().Add(-time.Minute)
		if err := os.Chtimes(path, old, old); err != nil {
			t.Fatal(err)
		}
	}
}

// tree reads a folder back.
func tree(t testing.TB, folder string) map[string]string {
	t.Helper()
	files := map[string]string{}
	err := filepath.WalkDir(folder, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		content, err := os.ReadFile(path)
		name, _ := filepath.Rel(folder, path)
		files[name] = string(content)
		return err
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	return files
}

// sample has small files, large ones that span frames, and empty ones.
func sample(seed uint64) map[string]string {
	random := rand.New(rand.NewPCG(seed, seed)) //nolint:gosec // It is a test.
	files := map[string]string{"empty": "", "templates/sub/empty": ""}
	for i := range 300 {
		size := random.IntN(20000)
		if i%60 == 0 {
			size = 1<<20 + random.IntN(3<<20)
		}
		content := make([]byte, size)
		for j := range content {
			content[j] = byte('a' + random.IntN(20))
		}
		files[fmt.Sprintf("templates/%d/f-%d.html", i%7, i)] = string(content)
	}
	return files
}

func save(t testing.TB, s storage.Storage, folder, shop string, edit ...func(*SaveConfig)) *SaveResult {
	t.Helper()
	c := SaveConfig{Storage: s, Folder: folder, Shop: shop, Compatibility: "v1", Source: "pod-1"}
	for _, e := range edit {
		e(&c)
	}
	result, err := Save(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	return result
}

func restore(t testing.TB, s storage.Storage, folder string, shops []string, edit ...func(*RestoreConfig)) *Report {
	t.Helper()
	c := RestoreConfig{Storage: s, Folder: folder, Compatibility: "v1"}
	for i, shop := range shops {
		c.Shops = append(c.Shops, Shop{Name: shop, Share: 0.5 / float64(i+1)})
	}
	for _, e := range edit {
		e(&c)
	}
	report, err := Restore(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	left, err := filepath.Glob(filepath.Join(folder, stagingPrefix+"*"))
	if err != nil || len(left) > 0 {
		t.Errorf("left over: %v %v", left, err)
	}
	return report
}

func same(t testing.TB, got, want map[string]string) {
	t.Helper()
	if reflect.DeepEqual(got, want) {
		return
	}
	for name := range want {
		if _, there := got[name]; !there {
			t.Errorf("%s is missing", name)
		} else if got[name] != want[name] {
			t.Errorf("%s has other content (%d bytes, want %d)", name, len(got[name]), len(want[name]))
		}
	}
	for name := range got {
		if _, there := want[name]; !there {
			t.Errorf("%s should not be there", name)
		}
	}
}

// TestThereAndBack: what is restored is what was saved, byte for byte, with modes and times, and the next save finds nothing new.
func TestThereAndBack(t *testing.T) {
	s, here, there := newStorage(t), t.TempDir(), t.TempDir()
	files := sample(1)
	fill(t, filepath.Join(here, "shop-1"), files)
	if err := os.Chmod(filepath.Join(here, "shop-1/templates/1/f-1.html"), 0o755); err != nil {
		t.Fatal(err)
	}
	result := save(t, s, here, "shop-1")
	if result.Generation != 1 || result.Files != len(files) || result.New != len(files)-2 {
		t.Errorf("%+v of %d files", result, len(files))
	}
	report := restore(t, s, there, []string{"shop-1", "none"})
	if report.Shops != 1 || report.Absent != 1 || report.Failed != 0 || report.Share != 0.5 || int(report.Files) != len(files) {
		t.Errorf("%+v", report)
	}
	same(t, tree(t, filepath.Join(there, "shop-1")), files)
	before, _ := os.Stat(filepath.Join(here, "shop-1/templates/1/f-1.html"))
	after, err := os.Stat(filepath.Join(there, "shop-1/templates/1/f-1.html"))
	if err != nil || after.Mode() != before.Mode() || !after.ModTime().Equal(before.ModTime()) {
		t.Errorf("%v %v, want %v %v: %v", after.Mode(), after.ModTime(), before.Mode(), before.ModTime(), err)
	}
	if again := save(t, s, there, "shop-1"); !again.Unchanged || again.SentBytes != 0 {
		t.Errorf("nothing changed: %+v", again)
	}
	if files, _, err := Verify(t.Context(), s, "v1", "shop-1"); err != nil || files == 0 {
		t.Error(files, err)
	}
}

// TestIncremental: what did not change is not sent again, and what is gone does not come back.
func TestIncremental(t *testing.T) {
	s, here, there := newStorage(t), t.TempDir(), t.TempDir()
	files := sample(2)
	folder := filepath.Join(here, "a")
	fill(t, folder, files)
	first := save(t, s, here, "a")
	for round := range 6 {
		changes := map[string]string{fmt.Sprintf("new-%d", round): strings.Repeat("n", 5000), "templates/0/f-0.html": fmt.Sprint("changed ", round)}
		fill(t, folder, changes)
		for name, content := range changes {
			files[name] = content
		}
		gone := fmt.Sprintf("templates/%d/f-%d.html", (10+round)%7, 10+round)
		delete(files, gone)
		if err := os.Remove(filepath.Join(folder, gone)); err != nil {
			t.Fatal(err)
		}
		result := save(t, s, here, "a")
		if result.New != 2 || result.SentBytes > first.SentBytes/10 {
			t.Errorf("round %d: %+v, the first sent %d", round, result, first.SentBytes)
		}
	}
	restore(t, s, there, []string{"a"})
	same(t, tree(t, filepath.Join(there, "a")), files)
	// When most of what is there is of no use any more, it is written anew.
	small := map[string]string{}
	for name := range files {
		if len(small) < 20 && len(files[name]) < 20000 {
			small[name] = files[name]
			continue
		}
		if err := os.Remove(filepath.Join(folder, name)); err != nil {
			t.Fatal(err)
		}
	}
	if result := save(t, s, here, "a"); result.New == 0 {
		t.Errorf("packs that are nearly empty stay: %+v", result)
	}
	removed, err := GC(t.Context(), s, "v1", 0, time.Now().Add(time.Hour), false)
	if err != nil || removed.Objects == 0 {
		t.Errorf("%+v removed: %v", removed, err)
	}
	there = t.TempDir()
	restore(t, s, there, []string{"a"})
	same(t, tree(t, filepath.Join(there, "a")), small)
	if _, _, err := Verify(t.Context(), s, "v1", "a"); err != nil {
		t.Error(err)
	}
}

// TestWhatIsNotSaved: files that are being written, and what is no file.
func TestWhatIsNotSaved(t *testing.T) {
	s, here, there := newStorage(t), t.TempDir(), t.TempDir()
	folder := filepath.Join(here, "a")
	fill(t, folder, map[string]string{"good": "x", ".hidden/x": "x", ".tmp-1": "x"})
	if err := os.WriteFile(filepath.Join(folder, "young"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/etc/passwd", filepath.Join(folder, "link")); err != nil {
		t.Fatal(err)
	}
	if result := save(t, s, here, "a"); result.Files != 1 || result.LeftOut != 2 {
		t.Errorf("%+v", result)
	}
	restore(t, s, there, []string{"a"})
	same(t, tree(t, filepath.Join(there, "a")), map[string]string{"good": "x"})
	if _, err := Save(t.Context(), SaveConfig{Storage: s, Folder: here, Shop: "../a", Compatibility: "v1"}); err == nil {
		t.Error("a shop that leads out of the folder")
	}
	bad := func(c *SaveConfig) {
		c.Validate = func(context.Context, string) error { return errors.New("it is broken") }
	}
	c := SaveConfig{Storage: s, Folder: here, Shop: "a", Compatibility: "v1"}
	bad(&c)
	if _, err := Save(t.Context(), c); err == nil || !strings.Contains(err.Error(), "it is broken") {
		t.Error(err)
	}
}

// TestTornFiles: a file that is written while it is read is never in a snapshot with half of its content. A writer that rests with half
// of it there, as on a machine that is too busy for it, cannot be told from one that is done: then there is nothing to learn, and it
// is tried again.
func TestTornFiles(t *testing.T) {
	for range 20 {
		if torn, rested := tornFile(t); !torn {
			return
		} else if !rested {
			t.Fatal("a torn file was saved")
		}
	}
	t.Log("the machine is too busy for a writer that does not rest")
}

// tornFile saves a file again and again while it is written, and says whether a snapshot was torn, and whether the writer rested in
// the middle of it for about as long as a file has to be left alone.
func tornFile(t *testing.T) (torn, rested bool) {
	t.Helper()
	s, here := newStorage(t), t.TempDir()
	path := filepath.Join(here, "a", "x")
	fill(t, filepath.Join(here, "a"), map[string]string{"x": strings.Repeat("0", 100000)})
	stop := make(chan struct{})
	var group sync.WaitGroup
	group.Go(func() {
		for i := 1; ; i++ {
			file, err := os.OpenFile(path, os.O_WRONLY, 0)
			if err != nil {
				return
			}
			last := time.Now()
			for range 100 { // Piece by piece, in place: the worst that there is.
				_, _ = file.WriteString(strings.Repeat(fmt.Sprint(i%10), 1000))
				rested = rested || time.Since(last) > leastSettle/4
				last = time.Now()
			}
			_ = file.Close()
			select { // Long enough that it looks settled now and then.
			case <-stop:
				return
			case <-time.After(leastSettle + time.Duration(i%10)*time.Millisecond):
			}
		}
	})
	whole := func(n int) bool {
		there := t.TempDir()
		restore(t, s, there, []string{"a"})
		content := tree(t, filepath.Join(there, "a"))["x"]
		return content == "" && n == 0 || len(content) == 100000 && strings.Trim(content, content[:1]) == ""
	}
	for range 100 {
		save(t, s, here, "a", func(c *SaveConfig) { c.Settle = time.Nanosecond })
		if torn = !whole(0); torn {
			break
		}
	}
	close(stop)
	group.Wait()
	if torn {
		return torn, rested
	}
	// When it is left alone it is saved.
	old := time.Now().Add(-time.Minute)
	if err := os.Chtimes(path, old, old); err != nil {
		t.Fatal(err)
	}
	save(t, s, here, "a")
	if !whole(1) {
		t.Error("the file was not saved at all, or not as it is")
	}
	return false, rested
}

// failing fails at the call of a number, before or after it has happened, and at all that follow if it is dead.
type failing struct {
	storage.Storage
	calls atomic.Int64
	at    int64
	after bool
	dead  bool
	slow  time.Duration
	bend  func([]byte) []byte
}

var errInjected = errors.New("injected")

func (f *failing) now() (before, after bool) {
	n := f.calls.Add(1)
	hit := n == f.at || f.dead && n > f.at && f.at > 0
	return hit && (!f.after || n > f.at), hit && f.after
}

func (f *failing) Get(ctx context.Context, key string, offset, length int64) (io.ReadCloser, storage.Info, error) {
	if before, after := f.now(); before || after {
		return nil, storage.Info{}, errInjected
	}
	select {
	case <-time.After(f.slow):
	case <-ctx.Done():
		return nil, storage.Info{}, ctx.Err()
	}
	reader, info, err := f.Storage.Get(ctx, key, offset, length)
	if err != nil || f.bend == nil {
		return reader, info, err
	}
	defer reader.Close()
	content, err := io.ReadAll(reader)
	return io.NopCloser(bytes.NewReader(f.bend(content))), info, err
}

func (f *failing) Put(ctx context.Context, key string, content []byte, c storage.Condition) (string, error) {
	before, after := f.now()
	if before {
		return "", errInjected
	}
	tag, err := f.Storage.Put(ctx, key, content, c)
	if after {
		return "", errInjected
	}
	return tag, err
}

// TestKilledAtAnyCall: whatever call is the last that a saver makes, and whether it happened or not, there is the snapshot
// before or the new one, whole.
func TestKilledAtAnyCall(t *testing.T) {
	before, after := map[string]string{"a": "1", "b": strings.Repeat("2", 3<<20)}, map[string]string{"a": "other", "c": strings.Repeat("3", 3<<20)}
	for _, happened := range []bool{false, true} {
		for at := int64(1); at < 12; at++ {
			s, here := newStorage(t), t.TempDir()
			fill(t, filepath.Join(here, "x"), before)
			save(t, s, here, "x")
			if err := os.RemoveAll(filepath.Join(here, "x")); err != nil {
				t.Fatal(err)
			}
			fill(t, filepath.Join(here, "x"), after)
			_, err := Save(t.Context(), SaveConfig{Storage: &failing{Storage: s, at: at, dead: true, after: happened}, Folder: here, Shop: "x", Compatibility: "v1"})
			defer func() {
				// The next saver is not held up for ever, and everything can be read.
				later := func(c *SaveConfig) { c.Now = func() time.Time { return time.Now().Add(2 * LeaseTime) } }
				if result := save(t, s, here, "x", later); result.Busy || result.Files != len(after) {
					t.Errorf("call %d, happened %v: the next save: %+v", at, happened, result)
				}
				if _, _, err := Verify(t.Context(), s, "v1", "x"); err != nil {
					t.Errorf("call %d, happened %v: %v", at, happened, err)
				}
			}()
			there := t.TempDir()
			restore(t, s, there, []string{"x"})
			got := tree(t, filepath.Join(there, "x"))
			switch {
			case reflect.DeepEqual(got, after):
			case err == nil, !reflect.DeepEqual(got, before):
				t.Errorf("call %d, happened %v: %v, and there are %d files", at, happened, err, len(got))
			}
		}
	}
}

// TestRestoreFails: whatever call fails, whatever comes back, a shop is there whole or not at all, and others are.
func TestRestoreFails(t *testing.T) {
	s, here := newStorage(t), t.TempDir()
	files := sample(3)
	for _, shop := range []string{"a", "b", "c"} {
		fill(t, filepath.Join(here, shop), files)
		save(t, s, here, shop)
	}
	check := func(what string, from storage.Storage, least int) {
		t.Helper()
		there := t.TempDir()
		report := restore(t, from, there, []string{"a", "b", "c"}, func(c *RestoreConfig) { c.Workers = 1 })
		if report.Shops < least || report.Shops+report.Failed != 3 || len(report.Errors) != report.Failed {
			t.Errorf("%s: %+v", what, report)
		}
		for _, shop := range []string{"a", "b", "c"} {
			if got := tree(t, filepath.Join(there, shop)); len(got) > 0 {
				same(t, got, files)
			}
		}
	}
	for at := int64(1); at <= 12; at++ {
		check(fmt.Sprint("call ", at), &failing{Storage: s, at: at}, 2)
	}
	check("truncated", &failing{Storage: s, bend: func(b []byte) []byte { return b[:len(b)-1] }}, 0)
	check("nothing", &failing{Storage: s, bend: func([]byte) []byte { return nil }}, 0)
	check("garbage", &failing{Storage: s, bend: func(b []byte) []byte {
		b = slices.Clone(b)
		b[len(b)/2] ^= 1
		return b
	}}, 0)
	check("somebody else's", &failing{Storage: s, bend: func(b []byte) []byte { return bytes.Repeat([]byte("x"), len(b)) }}, 0)
}

// TestBudgets: the most valuable first, and no more than was allowed.
func TestBudgets(t *testing.T) {
	s, here := newStorage(t), t.TempDir()
	var shops []string
	for i := range 6 {
		shop := fmt.Sprintf("s-%d", i)
		shops = append(shops, shop)
		fill(t, filepath.Join(here, shop), map[string]string{"a": strings.Repeat("x", 1000), "b": "y"})
		save(t, s, here, shop)
	}
	for name, test := range map[string]struct {
		edit func(*RestoreConfig)
		want int
	}{
		"bytes": {func(c *RestoreConfig) { c.Bytes = 3100 }, 3},
		"files": {func(c *RestoreConfig) { c.Files = 8 }, 4},
		"none":  {func(*RestoreConfig) {}, 6},
		"dry":   {func(c *RestoreConfig) { c.DryRun = true }, 6},
	} {
		there := t.TempDir()
		report := restore(t, s, there, shops, test.edit)
		if report.Shops != test.want || report.OverBudget != 6-test.want {
			t.Errorf("%s: %s", name, report)
		}
		for i, shop := range shops {
			if got := len(tree(t, filepath.Join(there, shop))) == 2; got != (i < test.want && name != "dry") {
				t.Errorf("%s: %s is there: %v", name, shop, got)
			}
		}
	}
	there := t.TempDir()
	report := restore(t, &failing{Storage: s, slow: time.Hour}, there, shops, func(c *RestoreConfig) { c.Time = 50 * time.Millisecond })
	if !report.Expired || report.Shops != 0 || len(tree(t, there)) > 0 {
		t.Errorf("a storage that is slow: %+v", report)
	}
}

// TestLiveWins: what somebody wrote meanwhile stays.
func TestLiveWins(t *testing.T) {
	s, here, there := newStorage(t), t.TempDir(), t.TempDir()
	fill(t, filepath.Join(here, "a"), map[string]string{"x": "saved", "sub/y": "saved", "z/w": "saved"})
	save(t, s, here, "a")
	fill(t, filepath.Join(there, "a"), map[string]string{"x": "live", "sub/own": "live"})
	restore(t, s, there, []string{"a"})
	same(t, tree(t, filepath.Join(there, "a")), map[string]string{"x": "live", "sub/own": "live", "sub/y": "saved", "z/w": "saved"})
}

// TestTrust: revoked, invalidated, young and foreign snapshots are not restored.
func TestTrust(t *testing.T) {
	s, here := newStorage(t), t.TempDir()
	shop := func(content, source string) {
		fill(t, filepath.Join(here, "a"), map[string]string{"x": content})
		save(t, s, here, "a", func(c *SaveConfig) { c.Source = source })
	}
	got := func(edit ...func(*RestoreConfig)) string {
		t.Helper()
		there := t.TempDir()
		restore(t, s, there, []string{"a"}, edit...)
		return tree(t, filepath.Join(there, "a"))["x"]
	}
	shop("first", "pod-1")
	shop("second version", "pod-2")
	if x := got(); x != "second version" {
		t.Errorf("got %q", x)
	}
	if n, err := Revoke(t.Context(), s, "v1", "a", func(g Generation, newest bool) bool { return newest && g.Source == "pod-2" }); n != 1 || err != nil {
		t.Error(n, err)
	}
	if x := got(); x != "first" {
		t.Errorf("after a revocation: %q", x)
	}
	if x := got(func(c *RestoreConfig) { c.Quarantine = time.Hour }); x != "" {
		t.Errorf("in quarantine: %q", x)
	}
	if x := got(func(c *RestoreConfig) { c.Compatibility = "v2" }); x != "" {
		t.Errorf("another release: %q", x)
	}
	if x := got(func(c *RestoreConfig) {
		c.Validate = func(context.Context, string, string) error { return errors.New("no") }
	}); x != "" {
		t.Errorf("not valid: %q", x)
	}
	if err := Invalidate(t.Context(), s, "a", time.Now()); err != nil {
		t.Fatal(err)
	}
	if x := got(); x != "" {
		t.Errorf("after it was invalidated: %q", x)
	}
	shop("third and last", "pod-1")
	if x := got(); x != "third and last" {
		t.Errorf("got %q", x)
	}
}

// TestBadManifests: what a manifest says is checked before anything is written.
func TestBadManifests(t *testing.T) {
	good := func() *manifest {
		return &manifest{Shop: "a", Packs: []pack{{Hash: strings.Repeat("0", 64), Raw: 10, Frames: []frame{{Size: 5, Sum: make([]byte, 32)}}}},
			Files: []file{{Path: "x", Mode: 0o644, Size: 10}}}
	}
	if err := good().check("a"); err != nil {
		t.Fatal(err)
	}
	for name, bend := range map[string]func(*manifest){
		"another shop":     func(m *manifest) { m.Shop = "b" },
		"way up":           func(m *manifest) { m.Files[0].Path = "../x" },
		"absolute":         func(m *manifest) { m.Files[0].Path = "/x" },
		"dots":             func(m *manifest) { m.Files[0].Path = "a/../x" },
		"staging":          func(m *manifest) { m.Files[0].Path = ".warm-x" },
		"itself":           func(m *manifest) { m.Files[0].Path = "." },
		"twice":            func(m *manifest) { m.Files = append(m.Files, m.Files[0]) },
		"set-uid":          func(m *manifest) { m.Files[0].Mode = 0o4755 },
		"staging above":    func(m *manifest) { m.Files[0].Path = "a/.warm-x/y" },
		"beyond the pack":  func(m *manifest) { m.Files[0].Offset = 1 },
		"before the pack":  func(m *manifest) { m.Files[0].Offset = -1 },
		"no such pack":     func(m *manifest) { m.Files[0].Pack = 1 },
		"negative size":    func(m *manifest) { m.Files[0].Size = -1 },
		"a bomb":           func(m *manifest) { m.Packs[0].Raw = 1 << 40 },
		"frames missing":   func(m *manifest) { m.Packs[0].Frames = nil },
		"a frame too long": func(m *manifest) { m.Packs[0].Frames[0].Size = 1 << 30 },
		"no sum":           func(m *manifest) { m.Packs[0].Frames[0].Sum = nil },
		"no hash":          func(m *manifest) { m.Packs[0].Hash = "../../x" },
	} {
		m := good()
		bend(m)
		if err := m.check("a"); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}
