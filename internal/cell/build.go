package cell

import (
	"encoding/json"
	"fmt"
	"maps"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/shopset/shopset/api/v1alpha1"
	"github.com/shopset/shopset/internal/render"
)

// Component is what the cluster shall hold for one component. Nil parts do not exist.
type Component struct {
	Name string
	Uses []string
	// Revision is the hash of the Pod template, config included.
	Revision string

	Config           *corev1.ConfigMap
	Service          *corev1.Service
	NetworkPolicy    *networkingv1.NetworkPolicy
	DisruptionBudget *policyv1.PodDisruptionBudget
	Deployment       *appsv1.Deployment
	Autoscaler       *autoscalingv2.HorizontalPodAutoscaler
}

// Cell is what the cluster shall hold for a ShopSet.
type Cell struct {
	// Revision is the hash of everything the spec says to run.
	Revision   string
	Components []Component
}

// Build makes the cell that a ShopSet describes. The error is of type Problems.
func Build(ss *v1alpha1.ShopSet) (*Cell, error) {
	problems := check(&ss.Spec)
	var budget render.Budget
	result := &Cell{
		Revision:   hash(Revisioned(&ss.Spec)),
		Components: make([]Component, 0, len(ss.Spec.Components)),
	}
	for i := range ss.Spec.Components {
		result.Components = append(result.Components, buildComponent(ss, &ss.Spec.Components[i], &budget, &problems))
	}
	if len(problems) > 0 {
		return nil, problems
	}
	owner := metav1.OwnerReference{
		APIVersion: v1alpha1.GroupVersion.String(), Kind: "ShopSet", Name: ss.Name, UID: ss.UID,
		Controller: new(true), BlockOwnerDeletion: new(true),
	}
	for _, object := range result.Objects() {
		object.SetOwnerReferences([]metav1.OwnerReference{owner})
		Seal(object)
	}
	return result, nil
}

func buildComponent(ss *v1alpha1.ShopSet, component *v1alpha1.Component, budget *render.Budget, problems *Problems) Component {
	env := environment(ss, component)
	config := renderConfig(ss, component, env, budget, problems)
	deployment := deployment(ss, component, podTemplate(ss, component, env, config, problems))
	return Component{
		Name:             component.Name,
		Uses:             component.Uses,
		Revision:         deployment.Annotations[AnnotationRevision],
		Config:           config,
		Service:          service(ss, component),
		NetworkPolicy:    networkPolicy(ss, component),
		DisruptionBudget: disruptionBudget(ss, component),
		Deployment:       deployment,
		Autoscaler:       autoscaler(ss, component),
	}
}

// Objects lists everything in the order to apply it: a Pod finds its config and the way to the
// others when it starts.
func (c *Cell) Objects() []Object {
	var objects []Object
	for i := range c.Components {
		objects = append(objects, c.Components[i].surroundings()...)
	}
	for i := range c.Components {
		objects = append(objects, c.Components[i].workload()...)
	}
	return objects
}

func (c *Component) surroundings() []Object {
	objects := []Object{c.NetworkPolicy, c.DisruptionBudget}
	if c.Config != nil {
		objects = append(objects, c.Config)
	}
	if c.Service != nil {
		objects = append(objects, c.Service)
	}
	return objects
}

func (c *Component) workload() []Object {
	objects := []Object{c.Deployment}
	if c.Autoscaler != nil {
		objects = append(objects, c.Autoscaler)
	}
	return objects
}

// Revisioned is the part of a spec that a revision is the hash of: all that says what runs, without
// what only scales it, drains it or keeps its history.
func Revisioned(spec *v1alpha1.ShopSetSpec) *v1alpha1.ShopSetSpec {
	result := spec.DeepCopy()
	result.Traffic = ""
	result.Drain = nil
	result.RevisionHistoryLimit = nil
	for i := range result.Components {
		result.Components[i].Replicas = nil
		result.Components[i].Autoscaling = nil
	}
	return result
}

// Seal writes the hash of an object into its annotation AnnotationApplied. It must be the last change
// to the object.
func Seal(object Object) {
	annotations := maps.Clone(object.GetAnnotations())
	delete(annotations, AnnotationApplied)
	object.SetAnnotations(annotations)
	sum := hash(object)
	if annotations == nil {
		annotations = map[string]string{}
	}
	annotations[AnnotationApplied] = sum
	object.SetAnnotations(annotations)
}

// EncodeRevision and DecodeRevision store a spec in a ControllerRevision.
func EncodeRevision(spec *v1alpha1.ShopSetSpec) ([]byte, error) {
	return json.Marshal(Revisioned(spec))
}

// DecodeRevision is the inverse of EncodeRevision.
func DecodeRevision(data []byte) (*v1alpha1.ShopSetSpec, error) {
	var spec v1alpha1.ShopSetSpec
	if err := json.Unmarshal(data, &spec); err != nil {
		return nil, fmt.Errorf("stored revision: %w", err)
	}
	return &spec, nil
}
