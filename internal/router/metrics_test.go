package router

import (
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

// TestAlertsHaveAZero: a counter that comes with its first event has had no increase for Prometheus, so no alert would tell the
// first table that is refused.
func TestAlertsHaveAZero(t *testing.T) {
	registry := prometheus.NewRegistry()
	newMeters(registry)
	for name, want := range map[string]int{
		"shopset_router_table_updates_total": len(tableResults),
		"shopset_router_refused_total":       3 * int(kinds),
		"shopset_router_accept_pauses_total": 1,
	} {
		if n, err := testutil.GatherAndCount(registry, name); err != nil || n != want {
			t.Errorf("%s has %d series, want %d: %v", name, n, want, err)
		}
	}
}
