package placement_test

import (
	"flag"
	"fmt"
	"math"
	"os"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/shopset/shopset/internal/placement"
)

// TestMain makes rapid draw the same in every run, and leave no files.
func TestMain(m *testing.M) {
	flag.Parse()
	for name, value := range map[string]string{"rapid.seed": "1", "rapid.nofailfile": "true"} {
		if err := flag.Set(name, value); err != nil {
			panic(err)
		}
	}
	os.Exit(m.Run())
}

// drawCells draws 1 to most cells of any names and weights, some of them drained.
func drawCells(t *rapid.T, least, most int) []placement.Cell {
	list := rapid.SliceOfNDistinct(rapid.StringMatching(`[a-z][a-z0-9-]{0,8}`), least, most, rapid.ID[string]).Draw(t, "names")
	var result []placement.Cell
	for _, name := range list {
		result = append(result, placement.Cell{Name: name, Weight: rapid.OneOf(rapid.Just(uint32(100)), rapid.Uint32Range(0, 1000)).Draw(t, "weight")})
	}
	return result
}

func drawHost(t *rapid.T) string {
	return rapid.StringMatching(`[a-z0-9]{1,12}(\.[a-z]{2,8}){1,3}`).Draw(t, "host")
}

func mustNew(t *rapid.T, config placement.Config) *placement.Function {
	f, err := placement.New(config)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// TestMoves: whatever happens to one cell, a host's order of the other cells stays the same. So a cell that goes moves
// its own hosts alone, each to its second cell, and one that comes takes hosts and moves none between others.
func TestMoves(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		before := placement.Config{Cells: drawCells(t, 2, 24)}
		at := rapid.IntRange(0, len(before.Cells)-1).Draw(t, "which")
		name := before.Cells[at].Name
		after := placement.Config{Cells: slices.Clone(before.Cells)}
		switch rapid.SampledFrom([]string{"removed", "drained", "reweighted", "reordered"}).Draw(t, "what") {
		case "removed":
			after.Cells = slices.Delete(after.Cells, at, at+1)
		case "drained":
			after.Cells[at].Weight = 0
		case "reweighted":
			after.Cells[at].Weight = rapid.Uint32().Draw(t, "weight")
		case "reordered":
			slices.Reverse(after.Cells)
		}
		old, changed := mustNew(t, before), mustNew(t, after)
		for range 20 {
			host := drawHost(t)
			was, is := order(old, before, host), order(changed, after, host)
			other := func(n string) bool { return n == name }
			if !slices.Equal(slices.DeleteFunc(slices.Clone(was), other), slices.DeleteFunc(slices.Clone(is), other)) {
				t.Fatalf("%s was at %v and is at %v after a change of %s", host, was, is, name)
			}
		}
	})
}

func order(f *placement.Function, config placement.Config, host string) []string {
	return strings.Fields(names(f, config, host))
}

// TestShardIsThePrefix: a shard is the first cells of the whole order, without repetition or drained cells.
func TestShardIsThePrefix(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		config := placement.Config{Cells: drawCells(t, 1, 24)}
		whole := mustNew(t, config)
		config.ShardSize = rapid.IntRange(1, 30).Draw(t, "shardSize")
		sharded := mustNew(t, config)
		active := 0
		for _, cell := range config.Cells {
			if cell.Weight > 0 {
				active++
			}
		}
		host := drawHost(t)
		all, some := whole.Place(host, nil), sharded.Place(host, nil)
		if len(all) != active || len(some) != min(active, config.ShardSize) || !slices.Equal(all[:len(some)], some) {
			t.Fatalf("all %v, shard %v", all, some)
		}
		seen := map[int]bool{}
		for _, index := range all {
			if seen[index] || config.Cells[index].Weight == 0 {
				t.Fatalf("cell %d twice or drained in %v", index, all)
			}
			seen[index] = true
		}
	})
}

