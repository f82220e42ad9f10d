package proxy

import (
	"runtime"
	"runtime/debug"
	"testing"
)

// TestHeapFloor: the collector's next run is at twice the floor at least, unless somebody has said otherwise.
func TestHeapFloor(t *testing.T) {
	t.Setenv("GOGC", "")
	t.Setenv("GOMEMLIMIT", "")
	defer debug.SetGCPercent(debug.SetGCPercent(100)) // Tests may run with another one.
	floor := HeapFloor()
	runtime.GC()
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	runtime.KeepAlive(floor)
	if stats.NextGC < 2*heapFloor {
		t.Errorf("the next run is at %d bytes", stats.NextGC)
	}
	for _, name := range []string{"GOGC", "GOMEMLIMIT"} {
		t.Run(name, func(t *testing.T) {
			t.Setenv(name, "100")
			if HeapFloor() != nil {
				t.Error("there is a floor where somebody has said otherwise")
			}
		})
	}
}
