package devcluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/shopset/shopset/api/v1alpha1"
	"github.com/shopset/shopset/internal/cell"
	"github.com/shopset/shopset/internal/diagnose"
)

// poll is how often a wait looks.
const poll = 100 * time.Millisecond

// Parse reads the objects of a manifest.
func Parse(manifest string) ([]*unstructured.Unstructured, error) {
	decoder := utilyaml.NewYAMLOrJSONDecoder(strings.NewReader(manifest), 4096)
	var objects []*unstructured.Unstructured
	for {
		object := &unstructured.Unstructured{}
		switch err := decoder.Decode(object); {
		case errors.Is(err, io.EOF):
			return objects, nil
		case err != nil:
			return nil, err
		case len(object.Object) > 0:
			objects = append(objects, object)
		}
	}
}

// ApplyFiles applies the manifests at paths relative to the repository, images pinned.
func (t *Target) ApplyFiles(ctx context.Context, images Images, paths ...string) error {
	for _, path := range paths {
		content, err := os.ReadFile(filepath.Join(t.Root, path))
		if err != nil {
			return err
		}
		objects, err := Parse(images.Pin(string(content)))
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		for _, object := range objects {
			if err := t.Apply(ctx, object); err != nil {
				return fmt.Errorf("%s: %s %s: %w", path, object.GetKind(), object.GetName(), err)
			}
		}
	}
	return nil
}

// Apply applies one object. A kind that was defined a moment ago may take that moment to be served.
func (t *Target) Apply(ctx context.Context, object *unstructured.Unstructured) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	return until(ctx, func() (bool, error) {
		err := t.Client.Apply(ctx, client.ApplyConfigurationFromUnstructured(object.DeepCopy()),
			client.FieldOwner("shopset-dev"), client.ForceOwnership)
		if meta.IsNoMatchError(err) || kindMissing(err) {
			return false, &passing{err}
		}
		return err == nil, err
	})
}

// kindMissing says whether an apply, which makes what is not there, failed for a kind that is not served
// yet. Otherwise it is the namespace that was not found.
func kindMissing(err error) bool {
	var answer apierrors.APIStatus
	if !apierrors.IsNotFound(err) || !errors.As(err, &answer) {
		return false
	}
	details := answer.Status().Details
	return details == nil || details.Kind != "namespaces"
}

// passing marks an error that waiting may mend.
type passing struct{ error }

func (p *passing) Unwrap() error { return p.error }

// isPassing says whether to look again after an error: the API server is away or busy.
func isPassing(err error) bool {
	var marked *passing
	var answer apierrors.APIStatus
	var operation *net.OpError
	switch {
	case errors.As(err, &marked):
		return true
	case errors.As(err, &answer):
		code := answer.Status().Code
		return code >= http.StatusInternalServerError || code == http.StatusTooManyRequests
	}
	return errors.As(err, &operation) || utilnet.IsTimeout(err) || utilnet.IsProbableEOF(err)
}

// until polls until done, an error that does not pass, or the end of the context. It then also says
// what stood in the way last.
func until(ctx context.Context, check func() (bool, error)) error {
	var last error
	for {
		done, err := check()
		switch {
		case ctx.Err() != nil && err != nil: // What the context broke off is no cause.
		case err != nil && !isPassing(err):
			return err
		case done:
			return nil
		default:
			last = err
		}
		select {
		case <-ctx.Done():
			if last != nil {
				return fmt.Errorf("%w; last: %w", ctx.Err(), last)
			}
			return ctx.Err()
		case <-time.After(poll):
		}
	}
}

// WaitDeployments waits until all Deployments of a namespace serve; say hears why not, whenever that
// changes.
func (t *Target) WaitDeployments(ctx context.Context, namespace string, say func(string)) error {
	last := ""
	err := until(ctx, func() (bool, error) {
		list := &appsv1.DeploymentList{}
		if err := t.Client.List(ctx, list, client.InNamespace(namespace)); err != nil {
			return false, err
		}
		var reasons []string
		for i := range list.Items {
			d := &list.Items[i]
			if cell.RolledOut(d) {
				continue
			}
			pods := &corev1.PodList{}
			if err := t.Client.List(ctx, pods, client.InNamespace(namespace), client.MatchingLabels(d.Spec.Selector.MatchLabels)); err != nil {
				return false, err
			}
			reasons = append(reasons, d.Name+": "+diagnose.Component(d, pods.Items, nil).Sentence)
		}
		if text := strings.Join(reasons, "; "); text != last && text != "" {
			last = text
			say(text)
		}
		return len(reasons) == 0 && len(list.Items) > 0, nil
	})
	if err != nil {
		return fmt.Errorf("namespace %s: %w: %s", namespace, err, last)
	}
	return nil
}

// WaitReady waits until a ShopSet is ready at its present generation; say hears the message of its
// Ready condition whenever that changes.
func (t *Target) WaitReady(ctx context.Context, key client.ObjectKey, say func(string)) (*v1alpha1.ShopSet, error) {
	ss := &v1alpha1.ShopSet{}
	err := t.waitReady(ctx, ss, key, func() ([]metav1.Condition, string) { return ss.Status.Conditions, ss.Status.Summary }, say)
	return ss, err
}
