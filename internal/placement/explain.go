package placement

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/cespare/xxhash/v2"
)

// Explanation says why a host is where it is.
type Explanation struct {
	// Host in its normal form, and its hash.
	Host string
	Hash uint64
	// Pin is the pin that applies, as in "*.example.com"; empty if none does. PinDrained says that it is without
	// effect, because its cell is drained.
	Pin        string
	PinnedTo   string
	PinDrained bool
	// Candidates are all cells, in the order in which they would serve the host; drained cells last.
	Candidates []Candidate
}

// Candidate is one cell, as one host sees it.
type Candidate struct {
	Cell   string
	Index  int
	Weight uint32
	// Score is -ln(u)/weight: the smallest is first. 0 for a drained cell.
	Score float64
	// InShard says that the cell may serve the host at all.
	InShard bool
}

// Explain places a host, given in any spelling, and says how it came to that.
func (f *Function) Explain(host string) (Explanation, error) {
	name, err := Normalise(host)
	if err != nil {
		return Explanation{}, err
	}
	result := Explanation{Host: name, Hash: xxhash.Sum64String(name)}
	if index, pin, suffix := f.pinOf(name); index >= 0 {
		if suffix {
			pin = "*." + pin
		}
		result.Pin, result.PinnedTo, result.PinDrained = pin, f.cells[index].Name, f.cells[index].Weight == 0
	}
	placed := f.Place(name, nil)
	scores := make([]float64, len(f.cells))
	for _, c := range f.active {
		scores[c.index] = negLog(mix(result.Hash^c.seed)) / c.weight
	}
	for i, cell := range f.cells {
		result.Candidates = append(result.Candidates, Candidate{
			Cell: cell.Name, Index: i, Weight: cell.Weight, Score: scores[i], InShard: slices.Contains(placed, i),
		})
	}
	rank := func(c Candidate) int {
		switch at := slices.Index(placed, c.Index); {
		case at >= 0:
			return at
		case c.Weight > 0:
			return len(f.cells)
		default:
			return len(f.cells) + 1
		}
	}
	slices.SortFunc(result.Candidates, func(a, b Candidate) int {
		return cmp.Or(cmp.Compare(rank(a), rank(b)), cmp.Compare(a.Score, b.Score), strings.Compare(a.Cell, b.Cell))
	})
	return result, nil
}

// String tells it in lines for people.
func (e Explanation) String() string {
	var text strings.Builder
	fmt.Fprintf(&text, "%s (hash %016x)\n", e.Host, e.Hash)
	switch {
	case e.PinDrained:
		fmt.Fprintf(&text, "  pinned to %s by %s, which is drained: placed as if there were no pin\n", e.PinnedTo, e.Pin)
	case e.Pin != "":
		fmt.Fprintf(&text, "  pinned to %s by %s\n", e.PinnedTo, e.Pin)
	}
	for i, c := range e.Candidates {
		fmt.Fprintf(&text, "  %d. %s: %s (weight %d, score %.6g)\n", i+1, c.Cell, e.Why(i), c.Weight, c.Score)
	}
	return text.String()
}

// Why says what the candidate at an index is for the host.
func (e Explanation) Why(i int) string {
	switch c := e.Candidates[i]; {
	case c.Weight == 0:
		return "drained: takes no hosts"
	case !c.InShard:
		return "not in its shard: never serves it"
	case i == 0:
		return "serves it"
	case i == 1:
		return "serves it if the one before fails"
	default:
		return fmt.Sprintf("serves it if the %d before fail", i)
	}
}
