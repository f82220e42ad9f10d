package operator

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/shopset/shopset/api/v1alpha1"
	"github.com/shopset/shopset/internal/cell"
)

// ensure applies an object if the live one does not say what it should; live is nil when the cache
// has none. lagging says that it was applied a moment ago and the cache may not show it yet; look again.
func (r *Reconciler) ensure(ctx context.Context, ss *v1alpha1.ShopSet, object cell.Object, live client.Object) (lagging bool, err error) {
	key := keyOf(object)
	hash := object.GetAnnotations()[cell.AnnotationApplied]
	version := ""
	if live != nil {
		if cell.Covers(object, live) {
			r.memory.drop(ss.UID, key)
			return false, nil
		}
		version = live.GetResourceVersion()
	}
	if r.memory.applied(ss.UID, key, hash, version, r.now()) {
		return true, nil
	}
	var after string
	if live == nil {
		after, err = r.create(ctx, ss, object)
	} else {
		// Exactly the object that was seen: another of its name that came since is a conflict.
		object.SetUID(live.GetUID())
		after, err = r.apply(ctx, object)
		object.SetUID("")
	}
	if err != nil {
		return false, err
	}
	r.memory.remember(ss.UID, key, attempt{hash: hash, before: version, after: after, at: r.now()})
	r.Metrics.applied(key.kind, live != nil)
	if live != nil && live.GetAnnotations()[cell.AnnotationApplied] == hash && version != after {
		r.event(ctx, ss, corev1.EventTypeNormal, "DriftCorrected", "Apply", "%s was changed by somebody else and is as the spec says again", key)
	}
	return false, nil
}

// noVersion is a resource version that no object has: the API server refuses it for an object that
// exists, and does not look at it for one that it makes.
const noVersion = "1"

// create applies an object that the cache does not show. That may be because it holds only what bears
// the operator's labels: what exists and is not controlled by the ShopSet is never touched.
func (r *Reconciler) create(ctx context.Context, ss *v1alpha1.ShopSet, object cell.Object) (version string, err error) {
	defer object.SetResourceVersion("")
	object.SetResourceVersion(noVersion)
	version, err = r.apply(ctx, object)
	if !apierrors.IsConflict(err) {
		return version, err
	}
	existing := &metav1.PartialObjectMetadata{}
	existing.SetGroupVersionKind(object.GetObjectKind().GroupVersionKind())
	err = r.Live.Get(ctx, client.ObjectKeyFromObject(object), existing)
	if apierrors.IsNotFound(err) {
		// It went meanwhile. A server that does not take the version for a new object gets here, too.
		object.SetResourceVersion("")
		return r.apply(ctx, object)
	}
	if err != nil {
		return "", fmt.Errorf("look at what is there already: %w", err)
	}
	if !metav1.IsControlledBy(existing, ss) {
		return "", &refusedError{fmt.Sprintf("%s exists already and belongs to %s; delete it or rename one of the two",
			keyOf(object), ownerOf(existing))}
	}
	// It is ours and lost the label that the cache goes by, or the cache lags. How it is in all else, the
	// number of Pods above all, is not known here: once the cache shows it, it is looked at as a whole.
	relabelled := existing.DeepCopy()
	relabelled.Labels = object.GetLabels()
	return existing.ResourceVersion, r.Client.Patch(ctx, relabelled, client.MergeFrom(existing), client.FieldOwner(cell.Manager))
}

// keepReplicas leaves the number of Pods to the autoscaler: the operator repeats the live number, for
// a field that it stops to state would fall back to 1. The resource version makes the API server
// refuse the write if the autoscaler changed the number meanwhile.
func keepReplicas(component *cell.Component, live *appsv1.Deployment) {
	if component.Autoscaler == nil {
		return
	}
	if live == nil {
		component.Deployment.Spec.Replicas = new(*component.Autoscaler.Spec.MinReplicas)
		return
	}
	// At zero an autoscaler counts as switched off, for ever; below its minimum it would go up anyway.
	component.Deployment.Spec.Replicas = new(max(cell.Desired(live), *component.Autoscaler.Spec.MinReplicas))
	component.Deployment.ResourceVersion = live.ResourceVersion
}

// apply sends a server-side apply and returns the resource version after it. It takes over fields
// that others changed: the spec is the truth about what it states.
func (r *Reconciler) apply(ctx context.Context, object cell.Object) (string, error) {
	body, err := json.Marshal(object)
	if err != nil {
		return "", fmt.Errorf("encode: %w", err)
	}
	answer := &metav1.PartialObjectMetadata{}
	answer.SetGroupVersionKind(object.GetObjectKind().GroupVersionKind())
	answer.SetNamespace(object.GetNamespace())
	answer.SetName(object.GetName())
	err = r.Client.Patch(ctx, answer, client.RawPatch(types.ApplyPatchType, body),
		client.FieldOwner(cell.Manager), client.ForceOwnership,
		// An apply with a field that the API server does not know fails in any case. Validation would
		// only parse the object a second time, to look for keys that are there twice.
		client.FieldValidation(metav1.FieldValidationIgnore))
	return answer.ResourceVersion, err
}

// refusedError says what only a human can mend: that a child's place is taken, or that there is too much for a table.
type refusedError struct{ text string }

func (e *refusedError) Error() string { return e.text }

// ownerOf names who an object belongs to, as well as its metadata tells.
func ownerOf(object *metav1.PartialObjectMetadata) string {
	if owner := metav1.GetControllerOf(object); owner != nil {
		text := owner.Kind + " " + owner.Name
		if !object.DeletionTimestamp.IsZero() {
			text += " (it is being deleted)"
		}
		return text
	}
	if fields := object.ManagedFields; len(fields) > 0 {
		return "nobody's controller; " + fields[0].Manager + " made it"
	}
	return "nobody's controller"
}

// refusal returns why a write will be refused again until a human does something, empty for errors
// that pass.
func refusal(err error) string {
	var foreign *refusedError
	switch {
	case err == nil:
		return ""
	case errors.As(err, &foreign):
		return foreign.text
	case apierrors.IsInvalid(err), apierrors.IsForbidden(err), apierrors.IsBadRequest(err), apierrors.IsRequestEntityTooLargeError(err):
		return "the API server refuses it: " + err.Error()
	default:
		return ""
	}
}