// TestPinMovesOnlyItsHost: a pin changes the first cell of its hosts and nothing about others.
func TestPinMovesOnlyItsHost(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		config := placement.Config{Cells: drawCells(t, 2, 12), ShardSize: rapid.IntRange(0, 5).Draw(t, "shardSize")}
		free := mustNew(t, config)
		host, other := drawHost(t), drawHost(t)
		target := rapid.IntRange(0, len(config.Cells)-1).Draw(t, "target")
		config.Pins = []placement.Pin{{Host: host, Cell: config.Cells[target].Name}}
		pinned := mustNew(t, config)
		if other != host && !slices.Equal(free.Place(other, nil), pinned.Place(other, nil)) {
			t.Fatalf("the pin of %s moves %s", host, other)
		}
		got, without := pinned.Place(host, nil), free.Place(host, nil)
		if len(got) != len(without) {
			t.Fatalf("%d cells with the pin, %d without", len(got), len(without))
		}
		if config.Cells[target].Weight > 0 && got[0] != target {
			t.Fatalf("pinned to %d, at %v", target, got)
		}
	})
}

// TestShareOfMoves: one of N cells has 1/N of 100,000 hosts, within what chance allows, and just these move.
func TestShareOfMoves(t *testing.T) {
	const hosts = 100_000
	for _, n := range []int{2, 3, 4, 8, 16, 64} {
		large, small := function(t, placement.Config{Cells: equal(n)}), function(t, placement.Config{Cells: equal(n)[:n-1]})
		counts, moved := make([]int, n), 0
		var into []int
		for i := range hosts {
			into = large.Place(host(i), into)
			first := into[0]
			counts[first]++
			into = small.Place(host(i), into)
			if into[0] != first {
				moved++
				if first != n-1 {
					t.Fatalf("%s moved from cell %d, which is still there", host(i), first)
				}
			}
		}
		for i, count := range append(counts, moved) {
			within(t, fmt.Sprintf("%d cells, count %d", n, i), float64(count)/hosts, 1/float64(n), hosts)
		}
	}
}

// within fails if a share of n hosts is five standard deviations from the one that is to be expected.
func within(t *testing.T, what string, got, want float64, n int) {
	t.Helper()
	if deviation := math.Sqrt(want * (1 - want) / float64(n)); math.Abs(got-want) > 5*deviation+1e-12 {
		t.Errorf("%s: %.4f of the hosts, want %.4f ± %.4f", what, got, want, 5*deviation)
	}
}

// TestShares compares the formulas with a count of hosts.
func TestShares(t *testing.T) {
	const hosts = 100_000
	for name, config := range map[string]placement.Config{
		"equal":          {Cells: equal(6)},
		"uneven":         {Cells: cells(100, 300, 50, 0, 200)},
		"shards, equal":  {Cells: equal(6), ShardSize: 2},
		"shards, uneven": {Cells: cells(100, 300, 50, 0, 200), ShardSize: 2},
		"no second cell": {Cells: cells(100, 300, 50), ShardSize: 1},
		"one cell":       {Cells: equal(1)},
		"two cells":      {Cells: cells(10, 30), ShardSize: 2},
	} {
		t.Run(name, func(t *testing.T) {
			f := function(t, config)
			shares := f.Shares()
			first := make([]float64, len(config.Cells))
			shards := map[string]float64{}
			after := make([][]float64, len(config.Cells)) // By the cell that failed.
			lost := make([]float64, len(config.Cells))
			for i := range after {
				after[i] = make([]float64, len(config.Cells))
			}
			for i := range hosts {
				placed := f.Place(host(i), nil)
				first[placed[0]]++
				for failed := range after {
					if left := slices.DeleteFunc(slices.Clone(placed), func(c int) bool { return c == failed }); len(left) > 0 {
						after[failed][left[0]]++
					} else {
						lost[failed]++
					}
				}
				slices.Sort(placed)
				shards[fmt.Sprint(placed)]++
			}
			for i := range first {
				within(t, fmt.Sprint("cell ", i), first[i]/hosts, shares.Cells[i], hosts)
			}
			worst := 0.0
			for failed := range after {
				worst = max(worst, slices.Max(after[failed]))
			}
			within(t, "after one more failure", worst/hosts, shares.AfterOneMoreFailure, hosts/4)
			within(t, "lost after one more failure", slices.Max(lost)/hosts, shares.LostAfterOneMoreFailure, hosts)
			overlap := 0.0
			for _, n := range shards {
				overlap += n / hosts * n / hosts
			}
			if math.Abs(overlap-shares.ShardOverlap) > 0.01 {
				t.Errorf("overlap is %.4f, said is %.4f", overlap, shares.ShardOverlap)
			}
			if shares.Largest != slices.Max(shares.Cells) || shares.Largest != shares.Cells[shares.LargestCell] {
				t.Errorf("largest %v at %d of %v", shares.Largest, shares.LargestCell, shares.Cells)
			}
			if shares.Exact != (name != "shards, uneven") {
				t.Errorf("exact: %v", shares.Exact)
			}
		})
	}
}

