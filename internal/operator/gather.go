package operator

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/shopset/shopset/api/v1alpha1"
	"github.com/shopset/shopset/internal/cell"
)

// IndexShopSet is the cache's index of children by the name of their ShopSet. Without it every look
// at one ShopSet would walk through the children of all.
const IndexShopSet = "shopset"

// objectKey names a child within its ShopSet's namespace.
type objectKey struct{ kind, name string }

func (k objectKey) String() string { return k.kind + " " + k.name }

func keyOf(object client.Object) objectKey {
	return objectKey{kind: reflect.TypeOf(object).Elem().Name(), name: object.GetName()}
}

// observed is what the cluster holds for one ShopSet. The objects belong to the cache: do not change
// them.
type observed struct {
	namespace string
	// objects that the ShopSet controls.
	objects map[objectKey]client.Object
	// deployments by component.
	deployments map[string]*appsv1.Deployment
	// services by component.
	services map[string]*corev1.Service
	// pods by component.
	pods map[string][]corev1.Pod
	// revisions, newest first.
	revisions []cell.Revision
}

func (r *Reconciler) gather(ctx context.Context, ss *v1alpha1.ShopSet) (*observed, error) {
	seen := &observed{
		namespace:   ss.Namespace,
		objects:     map[objectKey]client.Object{},
		deployments: map[string]*appsv1.Deployment{},
		services:    map[string]*corev1.Service{},
		pods:        map[string][]corev1.Pod{},
	}
	for _, list := range cell.OwnedLists() {
		if err := r.list(ctx, ss, list); err != nil {
			return nil, err
		}
		if err := meta.EachListItem(list, func(item runtime.Object) error {
			return seen.add(ss, item.(client.Object))
		}); err != nil {
			return nil, err
		}
	}
	cell.SortRevisions(seen.revisions)
	pods := &corev1.PodList{}
	if err := r.list(ctx, ss, pods); err != nil {
		return nil, err
	}
	for _, pod := range pods.Items {
		component := pod.Labels[cell.LabelComponent]
		seen.pods[component] = append(seen.pods[component], pod)
	}
	return seen, nil
}

func (r *Reconciler) list(ctx context.Context, ss *v1alpha1.ShopSet, list client.ObjectList) error {
	options := []client.ListOption{client.InNamespace(ss.Namespace)}
	if r.Indexed {
		options = append(options, client.MatchingFields{IndexShopSet: ss.Name}, client.UnsafeDisableDeepCopy)
	} else {
		options = append(options, client.MatchingLabels{cell.LabelShopSet: ss.Name})
	}
	if err := r.Client.List(ctx, list, options...); err != nil {
		return fmt.Errorf("list children: %w", err)
	}
	return nil
}

func (o *observed) add(ss *v1alpha1.ShopSet, object client.Object) error {
	if !metav1.IsControlledBy(object, ss) {
		return nil // Somebody else's, whatever its labels say.
	}
	switch typed := object.(type) {
	case *appsv1.Deployment:
		o.deployments[typed.Labels[cell.LabelComponent]] = typed
	case *corev1.Service:
		o.services[typed.Labels[cell.LabelComponent]] = typed
	case *appsv1.ControllerRevision:
		o.revisions = append(o.revisions, cell.Revision{Name: typed.Name, Number: typed.Revision, Data: typed.Data.Raw})
		return nil
	}
	o.objects[keyOf(object)] = object
	return nil
}

// running lists what Pods run, also those that are on their way out, and what Deployments are about to
// start; sorted.
func (o *observed) running() []cell.Running {
	set := map[cell.Running]bool{}
	for name, deployment := range o.deployments {
		set[cell.Running{Component: name, Revision: deployment.Annotations[cell.AnnotationRevision]}] = true
	}
	for name, pods := range o.pods {
		for i := range pods {
			ended := pods[i].Status.Phase == corev1.PodFailed || pods[i].Status.Phase == corev1.PodSucceeded
			if revision := pods[i].Labels[cell.LabelRevision]; revision != "" && !ended {
				set[cell.Running{Component: name, Revision: revision}] = true
			}
		}
	}
	return slices.SortedFunc(maps.Keys(set), func(a, b cell.Running) int {
		return cmp.Or(strings.Compare(a.Component, b.Component), strings.Compare(a.Revision, b.Revision))
	})
}
