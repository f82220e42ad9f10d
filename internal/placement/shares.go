package placement

// Shares is what the placement means for all hosts together: how many a failure touches. Shares are parts of all
// hosts, between 0 and 1, as they are to be expected of any hosts; pins are not in them.
type Shares struct {
	// Cells has the share of hosts whose first cell is the one at that index of Config.Cells.
	Cells []float64
	// Largest is the largest of them, at index LargestCell; -1 if no cell has a weight.
	Largest     float64
	LargestCell int
	// ShardOverlap is the share of hosts that have exactly the same cells as a given one, on average: those which
	// are gone with it if all its cells fail.
	ShardOverlap float64
	// AfterOneMoreFailure is the largest share on one cell after the one cell has failed whose loss makes it largest,
	// with all its hosts at their next cell.
	AfterOneMoreFailure float64
	// LostAfterOneMoreFailure is the share of hosts that have no cell left after one cell has failed, the worst one.
	LostAfterOneMoreFailure float64
	// Exact is false if ShardOverlap is counted over a fixed sample, for want of a short formula.
	Exact bool
}

// sampleHosts is how many hosts stand for all where there is no formula.
const sampleHosts = 1 << 16

// Shares computes the shares of the cells, and how they overlap.
func (f *Function) Shares() Shares {
	result := Shares{Cells: make([]float64, len(f.cells)), LargestCell: -1, Exact: true}
	total, equal := 0.0, true
	for _, cell := range f.active {
		total += cell.weight
		equal = equal && cell.weight == f.active[0].weight
	}
	second := -1
	for _, cell := range f.active {
		share := cell.weight / total
		result.Cells[cell.index] = share
		switch {
		case share > result.Largest:
			second = result.LargestCell
			result.Largest, result.LargestCell = share, cell.index
		case second < 0 || share > result.Cells[second]:
			second = cell.index
		}
	}
	if len(f.active) == 0 {
		return result
	}
	if f.shard == 1 {
		result.LostAfterOneMoreFailure = result.Largest
		if second >= 0 {
			result.AfterOneMoreFailure = result.Largest
		}
	} else {
		// The largest grows most by the loss of the second largest.
		result.AfterOneMoreFailure = result.Largest / (1 - result.Cells[second])
	}
	result.ShardOverlap, result.Exact = f.overlap(result.Cells, equal)
	return result
}

func (f *Function) overlap(shares []float64, equal bool) (share float64, exact bool) {
	n, size := len(f.active), f.shard
	switch {
	case size == n:
		return 1, true
	case size == 1: // Two hosts meet in cell i with probability pᵢ².
		for _, p := range shares {
			share += p * p
		}
		return share, true
	case equal: // All shards are equally probable, and there are n over size of them.
		share = 1
		for i := range size {
			share *= float64(i+1) / float64(n-i)
		}
		return share, true
	}
	shards := map[[MaxCells / 64]uint64]int{}
	into := make([]int, 0, size)
	for i := range uint64(sampleHosts) {
		var shard [MaxCells / 64]uint64
		into = f.place(mix(i), -1, into)
		for _, index := range into {
			shard[index/64] |= 1 << (index % 64)
		}
		shards[shard]++
	}
	pairs := 0.0
	for _, n := range shards {
		pairs += float64(n) * float64(n-1)
	}
	return pairs / (sampleHosts * (sampleHosts - 1)), false
}
