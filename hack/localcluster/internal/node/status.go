package node

import (
	"encoding/json"
	"os"
	"path/filepath"
	"time"

	"github.com/shopset/shopset/hack/localcluster/internal/layout"
)

// States of a component.
const (
	Waiting = "waiting" // for what it needs
	Running = "running"
	Backoff = "backoff" // died, and starts again in a moment
)

// Status is what the supervisor knows of a component. PIDs are the node's own.
type Status struct {
	Name     string    `json:"name"`
	State    string    `json:"state"`
	PID      int       `json:"pid,omitempty"`
	Started  time.Time `json:"started,omitzero"`
	Restarts int       `json:"restarts"`
	LastExit string    `json:"lastExit,omitempty"`
}

// StatusFile is where the supervisor of a cluster writes its statuses, seen from the machine.
func StatusFile(l layout.Layout) string { return filepath.Join(l.Run(), "status.json") }

// ReadStatus returns the statuses of a cluster's components.
func ReadStatus(l layout.Layout) ([]Status, error) {
	data, err := os.ReadFile(StatusFile(l))
	if err != nil {
		return nil, err
	}
	var statuses []Status
	return statuses, json.Unmarshal(data, &statuses)
}

// writeStatus replaces the file in one step: readers never see half of it.
func writeStatus(file string, statuses []Status) error {
	data, err := json.MarshalIndent(statuses, "", "  ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(file+".new", data, 0o644); err != nil {
		return err
	}
	return os.Rename(file+".new", file)
}
