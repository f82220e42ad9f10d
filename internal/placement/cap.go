package placement

import (
	"errors"
	"fmt"
	"math"
	"slices"
)

// capScale refines weights before one is capped, so that a cap of few units is not rounded away. A power of two
// scales every score exactly: nothing moves by it.
const capScale = 1024

// MaxWeight is the largest weight that Cap takes.
const MaxWeight = math.MaxUint32 / capScale

// Need says in sentences why so many cells cannot do, nil if they can: every cell has maxShare of the hosts at
// most (a number above 0, up to 1; 0 is no bound), and every host has shardSize cells.
func Need(cells, shardSize int, maxShare float64) error {
	var problems []error
	if maxShare > 0 && maxShare < 1 {
		if least := int(math.Ceil(1/maxShare - 1e-9)); cells < least {
			problems = append(problems, fmt.Errorf("maxShare %s takes at least %d cells with a weight, and there %s; add cells or raise maxShare to %d%%",
				percent(maxShare), least, areCells(cells), int(math.Ceil(100/float64(max(cells, 1))))))
		}
	}
	if cells < shardSize {
		problems = append(problems, fmt.Errorf("shardSize %d takes at least %d cells with a weight, and there %s; add cells or lower shardSize",
			shardSize, shardSize, areCells(cells)))
	}
	return errors.Join(problems...)
}

func areCells(n int) string {
	if n == 1 {
		return "is 1"
	}
	return fmt.Sprintf("are %d", n)
}

func percent(share float64) string { return fmt.Sprintf("%.4g%%", share*100) }

// Cap lowers weights until no cell is the first of more than maxShare of the hosts (0 is no bound), and returns them
// in the order of cells. Cells below the bound keep their weights in relation to each other, so hosts move away
// from capped cells only. It fails if the cells are too few for it, or a weight is above MaxWeight.
func Cap(cells []Cell, maxShare float64) ([]Cell, error) {
	result := slices.Clone(cells)
	var order []int
	total := 0.0
	for i, cell := range cells {
		if cell.Weight > MaxWeight {
			return nil, fmt.Errorf("cells[%d]: weight %d of %q is more than %d", i, cell.Weight, clip(cell.Name), MaxWeight)
		}
		if cell.Weight > 0 {
			order = append(order, i)
			total += float64(cell.Weight)
		}
	}
	if maxShare <= 0 || maxShare >= 1 || len(order) == 0 {
		return result, nil
	}
	if err := Need(len(order), 0, maxShare); err != nil {
		return nil, err
	}
	slices.SortStableFunc(order, func(a, b int) int { return int(cells[b].Weight) - int(cells[a].Weight) })
	// From the heaviest down: with k capped, each has maxShare and the others share the rest.
	capped, rest, limit := 0, total, 0.0
	for ; capped < len(order); capped++ {
		left := 1 - maxShare*float64(capped)
		heaviest := float64(cells[order[capped]].Weight)
		if left <= 0 || heaviest <= rest*maxShare/left*(1+1e-12) {
			break
		}
		rest -= heaviest
		limit = maxShare / (1 - maxShare*float64(capped+1)) * rest
	}
	if capped == 0 {
		return result, nil
	}
	// When the bound leaves no room below it, all have the same.
	if rest <= 0 || 1-maxShare*float64(capped) < 1e-9 {
		lightest := cells[order[len(order)-1]].Weight
		for _, i := range order {
			result[i].Weight = lightest
		}
		return result, nil
	}
	for at, i := range order {
		result[i].Weight *= capScale
		if at < capped {
			result[i].Weight = uint32(math.Floor(limit * capScale))
		}
	}
	return result, nil
}
