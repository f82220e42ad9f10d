package operator

import (
	"context"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/shopset/shopset/api/v1alpha1"
	"github.com/shopset/shopset/internal/fleet"
	"github.com/shopset/shopset/internal/placement"
	"github.com/shopset/shopset/internal/routetable"
)

// report writes the status if it differs from the one that is there.
func (r *FleetReconciler) report(ctx context.Context, f *v1alpha1.Fleet, out *fleetOutcome) error {
	before := f.Status.DeepCopy()
	r.setStatus(f, out)
	r.Metrics.observeFleet(f)
	if equality.Semantic.DeepEqual(*before, f.Status) {
		return nil
	}
	if is, was := readyCondition(&f.Status), readyCondition(before); is != nil && (was == nil || was.Status != is.Status || was.Reason != is.Reason) {
		kind := corev1.EventTypeWarning
		if is.Status == metav1.ConditionTrue || is.Reason == reasonNotReady {
			kind = corev1.EventTypeNormal
		}
		tell(ctx, r.Events, f, kind, is.Reason, "Report", "%s", is.Message)
	}
	patch, err := client.MergeFromWithOptions(
		&v1alpha1.Fleet{ObjectMeta: metav1.ObjectMeta{ResourceVersion: f.ResourceVersion}, Status: *before},
		client.MergeFromWithOptimisticLock{}).Data(&v1alpha1.Fleet{Status: f.Status})
	if err != nil {
		return err
	}
	answer := &metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{Namespace: f.Namespace, Name: f.Name, ResourceVersion: f.ResourceVersion}}
	answer.SetGroupVersionKind(v1alpha1.GroupVersion.WithKind("Fleet"))
	if err := r.Client.Status().Patch(ctx, answer, client.RawPatch(types.MergePatchType, patch)); err != nil {
		return client.IgnoreNotFound(err)
	}
	r.memory.wrote(f, answer.ResourceVersion)
	return nil
}

func readyCondition(status *v1alpha1.FleetStatus) *metav1.Condition {
	for i := range status.Conditions {
		if status.Conditions[i].Type == v1alpha1.ConditionReady {
			return &status.Conditions[i]
		}
	}
	return nil
}

const reasonNotReady = "CellsNotReady"

func (r *FleetReconciler) setStatus(f *v1alpha1.Fleet, out *fleetOutcome) {
	status := &f.Status
	status.ObservedGeneration = f.Generation
	if table := out.table; table != nil {
		hash, _ := table.ContentHash() // It was encoded before, to be published.
		status.Table = &v1alpha1.TableStatus{
			Epoch: int64(table.Epoch), Version: int64(table.Version), Hash: hash, Key: out.key, //nolint:gosec // Far below.
			Published: metav1.NewTime(table.Created.Local().Truncate(1e9)),
		}
		status.BlastRadius = nil
	}
	shares := r.shares(f, out)
	status.Cells = cellStatus(out, shares, status.Cells)
	ready := 0
	for _, cell := range out.plan.Cells {
		if cell.State != v1alpha1.CellLeaving && cell.Ready && cell.Current {
			ready++
		}
	}
	status.Summary = fmt.Sprintf("%d/%d", ready, out.plan.Desired)
	setFleetConditions(f, out, ready)
}

// shares says how many hosts each cell has in the published table, by its name, and sets the blast radius.
func (r *FleetReconciler) shares(f *v1alpha1.Fleet, out *fleetOutcome) map[string]float64 {
	if out.table == nil {
		return nil
	}
	function, err := out.table.Function()
	if err != nil {
		return nil // A table that is published has one.
	}
	var config strings.Builder
	fmt.Fprint(&config, out.table.ShardSize)
	for _, cell := range out.table.Cells {
		fmt.Fprint(&config, " ", cell.Name, cell.State, cell.Weight)
	}
	shares := r.memory.sharesOf(f.UID, config.String(), function.Shares)
	f.Status.BlastRadius = blastRadius(out.table, shares)
	result := map[string]float64{}
	for i, cell := range out.table.Cells {
		result[cell.Name] = shares.Cells[i]
	}
	return result
}

func blastRadius(table *routetable.Table, shares placement.Shares) *v1alpha1.BlastRadius {
	result := &v1alpha1.BlastRadius{
		LargestShare: percent(shares.Largest), ShardOverlap: percent(shares.ShardOverlap),
		AfterOneMoreFailure: percent(shares.AfterOneMoreFailure), LostAfterOneMoreFailure: percent(shares.LostAfterOneMoreFailure),
	}
	if shares.LargestCell >= 0 {
		result.LargestCell = table.Cells[shares.LargestCell].Name
	}
	return result
}

