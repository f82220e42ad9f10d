package rank

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
)

var now = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

func names(r *Ranking) string {
	var list []string
	for _, shop := range r.Shops {
		list = append(list, shop.Name)
	}
	return strings.Join(list, " ")
}

// TestWorth: requests for each byte, and less for what is long ago.
func TestWorth(t *testing.T) {
	c := NewCounter(now, time.Hour, 100)
	for shop, n := range map[string]int{"large": 100, "small": 60, "unknown": 10} {
		c.Add(shop, now, float64(n))
	}
	c.Add("old", now.Add(-3*time.Hour), 800) // An eighth.
	ranking := c.Rank(Worth{Bytes: map[string]int64{"large": 1000 << 20, "small": 100 << 20, "old": 1000 << 20}})
	if got := names(ranking); got != "small large old unknown" {
		t.Errorf("got %s: %+v", got, ranking.Shops)
	}
	if share := ranking.Shops[1].Share; math.Abs(share-100.0/270) > 1e-9 {
		t.Errorf("the share of large is %f", share)
	}
	ranking.Cut(0, 1200<<20)
	if got := names(ranking); got != "small large" || ranking.String() != "top 2 shops = 59 % of requests, 1.2 GB" {
		t.Errorf("%s: %s", got, ranking)
	}
	var text bytes.Buffer
	if err := ranking.Write(&text); err != nil {
		t.Fatal(err)
	}
	if again, err := Read(&text); err != nil || names(again) != "small large" {
		t.Errorf("%v %v", again, err)
	}
}

// TestManyShops: the busiest of many are found with few counters, and their numbers are about right.
func TestManyShops(t *testing.T) {
	const shops, requests, counters = 100000, 500000, 2000
	random := rand.New(rand.NewPCG(1, 1)) //nolint:gosec // It is a test.
	zipf := rand.NewZipf(random, 1.2, 1, shops-1)
	exact := map[string]float64{}
	c := NewCounter(now, 0, counters)
	for range requests {
		shop := fmt.Sprint("shop-", zipf.Uint64())
		exact[shop]++
		c.Add(shop, time.Time{}, 1)
	}
	if len(c.byName) != counters || len(c.least) != counters {
		t.Errorf("%d shops are counted", len(c.byName))
	}
	ranking := c.Rank(Worth{})
	for i := range 50 {
		want := fmt.Sprint("shop-", i)
		at := -1
		for j, shop := range ranking.Shops {
			if shop.Name == want {
				at = j
				if over := shop.Requests - exact[want]; over < 0 || over > requests/counters {
					t.Errorf("%s: %.0f requests, really %.0f", want, shop.Requests, exact[want])
				}
			}
		}
		if at < 0 || at > i+10 {
			t.Errorf("%s is at %d", want, at)
		}
	}
}

func TestLogs(t *testing.T) {
	jsonLines := `{"time":"2026-11-23T11:00:00Z","shop":"a","path":"/x"}
{"time":"2026-11-23T11:00:00.123Z","shop":"b"}
not json
{"time":"yesterday","shop":"b"}
{"shop":""}
{"time":1763895600,"shop":"a"}
`
	table := "time,host,n\n2026-11-23 11:00:00 UTC,a,5\n1763895600.5,b,7\nx,b,1\n2026-11-23T11:00:00Z,\"a\nb\n"
	compress := map[string]func(string) []byte{
		"plain": func(text string) []byte { return []byte(text) },
		"gzip": func(text string) []byte {
			var b bytes.Buffer
			w := gzip.NewWriter(&b)
			_, _ = w.Write([]byte(text))
			_ = w.Close()
			return b.Bytes()
		},
		"zstd": func(text string) []byte {
			w, err := zstd.NewWriter(nil)
			if err != nil {
				t.Fatal(err)
			}
			return w.EncodeAll([]byte(text), nil)
		},
	}
	for name, pack := range compress {
		c := NewCounter(now, 0, 10)
		result, err := ReadLog(t.Context(), bytes.NewReader(pack(jsonLines)), LogFormat{}, c)
		if err != nil || result.Lines != 6 || result.Skipped != 3 || c.total != 3 || names(c.Rank(Worth{})) != "a b" {
			t.Errorf("%s: %+v %v, %v requests", name, result, err, c.total)
		}
		c = NewCounter(now, 0, 10)
		result, err = ReadLog(t.Context(), bytes.NewReader(pack(table)), LogFormat{CSV: true, Shop: "host", Requests: "n"}, c)
		if err != nil || result.Skipped != 2 || c.total != 12 || names(c.Rank(Worth{})) != "b a" {
			t.Errorf("%s, CSV: %+v %v, %v requests", name, result, err, c.total)
		}
	}
	if _, err := ReadLog(t.Context(), strings.NewReader("a,b\n1,2\n"), LogFormat{CSV: true}, NewCounter(now, 0, 1)); err == nil {
		t.Error("a table without shops")
	}
	// A line that is too long is skipped, and none behind it; an empty table has nothing in it, which is no error.
	c := NewCounter(now, 0, 10)
	long := strings.Repeat("x", 2*maxLine)
	result, err := ReadLog(t.Context(), strings.NewReader(`{"shop":"a"}`+"\n"+long+"\n"+`{"shop":"b"}`+"\n"+long), LogFormat{}, c)
	if err != nil || result.Lines != 4 || result.Skipped != 2 || c.total != 2 {
		t.Errorf("%+v %v, %v requests", result, err, c.total)
	}
	if result, err := ReadLog(t.Context(), strings.NewReader(""), LogFormat{CSV: true}, c); err != nil || result.Lines != 0 {
		t.Errorf("%+v %v", result, err)
	}
}

