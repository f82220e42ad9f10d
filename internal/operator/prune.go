package operator

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/shopset/shopset/api/v1alpha1"
	"github.com/shopset/shopset/internal/cell"
)

// prune deletes what the ShopSet controls and no longer wants. While a change is under way, whole
// components and config files stay: Pods of the earlier revision may still call the one and mount
// the other.
func (r *Reconciler) prune(ctx context.Context, ss *v1alpha1.ShopSet, seen *observed, desired *cell.Cell, settled bool) []error {
	wanted := map[objectKey]bool{}
	components := map[string]bool{}
	for _, object := range desired.Objects() {
		wanted[keyOf(object)] = true
	}
	for i := range desired.Components {
		components[desired.Components[i].Name] = true
	}
	var failures []error
	for key, object := range seen.objects {
		if wanted[key] || !object.GetDeletionTimestamp().IsZero() {
			continue
		}
		_, isConfig := object.(*corev1.ConfigMap)
		if (isConfig || !components[object.GetLabels()[cell.LabelComponent]]) && !settled {
			continue
		}
		if err := r.delete(ctx, object); err != nil {
			failures = append(failures, err)
			continue
		}
		r.event(ctx, ss, corev1.EventTypeNormal, "Pruned", "Delete", "%s is no longer part of the spec and was deleted", key)
	}
	return failures
}

// delete removes exactly the object that was seen, and what it made, in the background.
func (r *Reconciler) delete(ctx context.Context, object client.Object) error {
	uid := object.GetUID()
	err := r.Client.Delete(ctx, object,
		client.PropagationPolicy("Background"), client.Preconditions{UID: &uid})
	if client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("delete %s: %w", keyOf(object), err)
	}
	return nil
}
