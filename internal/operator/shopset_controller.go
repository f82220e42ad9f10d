package operator

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/events"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/shopset/shopset/api/v1alpha1"
	"github.com/shopset/shopset/internal/cell"
)

// Finalizer keeps a ShopSet until it is drained and its children are gone.
const Finalizer = "shopset.dev/drain"

const (
	// refusedRetry is when an object that the API server or another owner refused is tried again.
	refusedRetry = 30 * time.Second
	// askRetry is how often the events of Pods that are not well are asked for.
	askRetry = 5 * time.Second
	// shortRetry is when to look again at what the cache is about to show.
	shortRetry = 100 * time.Millisecond
	// drainRetry is how often the edge is asked for its connections.
	drainRetry = time.Second
)

// Reconciler brings ShopSets to the state that their specs say.
type Reconciler struct {
	// Client reads from a cache, if there is one, and writes to the API server.
	Client client.Client
	// Live reads from the API server itself.
	Live client.Reader
	// Events tells humans what happened.
	Events events.EventRecorder
	// Connections asks the edge for its open connections.
	Connections ConnectionCounter
	// Indexed says that Client finds the children of a ShopSet by IndexShopSet.
	Indexed bool
	// Metrics may be nil.
	Metrics *Metrics
	// Now is the clock.
	Now func() time.Time

	memory memory
}

// Reconcile is called by controller-runtime for one ShopSet at a time.
func (r *Reconciler) Reconcile(ctx context.Context, request ctrl.Request) (ctrl.Result, error) {
	ss := &v1alpha1.ShopSet{}
	if err := r.Client.Get(ctx, request.NamespacedName, ss); err != nil {
		r.Metrics.forget(request.NamespacedName)
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	if r.memory.outdated(ss) {
		// The cache has not seen the operator's own last write. To work on it would be to compare with,
		// and to write over, what is no longer so.
		return ctrl.Result{RequeueAfter: shortRetry}, nil
	}
	seen, err := r.gather(ctx, ss)
	if err != nil {
		return ctrl.Result{}, err
	}
	if !ss.DeletionTimestamp.IsZero() {
		return r.turndown(ctx, ss, seen)
	}
	if !slices.Contains(ss.Finalizers, Finalizer) {
		if err := r.setFinalizers(ctx, ss, append(slices.Clone(ss.Finalizers), Finalizer)); err != nil {
			return again(0, err)
		}
	}
	return r.reconcile(ctx, ss, seen)
}

// setFinalizers writes the finalizers if nobody changed the ShopSet meanwhile: the list holds those of
// others too.
func (r *Reconciler) setFinalizers(ctx context.Context, ss *v1alpha1.ShopSet, finalizers []string) error {
	before, after := metadataOf(ss), metadataOf(ss)
	before.Finalizers, after.Finalizers = ss.Finalizers, finalizers
	if err := r.Client.Patch(ctx, after, client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{})); err != nil {
		return err
	}
	ss.Finalizers = finalizers
	r.memory.wrote(ss, after.ResourceVersion)
	return nil
}

// metadataOf stands for a ShopSet in a write whose answer need not repeat the whole spec.
func metadataOf(ss *v1alpha1.ShopSet) *metav1.PartialObjectMetadata {
	result := &metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{
		Namespace: ss.Namespace, Name: ss.Name, ResourceVersion: ss.ResourceVersion,
	}}
	result.SetGroupVersionKind(v1alpha1.GroupVersion.WithKind("ShopSet"))
	return result
}

// outcome is what one run did and found; status is made of it.
type outcome struct {
	cell *cell.Cell
	// problem of the spec; nothing was applied.
	problem error
	// waits maps components that are held to those they wait for.
	waits map[string][]string
	// refused maps components to why the API server or another owner refused one of their objects.
	refused map[string]string
	idle    idleness
	// ask says that events should be looked at again soon.
	ask bool
	// lagging says that the cache does not show yet what was applied.
	lagging bool
}

func (r *Reconciler) reconcile(ctx context.Context, ss *v1alpha1.ShopSet, seen *observed) (ctrl.Result, error) {
	out := &outcome{refused: map[string]string{}}
	var failures []error

	desired, err := cell.Build(ss)
	if err != nil {
		out.problem = err
	} else {
		out.cell = desired
		failures = append(failures, r.bringAbout(ctx, ss, seen, out)...)
	}
	out.idle = r.idleness(ctx, ss, seen)
	if err := r.report(ctx, ss, seen, out); err != nil {
		failures = append(failures, err)
	}
	return again(out.retry(ss), failures...)
}

