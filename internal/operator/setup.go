package operator

import (
	"context"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/util/workqueue"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/shopset/shopset/api/v1alpha1"
	"github.com/shopset/shopset/internal/cell"
)

// childDelay gathers the news of a cell's children into one run: creating a cell alone makes some
// twenty of them.
const childDelay = 100 * time.Millisecond

// Scheme knows the kinds that the operator works with.
func Scheme() (*runtime.Scheme, error) {
	scheme := runtime.NewScheme()
	if err := clientgoscheme.AddToScheme(scheme); err != nil {
		return nil, err
	}
	return scheme, v1alpha1.AddToScheme(scheme)
}

// CacheOptions make the cache hold only what belongs to ShopSets, without the parts that nobody reads.
func CacheOptions() (cache.Options, error) {
	ours, err := withLabel(cell.LabelShopSet)
	if err != nil {
		return cache.Options{}, err
	}
	edges, err := withLabel(cell.LabelEdge)
	if err != nil {
		return cache.Options{}, err
	}
	options := cache.Options{
		DefaultTransform: cache.TransformStripManagedFields(),
		ByObject:         map[client.Object]cache.ByObject{},
	}
	for _, child := range childTypes() {
		options.ByObject[child] = ours
	}
	options.ByObject[&discoveryv1.EndpointSlice{}] = edges
	ours.Transform = stripPod
	options.ByObject[&corev1.Pod{}] = ours
	return options, nil
}

func childTypes() []client.Object {
	return []client.Object{
		&appsv1.Deployment{}, &corev1.Service{}, &corev1.ConfigMap{}, &policyv1.PodDisruptionBudget{},
		&networkingv1.NetworkPolicy{}, &autoscalingv2.HorizontalPodAutoscaler{}, &appsv1.ControllerRevision{},
	}
}

func stripChild(object any) (any, error) {
	if accessor, ok := object.(metav1.Object); ok {
		accessor.SetManagedFields(nil)
	}
	return object, nil
}

// stripPod keeps what diagnosis reads. A Pod's spec is most of it, and there are more Pods than
// anything else.
func stripPod(object any) (any, error) {
	pod, ok := object.(*corev1.Pod)
	if !ok {
		return object, nil
	}
	pod.ManagedFields = nil
	pod.Annotations = nil
	pod.Spec = corev1.PodSpec{NodeName: pod.Spec.NodeName}
	return pod, nil
}

// SetupWithManager makes a manager run the reconciler with so many ShopSets at a time.
func (r *Reconciler) SetupWithManager(ctx context.Context, manager ctrl.Manager, concurrency int) error {
	r.Indexed = true
	b := builder.ControllerManagedBy(manager).
		Named("shopset").
		For(&v1alpha1.ShopSet{}, builder.WithPredicates(specChanged)).
		WithOptions(controller.Options{
			MaxConcurrentReconciles: concurrency,
			RateLimiter: workqueue.NewTypedItemExponentialFailureRateLimiter[reconcile.Request](
				200*time.Millisecond, 30*time.Second),
		})
	for _, child := range append(childTypes(), &corev1.Pod{}) {
		if err := manager.GetFieldIndexer().IndexField(ctx, child, IndexShopSet, shopSetOf); err != nil {
			return err
		}
		b = b.Watches(child, childHandler())
	}
	return b.Complete(r)
}

// specChanged leaves out what the operator itself writes: status.
var specChanged = predicate.Or(predicate.GenerationChangedPredicate{}, predicate.Funcs{
	UpdateFunc: func(e event.UpdateEvent) bool {
		return e.ObjectOld.GetDeletionTimestamp().IsZero() != e.ObjectNew.GetDeletionTimestamp().IsZero()
	},
	CreateFunc: func(event.CreateEvent) bool { return true },
	DeleteFunc: func(event.DeleteEvent) bool { return true },
})

func shopSetOf(object client.Object) []string {
	if name := object.GetLabels()[cell.LabelShopSet]; name != "" {
		return []string{name}
	}
	return nil
}

// childHandler queues the ShopSet of a child a moment later. A child that loses its label was
// known under the old one, so both sides of an update count.
func childHandler() handler.EventHandler {
	queue := func(object client.Object, q workqueue.TypedRateLimitingInterface[reconcile.Request]) {
		for _, name := range shopSetOf(object) {
			q.AddAfter(reconcile.Request{NamespacedName: types.NamespacedName{
				Namespace: object.GetNamespace(), Name: name,
			}}, childDelay)
		}
	}
	return handler.Funcs{
		CreateFunc: func(_ context.Context, e event.CreateEvent, q workqueue.TypedRateLimitingInterface[reconcile.Request]) {
			queue(e.Object, q)
		},
		UpdateFunc: func(_ context.Context, e event.UpdateEvent, q workqueue.TypedRateLimitingInterface[reconcile.Request]) {
			queue(e.ObjectOld, q)
			queue(e.ObjectNew, q)
		},
		DeleteFunc: func(_ context.Context, e event.DeleteEvent, q workqueue.TypedRateLimitingInterface[reconcile.Request]) {
			queue(e.Object, q)
		},
	}
}