// TestBrokenLogs: what was cut off is counted up to there, and keeps nobody from a ranking; that a log could not be read is an error,
// and so is a ranking of nothing.
func TestBrokenLogs(t *testing.T) {
	var packed bytes.Buffer
	w := gzip.NewWriter(&packed)
	for i := range 20000 {
		fmt.Fprintf(w, `{"shop":"a","n":%d}`+"\n", i*7919)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	cut := packed.Bytes()[:packed.Len()/2]
	logs := func(contents ...io.Reader) Logs {
		return Logs{Name: "logs", Walk: func(_ context.Context, visit func(Object) error) error {
			for i, content := range contents {
				open := func(context.Context) (io.ReadCloser, error) { return io.NopCloser(content), nil }
				if err := visit(Object{Name: fmt.Sprint(i), Open: open}); err != nil {
					return err
				}
			}
			return nil
		}}
	}
	c := NewCounter(now, 0, 10)
	result, err := logs(bytes.NewReader(cut), strings.NewReader("\x1f\x8bno gzip"), strings.NewReader(`{"shop":"b"}`)).Count(t.Context(), c)
	if err != nil || result.Broken != 2 || c.byName["a"] == nil || c.byName["b"] == nil || c.total >= 20001 {
		t.Errorf("%+v %v", result, err)
	}
	if err := CountAll(t.Context(), c, logs(strings.NewReader("\x1f\x8bno gzip"))); err == nil || !strings.Contains(err.Error(), "broken") {
		t.Error(err)
	}
	away := errors.New("the network is away")
	if _, err := logs(io.MultiReader(bytes.NewReader(cut), failing{away})).Count(t.Context(), c); !errors.Is(err, away) {
		t.Error(err)
	}
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

// TestMemory: a million shops are counted in the memory of ten thousand, and no more is kept of each than its name.
func TestMemory(t *testing.T) {
	const shops, counters = 1_000_000, 10_000
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	c := NewCounter(now, 0, counters)
	var log bytes.Buffer
	for i := range shops {
		if i%50_000 == 0 && i > 0 || i == shops-1 {
			if _, err := ReadLog(t.Context(), &log, LogFormat{}, c); err != nil {
				t.Fatal(err)
			}
		}
		fmt.Fprintf(&log, `{"shop":"shop-%07d.example","time":"2026-11-23T11:00:00Z","path":"/%s"}`+"\n", i, "p")
	}
	if len(c.byName) != counters || len(c.least) != counters {
		t.Errorf("%d and %d are kept", len(c.byName), len(c.least))
	}
	length := 0
	for name := range c.byName {
		length += len(name)
	}
	if length > counters*32 {
		t.Errorf("%d bytes of names", length)
	}
	log = bytes.Buffer{}
	runtime.GC()
	runtime.ReadMemStats(&after)
	if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > 8<<20 {
		t.Errorf("%d bytes are held", grown)
	}
	runtime.KeepAlive(c)
}

// TestPenalty: what is measured to be slower when cold comes first, and a restore that is slower makes all worth less.
func TestPenalty(t *testing.T) {
	c := NewCounter(now, 0, 10)
	for _, shop := range []string{"a", "b", "c"} {
		c.Add(shop, now, 100)
	}
	w := Worth{Bytes: map[string]int64{"a": 100e6, "b": 100e6, "c": 200e6}, Penalty: 0.2, Penalties: map[string]float64{"b": 0.5, "c": 0}, BytesPerSecond: 50e6}
	ranking := c.Rank(w)
	if got := names(ranking); got != "b a c" || ranking.Shops[0].Score != 25 || ranking.Shops[1].Score != 10 || ranking.Shops[2].Score != 0 {
		t.Errorf("%s: %+v", got, ranking.Shops)
	}
	w.BytesPerSecond /= 2
	if slower := c.Rank(w); slower.Shops[0].Score != 12.5 {
		t.Errorf("%+v", slower.Shops[0])
	}
	// However small a shop is, it costs round trips.
	c.Add("tiny", now, 1)
	w.Bytes["tiny"] = 1
	if got := names(c.Rank(w)); !strings.HasPrefix(got, "tiny") {
		t.Error(got)
	}
	c = NewCounter(now, 0, 10)
	c.Add("tiny", now, 1)
	c.Add("small", now, 3)
	if got := names(c.Rank(Worth{Bytes: map[string]int64{"tiny": 1, "small": leastBytes * 2}})); got != "small tiny" {
		t.Error(got)
	}
}

// TestBudgets says what several budgets cover, as a restore would spend them.
func TestBudgets(t *testing.T) {
	c := NewCounter(now, 0, 10)
	for shop, n := range map[string]float64{"a": 60, "b": 20, "c": 15, "new": 5} {
		c.Add(shop, now, n)
	}
	ranking := c.Rank(Worth{Bytes: map[string]int64{"a": 1e9, "b": 2e9, "c": 3e9}})
	var lines []string
	for _, b := range ranking.Budgets(4e9, 1e9, 0, 4e9) {
		lines = append(lines, b.String())
	}
	want := "top 4 shops = 100 % of requests, 8.0 GB|top 1 shops = 60 % of requests, 1.0 GB|top 2 shops = 80 % of requests, 3.0 GB"
	if got := strings.Join(lines, "|"); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	ranking.Cut(1, 0)
	if ranking.String() != "top 1 shops = 60 % of requests, 1.0 GB" {
		t.Error(ranking)
	}
}

// TestWindow: what is older is left out, and files that nobody wrote to since are not even opened.
func TestWindow(t *testing.T) {
	c := NewCounter(now, 0, 10)
	c.Window(time.Hour)
	opened := 0
	object := func(name string, modified time.Time) Object {
		return Object{Name: name, Modified: modified, Open: func(context.Context) (io.ReadCloser, error) {
			opened++
			return io.NopCloser(strings.NewReader(`{"shop":"a","time":"2026-11-23T11:30:00Z"}` + "\n" + `{"shop":"b","time":"2026-11-23T10:30:00Z"}` + "\n")), nil
		}}
	}
	logs := Logs{Name: "logs", Walk: func(_ context.Context, visit func(Object) error) error {
		return errors.Join(visit(object("old", now.Add(-2*time.Hour))), visit(object("new", now)), visit(object("unknown", time.Time{})))
	}}
	if err := CountAll(t.Context(), c, logs); err != nil || opened != 2 || names(c.Rank(Worth{})) != "a" || c.total != 2 {
		t.Errorf("%v, %d opened, %v requests", err, opened, c.total)
	}
}

// TestTooOldToCount: what is so old that it counts nothing is still a number.
func TestTooOldToCount(t *testing.T) {
	c := NewCounter(now, time.Minute, 10)
	c.Add("a", now.Add(-10000*time.Hour), 1)
	var text bytes.Buffer
	if err := c.Rank(Worth{}).Write(&text); err != nil {
		t.Error(err)
	}
}

// TestWrongNames: a ranking of nothing is an error, not a ranking.
func TestWrongNames(t *testing.T) {
	file := filepath.Join(t.TempDir(), "x.log")
	if err := os.WriteFile(file, []byte(`{"host":"a"}`+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := CountAll(t.Context(), NewCounter(now, 0, 10), Files(LogFormat{}, file)); err == nil || !strings.Contains(err.Error(), "none of 1 lines") {
		t.Error(err)
	}
	if err := CountAll(t.Context(), NewCounter(now, 0, 10), Files(LogFormat{Shop: "host"}, file), Files(LogFormat{}, "/nowhere/x")); err == nil || !strings.Contains(err.Error(), "/nowhere/x") {
		t.Error(err)
	}
}

// TestEndlessRecord: a quotation mark that is never closed takes no more memory than a line may.
func TestEndlessRecord(t *testing.T) {
	table := io.MultiReader(strings.NewReader("shop,time\na,\"x"), endless{})
	if _, err := ReadLog(t.Context(), table, LogFormat{CSV: true}, NewCounter(now, 0, 1)); err == nil || !strings.Contains(err.Error(), "not closed") {
		t.Error(err)
	}
}

type endless struct{}

func (endless) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = 'x'
	}
	p[0] = '\n' // Lines are no bound of a record.
	return len(p), nil
}
