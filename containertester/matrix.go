package tester

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"
)

// Matrix is which values variables of the environment can have. A value that is Unset leaves the variable
// out.
type Matrix map[string][]string

// Unset in a Matrix or an Environment means that the variable is not set at all, whatever the image says.
const Unset = "\x00unset"

// Pairs returns sets of values such that every pair of values of two variables is in one of them at least
// (a covering array of strength two), and how many sets all combinations would be. The same matrix gives
// the same sets.
func (m Matrix) Pairs() (sets []map[string]string, all int) {
	names := slices.Sorted(maps.Keys(m))
	all = 1
	for _, name := range names {
		all *= len(m[name])
	}
	open := m.openPairs(names)
	for first := true; first || len(open) > 0; first = false {
		set := m.bestSet(names, open)
		for pair := range open {
			if set[pair.a] == pair.va && set[pair.b] == pair.vb {
				delete(open, pair)
			}
		}
		sets = append(sets, set)
		if len(names) < 2 {
			break
		}
	}
	if len(names) == 1 {
		sets = nil
		for _, value := range m[names[0]] {
			sets = append(sets, map[string]string{names[0]: value})
		}
	}
	return sets, all
}

type pair struct{ a, va, b, vb string }

func (m Matrix) openPairs(names []string) map[pair]bool {
	open := map[pair]bool{}
	for i, a := range names {
		for _, b := range names[i+1:] {
			for _, va := range m[a] {
				for _, vb := range m[b] {
					open[pair{a, va, b, vb}] = true
				}
			}
		}
	}
	return open
}

// bestSet begins with a pair that is open and takes, variable by variable, the value that closes most
// others. With each new pair in it the number of open ones falls, so it ends.
func (m Matrix) bestSet(names []string, open map[pair]bool) map[string]string {
	set := map[string]string{}
	if len(open) > 0 {
		first := slices.MinFunc(slices.Collect(maps.Keys(open)), func(a, b pair) int {
			return strings.Compare(a.a+"\x01"+a.b+"\x01"+a.va+"\x01"+a.vb, b.a+"\x01"+b.b+"\x01"+b.va+"\x01"+b.vb)
		})
		set[first.a], set[first.b] = first.va, first.vb
	}
	for _, name := range names {
		if _, chosen := set[name]; chosen {
			continue
		}
		best, most := "", -1
		for _, value := range m[name] {
			closed := 0
			for other, with := range set {
				p := pair{other, with, name, value}
				if name < other {
					p = pair{name, value, other, with}
				}
				if open[p] {
					closed++
				}
			}
			if closed > most {
				best, most = value, closed
			}
		}
		set[name] = best
	}
	return set
}

// RunMatrix runs a test of an image with every pair of values of the matrix, in parallel; containers of the
// same configuration are started once. When a set of values fails, it is made smaller as long as it
// fails, and told with the line that repeats it. The test may start no containers of its own.
func RunMatrix(t TB, config ContainerConfig, matrix Matrix, test func(TB, *Container)) {
	t.Helper()
	for _, name := range sortedKeys(matrix) {
		if len(matrix[name]) == 0 {
			t.Fatalf("the matrix has no value for %s; say at least one, or Unset", name)
		}
	}
	sets, all := matrix.Pairs()
	t.Logf("%d sets of values cover all pairs; all combinations would be %d", len(sets), all)
	run := &matrixRun{t: t, config: config, test: test, results: map[string]*result{}}
	var group sync.WaitGroup
	limit := make(chan struct{}, max(4, 2*runtime.GOMAXPROCS(0)))
	for _, set := range sets {
		group.Go(func() {
			limit <- struct{}{}
			defer func() { <-limit }()
			run.try(set)
		})
	}
	group.Wait()
	told := map[string]bool{}
	enough := time.Now().Add(shrinkTime)
	for _, set := range sets {
		if run.try(set).failed == "" {
			continue
		}
		smallest := run.shrink(set, enough)
		line := repeatLine(config, smallest)
		if !told[line] {
			told[line] = true
			t.Errorf("fails with %s:\n%s", line, indent(run.try(smallest).failed))
		}
	}
}

