package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/shopset/shopset/api/v1alpha1"
	"github.com/shopset/shopset/internal/cell"
	"github.com/shopset/shopset/internal/operator"
)

// resources are the kinds of a ShopSet's children as the API server calls them.
var resources = map[string]string{
	"Deployment":          "/apis/apps/v1/namespaces/%s/deployments/",
	"ControllerRevision":  "/apis/apps/v1/namespaces/%s/controllerrevisions/",
	"Service":             "/api/v1/namespaces/%s/services/",
	"ConfigMap":           "/api/v1/namespaces/%s/configmaps/",
	"NetworkPolicy":       "/apis/networking.k8s.io/v1/namespaces/%s/networkpolicies/",
	"PodDisruptionBudget": "/apis/policy/v1/namespaces/%s/poddisruptionbudgets/",
	"ShopSet":             "/apis/shopset.dev/v1alpha1/namespaces/%s/shopsets/",
}

// rendered is one object as it is sent.
type rendered struct {
	kind, path string
	body       []byte
}

// system is one ShopSet and all that the operator makes of it.
type system struct {
	shopSet  rendered
	children []rendered
}

// noUID stands in the bodies for the UID that the API server gives to the ShopSet.
const noUID = "00000000-0000-0000-0000-000000000000"

// sample is the ShopSet of config/samples as the API server stores it, defaults filled in. Of node
// ports there is one per cluster, so it goes without.
func sample(ctx context.Context, b *bench, cp *controlPlane) (*v1alpha1.ShopSet, error) {
	path := filepath.Join(b.root, "config", "samples", "shopset.yaml")
	content, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	decoder := utilyaml.NewYAMLOrJSONDecoder(bytes.NewReader(content), 4096)
	for {
		ss := &v1alpha1.ShopSet{}
		if err := decoder.Decode(ss); errors.Is(err, io.EOF) {
			return nil, fmt.Errorf("%s: holds no ShopSet", path)
		} else if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		if ss.Kind != "ShopSet" {
			continue
		}
		for i := range ss.Spec.Components {
			component := &ss.Spec.Components[i]
			component.Service = nil
			for j := range component.Ports {
				component.Ports[j].NodePort = 0
			}
		}
		ss.Namespace = namespace
		if err := cp.admin.Create(ctx, ss, client.DryRunAll); err != nil {
			return nil, err
		}
		ss.ObjectMeta = metav1.ObjectMeta{Namespace: namespace}
		return ss, nil
	}
}

func nameOf(i int) string { return fmt.Sprintf("s%04d", i) }

// named makes the i-th ShopSet.
func named(template *v1alpha1.ShopSet, space string, i int) *v1alpha1.ShopSet {
	ss := template.DeepCopy()
	ss.TypeMeta = metav1.TypeMeta{APIVersion: v1alpha1.GroupVersion.String(), Kind: "ShopSet"}
	ss.Namespace, ss.Name = space, nameOf(i)
	return ss
}

// render makes n systems ready to be sent.
func render(template *v1alpha1.ShopSet, space string, n int) ([]system, error) {
	systems := make([]system, n)
	for i := range systems {
		ss := named(template, space, i)
		ss.Finalizers = []string{operator.Finalizer}
		shopSet, err := encode(ss)
		if err != nil {
			return nil, err
		}
		systems[i].shopSet = shopSet
		ss.UID = types.UID(noUID)
		objects, err := childrenOf(ss)
		if err != nil {
			return nil, err
		}
		for _, object := range objects {
			child, err := encode(object)
			if err != nil {
				return nil, err
			}
			systems[i].children = append(systems[i].children, child)
		}
	}
	return systems, nil
}

// childrenOf are the objects that the operator makes of a ShopSet, its record of the revision first.
func childrenOf(ss *v1alpha1.ShopSet) ([]cell.Object, error) {
	built, err := cell.Build(ss)
	if err != nil {
		return nil, err
	}
	data, err := cell.EncodeRevision(&ss.Spec)
	if err != nil {
		return nil, err
	}
	objects := built.Objects()
	record := &appsv1.ControllerRevision{
		TypeMeta: metav1.TypeMeta{APIVersion: "apps/v1", Kind: "ControllerRevision"},
		ObjectMeta: metav1.ObjectMeta{
			Name: ss.Name + "-" + built.Revision, Namespace: ss.Namespace,
			Labels:          map[string]string{cell.LabelShopSet: ss.Name, "app.kubernetes.io/managed-by": cell.Manager},
			OwnerReferences: objects[0].GetOwnerReferences(),
		},
		Data:     runtime.RawExtension{Raw: data},
		Revision: 1,
	}
	return append([]cell.Object{record}, objects...), nil
}

func encode(object cell.Object) (rendered, error) {
	kind := object.GetObjectKind().GroupVersionKind().Kind
	pattern, known := resources[kind]
	if !known {
		return rendered{}, fmt.Errorf("kind %s is not known here", kind)
	}
	// As client-go sends it: without the fields that are only zero in Go.
	content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(object)
	if err != nil {
		return rendered{}, err
	}
	delete(content, "status")
	body, err := json.Marshal(content)
	return rendered{kind: kind, path: fmt.Sprintf(pattern, object.GetNamespace()) + object.GetName(), body: body}, err
}

// childKinds are the kinds of a ShopSet's children, and how many of each the sample has.
var childKinds = map[schema.GroupVersionKind]int{
	{Group: "apps", Version: "v1", Kind: "Deployment"}:                 4,
	{Group: "apps", Version: "v1", Kind: "ControllerRevision"}:         1,
	{Version: "v1", Kind: "Service"}:                                   4,
	{Version: "v1", Kind: "ConfigMap"}:                                 1,
	{Group: "networking.k8s.io", Version: "v1", Kind: "NetworkPolicy"}: 4,
	{Group: "policy", Version: "v1", Kind: "PodDisruptionBudget"}:      4,
}

// count says how many children there are, and fails if they are not those of n ShopSets.
func count(ctx context.Context, cp *controlPlane, n int) (children int, err error) {
	for kind, each := range childKinds {
		list := &metav1.PartialObjectMetadataList{}
		list.SetGroupVersionKind(kind)
		if err := cp.admin.List(ctx, list, client.InNamespace(namespace), client.HasLabels{cell.LabelShopSet}); err != nil {
			return 0, err
		}
		if len(list.Items) != n*each {
			return 0, fmt.Errorf("%d of kind %s are there; want %d", len(list.Items), kind.Kind, n*each)
		}
		children += len(list.Items)
	}
	return children, nil
}
