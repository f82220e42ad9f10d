package kubectl

import (
	"cmp"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/shopset/shopset/api/v1alpha1"
)

// Report is what status says, and its JSON.
type Report struct {
	// Well says that everything in it is.
	Well   bool          `json:"well"`
	Fleets []FleetReport `json:"fleets,omitempty"`
	// ShopSets are those of no fleet.
	ShopSets []CellReport `json:"shopSets,omitempty"`
}

// FleetReport is one Fleet.
type FleetReport struct {
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	Well      bool   `json:"well"`
	// Summary is the number of cells that are ready and of all, as in "2/3".
	Summary string `json:"summary,omitempty"`
	// Message says what is wrong with the fleet itself, or what its spec could not have.
	Message string `json:"message,omitempty"`
	// TouchedPercent of all hosts have their first cell among those that are not well; TouchedPins pins, besides.
	TouchedPercent float64               `json:"touchedPercent"`
	TouchedPins    int                   `json:"touchedPins"`
	BlastRadius    *v1alpha1.BlastRadius `json:"blastRadius,omitempty"`
	Table          *v1alpha1.TableStatus `json:"table,omitempty"`
	Cells          []CellReport          `json:"cells,omitempty"`
}

// CellReport is one ShopSet.
type CellReport struct {
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	Well      bool   `json:"well"`
	// State is the cell's in its fleet (Active, Joining, Drain, Leaving), the ShopSet's traffic without one.
	State string `json:"state,omitempty"`
	// Share of all hosts, as in "33.3%"; empty without a fleet.
	Share string `json:"share,omitempty"`
	// Summary is the number of components that serve and of all, as in "3/4".
	Summary  string `json:"summary,omitempty"`
	Revision string `json:"revision,omitempty"`
	// Idle says that the cell is drained and nobody uses it any more.
	Idle bool `json:"idle"`
	// Connections is how many are open while the cell drains and tells it.
	Connections *int64 `json:"connections,omitempty"`
	// Message says what is wrong with the cell, or what it waits for.
	Message    string            `json:"message,omitempty"`
	Components []ComponentReport `json:"components,omitempty"`
}

// ComponentReport is one component.
type ComponentReport struct {
	Name    string `json:"name"`
	Well    bool   `json:"well"`
	Ready   int32  `json:"ready"`
	Desired int32  `json:"desired"`
	// Message says why it is not well.
	Message string `json:"message,omitempty"`
}

// notTakenUp is for a spec that is newer than the status.
const notTakenUp = "the operator has not taken up the last change yet; does it run?"

// newReport says how Fleets and ShopSets are. A ShopSet whose Fleet is not there, because it drains before it follows that one, is
// among those of no fleet.
func newReport(fleets []v1alpha1.Fleet, shopSets []v1alpha1.ShopSet) *Report {
	report := &Report{Well: true}
	given := map[string]bool{}
	for i := range fleets {
		given[fleets[i].Namespace+"/"+fleets[i].Name] = true
		report.Fleets = append(report.Fleets, fleetReport(&fleets[i], shopSets))
		report.Well = report.Well && report.Fleets[i].Well
	}
	for i := range shopSets {
		if fleet := fleetOf(&shopSets[i]); !given[shopSets[i].Namespace+"/"+fleet] {
			cell := cellReport(&shopSets[i])
			if fleet != "" {
				cell.Message = joined("its Fleet "+fleet+" is gone, and it goes, too", cell.Message)
			}
			cell.State = string(shopSets[i].Spec.Traffic)
			report.ShopSets = append(report.ShopSets, cell)
			report.Well = report.Well && cell.Well
		}
	}
	slices.SortFunc(report.Fleets, func(a, b FleetReport) int {
		return cmp.Or(strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.Name, b.Name))
	})
	slices.SortFunc(report.ShopSets, func(a, b CellReport) int {
		return cmp.Or(strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.Name, b.Name))
	})
	return report
}

// fleetOf is the name of the Fleet that controls a ShopSet, if one does.
func fleetOf(ss *v1alpha1.ShopSet) string {
	if owner := metav1.GetControllerOf(ss); owner != nil && owner.Kind == "Fleet" {
		return owner.Name
	}
	return ""
}

