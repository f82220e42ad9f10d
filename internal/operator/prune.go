package operator

import (
	"context"
	"fmt"
	"slices"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/shopset/shopset/api/v1alpha1"
	"github.com/shopset/shopset/internal/cell"
)

// prune deletes what the ShopSet controls and no longer wants. What Pods of an earlier revision may still
// call stays until they are gone and the new ones serve; config stays as long as a Pod that mounts it;
// an autoscaler must not go on where the spec says a number.
func (r *Reconciler) prune(ctx context.Context, ss *v1alpha1.ShopSet, seen *observed, desired *cell.Cell, earlier []cell.Running, history *cell.History) []error {
	wanted := map[objectKey]bool{}
	for _, object := range desired.Objects() {
		wanted[keyOf(object)] = true
	}
	mounted := mountedConfigs(earlier, history)
	settled := seen.settled(desired) && !slices.ContainsFunc(earlier, func(r cell.Running) bool { return desired.Has(r.Component) })
	var failures []error
	for key, object := range seen.objects {
		if wanted[key] || !object.GetDeletionTimestamp().IsZero() {
			continue
		}
		component := object.GetLabels()[cell.LabelComponent]
		switch object.(type) {
		case *corev1.ConfigMap:
			if mounted(component, key.name) {
				continue
			}
		case *autoscalingv2.HorizontalPodAutoscaler:
			if !desired.Has(component) && !settled {
				continue
			}
		default:
			if !settled {
				continue
			}
		}
		if err := r.delete(ctx, object); err != nil {
			failures = append(failures, err)
			continue
		}
		r.event(ctx, ss, corev1.EventTypeNormal, "Pruned", "Delete", "%s is no longer part of the spec and was deleted", key)
	}
	if err := r.pruneRevisions(ctx, ss, seen, history); err != nil {
		failures = append(failures, err)
	}
	return failures
}

// mountedConfigs says which ConfigMaps Pods of earlier revisions mount. Of a revision that is not on record
// that is not known, so all of its component count.
func mountedConfigs(earlier []cell.Running, history *cell.History) func(component, config string) bool {
	names, unknown := map[string]bool{}, map[string]bool{}
	for _, running := range earlier {
		if name, known := history.Config(running); known {
			names[name] = true
		} else {
			unknown[running.Component] = true
		}
	}
	return func(component, config string) bool { return names[config] || unknown[component] }
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
