package placement_test

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/shopset/shopset/internal/placement"
)

// cells makes cells c00, c01, … with the given weights.
func cells(weights ...uint32) []placement.Cell {
	var result []placement.Cell
	for i, weight := range weights {
		result = append(result, placement.Cell{Name: fmt.Sprintf("c%02d", i), Weight: weight})
	}
	return result
}

func equal(n int) []placement.Cell { return cells(slices.Repeat([]uint32{100}, n)...) }

func function(t testing.TB, config placement.Config) *placement.Function {
	t.Helper()
	f, err := placement.New(config)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// names places a host and gives the names of its cells.
func names(f *placement.Function, config placement.Config, host string) string {
	var result []string
	for _, index := range f.Place(host, nil) {
		result = append(result, config.Cells[index].Name)
	}
	return strings.Join(result, " ")
}

func host(i int) string { return fmt.Sprintf("shop-%d.example", i) }

// TestVectors holds the function to what docs/routing-table.md publishes: whoever computes it elsewhere relies on it.
func TestVectors(t *testing.T) {
	config := placement.Config{Cells: []placement.Cell{{Name: "a", Weight: 100}, {Name: "b", Weight: 100}, {Name: "c", Weight: 50}, {Name: "d"}, {Name: "e", Weight: 300}}}
	f := function(t, config)
	for host, want := range vectors {
		if got := names(f, config, host); got != want.cells {
			t.Errorf("%s: %s, want %s", host, got, want.cells)
		}
		explained, err := f.Explain(host)
		if err != nil || explained.Hash != want.hash || fmt.Sprintf("%.12g", explained.Candidates[0].Score) != want.score {
			t.Errorf("%s: hash %#x, score %.12g, error %v", host, explained.Hash, explained.Candidates[0].Score, err)
		}
	}
}

// TestAgainstTheDefinition computes the function a second time, slowly and with the logarithm of the standard library.
func TestAgainstTheDefinition(t *testing.T) {
	worst := 0.0
	check := func(x uint64) {
		u := float64(x>>12*2+1) / (1 << 53)
		got, want := placement.NegLog(x), -math.Log(u)
		if got <= 0 || math.IsInf(got, 0) || math.IsNaN(got) {
			t.Fatalf("score of %#x is %v", x, got)
		}
		worst = max(worst, math.Abs(got-want)/want)
	}
	for i := range uint64(200_000) {
		check(placement.Mix(i))
	}
	for shift := range 64 {
		for _, x := range []uint64{1 << shift, 1<<shift - 1, math.MaxUint64 << shift, math.MaxUint64 - 1<<shift} {
			check(x)
		}
	}
	if worst > 1e-15 {
		t.Errorf("the logarithm is off by %.2g", worst)
	}
}

func TestPins(t *testing.T) {
	config := placement.Config{
		Cells: cells(100, 100, 100, 0), ShardSize: 2,
		Pins: []placement.Pin{
			{Host: "Big.Example.", Cell: "c02"}, {Host: "*.group.example", Cell: "c01"}, {Host: "*.deep.group.example", Cell: "c00"},
			{Host: "one.deep.group.example", Cell: "c02"}, {Host: "late.example", Cell: "c03"}, {Host: "*.bücher.example", Cell: "c02"},
		},
	}
	f := function(t, config)
	for host, want := range map[string]string{
		"big.example": "c02", "x.group.example": "c01", "x.y.group.example": "c01", "x.deep.group.example": "c00",
		"deep.group.example": "c01", "one.deep.group.example": "c02", "www.xn--bcher-kva.example": "c02",
	} {
		got := f.Place(host, nil)
		if len(got) != 2 || config.Cells[got[0]].Name != want || got[0] == got[1] {
			t.Errorf("%s is at %s, want %s first and one more", host, names(f, config, host), want)
		}
	}
	free := function(t, placement.Config{Cells: config.Cells, ShardSize: 2})
	for _, host := range []string{"group.example", "xgroup.example", "late.example", "big.example.org", ""} {
		if got, want := f.Place(host, nil), free.Place(host, nil); !slices.Equal(got, want) {
			t.Errorf("%q has no pin that works, but is at %v, not at %v", host, got, want)
		}
	}
	// Besides the pinned cell, the order is that of the function.
	if got := f.Place("big.example", nil); got[1] != slices.DeleteFunc(free.Place("big.example", nil), func(i int) bool { return i == 2 })[0] {
		t.Errorf("after the pin comes %v", got)
	}
}

func TestExplain(t *testing.T) {
	f := function(t, placement.Config{Cells: cells(100, 100, 100, 0), ShardSize: 2, Pins: []placement.Pin{
		{Host: "*.group.example", Cell: "c02"}, {Host: "late.example", Cell: "c03"}}})
	for host, want := range map[string][]string{
		"X.Group.example:443": {"x.group.example (hash ", "pinned to c02 by *.group.example\n", "1. c02: serves it (", "2. c0", ": serves it if the one before fails", "3. c0", "not in its shard", "4. c03: drained"},
		"late.example":        {"pinned to c03 by late.example, which is drained: placed as if there were no pin", "1. c0", "4. c03: drained"},
	} {
		explained, err := f.Explain(host)
		if err != nil {
			t.Fatal(err)
		}
		text := explained.String()
		at := 0
		for _, part := range want {
			next := strings.Index(text[at:], part)
			if next < 0 {
				t.Fatalf("%s: no %q after byte %d of\n%s", host, part, at, text)
			}
			at += next
		}
		for rank, index := range f.Place(explained.Host, nil) {
			if explained.Candidates[rank].Index != index {
				t.Errorf("%s: explained as %v, placed at %v", host, explained.Candidates, f.Place(explained.Host, nil))
			}
		}
	}
	if _, err := f.Explain("a..b"); err == nil || !strings.Contains(err.Error(), `host "a..b"`) {
		t.Errorf("error %v", err)
	}
}

func TestNewSaysAllProblems(t *testing.T) {
	_, err := placement.New(placement.Config{
		Cells: []placement.Cell{{Name: "a", Weight: 1}, {Name: "a", Weight: 1}, {Name: strings.Repeat("x", 64)}, {}}, ShardSize: -1,
		Pins: []placement.Pin{{Host: "h.example", Cell: "nowhere"}, {Host: "h..example", Cell: "a"}, {Host: "H.example", Cell: "a"}, {Host: "a.*.example", Cell: "a"}},
	})
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{
		`cells[1]: the name "a" is that of cells[0] too`, "cells[2]: the name", "cells[3]: the name", "shardSize -1",
		`pins[0]: host "h.example" is pinned to cell "nowhere", which does not exist`, `pins[1]: host "h..example"`,
		`pins[2]: host "H.example" is pinned twice`, "pins[3]:",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("no %q in\n%v", want, err)
		}
	}
	if _, err := placement.New(placement.Config{}); err == nil || !strings.Contains(err.Error(), "cells: there is none") {
		t.Errorf("no cells: %v", err)
	}
	if _, err := placement.New(placement.Config{Cells: equal(257), Pins: make([]placement.Pin, 10_001)}); err == nil ||
		!strings.Contains(err.Error(), "there are 257; 256 is the most") || !strings.Contains(err.Error(), "there are 10001; 10000 is the most") {
		t.Error("bounds are not held")
	}
}

