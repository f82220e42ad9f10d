package operator

import (
	"context"
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/shopset/shopset/api/v1alpha1"
	"github.com/shopset/shopset/internal/cell"
	"github.com/shopset/shopset/internal/fleet"
	"github.com/shopset/shopset/internal/routetable"
)

// Entries of the ConfigMaps.
const (
	routesKey  = routetable.RoutesEntry
	publicKeys = routetable.KeysEntry
)

func routesName(f *v1alpha1.Fleet) string { return routetable.RoutesName(f.Name) }

func keysName(f *v1alpha1.Fleet) string { return routetable.KeysName(f.Name) }

// publish writes the table if it says something else than the one that is there, and the public keys.
func (r *FleetReconciler) publish(ctx context.Context, f *v1alpha1.Fleet, seen *fleetSeen, out *fleetOutcome) error {
	if seen.ring == nil {
		out.unpublished = seen.keyProblem
		return nil
	}
	err := r.publishKeys(ctx, f, seen)
	if err == nil && out.plan.Table != nil {
		err = r.publishTable(ctx, f, seen, out)
	}
	if reason := refusal(err); reason != "" {
		out.unpublished = reason
		return nil
	}
	return err
}

func (r *FleetReconciler) publishKeys(ctx context.Context, f *v1alpha1.Fleet, seen *fleetSeen) error {
	wanted := configMapOf(f, keysName(f))
	wanted.Data = map[string]string{publicKeys: seen.ring.public}
	if seen.keys != nil && seen.keys.Data[publicKeys] == seen.ring.public && metav1.IsControlledBy(seen.keys, f) {
		return nil
	}
	return r.writeConfigMap(ctx, f, seen.keys, wanted)
}

func (r *FleetReconciler) publishTable(ctx context.Context, f *v1alpha1.Fleet, seen *fleetSeen, out *fleetOutcome) error {
	hash, err := out.plan.Table.ContentHash()
	if err != nil {
		return err
	}
	table := *out.plan.Table
	table.Epoch, table.Version, table.Created = uint64(max(r.now().Unix(), 1)), 1, r.now() //nolint:gosec // Positive.
	last := f.Status.Table
	// A table that is earlier than one that was published was put back by somebody. Routers would refuse what follows it.
	putBack := seen.Table != nil && last != nil && (&routetable.Table{Epoch: uint64(max(last.Epoch, 0)), Version: uint64(max(last.Version, 0))}).After(seen.Table)
	if seen.Table != nil && !putBack {
		if before, err := seen.Table.ContentHash(); err == nil && before == hash && seen.signedBy == seen.ring.id() && metav1.IsControlledBy(seen.routes, f) {
			return nil
		}
		table.Epoch, table.Version = seen.Table.Epoch, seen.Table.Version+1
	} else if last != nil {
		table.Epoch = max(table.Epoch, uint64(max(last.Epoch, 0))+1) // However the clock is set.
	}
	envelope, err := routetable.Sign(&table, seen.ring.private)
	if err != nil {
		return &refusedError{err.Error()}
	}
	wanted := configMapOf(f, routesName(f))
	wanted.BinaryData = map[string][]byte{routesKey: envelope}
	if err := r.writeConfigMap(ctx, f, seen.routes, wanted); err != nil {
		return err
	}
	out.table, out.key = table.Canonical(), seen.ring.id()
	r.Metrics.published()
	tell(ctx, r.Events, f, corev1.EventTypeNormal, "Published", "Publish", "routing table %d of epoch %d: %s", table.Version, table.Epoch, differences(seen, out.plan))
	return nil
}

// differences says in short what is new in a table.
func differences(seen *fleetSeen, plan *fleet.Plan) string {
	active, endpoints := 0, 0
	for _, cell := range plan.Table.Cells {
		if cell.State == routetable.Active {
			active++
		}
		endpoints += len(cell.Endpoints.HTTPS) + len(cell.Endpoints.HTTP)
	}
	text := fmt.Sprintf("%d of %d cells take hosts, %d endpoints, %d pins", active, len(plan.Table.Cells), endpoints, len(plan.Table.Pins))
	if seen.Table == nil {
		text += "; the first one, or the earlier ones are lost"
	}
	return text
}

func configMapOf(f *v1alpha1.Fleet, name string) *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{
		Namespace: f.Namespace, Name: name,
		Labels: map[string]string{v1alpha1.LabelFleet: f.Name, "app.kubernetes.io/managed-by": cell.Manager},
		OwnerReferences: []metav1.OwnerReference{{
			APIVersion: v1alpha1.GroupVersion.String(), Kind: "Fleet", Name: f.Name, UID: f.UID, Controller: new(true), BlockOwnerDeletion: new(true),
		}},
	}}
}

// writeConfigMap makes it, or changes the one that was seen and no later one: two operators, one of which does not know
// yet that it no longer leads, must not publish two tables of one version.
func (r *FleetReconciler) writeConfigMap(ctx context.Context, f *v1alpha1.Fleet, before, wanted *corev1.ConfigMap) error {
	var err error
	after := wanted
	if before == nil {
		err = r.Client.Create(ctx, after, client.FieldOwner(cell.Manager))
		if apierrors.IsAlreadyExists(err) {
			return r.explainExisting(ctx, f, wanted, err)
		}
	} else {
		if !metav1.IsControlledBy(before, f) && !letGo(before) {
			return r.explainExisting(ctx, f, wanted, nil)
		}
		after = before.DeepCopy()
		after.Labels, after.OwnerReferences, after.Data, after.BinaryData = wanted.Labels, wanted.OwnerReferences, wanted.Data, wanted.BinaryData
		err = r.Client.Patch(ctx, after, client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{}), client.FieldOwner(cell.Manager))
		if apierrors.IsNotFound(err) {
			// Somebody deleted it; with it went its version.
			err = apierrors.NewConflict(corev1.Resource("configmaps"), wanted.Name, errors.New("it was deleted meanwhile"))
		}
	}
	if err != nil {
		return err
	}
	r.memory.noteConfigMap(f.UID, before, after, r.now())
	return nil
}

// letGo says whether the operator made a ConfigMap for a fleet that was deleted without what it owned
// (--cascade=orphan): then the fleet of that name goes on with it, and with its version.
func letGo(existing *corev1.ConfigMap) bool {
	return metav1.GetControllerOf(existing) == nil && existing.Labels["app.kubernetes.io/managed-by"] == cell.Manager
}

// explainExisting says whose ConfigMap is in the way. Of the fleet's own, one that the cache does not show lost its
// label; it gets it back.
func (r *FleetReconciler) explainExisting(ctx context.Context, f *v1alpha1.Fleet, wanted *corev1.ConfigMap, exists error) error {
	existing := &metav1.PartialObjectMetadata{}
	existing.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("ConfigMap"))
	err := r.Live.Get(ctx, client.ObjectKeyFromObject(wanted), existing)
	switch {
	case apierrors.IsNotFound(err):
		return apierrors.NewConflict(corev1.Resource("configmaps"), wanted.Name, errors.New("it went meanwhile"))
	case err != nil:
		return err
	case !metav1.IsControlledBy(existing, f):
		return &refusedError{fmt.Sprintf("ConfigMap %s exists already and belongs to %s; delete it or rename the fleet", wanted.Name, ownerOf(existing))}
	}
	labelled := existing.DeepCopy()
	labelled.Labels = wanted.Labels
	if err := r.Client.Patch(ctx, labelled, client.MergeFrom(existing), client.FieldOwner(cell.Manager)); err != nil {
		return err
	}
	return apierrors.NewConflict(corev1.Resource("configmaps"), wanted.Name, exists)
}