type matrixRun struct {
	t      TB
	config ContainerConfig
	test   func(TB, *Container)

	mu      sync.Mutex
	results map[string]*result
}

type result struct {
	once   sync.Once
	failed string
}

// try runs the test with a set of values, once for each whole configuration.
func (r *matrixRun) try(set map[string]string) *result {
	config := r.config
	config.Environment = maps.Clone(r.config.Environment)
	if config.Environment == nil {
		config.Environment = map[string]string{}
	}
	for name, value := range set {
		config.Environment[name] = value
	}
	key := hashOf(config)
	r.mu.Lock()
	entry := r.results[key]
	if entry == nil {
		entry = &result{}
		r.results[key] = entry
	}
	r.mu.Unlock()
	entry.once.Do(func() {
		probe := &probe{TB: r.t, context: r.t.Context()}
		probe.run(func() { r.test(probe, StartContainer(probe, config)) })
		entry.failed = strings.Join(probe.failures, "\n")
	})
	return entry
}

func hashOf(config ContainerConfig) string {
	content, err := json.Marshal(config) // Without Ready and Network, which are the same for all sets.
	if err != nil {
		panic(err) // It holds texts and numbers only.
	}
	sum := sha256.Sum256(content)
	return hex.EncodeToString(sum[:])
}

// shrinkTime bounds how long all failures together are made smaller: an image that is never ready takes a minute for
// each try.
const shrinkTime = 2 * time.Minute

// shrink leaves out one variable after the other as long as what is left fails.
func (r *matrixRun) shrink(set map[string]string, enough time.Time) map[string]string {
	smallest := maps.Clone(set)
	for _, name := range slices.Sorted(maps.Keys(set)) {
		if time.Now().After(enough) {
			break
		}
		without := maps.Clone(smallest)
		delete(without, name)
		if r.try(without).failed != "" {
			smallest = without
		}
	}
	return smallest
}

// repeatLine starts the image with a set of values by hand.
func repeatLine(config ContainerConfig, values map[string]string) string {
	set := maps.Clone(config.Environment)
	if set == nil {
		set = map[string]string{}
	}
	maps.Copy(set, values)
	words := []string{"docker run --rm"}
	for _, name := range sortedKeys(set) {
		switch {
		case set[name] == Unset:
		case hidden(name, set[name]) != set[name]:
			words = append(words, "-e "+name) // Taken from the environment of who runs it.
		default:
			words = append(words, fmt.Sprintf("-e %s=%s", name, quote(set[name])))
		}
	}
	return strings.Join(append(words, config.Image), " ")
}

func quote(value string) string {
	if value != "" && !strings.ContainsAny(value, " \t\n'\"$\\`*?&|;<>()") {
		return value
	}
	return "'" + strings.ReplaceAll(value, "'", `'\''`) + "'"
}

// probe is a test within a test, which may fail.
type probe struct {
	TB
	context  context.Context //nolint:containedctx // It stands for the test's own.
	mu       sync.Mutex
	failures []string
	cleanups []func()
}

// run runs in a goroutine of its own, which Fatalf may end, and cleans up.
func (p *probe) run(test func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		test()
	}()
	<-done
	for _, clean := range slices.Backward(p.cleanups) {
		clean()
	}
}

func (p *probe) Helper()                  {}
func (p *probe) Context() context.Context { return p.context }
func (p *probe) Cleanup(clean func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cleanups = append(p.cleanups, clean)
}
func (p *probe) Failed() bool { p.mu.Lock(); defer p.mu.Unlock(); return len(p.failures) > 0 }
func (p *probe) Errorf(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.failures = append(p.failures, fmt.Sprintf(format, args...))
}

func (p *probe) Fatalf(format string, args ...any) {
	p.Errorf(format, args...)
	runtime.Goexit()
}
