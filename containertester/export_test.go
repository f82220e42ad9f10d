package tester

import (
	"encoding/json"
	"net/http"
	"net/url"
)

// LeftBehind counts, and removes, the containers whose owner is dead.
func LeftBehind(t TB) int {
	e, err := theEngine()
	if err != nil {
		t.Fatalf("%v", err)
	}
	filters, _ := json.Marshal(map[string][]string{"label": {ownerLabel}})
	var containers []struct{ Labels map[string]string }
	if err := e.call(t.Context(), http.MethodGet, "/containers/json", url.Values{"all": {"1"}, "filters": {string(filters)}}, nil, &containers); err != nil {
		t.Fatalf("%v", err)
	}
	dead := 0
	for _, c := range containers {
		if isDead(c.Labels[ownerLabel]) {
			dead++
		}
	}
	e.sweep(t.Context())
	return dead
}