func TestNoCellWithWeight(t *testing.T) {
	f := function(t, placement.Config{Cells: cells(0, 0), Pins: []placement.Pin{{Host: "h.example", Cell: "c00"}}})
	if got := f.Place("h.example", nil); len(got) != 0 {
		t.Errorf("placed at %v", got)
	}
	if shares := f.Shares(); shares.Largest != 0 || shares.LargestCell != -1 {
		t.Errorf("%+v", shares)
	}
}

func TestPlaceAllocatesNothing(t *testing.T) {
	f := function(t, placement.Config{Cells: equal(256), Pins: []placement.Pin{{Host: "*.example", Cell: "c07"}}})
	into := make([]int, 0, 256)
	if n := testing.AllocsPerRun(100, func() {
		name, _ := placement.Normalise("www.shop.example")
		into = f.Place(name, into)
	}); n > 0 || len(into) != 256 {
		t.Errorf("%v allocations, %d cells", n, len(into))
	}
}

func TestNormalise(t *testing.T) {
	for host, want := range map[string]string{
		"shop.example": "shop.example", "SHOP.Example.": "shop.example", "shop.example:8443": "shop.example", "shop.example.:443": "shop.example",
		"bücher.example": "xn--bcher-kva.example", "XN--BCHER-KVA.example": "xn--bcher-kva.example", "localhost:80": "localhost",
		"192.0.2.1": "192.0.2.1", "192.0.2.1:443": "192.0.2.1", "[2001:DB8::1]:443": "2001:db8::1", "[2001:db8:0::1]": "2001:db8::1", "2001:db8::1": "2001:db8::1",
		"::ffff:192.0.2.1": "192.0.2.1", "shop.example:": "shop.example", "a_b.example": "a_b.example",
	} {
		got, err := placement.Normalise(host)
		if got != want || err != nil {
			t.Errorf("%q: %q %v, want %q", host, got, err, want)
		}
	}
	for host, want := range map[string]string{
		"": "is empty", ".": "is empty", ":443": "is empty", "shop.example:http": "has a port", "shop.example:65536": "has a port", "shop.example:+1": "has a port",
		"[::1": "has brackets", "[::1]x": "has brackets", "[192.0.2.1]": "has something else", "[fe80::1%eth0]": "has something else", "a b.example": "a character",
		"*.example": "a character", "a..example": "is no host name", strings.Repeat("a.", 200): "is no host name", strings.Repeat("a", 5000): "more than 253", "a.example..": "two dots",
	} {
		if got, err := placement.Normalise(host); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %q and error %v, want %q", host, got, err, want)
		}
	}
}

