package placement

import (
	"errors"
	"fmt"
	"strings"

	"github.com/cespare/xxhash/v2"
)

// Bounds of a Config.
const (
	MaxCells = 256
	MaxPins  = 10_000
	maxName  = 63
)

// Cell is one candidate. Its name decides which hosts it gets, its weight how many.
type Cell struct {
	Name string
	// Weight is relative to those of the others; 0 means drained: no hosts.
	Weight uint32
}

// Pin puts a host on a cell, whatever the function says.
type Pin struct {
	// Host is a name, or "*.example.com" for all names below example.com, at any depth, but not itself.
	Host string
	Cell string
}

// Config is all that placement depends on.
type Config struct {
	Cells []Cell
	// ShardSize is how many cells may ever serve a host; 0 is all.
	ShardSize int
	Pins      []Pin
}

// Function places hosts. It never changes and may be used by many goroutines.
type Function struct {
	cells []Cell
	shard int
	// active are the cells with a weight, in the order of their names, which decides between equal scores.
	active []candidate
	exact  map[string]int
	// suffixes are the pins of "*.…", by what follows "*.".
	suffixes map[string]int
}

type candidate struct {
	index   int
	seed    uint64
	weight  float64
	nameKey string
}

// New checks the whole config and reports all problems at once. A ShardSize above the number of cells is not one:
// hosts then have as many cells as there are.
func New(config Config) (*Function, error) {
	f := &Function{cells: append([]Cell(nil), config.Cells...), exact: map[string]int{}, suffixes: map[string]int{}}
	var problems []error
	bad := func(format string, values ...any) { problems = append(problems, fmt.Errorf(format, values...)) }
	if len(config.Cells) == 0 {
		bad("cells: there is none; a placement needs at least one")
	}
	if len(config.Cells) > MaxCells {
		bad("cells: there are %d; %d is the most", len(config.Cells), MaxCells)
	}
	if config.ShardSize < 0 {
		bad("shardSize %d is negative; 0 means all cells", config.ShardSize)
	}
	byName := map[string]int{}
	for i, cell := range config.Cells[:min(len(config.Cells), MaxCells)] {
		if cell.Name == "" || len(cell.Name) > maxName {
			bad("cells[%d]: the name %q must have 1 to %d bytes", i, clip(cell.Name), maxName)
		}
		if other, twice := byName[cell.Name]; twice {
			bad("cells[%d]: the name %q is that of cells[%d] too; each cell needs its own", i, clip(cell.Name), other)
			continue
		}
		byName[cell.Name] = i
		if cell.Weight > 0 {
			f.add(candidate{index: i, seed: xxhash.Sum64String(cell.Name), weight: float64(cell.Weight), nameKey: cell.Name})
		}
	}
	if len(config.Pins) > MaxPins {
		bad("pins: there are %d; %d is the most", len(config.Pins), MaxPins)
	}
	for i, pin := range config.Pins[:min(len(config.Pins), MaxPins)] {
		problems = append(problems, f.pin(i, pin, byName)...)
	}
	f.shard = len(f.active)
	if config.ShardSize > 0 {
		f.shard = min(f.shard, config.ShardSize)
	}
	if len(problems) > 0 {
		return nil, errors.Join(problems...)
	}
	return f, nil
}

func (f *Function) add(c candidate) {
	at := len(f.active)
	f.active = append(f.active, c)
	for ; at > 0 && f.active[at-1].nameKey > c.nameKey; at-- {
		f.active[at] = f.active[at-1]
	}
	f.active[at] = c
}

func (f *Function) pin(i int, pin Pin, byName map[string]int) (problems []error) {
	index, known := byName[pin.Cell]
	if !known {
		problems = append(problems, fmt.Errorf("pins[%d]: host %q is pinned to cell %q, which does not exist; name one of the cells, or remove the pin",
			i, clip(pin.Host), clip(pin.Cell)))
	}
	name, err := NormalisePin(pin.Host)
	if err != nil {
		return append(problems, fmt.Errorf("pins[%d]: %w", i, err))
	}
	pins := f.exact
	if suffix, isSuffix := strings.CutPrefix(name, "*."); isSuffix {
		name, pins = suffix, f.suffixes
	}
	if _, twice := pins[name]; twice {
		problems = append(problems, fmt.Errorf("pins[%d]: host %q is pinned twice; keep one pin", i, clip(pin.Host)))
	}
	pins[name] = index
	return problems
}

// Place writes the cells that may serve a host into into[:0], as indexes into Config.Cells, best first: at most
// ShardSize, none only if no cell has a weight. The host must be in its normal form (Normalise). A pinned cell comes
// first, unless it is drained. Nothing is allocated if into has room for ShardSize of them.
func (f *Function) Place(host string, into []int) []int {
	pinned := -1
	if len(f.exact)+len(f.suffixes) > 0 {
		if index, _, _ := f.pinOf(host); index >= 0 && f.cells[index].Weight > 0 {
			pinned = index
		}
	}
	return f.place(xxhash.Sum64String(host), pinned, into)
}

func (f *Function) place(hash uint64, pinned int, into []int) []int {
	var scores, best [MaxCells]float64
	active := f.active
	for i := range active {
		scores[i&(MaxCells-1)] = negLog(mix(hash^active[i].seed)) / active[i].weight
	}
	into = into[:0]
	if pinned >= 0 {
		into = append(into, pinned)
	}
	fixed, room := len(into), f.shard
	for i := range active {
		score, index := scores[i&(MaxCells-1)], active[i].index
		if index == pinned {
			continue
		}
		at := len(into)
		if at == room {
			if at == fixed || !(score < best[at-1]) {
				continue
			}
			at--
		} else {
			into = append(into, index)
		}
		for ; at > fixed && score < best[at-1]; at-- {
			into[at], best[at] = into[at-1], best[at-1]
		}
		into[at], best[at] = index, score
	}
	return into
}

// pinOf finds the cell that a host is pinned to, -1 if none: an exact pin before suffixes, a longer suffix before a
// shorter one. name is that of the pin, without the "*." of a suffix.
func (f *Function) pinOf(host string) (index int, name string, suffix bool) {
	if index, found := f.exact[host]; found {
		return index, host, false
	}
	if len(f.suffixes) > 0 {
		for rest, more := host, true; more; {
			if _, rest, more = strings.Cut(rest, "."); more {
				if index, found := f.suffixes[rest]; found {
					return index, rest, true
				}
			}
		}
	}
	return -1, "", false
}

func clip(text string) string {
	if len(text) > 100 {
		return strings.ToValidUTF8(text[:100], "") + "…"
	}
	return text
}
