// Command ready measures, in the cluster that `make up` made, how long the sample takes from apply to
// Ready, side by side with the same Pods as plain Deployments; see the README of bench/.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/shopset/shopset/api/v1alpha1"
	"github.com/shopset/shopset/bench/internal/process"
	"github.com/shopset/shopset/bench/internal/report"
	"github.com/shopset/shopset/internal/cell"
	"github.com/shopset/shopset/internal/devcluster"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench ready:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	times := flag.Int("rounds", 5, "how often the two take turns")
	limit := flag.Duration("limit", 15*time.Minute, "when to give up")
	flag.Parse()
	ctx, cancel := context.WithTimeout(ctx, *limit)
	defer cancel()
	target, err := devcluster.Find()
	if err != nil {
		return err
	}
	if err := target.Connect(); err != nil {
		return err
	}
	manifest, err := sample(target)
	if err != nil {
		return err
	}
	r := &runner{target: target, manifest: manifest}
	var plain, ready, ratios []float64
	// A first turn of each is not counted: it may pull, and compile.
	for round := -1; round < *times; round++ {
		plainTook, err := r.turn(ctx, "bench-plain", r.plain)
		if err != nil {
			return fmt.Errorf("plain Deployments: %w", err)
		}
		readyTook, err := r.turn(ctx, "bench-shopset", r.shopSet)
		if err != nil {
			return fmt.Errorf("ShopSet: %w", err)
		}
		report.Say("plain Deployments rolled out after %.2f s, the ShopSet was ready after %.2f s", plainTook.Seconds(), readyTook.Seconds())
		if round >= 0 {
			plain, ready = append(plain, plainTook.Seconds()), append(ready, readyTook.Seconds())
			ratios = append(ratios, readyTook.Seconds()/plainTook.Seconds())
		}
	}
	report.Result("operator.ready_s", report.Median(ready), "s")
	report.Result("operator.ready_plain_s", report.Median(plain), "s")
	report.Result("operator.ready_ratio", report.Median(ratios), "x")
	return nil
}

// sample is the manifest of config/samples with the images that were built.
func sample(t *devcluster.Target) ([]*unstructured.Unstructured, error) {
	path := filepath.Join(t.Root, "config", "samples", "shopset.yaml")
	content, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	images, err := t.ReadImages()
	if err != nil {
		return nil, err
	}
	objects, err := devcluster.Parse(images.Pin(string(content)))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return objects, nil
}

type runner struct {
	target   *devcluster.Target
	manifest []*unstructured.Unstructured
}

// starter brings up what was prepared; only this is timed.
type starter func(context.Context) error

// turn makes a namespace with all that the sample needs besides the ShopSet, prepares, times the start,
// and removes everything again.
func (r *runner) turn(ctx context.Context, namespace string, prepare func(context.Context, *v1alpha1.ShopSet) (starter, error)) (took time.Duration, err error) {
	if err := r.remove(ctx, namespace); err != nil {
		return 0, err
	}
	space := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}
	if err := r.target.Client.Create(ctx, space); err != nil {
		return 0, err
	}
	defer func() {
		// Also when the benchmark was told to stop.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Minute)
		defer cancel()
		err = errors.Join(err, r.remove(ctx, namespace))
	}()
	if err := r.target.EnsureSecrets(ctx, namespace); err != nil {
		return 0, err
	}
	ss := &v1alpha1.ShopSet{}
	for _, object := range r.manifest {
		if object.GetKind() == "ShopSet" {
			if err := runtime.DefaultUnstructuredConverter.FromUnstructured(object.Object, ss); err != nil {
				return 0, err
			}
			continue
		}
		object = object.DeepCopy()
		object.SetNamespace(namespace)
		if err := r.target.Apply(ctx, object); err != nil {
			return 0, err
		}
	}
	ss.Namespace = namespace
	for i := range ss.Spec.Components {
		// A node port is there once in a cluster, and the demo may have it.
		component := &ss.Spec.Components[i]
		component.Service = nil
		for j := range component.Ports {
			component.Ports[j].NodePort = 0
		}
	}
	start, err := prepare(ctx, ss)
	if err != nil {
		return 0, err
	}
	began := time.Now()
	if err := start(ctx); err != nil {
		return 0, err
	}
	return time.Since(began), nil
}

// plain renders what the operator would; the start applies it, and waits as `kubectl rollout status` does.
func (r *runner) plain(ctx context.Context, ss *v1alpha1.ShopSet) (starter, error) {
	// Defaults come from the API server.
	complete := ss.DeepCopy()
	if err := r.target.Client.Create(ctx, complete, client.DryRunAll); err != nil {
		return nil, err
	}
	built, err := cell.Build(complete)
	if err != nil {
		return nil, err
	}
	var objects []*unstructured.Unstructured
	for _, object := range built.Objects() {
		object.SetOwnerReferences(nil)
		content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(object)
		if err != nil {
			return nil, err
		}
		delete(content, "status")
		objects = append(objects, &unstructured.Unstructured{Object: content})
	}
	return func(ctx context.Context) error {
		for _, object := range objects {
			if err := r.target.Apply(ctx, object); err != nil {
				return err
			}
		}
		return r.target.WaitDeployments(ctx, ss.Namespace, func(text string) { report.Say("  %s", text) })
	}, nil
}

func (r *runner) shopSet(_ context.Context, ss *v1alpha1.ShopSet) (starter, error) {
	return func(ctx context.Context) error {
		if err := r.target.Client.Create(ctx, ss); err != nil {
			return err
		}
		_, err := r.target.WaitReady(ctx, client.ObjectKeyFromObject(ss), func(text string) { report.Say("  %s", text) })
		return err
	}, nil
}

// remove deletes a namespace and waits until it and all in it are gone.
func (r *runner) remove(ctx context.Context, namespace string) error {
	space := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}
	if err := r.target.Client.DeleteAllOf(ctx, &v1alpha1.ShopSet{}, client.InNamespace(namespace)); client.IgnoreNotFound(err) != nil {
		return err
	}
	if err := r.target.Client.Delete(ctx, space); client.IgnoreNotFound(err) != nil {
		return err
	}
	return process.Until(ctx, 200*time.Millisecond, func() (bool, error) {
		err := r.target.Client.Get(ctx, client.ObjectKeyFromObject(space), space)
		return apierrors.IsNotFound(err), client.IgnoreNotFound(err)
	})
}