// TestCap: no share is above the bound, cells below it keep their proportions, and hosts move from capped cells only.
func TestCap(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		before := placement.Config{Cells: drawCells(t, 1, 12)}
		limit := rapid.Float64Range(0.05, 1).Draw(t, "maxShare")
		active := 0
		for _, cell := range before.Cells {
			if cell.Weight > 0 {
				active++
			}
		}
		capped, err := placement.Cap(before.Cells, limit)
		if few := active > 0 && float64(active)*limit < 1-1e-9; few != (err != nil) {
			t.Fatalf("%d cells, bound %v: error %v", active, limit, err)
		}
		if err != nil {
			return
		}
		after := placement.Config{Cells: capped}
		old, changed := mustNew(t, before), mustNew(t, after)
		was, is := old.Shares(), changed.Shares()
		if is.Largest > max(limit, 1/float64(max(active, 1)))*1.002 && limit < 1 {
			t.Fatalf("largest share %v of %v, bound %v", is.Largest, is.Cells, limit)
		}
		if was.Largest <= limit && !slices.Equal(before.Cells, capped) {
			t.Fatalf("nothing to cap, and %v became %v", before.Cells, capped)
		}
		scale := 0.0 // What Cap multiplied the weights with that it did not lower.
		for i, cell := range before.Cells {
			if cell.Weight > 0 {
				scale = max(scale, float64(capped[i].Weight)/float64(cell.Weight))
			}
		}
		for range 20 {
			host := drawHost(t)
			from, to := old.Place(host, nil), changed.Place(host, nil)
			if len(from) > 0 && from[0] != to[0] && float64(capped[from[0]].Weight) >= scale*float64(before.Cells[from[0]].Weight) {
				t.Fatalf("%s moved from cell %d, which was not capped", host, from[0])
			}
		}
	})
}

func TestNeed(t *testing.T) {
	for _, test := range []struct {
		cells, shard int
		share        float64
		want         string
	}{
		{3, 0, 0.3, "maxShare 30% takes at least 4 cells with a weight, and there are 3; add cells or raise maxShare to 34%"},
		{1, 2, 0, "shardSize 2 takes at least 2 cells with a weight, and there is 1; add cells or lower shardSize"},
		{0, 0, 0.5, "at least 2 cells with a weight, and there are 0; add cells or raise maxShare to 100%"},
		{4, 4, 0.25, ""}, {3, 3, 1.0 / 3, ""}, {1, 1, 1, ""}, {1, 0, 0, ""},
	} {
		err := placement.Need(test.cells, test.shard, test.share)
		if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
			t.Errorf("%+v: %v", test, err)
		}
	}
	if _, err := placement.Cap(cells(placement.MaxWeight+1), 0.5); err == nil || !strings.Contains(err.Error(), "is more than") {
		t.Errorf("a weight that cannot be scaled: %v", err)
	}
}
