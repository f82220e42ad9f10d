package warmcache

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// many makes shops of small files, 1000 each.
func many(b *testing.B, here string, shops int) (names []string) {
	b.Helper()
	for i := range shops {
		tree := map[string]string{}
		for j := range 1000 {
			tree[fmt.Sprintf("t%d/f-%d.php", j%10, j)] = strings.Repeat(fmt.Sprintf("<div>%d ", i*j), 100+j%200)
		}
		names = append(names, fmt.Sprint("shop-", i))
		fill(b, filepath.Join(here, names[i]), tree)
	}
	return names
}

func BenchmarkSave(b *testing.B) {
	here := b.TempDir()
	names := many(b, here, 50)
	b.ReportAllocs()
	for b.Loop() {
		b.StopTimer()
		s := newStorage(b)
		b.StartTimer()
		for _, name := range names {
			save(b, s, here, name)
		}
	}
	b.ReportMetric(float64(b.N*len(names)*1000)/b.Elapsed().Seconds(), "files/s")
}

func BenchmarkRestore(b *testing.B) {
	s, here := newStorage(b), b.TempDir()
	names := many(b, here, 50)
	for _, name := range names {
		save(b, s, here, name)
	}
	b.ReportAllocs()
	for b.Loop() {
		there, err := os.MkdirTemp(here, "there-")
		if err != nil {
			b.Fatal(err)
		}
		restore(b, s, there, names)
		b.StopTimer()
		os.RemoveAll(there)
		b.StartTimer()
	}
	b.ReportMetric(float64(b.N*len(names)*1000)/b.Elapsed().Seconds(), "files/s")
}