func percent(share float64) string { return fmt.Sprintf("%.1f%%", share*100) }

// cellStatus says how each cell is. Where the published table cannot be read now, routers go on with it: what it says
// is in the status before.
func cellStatus(out *fleetOutcome, shares map[string]float64, before []v1alpha1.CellStatus) (result []v1alpha1.CellStatus) {
	earlier := map[string]v1alpha1.CellStatus{}
	for _, cell := range before {
		earlier[cell.Name] = cell
	}
	inTable := map[string]routetable.Cell{}
	if out.table != nil {
		for _, cell := range out.table.Cells {
			inTable[cell.Name] = cell
		}
	}
	for _, cell := range out.plan.Cells {
		entry := inTable[cell.Name]
		status := v1alpha1.CellStatus{
			Name: cell.Name, State: cell.State, Ready: cell.Ready, Message: clip(cell.Message), Share: percent(shares[cell.Name]),
			Endpoints: int32(len(entry.Endpoints.HTTPS) + len(entry.Endpoints.HTTP)), //nolint:gosec // Bounded by the table.
		}
		if entry.State == routetable.Active {
			status.Weight = int64(entry.Weight)
		}
		if was, found := earlier[cell.Name]; found && out.table == nil {
			status.Weight, status.Share, status.Endpoints = was.Weight, was.Share, was.Endpoints
		}
		if cell.ShopSet != nil {
			status.Revision = cell.ShopSet.Status.Revision
		}
		if reason := out.refused[cell.Name]; reason != "" {
			status.Message = clip(reason)
		}
		result = append(result, status)
	}
	return result
}

func setFleetConditions(f *v1alpha1.Fleet, out *fleetOutcome, ready int) {
	set, flag := conditions(&f.Status.Conditions, f.Generation)
	stalled := func(reason, message string) {
		set(v1alpha1.ConditionReady, false, reason, message)
		flag(v1alpha1.ConditionReconciling, false, "", "")
		flag(v1alpha1.ConditionStalled, true, reason, message)
	}
	unwell, stuck, leaving, drained := tally(out)
	switch {
	case out.plan.Problem != nil:
		kept := "the table goes on with the placement that it has"
		if out.table == nil {
			kept = "no routing table is published"
		}
		stalled("InvalidSpec", "no cell was changed, and "+kept+": "+strings.ReplaceAll(out.plan.Problem.Error(), "\n", "; "))
	case out.unpublished != "":
		message := "the routing table is not published: " + out.unpublished
		if out.held(f) {
			message += "; until it is, no cell is changed or deleted, because routers would not learn where its Pods are"
		}
		stalled("NotPublished", message)
	case len(out.refused) > 0:
		stalled("Refused", strings.Join(unwell, "; "))
	case stuck:
		stalled("CellStalled", strings.Join(unwell, "; "))
	case ready < out.plan.Desired || leaving > 0:
		reason := reasonNotReady
		if ready == out.plan.Desired {
			reason = "CellsLeaving"
		}
		message := strings.Join(append(unwell, out.plan.Notes...), "; ")
		set(v1alpha1.ConditionReady, false, reason, message)
		flag(v1alpha1.ConditionReconciling, true, reason, message)
		flag(v1alpha1.ConditionStalled, false, "", "")
	default:
		message := "all cells serve"
		if drained > 0 {
			message = fmt.Sprintf("all cells are ready, %d of them drained", drained)
		}
		set(v1alpha1.ConditionReady, true, "Serving", strings.Join(append([]string{message}, out.plan.Notes...), "; "))
		flag(v1alpha1.ConditionReconciling, false, "", "")
		flag(v1alpha1.ConditionStalled, false, "", "")
	}
}

// tally says of each cell that is not as it should be why, those that only wait for others last.
func tally(out *fleetOutcome) (unwell []string, stuck bool, leaving, drained int) {
	var waiting []string
	for _, cell := range out.plan.Cells {
		message := cell.Message
		if reason := out.refused[cell.Name]; reason != "" {
			message = reason
		}
		switch cell.State {
		case v1alpha1.CellLeaving:
			leaving++
		case v1alpha1.CellDrain:
			drained++
		}
		stuck = stuck || cell.Stuck && cell.State != v1alpha1.CellLeaving
		if cell.State != v1alpha1.CellLeaving && cell.Ready && cell.Current && out.refused[cell.Name] == "" || message == "" {
			continue
		}
		if text := cell.Name + ": " + message; strings.HasPrefix(message, fleet.WaitsForTurn) {
			waiting = append(waiting, text)
		} else {
			unwell = append(unwell, text)
		}
	}
	return append(unwell, waiting...), stuck, leaving, drained
}