func fleetReport(f *v1alpha1.Fleet, shopSets []v1alpha1.ShopSet) FleetReport {
	report := FleetReport{Namespace: f.Namespace, Name: f.Name, Summary: f.Status.Summary, BlastRadius: f.Status.BlastRadius, Table: f.Status.Table}
	byName := map[string]*v1alpha1.ShopSet{}
	for i := range shopSets {
		if ss := &shopSets[i]; ss.Namespace == f.Namespace && fleetOf(ss) == f.Name {
			byName[ss.Name] = ss
		}
	}
	unwell := map[string]bool{}
	for _, status := range f.Status.Cells {
		cell := CellReport{Namespace: f.Namespace, Name: status.Name}
		if ss := byName[status.Name]; ss != nil {
			cell = cellReport(ss)
		}
		cell.State, cell.Share = string(status.State), status.Share
		// Of an active cell, the Fleet only repeats what its components say.
		if status.State != v1alpha1.CellActive || unwellMessage(&cell) == "" {
			cell.Message = status.Message
		}
		if !cell.Well {
			unwell[cell.Name] = true
			report.TouchedPercent += percentOf(status.Share)
		}
		report.Cells = append(report.Cells, cell)
		delete(byName, status.Name)
	}
	for _, name := range slices.Sorted(maps.Keys(byName)) { // The Fleet's status is from before them.
		cell := cellReport(byName[name])
		cell.State = string(byName[name].Spec.Traffic)
		unwell[name] = !cell.Well
		report.Cells = append(report.Cells, cell)
	}
	maps.DeleteFunc(unwell, func(_ string, is bool) bool { return !is })
	report.TouchedPercent = math.Round(report.TouchedPercent*10) / 10
	if f.Spec.Placement != nil {
		for _, pin := range f.Spec.Placement.Pins {
			if unwell[pin.Cell] {
				report.TouchedPins++
			}
		}
	}
	ready := condition(f, f.Status.Conditions, v1alpha1.ConditionReady)
	switch {
	case ready == nil:
		report.Message = notTakenUp
	case len(unwell) == 0 || !tellsCells(ready.Reason):
		report.Message = ready.Message
	}
	report.Well = ready != nil && ready.Status == metav1.ConditionTrue && len(unwell) == 0
	return report
}

// tellsCells says whether a message of a Fleet's Ready only repeats what its cells say.
func tellsCells(reason string) bool {
	return slices.Contains([]string{"CellsNotReady", "CellsLeaving", "CellStalled"}, reason)
}

func percentOf(share string) float64 {
	value, err := strconv.ParseFloat(strings.TrimSuffix(share, "%"), 64)
	if err != nil {
		return 0 // Nothing is published yet.
	}
	return value
}

func cellReport(ss *v1alpha1.ShopSet) CellReport {
	report := CellReport{Namespace: ss.Namespace, Name: ss.Name, Summary: ss.Status.Summary, Revision: ss.Status.Revision,
		Connections: ss.Status.Connections, Idle: meta.IsStatusConditionTrue(ss.Status.Conditions, v1alpha1.ConditionIdle)}
	silent := true
	for _, status := range ss.Status.Components {
		component := ComponentReport{Name: status.Name, Well: status.Message == "", Ready: status.Ready, Desired: status.Desired, Message: status.Message}
		silent = silent && component.Well
		report.Components = append(report.Components, component)
	}
	ready := condition(ss, ss.Status.Conditions, v1alpha1.ConditionReady)
	switch {
	case ready == nil:
		report.Message = notTakenUp
	case ready.Status == metav1.ConditionTrue:
		report.Well = true
	case silent || ready.Reason == "Deleting" || ready.Reason == "InvalidSpec":
		report.Message = ready.Message
	}
	if idle := condition(ss, ss.Status.Conditions, v1alpha1.ConditionIdle); idle != nil && report.Message == "" && ss.Spec.Traffic == v1alpha1.TrafficDrain {
		report.Message = idle.Message
	}
	return report
}