func FuzzNormalise(f *testing.F) {
	for _, seed := range []string{"shop.example", "[::1]:443", "BÜCHER.example.", "1.2.3.4:80", "a..b", "xn--a"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, host string) {
		name, err := placement.Normalise(host)
		if err != nil {
			return
		}
		if again, err := placement.Normalise(name); again != name || err != nil {
			t.Errorf("%q becomes %q, and that %q %v", host, name, again, err)
		}
	})
}

// BenchmarkPlace16 is one host among 16 cells, all of which may serve it. Hosts per second are 10⁹ by its ns/op.
func BenchmarkPlace16(b *testing.B) { benchmarkPlace(b, placement.Config{Cells: equal(16)}) }

// BenchmarkPlace16Shard4 is with shuffle sharding, uneven weights and pins.
func BenchmarkPlace16Shard4(b *testing.B) {
	config := placement.Config{Cells: equal(16), ShardSize: 4, Pins: []placement.Pin{{Host: "*.group.example", Cell: "c03"}}}
	for i := range 1000 {
		config.Pins = append(config.Pins, placement.Pin{Host: fmt.Sprintf("pinned-%d.example", i), Cell: "c01"})
		config.Cells[i%16].Weight = uint32(50 + i)
	}
	benchmarkPlace(b, config)
}

func benchmarkPlace(b *testing.B, config placement.Config) {
	f := function(b, config)
	hosts := make([]string, 1024)
	for i := range hosts {
		hosts[i] = "www." + host(i)
	}
	into := make([]int, 0, 16)
	b.ReportAllocs()
	b.ResetTimer()
	for i := range b.N {
		name, err := placement.Normalise(hosts[i%len(hosts)])
		if err != nil {
			b.Fatal(err)
		}
		into = f.Place(name, into)
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "hosts/s")
}
