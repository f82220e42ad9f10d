package operator

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/shopset/shopset/api/v1alpha1"
	"github.com/shopset/shopset/internal/cell"
)

// defaultHistory is the CRD's default, for ShopSets that were stored without one.
const defaultHistory = 10

func revisionName(ss *v1alpha1.ShopSet, revision string) string { return ss.Name + "-" + revision }

func hasRevision(name, revision string) bool { return strings.HasSuffix(name, "-"+revision) }

// recordRevision stores the spec as the newest ControllerRevision. Going back to an earlier spec makes
// its record the newest again.
func (r *Reconciler) recordRevision(ctx context.Context, ss *v1alpha1.ShopSet, seen *observed, revision string) error {
	if len(seen.revisions) > 0 && hasRevision(seen.revisions[0].Name, revision) {
		r.memory.drop(ss.UID, objectKey{"ControllerRevision", seen.revisions[0].Name})
		return nil
	}
	key := objectKey{"ControllerRevision", revisionName(ss, revision)}
	if r.memory.applied(ss.UID, key, revision, "", r.now()) {
		return nil // The cache has not seen it yet.
	}
	data, err := cell.EncodeRevision(&ss.Spec)
	if err != nil {
		return fmt.Errorf("encode the spec: %w", err)
	}
	number := int64(1)
	if len(seen.revisions) > 0 {
		number = seen.revisions[0].Number + 1
	}
	record := &appsv1.ControllerRevision{
		TypeMeta: metav1.TypeMeta{APIVersion: "apps/v1", Kind: "ControllerRevision"},
		ObjectMeta: metav1.ObjectMeta{
			Name: key.name, Namespace: ss.Namespace,
			Labels: map[string]string{cell.LabelShopSet: ss.Name, "app.kubernetes.io/managed-by": cell.Manager},
			OwnerReferences: []metav1.OwnerReference{{
				APIVersion: v1alpha1.GroupVersion.String(), Kind: "ShopSet", Name: ss.Name, UID: ss.UID,
				Controller: new(true), BlockOwnerDeletion: new(true),
			}},
		},
		Data:     runtime.RawExtension{Raw: data},
		Revision: number,
	}
	store := func() (string, error) { return r.create(ctx, ss, record) }
	if slices.ContainsFunc(seen.revisions, func(known cell.Revision) bool { return known.Name == record.Name }) {
		store = func() (string, error) { return r.apply(ctx, record) }
	}
	version, err := store()
	if apierrors.IsConflict(err) || refusal(err) != "" {
		return err
	}
	if err != nil {
		return fmt.Errorf("record revision %s: %w", revision, err)
	}
	r.memory.remember(ss.UID, key, attempt{hash: revision, after: version, at: r.now()})
	return nil
}

// pruneRevisions keeps the newest as many as the spec says, besides the current one, and those by which
// something still runs: without them it could be neither held nor reached.
func (r *Reconciler) pruneRevisions(ctx context.Context, ss *v1alpha1.ShopSet, seen *observed, history *cell.History) error {
	limit := defaultHistory
	if ss.Spec.RevisionHistoryLimit != nil {
		limit = int(*ss.Spec.RevisionHistoryLimit)
	}
	var failures []error
	for i, revision := range seen.revisions {
		if i > limit && !history.Needed(revision.Name) {
			failures = append(failures, r.deleteRevision(ctx, ss.Namespace, revision.Name))
		}
	}
	return errors.Join(failures...)
}

func (r *Reconciler) deleteRevision(ctx context.Context, namespace, name string) error {
	old := &appsv1.ControllerRevision{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: namespace}}
	if err := r.Client.Delete(ctx, old); client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("delete revision %s: %w", name, err)
	}
	return nil
}