// bringAbout records the revision, holds what must wait, applies and prunes.
func (r *Reconciler) bringAbout(ctx context.Context, ss *v1alpha1.ShopSet, seen *observed, out *outcome) []error {
	desired := out.cell
	if err := r.recordRevision(ctx, ss, seen, desired.Revision); err != nil {
		// Without the record a later change could not hold what this one starts.
		if reason := refusal(err); reason != "" {
			out.cell, out.problem = nil, errors.New(reason)
			return nil
		}
		return []error{err}
	}
	out.waits = cell.Plan(desired, seen.deployments)
	history := cell.NewHistory(ss, seen.revisions)
	earlier := desired.Earlier(seen.running())
	skip := hold(seen, out, history)
	seen.holdEdge(ss, desired, skip)
	desired.Widen(ss, earlier, history, seen.services)
	for i := range desired.Components {
		component := &desired.Components[i]
		keepReplicas(component, seen.deployments[component.Name])
	}
	var failures []error
	for _, object := range desired.Objects() {
		lagging, err := r.ensureUnless(ctx, skip, ss, object, seen.objects[keyOf(object)])
		out.lagging = out.lagging || lagging
		if reason := refusal(err); reason != "" {
			out.refused[object.GetLabels()[cell.LabelComponent]] = reason
		} else if err != nil {
			failures = append(failures, fmt.Errorf("%s: %w", keyOf(object), err))
		}
	}
	if len(failures) == 0 {
		failures = append(failures, r.prune(ctx, ss, seen, desired, earlier, history)...)
	}
	return failures
}

// hold puts components that must wait back to the revision they are at. Where that is not on record
// any more, their Deployment is left as it is, but for the number of its Pods.
func hold(seen *observed, out *outcome, history *cell.History) (skip map[objectKey]bool) {
	skip = map[objectKey]bool{}
	for name := range out.waits {
		live := seen.deployments[name]
		if !out.cell.Hold(name, live.Annotations[cell.AnnotationRevision], history) {
			skip[keyOf(live)] = true
		}
	}
	return skip
}

// holdEdge leaves the way into a component that is no longer the edge as it is, until the new edge serves.
func (o *observed) holdEdge(ss *v1alpha1.ShopSet, desired *cell.Cell, skip map[objectKey]bool) {
	for i := range ss.Spec.Components {
		if ss.Spec.Components[i].Edge && cell.Settled(&desired.Components[i], o.deployments[ss.Spec.Components[i].Name]) {
			return
		}
	}
	for _, service := range o.edges() {
		if at := slices.IndexFunc(ss.Spec.Components, func(c v1alpha1.Component) bool {
			return c.Name == service.Labels[cell.LabelComponent]
		}); at >= 0 && !ss.Spec.Components[at].Edge {
			skip[keyOf(service)] = true
			skip[objectKey{"NetworkPolicy", service.Name}] = true
		}
	}
}

// ensureUnless applies an object that is not to be skipped.
func (r *Reconciler) ensureUnless(ctx context.Context, skip map[objectKey]bool, ss *v1alpha1.ShopSet, object cell.Object, live client.Object) (lagging bool, err error) {
	if !skip[keyOf(object)] {
		return r.ensure(ctx, ss, object, live)
	}
	wanted, ok := object.(*appsv1.Deployment)
	if !ok || wanted.Spec.Replicas == nil || *wanted.Spec.Replicas == cell.Desired(live.(*appsv1.Deployment)) {
		return false, nil
	}
	scaled := live.(*appsv1.Deployment).DeepCopy()
	scaled.Spec.Replicas = wanted.Spec.Replicas
	return false, r.Client.Patch(ctx, scaled, client.MergeFrom(live), client.FieldOwner(cell.Manager))
}

// retry says when to look again without being told by a watch; zero is never.
func (o *outcome) retry(ss *v1alpha1.ShopSet) time.Duration {
	switch {
	case cell.Draining(ss) && !o.idle.idle:
		return drainRetry
	case o.ask:
		return askRetry
	case o.lagging:
		return cacheLag
	case len(o.refused) > 0:
		return refusedRetry
	default:
		return 0
	}
}

// settled says whether every component runs at the wanted revision and serves, but for single Pods.
func (o *observed) settled(desired *cell.Cell) bool {
	return !slices.ContainsFunc(desired.Components, func(c cell.Component) bool {
		return !cell.Settled(&c, o.deployments[c.Name])
	})
}

// again ends a run: with its failures, or with a look again after a while; zero is never. A conflict is
// no failure: somebody was faster, and what is there now is looked at in a moment. That may not be left
// to the watch, which leaves out news of metadata and status.
func again(after time.Duration, failures ...error) (ctrl.Result, error) {
	var real []error
	conflict := false
	for _, err := range failures {
		switch {
		case apierrors.IsConflict(err):
			conflict = true
		case err != nil:
			real = append(real, err)
		}
	}
	if err := errors.Join(real...); err != nil {
		return ctrl.Result{}, err
	}
	if conflict {
		after = shortRetry
	}
	return ctrl.Result{RequeueAfter: after}, nil
}

func (r *Reconciler) now() time.Time {
	if r.Now != nil {
		return r.Now()
	}
	return time.Now()
}

func (r *Reconciler) event(ctx context.Context, ss *v1alpha1.ShopSet, eventType, reason, action, format string, args ...any) {
	tell(ctx, r.Events, ss, eventType, reason, action, format, args...)
}

// tell makes an event, and a line in the log.
func tell(ctx context.Context, recorder events.EventRecorder, about client.Object, eventType, reason, action, format string, args ...any) {
	log.FromContext(ctx).Info(fmt.Sprintf(format, args...), "reason", reason)
	if recorder != nil {
		recorder.Eventf(about, nil, eventType, reason, action, format, args...)
	}
}
