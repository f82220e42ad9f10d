package kubectl

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/wait"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/util/retry"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/shopset/shopset/api/v1alpha1"
)

// manager is the field manager of what this program writes.
const manager = "kubectl-shopset"

// connect reads the kubeconfig, once.
func (t *tool) connect() error {
	if t.client != nil {
		return nil
	}
	kubeconfig := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(t.rules, &t.overrides)
	config, err := kubeconfig.ClientConfig()
	if err != nil {
		return err
	}
	config.QPS = -1 // The API server paces by itself.
	config.WarningHandler = rest.NewWarningWriter(t.ErrOut, rest.WarningWriterOptions{Deduplicate: true})
	if t.namespace, _, err = kubeconfig.Namespace(); err != nil {
		return err
	}
	scheme := runtime.NewScheme()
	if err := errors.Join(clientgoscheme.AddToScheme(scheme), v1alpha1.AddToScheme(scheme)); err != nil {
		return err
	}
	t.client, err = client.NewWithWatch(config, client.Options{Scheme: scheme})
	return err
}

// sentence makes of an error one for people, with the mend.
func sentence(err error) string {
	text := printable(strings.Join(strings.FieldsFunc(err.Error(), func(r rune) bool { return r == '\n' }), "; "))
	var network *net.OpError
	switch {
	case clientcmd.IsEmptyConfig(err):
		return "no cluster is known; set KUBECONFIG, or give --kubeconfig and --context"
	case meta.IsNoMatchError(err):
		return "this cluster does not know ShopSets and Fleets; install their definitions (kubectl apply -f config/crd), or choose another cluster by --context"
	case apierrors.IsForbidden(err):
		return text + "; ask who runs the cluster for that right"
	case apierrors.IsUnauthorized(err):
		return "the API server does not know you; log in again, or choose another user by --context"
	case errors.As(err, &network):
		return text + "; is it the right cluster (--context), and does it run?"
	case errors.Is(err, context.DeadlineExceeded):
		return text + ": the API server did not answer in time; try again, or raise --request-timeout"
	case errors.Is(err, context.Canceled):
		return "interrupted"
	default:
		return text
	}
}

// passes says whether the same question may be answered a moment later.
func passes(err error) bool {
	var network *net.OpError
	var absent notPublished
	return errors.As(err, &network) || errors.As(err, &absent) || apierrors.IsServerTimeout(err) || apierrors.IsTimeout(err) ||
		apierrors.IsTooManyRequests(err) || apierrors.IsServiceUnavailable(err) || apierrors.IsInternalError(err)
}

// names lists what there is of a kind in the namespace.
func (t *tool) names(ctx context.Context, list client.ObjectList) ([]string, error) {
	if err := t.client.List(ctx, list, client.InNamespace(t.namespace)); err != nil {
		return nil, err
	}
	var names []string
	err := meta.EachListItem(list, func(item runtime.Object) error {
		names = append(names, item.(client.Object).GetName())
		return nil
	})
	slices.Sort(names)
	return names, err
}

// get reads one object; what is not there is said with the names that are.
func (t *tool) get(ctx context.Context, what, name string, object client.Object, list client.ObjectList) error {
	err := t.client.Get(ctx, client.ObjectKey{Namespace: t.namespace, Name: name}, object)
	if !apierrors.IsNotFound(err) {
		return err
	}
	names, err := t.names(ctx, list)
	switch {
	case err != nil:
		return err
	case len(names) == 0:
		return fmt.Errorf("there is no %s %s in namespace %s, and no other; choose another namespace by -n", what, name, t.namespace)
	default:
		return fmt.Errorf("there is no %s %s in namespace %s; there is %s", what, name, t.namespace, listed(names))
	}
}

func (t *tool) getShopSet(ctx context.Context, name string) (*v1alpha1.ShopSet, error) {
	ss := &v1alpha1.ShopSet{}
	return ss, t.get(ctx, "ShopSet", name, ss, &v1alpha1.ShopSetList{})
}

// getFleet reads a Fleet, the only one of the namespace if no name is given.
func (t *tool) getFleet(ctx context.Context, name string) (*v1alpha1.Fleet, error) {
	f := &v1alpha1.Fleet{}
	if name != "" {
		return f, t.get(ctx, "Fleet", name, f, &v1alpha1.FleetList{})
	}
	names, err := t.names(ctx, &v1alpha1.FleetList{})
	switch {
	case err != nil:
		return nil, err
	case len(names) == 0:
		return nil, fmt.Errorf("there is no Fleet in namespace %s; choose another namespace by -n", t.namespace)
	case len(names) > 1:
		return nil, fmt.Errorf("namespace %s has several Fleets, %s; name one", t.namespace, listed(names))
	default:
		return t.getFleet(ctx, names[0])
	}
}

// listed is names for a sentence, bounded.
func listed(names []string) string {
	const most = 20
	if len(names) > most {
		return strings.Join(names[:most], ", ") + fmt.Sprintf(" and %d more", len(names)-most)
	}
	return strings.Join(names, ", ")
}

// backoff is for writes that somebody else was faster with.
var backoff = wait.Backoff{Duration: 20 * time.Millisecond, Factor: 2, Jitter: 0.5, Steps: 8}

// edit changes an object over the very version that was read, and tries again over the next one.
func edit[T client.Object](ctx context.Context, t *tool, object T, change func(T) error) error {
	return retry.RetryOnConflict(backoff, func() error {
		if err := t.client.Get(ctx, client.ObjectKeyFromObject(object), object); err != nil {
			return err
		}
		before, _ := object.DeepCopyObject().(client.Object)
		if err := change(object); err != nil {
			return err
		}
		return t.client.Patch(ctx, object, client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{}), client.FieldOwner(manager))
	})
}

// condition gives one that speaks of the present spec.
func condition(object client.Object, conditions []metav1.Condition, kind string) (found *metav1.Condition) {
	found = meta.FindStatusCondition(conditions, kind)
	if found == nil || found.ObservedGeneration != object.GetGeneration() {
		return nil
	}
	return found
}
