package keeper

import (
	"encoding/json"
	"fmt"
	"os"
	"time"

	"github.com/shopset/shopset/hack/localcluster/internal/component"
	"github.com/shopset/shopset/hack/localcluster/internal/layout"
	"github.com/shopset/shopset/hack/localcluster/internal/proc"
)

// Record says what runs. The keeper writes it and is alone in doing so.
type Record struct {
	Keeper  proc.ID             `json:"keeper"`
	Node    proc.ID             `json:"node,omitzero"` // zero until the network is there
	Spec    component.Spec      `json:"spec"`
	Publish []component.Forward `json:"publish"` // what is published, of what the Spec asked for
	Started time.Time           `json:"started"`
}

// Read returns the record of a cluster. An error that is fs.ErrNotExist means that none runs.
func Read(l layout.Layout) (Record, error) {
	var record Record
	data, err := os.ReadFile(l.Record())
	if err != nil {
		return record, err
	}
	if err := json.Unmarshal(data, &record); err != nil {
		return record, fmt.Errorf("%s: %w", l.Record(), err)
	}
	return record, nil
}

func (r Record) write(l layout.Layout) error {
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(l.Record()+".new", data, 0o644); err != nil {
		return err
	}
	return os.Rename(l.Record()+".new", l.Record())
}

// SpecFile is where the keeper finds what to start.
func SpecFile(l layout.Layout) string { return l.Run() + "/spec.json" }
