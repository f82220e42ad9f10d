package rank

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"math"
	"math/rand/v2"
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
	ranking := c.Rank(map[string]int64{"large": 1000, "small": 100, "old": 1000})
	if got := names(ranking); got != "small large old unknown" {
		t.Errorf("got %s: %+v", got, ranking.Shops)
	}
	if share := ranking.Shops[1].Share; math.Abs(share-100.0/270) > 1e-9 {
		t.Errorf("the share of large is %f", share)
	}
	ranking.Cut(0, 1200)
	if got := names(ranking); got != "small large" || ranking.String() != "top 2 shops = 59 % of requests, 0.0 GB" {
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
	ranking := c.Rank(nil)
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
		if err != nil || result.Lines != 6 || result.Skipped != 3 || c.total != 3 || names(c.Rank(nil)) != "a b" {
			t.Errorf("%s: %+v %v, %v requests", name, result, err, c.total)
		}
		c = NewCounter(now, 0, 10)
		result, err = ReadLog(t.Context(), bytes.NewReader(pack(table)), LogFormat{CSV: true, Shop: "host", Requests: "n"}, c)
		if err != nil || result.Skipped != 2 || c.total != 12 || names(c.Rank(nil)) != "b a" {
			t.Errorf("%s, CSV: %+v %v, %v requests", name, result, err, c.total)
		}
	}
	if _, err := ReadLog(t.Context(), strings.NewReader("a,b\n1,2\n"), LogFormat{CSV: true}, NewCounter(now, 0, 1)); err == nil {
		t.Error("a table without shops")
	}
	if _, err := ReadLog(t.Context(), strings.NewReader(strings.Repeat("x", 2*maxLine)), LogFormat{}, NewCounter(now, 0, 1)); err == nil {
		t.Error("a line without an end")
	}
}
