package kubectl

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/shopset/shopset/api/v1alpha1"
	"github.com/shopset/shopset/internal/fleet"
)

// maxManifest bounds a file to compare with: etcd holds 1.5 MiB an object.
const maxManifest = 64 << 20

type diffOptions struct {
	file string
	all  bool
}

func (t *tool) diffCommand() *cobra.Command {
	o := &diffOptions{}
	c := &cobra.Command{
		Use:   "diff -f FILE",
		Short: "Show what a changed ShopSet or Fleet would change, and what would restart; nothing is written",
		Long: `Show what it would change in the cluster to make ShopSets and Fleets as a file says: the objects that the operator
makes of them, before and after, and which components would restart, in which order.
The API server is asked by dry runs, so defaults and refusals are its own. Traffic that the file does not state stays.
The exit code is 0 if nothing would change, 1 if something would, 2 after an error.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if o.file == "" {
				return usage(c, errors.New("give the file with the changed ShopSet or Fleet by -f; - is the standard input"))
			}
			if err := t.connect(); err != nil {
				return err
			}
			return t.diff(c.Context(), o)
		},
	}
	c.Flags().StringVarP(&o.file, "filename", "f", "", "file with the changed objects (- is the standard input)")
	c.Flags().BoolVar(&o.all, "all", false, "show the objects of every cell of a fleet, also if cells change alike")
	return c
}

func (t *tool) diff(ctx context.Context, o *diffOptions) error {
	objects, err := t.readManifest(o.file)
	if err != nil {
		return err
	}
	differs := false
	out := newPrinter(t.Out)
	for _, object := range objects {
		var err error
		var changed bool
		switch wanted := object.(type) {
		case *v1alpha1.ShopSet:
			changed, err = t.diffShopSet(ctx, out, wanted)
		case *v1alpha1.Fleet:
			changed, err = t.diffFleet(ctx, out, wanted, o.all)
		}
		if err != nil {
			return fmt.Errorf("%s %s: %w", kindOf(object), object.GetName(), err)
		}
		differs = differs || changed
	}
	if differs {
		return errNotWell
	}
	return nil
}

func kindOf(object client.Object) string {
	if _, isFleet := object.(*v1alpha1.Fleet); isFleet {
		return "Fleet"
	}
	return "ShopSet"
}

// readManifest reads the ShopSets and Fleets of a file, strictly. Other objects are not ours to compare.
func (t *tool) readManifest(path string) (objects []client.Object, err error) {
	in := t.In
	if path != "-" {
		file, err := os.Open(path)
		if err != nil {
			return nil, err
		}
		defer file.Close()
		in = file
	}
	decoder := yaml.NewYAMLOrJSONDecoder(io.LimitReader(in, maxManifest), 64<<10)
	for n := 1; ; n++ {
		raw := &unstructured.Unstructured{}
		if err := decoder.Decode(&raw.Object); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return nil, fmt.Errorf("%s, document %d: %w", path, n, err)
		}
		if raw.Object == nil || raw.GroupVersionKind().Group != v1alpha1.GroupVersion.Group {
			continue
		}
		object, err := typed(raw)
		if err != nil {
			return nil, fmt.Errorf("%s, document %d: %w", path, n, err)
		}
		if object.GetNamespace() == "" {
			object.SetNamespace(t.namespace)
		}
		objects = append(objects, object)
	}
	if len(objects) == 0 {
		return nil, fmt.Errorf("%s has no ShopSet and no Fleet", path)
	}
	return objects, nil
}

func typed(raw *unstructured.Unstructured) (client.Object, error) {
	var object client.Object
	switch raw.GetKind() {
	case "ShopSet":
		object = &v1alpha1.ShopSet{}
	case "Fleet":
		object = &v1alpha1.Fleet{}
	default:
		return nil, fmt.Errorf("kind %q is neither ShopSet nor Fleet", raw.GetKind())
	}
	if raw.GetName() == "" {
		return nil, fmt.Errorf("the %s has no metadata.name", raw.GetKind())
	}
	return object, runtime.DefaultUnstructuredConverter.FromUnstructuredWithValidation(raw.Object, object, true)
}

// dryRun asks the API server what would be stored. live is nil if the object is not there yet.
func dryRun[T client.Object](ctx context.Context, t *tool, wanted, live T, set func(after, wanted T)) (before, after T, err error) {
	err = t.client.Get(ctx, client.ObjectKeyFromObject(wanted), live)
	if apierrors.IsNotFound(err) {
		var none T
		return none, wanted, t.client.Create(ctx, wanted, client.DryRunAll, client.FieldOwner(manager))
	}
	if err != nil {
		return live, wanted, err
	}
	after, _ = live.DeepCopyObject().(T)
	set(after, wanted)
	return live, after, t.client.Update(ctx, after, client.DryRunAll, client.FieldOwner(manager))
}

func (t *tool) diffShopSet(ctx context.Context, out *printer, wanted *v1alpha1.ShopSet) (changed bool, err error) {
	before, after, err := dryRun(ctx, t, wanted, &v1alpha1.ShopSet{}, func(after, wanted *v1alpha1.ShopSet) {
		if wanted.Spec.Traffic == "" {
			wanted.Spec.Traffic = after.Spec.Traffic
		}
		after.Spec = wanted.Spec
	})
	if err != nil {
		return false, err
	}
	if before != nil && fleetOf(before) != "" {
		fmt.Fprintf(t.ErrOut, "kubectl shopset: %s belongs to Fleet %s, which would set it back; change the template of the Fleet\n", before.Name, fleetOf(before))
	}
	difference, err := compare(before, after)
	if err != nil {
		return false, err
	}
	out.difference(difference, true)
	return difference.differs(), nil
}

func (t *tool) diffFleet(ctx context.Context, out *printer, wanted *v1alpha1.Fleet, all bool) (changed bool, err error) {
	before, after, err := dryRun(ctx, t, wanted, &v1alpha1.Fleet{}, func(after, wanted *v1alpha1.Fleet) { after.Spec = wanted.Spec })
	if err != nil {
		return false, err
	}
	view, err := t.viewOf(ctx, after, "")
	if err != nil {
		return false, err
	}
	if plan := view.decide(t.now()); plan.Problem != nil {
		return false, fmt.Errorf("the operator would change nothing: %w", plan.Problem)
	}
	if before == nil {
		fmt.Fprintf(out, "Fleet %s/%s is new\n", after.Namespace, after.Name)
	} else if spec, err := unified("Fleet "+before.Name, "Fleet "+after.Name, placementOf(before), placementOf(after)); err != nil {
		return false, err
	} else if spec != "" {
		out.unified(spec)
		changed = true
	}
	wantedCells, leaving := fleet.Preview(after, view.shopSets)
	shown := map[string]string{}
	for _, ss := range wantedCells {
		difference, err := compare(view.shopSet(ss.Name), ss)
		if err != nil {
			return false, err
		}
		changed = changed || difference.differs()
		alike := difference.pattern()
		first := shown[alike]
		if first == "" {
			shown[alike] = ss.Name
		}
		out.difference(difference, first == "" || all)
		if first != "" && !all && difference.differs() {
			fmt.Fprintf(out, "  its objects change as those of %s do (--all shows them)\n", first)
		}
	}
	for _, ss := range leaving {
		fmt.Fprintf(out, "ShopSet %s/%s leaves: it is drained, and deleted when it is idle\n", ss.Namespace, ss.Name)
		changed = true
	}
	return changed || before == nil, nil
}

// placementOf is what of a Fleet is no ShopSet's.
func placementOf(f *v1alpha1.Fleet) any {
	spec := f.Spec.DeepCopy()
	return map[string]any{"cells": spec.Cells, "namedCells": spec.NamedCells, "placement": spec.Placement, "update": spec.Update}
}
