// Package report prints what a benchmark found and does the sums over its rounds.
package report

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"time"
)

var began = time.Now()

// Say tells on stderr what is going on.
func Say(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "[%6.1fs] %s\n", time.Since(began).Seconds(), fmt.Sprintf(format, args...))
}

// Result prints one figure on stdout, in the form that all benchmarks of the repository have.
func Result(name string, value float64, unit string) {
	fmt.Printf("RESULT %s=%s %s\n", name, number(value), unit)
}

// number has three digits that mean something, and no exponent.
func number(value float64) string {
	switch {
	case value == float64(int64(value)), value >= 1000:
		return strconv.FormatFloat(value, 'f', 0, 64)
	case value >= 100:
		return strconv.FormatFloat(value, 'f', 1, 64)
	case value >= 10:
		return strconv.FormatFloat(value, 'f', 2, 64)
	default:
		return strconv.FormatFloat(value, 'f', 3, 64)
	}
}

// Median of values; 0 for none.
func Median(values []float64) float64 {
	if len(values) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(values))
	middle := len(sorted) / 2
	if len(sorted)%2 == 1 {
		return sorted[middle]
	}
	return (sorted[middle-1] + sorted[middle]) / 2
}
