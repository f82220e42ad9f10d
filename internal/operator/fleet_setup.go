package operator

import (
	"context"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/selection"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/workqueue"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"github.com/shopset/shopset/api/v1alpha1"
	"github.com/shopset/shopset/internal/cell"
)

// withLabel makes a cache hold only objects that have a label.
func withLabel(label string) (cache.ByObject, error) {
	has, err := labels.NewRequirement(label, selection.Exists, nil)
	if err != nil {
		return cache.ByObject{}, err
	}
	return cache.ByObject{Label: labels.NewSelector().Add(*has), Transform: stripChild}, nil
}

// newTableCache holds the ConfigMaps of fleets. It is a cache of its own, because the other one holds the ConfigMaps of
// ShopSets, and one cache goes by one label.
func newTableCache(manager ctrl.Manager, namespaces map[string]cache.Config) (cache.Cache, error) {
	ofFleets, err := withLabel(v1alpha1.LabelFleet)
	if err != nil {
		return nil, err
	}
	tables, err := cache.New(manager.GetConfig(), cache.Options{
		HTTPClient: manager.GetHTTPClient(), Scheme: manager.GetScheme(), Mapper: manager.GetRESTMapper(),
		DefaultNamespaces: namespaces, ByObject: map[client.Object]cache.ByObject{&corev1.ConfigMap{}: ofFleets},
	})
	if err != nil {
		return nil, err
	}
	return tables, manager.Add(tables)
}

// SetupWithManager makes a manager run the reconciler. Tables must be a cache of ConfigMaps with the fleet's label.
func (r *FleetReconciler) SetupWithManager(manager ctrl.Manager, tables cache.Cache, concurrency int) error {
	r.Tables = tables
	return builder.ControllerManagedBy(manager).
		Named("fleet").
		For(&v1alpha1.Fleet{}, builder.WithPredicates(specChanged)).
		Watches(&v1alpha1.ShopSet{}, fleetHandler[client.Object](r.fleetsOfShopSet)).
		Watches(&discoveryv1.EndpointSlice{}, fleetHandler[client.Object](r.fleetsOfEndpoints)).
		WatchesRawSource(source.Kind(tables, &corev1.ConfigMap{}, fleetHandler(func(_ context.Context, m *corev1.ConfigMap) []string {
			return []string{m.Labels[v1alpha1.LabelFleet]}
		}))).
		WithOptions(controller.Options{
			MaxConcurrentReconciles: concurrency,
			RateLimiter: workqueue.NewTypedItemExponentialFailureRateLimiter[reconcile.Request](
				200*time.Millisecond, 30*time.Second),
		}).
		Complete(r)
}

// fleetsOfShopSet names the fleets that a ShopSet is of interest to. One that nobody controls may have the name of a
// cell that some fleet waits for.
func (r *FleetReconciler) fleetsOfShopSet(ctx context.Context, object client.Object) []string {
	if owner := metav1.GetControllerOf(object); owner != nil {
		if owner.Kind == "Fleet" {
			return []string{owner.Name}
		}
		return nil
	}
	list := &v1alpha1.FleetList{}
	if err := r.Client.List(ctx, list, client.InNamespace(object.GetNamespace()), client.UnsafeDisableDeepCopy); err != nil {
		return nil // A cache that has been filled does not fail.
	}
	var names []string
	for i := range list.Items {
		names = append(names, list.Items[i].Name)
	}
	return names
}

func (r *FleetReconciler) fleetsOfEndpoints(ctx context.Context, object client.Object) []string {
	ss := &v1alpha1.ShopSet{}
	if err := r.Client.Get(ctx, types.NamespacedName{Namespace: object.GetNamespace(), Name: object.GetLabels()[cell.LabelShopSet]}, ss); err != nil {
		return nil // It comes with its own news.
	}
	return r.fleetsOfShopSet(ctx, ss)
}

// fleetHandler queues fleets a moment later, so that what happens together is one table.
func fleetHandler[T client.Object](fleetsOf func(context.Context, T) []string) handler.TypedEventHandler[T, reconcile.Request] {
	queue := func(ctx context.Context, object T, q workqueue.TypedRateLimitingInterface[reconcile.Request]) {
		for _, name := range fleetsOf(ctx, object) {
			if name != "" {
				q.AddAfter(reconcile.Request{NamespacedName: types.NamespacedName{Namespace: object.GetNamespace(), Name: name}}, childDelay)
			}
		}
	}
	return handler.TypedFuncs[T, reconcile.Request]{
		CreateFunc: func(ctx context.Context, e event.TypedCreateEvent[T], q workqueue.TypedRateLimitingInterface[reconcile.Request]) {
			queue(ctx, e.Object, q)
		},
		UpdateFunc: func(ctx context.Context, e event.TypedUpdateEvent[T], q workqueue.TypedRateLimitingInterface[reconcile.Request]) {
			queue(ctx, e.ObjectOld, q)
			queue(ctx, e.ObjectNew, q)
		},
		DeleteFunc: func(ctx context.Context, e event.TypedDeleteEvent[T], q workqueue.TypedRateLimitingInterface[reconcile.Request]) {
			queue(ctx, e.Object, q)
		},
	}
}
