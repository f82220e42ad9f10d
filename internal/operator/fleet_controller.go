package operator

import (
	"context"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/events"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/shopset/shopset/api/v1alpha1"
	"github.com/shopset/shopset/internal/cell"
	"github.com/shopset/shopset/internal/fleet"
)

// FleetReconciler brings Fleets to the state that their specs say, and publishes their routing tables.
type FleetReconciler struct {
	// Client reads from a cache, if there is one, and writes to the API server.
	Client client.Client
	// Live reads from the API server itself: Secrets, which no cache holds.
	Live client.Reader
	// Tables reads the ConfigMaps of fleets.
	Tables client.Reader
	// KeyNamespace is where the keys are that sign routing tables.
	KeyNamespace string
	// Events tells humans what happened.
	Events events.EventRecorder
	// Metrics may be nil.
	Metrics *Metrics
	// Now is the clock.
	Now func() time.Time

	memory fleetMemory
}

// Reconcile is called by controller-runtime for one Fleet at a time.
func (r *FleetReconciler) Reconcile(ctx context.Context, request ctrl.Request) (ctrl.Result, error) {
	f := &v1alpha1.Fleet{}
	if err := r.Client.Get(ctx, request.NamespacedName, f); err != nil {
		if apierrors.IsNotFound(err) {
			r.Metrics.forgetFleet(request.NamespacedName)
			r.memory.forgetName(request.NamespacedName)
		}
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	r.memory.known(f)
	if !f.DeletionTimestamp.IsZero() {
		// Its ShopSets go with it, each of which drains by itself, or live on without it: Kubernetes sees to that.
		r.memory.forget(f.UID)
		return ctrl.Result{}, nil
	}
	if r.memory.outdated(f) {
		return ctrl.Result{RequeueAfter: shortRetry}, nil
	}
	seen, err := r.gather(ctx, f)
	if err != nil {
		return ctrl.Result{}, err
	}
	out := &fleetOutcome{plan: fleet.Decide(f, seen.Seen, r.now()), refused: map[string]string{}, table: seen.Table, key: seen.signedBy}
	// The table comes first: whatever is done to a cell, routers know before that it takes no hosts.
	failures := []error{r.publish(ctx, f, seen, out)}
	if failures[0] == nil {
		failures = append(failures, r.act(ctx, f, out)...)
	}
	if apierrors.IsConflict(failures[0]) {
		// Somebody else has published; to report would be to tell of the table before that.
		return again(0, failures...)
	}
	failures = append(failures, r.report(ctx, f, out))
	return again(out.retry(r.now()), failures...)
}

// fleetOutcome is what one run did and found.
type fleetOutcome struct {
	plan *fleet.Plan
	// table and the id of its key are those that are published now.
	table *publishedTable
	key   string
	// unpublished says why the table cannot be published until a human does something.
	unpublished string
	// refused maps cells to why the API server refused what should be done to them.
	refused map[string]string
}

// held says whether cells that are there stay as they are. Routers go on with the last table that was published: what
// changes a cell gives its Pods new addresses, which routers would not learn, one cell after the other until all are lost.
func (o *fleetOutcome) held(f *v1alpha1.Fleet) bool {
	return o.unpublished != "" && f.Status.Table != nil
}

// act does what the plan says; one cell does not block the others.
func (r *FleetReconciler) act(ctx context.Context, f *v1alpha1.Fleet, out *fleetOutcome) (failures []error) {
	for _, action := range out.plan.Actions {
		if action.Verb != fleet.Create && out.held(f) {
			continue
		}
		name := nameOf(action)
		err := r.do(ctx, f, action)
		switch reason := refusal(err); {
		case err == nil:
			tell(ctx, r.Events, f, corev1.EventTypeNormal, "Cell", string(action.Verb), "%s cell %s: %s", action.Verb, name, action.Reason)
			r.Metrics.applied("ShopSet", action.Verb == fleet.Change)
		case apierrors.IsConflict(err) || apierrors.IsAlreadyExists(err) || action.Verb == fleet.Delete && apierrors.IsNotFound(err):
			failures = append(failures, apierrors.NewConflict(v1alpha1.GroupVersion.WithResource("shopsets").GroupResource(), name, err))
		case reason != "":
			out.refused[name] = reason
		default:
			failures = append(failures, fmt.Errorf("%s cell %s: %w", action.Verb, name, err))
		}
	}
	return failures
}

func nameOf(action fleet.Action) string {
	if action.After != nil {
		return action.After.Name
	}
	return action.Before.Name
}

func (r *FleetReconciler) do(ctx context.Context, f *v1alpha1.Fleet, action fleet.Action) error {
	switch action.Verb {
	case fleet.Create:
		return r.Client.Create(ctx, action.After.DeepCopy(), client.FieldOwner(cell.Manager))
	case fleet.Change:
		// Only over the version that the decision was made from.
		return r.Client.Patch(ctx, action.After.DeepCopy(),
			client.MergeFromWithOptions(action.Before, client.MergeFromWithOptimisticLock{}), client.FieldOwner(cell.Manager))
	case fleet.Delete:
		if err := r.stillSo(ctx, f); err != nil {
			return err
		}
		uid, version := action.Before.GetUID(), action.Before.GetResourceVersion()
		return r.Client.Delete(ctx, action.Before.DeepCopy(), client.PropagationPolicy("Background"),
			client.Preconditions{UID: &uid, ResourceVersion: &version})
	default:
		return errors.New("unknown action " + string(action.Verb))
	}
}

// stillSo asks the API server itself whether the decision was made from the spec of this moment. What is deleted is gone,
// and a cache may not show yet that the fleet shall have more cells again, or that its cells were let go.
func (r *FleetReconciler) stillSo(ctx context.Context, f *v1alpha1.Fleet) error {
	now := &metav1.PartialObjectMetadata{}
	now.SetGroupVersionKind(v1alpha1.GroupVersion.WithKind("Fleet"))
	err := r.Live.Get(ctx, client.ObjectKeyFromObject(f), now)
	if err != nil && !apierrors.IsNotFound(err) {
		return err
	}
	if err != nil || now.UID != f.UID || now.Generation != f.Generation || !now.DeletionTimestamp.IsZero() {
		return apierrors.NewConflict(v1alpha1.GroupVersion.WithResource("fleets").GroupResource(), f.Name, errors.New("its spec has changed meanwhile"))
	}
	return nil
}

// retry says when to look again without being told by a watch.
func (o *fleetOutcome) retry(now time.Time) time.Duration {
	after := keyRetry
	if len(o.refused) > 0 || o.unpublished != "" {
		after = refusedRetry
	}
	if next := o.plan.Next; !next.IsZero() {
		// A little later, so that it is over then.
		after = min(after, max(next.Sub(now), 0)+10*time.Millisecond)
	}
	return after
}

func (r *FleetReconciler) now() time.Time {
	if r.Now != nil {
		return r.Now()
	}
	return time.Now()
}
