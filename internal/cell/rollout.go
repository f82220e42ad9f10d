package cell

import (
	"cmp"
	"slices"

	appsv1 "k8s.io/api/apps/v1"

	"github.com/shopset/shopset/api/v1alpha1"
)

// Plan says for each component whether it may change now; see the package documentation. live maps
// the names of components to their Deployments in the cluster. The result maps the components that
// must stay as they are to the ones they wait for.
func Plan(c *Cell, live map[string]*appsv1.Deployment) map[string][]string {
	waits := map[string][]string{}
	byName := make(map[string]*Component, len(c.Components))
	for i := range c.Components {
		byName[c.Components[i].Name] = &c.Components[i]
	}
	for i := range c.Components {
		component := &c.Components[i]
		deployment, exists := live[component.Name]
		if !exists || deployment.Annotations[AnnotationRevision] == component.Revision {
			continue
		}
		for _, used := range component.Uses {
			if !Settled(byName[used], live[used]) {
				waits[component.Name] = append(waits[component.Name], used)
			}
		}
	}
	return waits
}

// Settled says whether a component has finished changing: all its Pods are of the wanted revision
// and serve.
func Settled(component *Component, deployment *appsv1.Deployment) bool {
	return deployment != nil &&
		deployment.Annotations[AnnotationRevision] == component.Revision &&
		RolledOut(deployment)
}

// RolledOut says whether all Pods of a Deployment are of its present template and serve.
func RolledOut(d *appsv1.Deployment) bool {
	want := Desired(d)
	return d.Status.ObservedGeneration >= d.Generation &&
		d.Status.UpdatedReplicas == want &&
		d.Status.Replicas == want &&
		d.Status.AvailableReplicas >= want
}

// Desired is the number of Pods a Deployment asks for.
func Desired(d *appsv1.Deployment) int32 {
	if d.Spec.Replicas == nil {
		return 1
	}
	return *d.Spec.Replicas
}

// History builds recorded revisions again, each at most once.
type History struct {
	shopSet *v1alpha1.ShopSet
	specs   []*v1alpha1.ShopSetSpec
	built   []*Cell
}

// NewHistory takes the recorded specs of a ShopSet, newest first.
func NewHistory(ss *v1alpha1.ShopSet, specs []*v1alpha1.ShopSetSpec) *History {
	return &History{shopSet: ss, specs: specs}
}

// find looks for a component at a revision and for the spec that made it.
func (h *History) find(name, revision string) *Component {
	for i := range h.specs {
		if i == len(h.built) {
			earlier := h.shopSet.DeepCopy()
			earlier.Spec = *h.specs[i].DeepCopy()
			built, err := Build(earlier)
			if err != nil {
				built = &Cell{} // An earlier operator could build it; this one cannot.
			}
			h.built = append(h.built, built)
		}
		for j := range h.built[i].Components {
			if c := &h.built[i].Components[j]; c.Name == name && c.Revision == revision {
				return c
			}
		}
	}
	return nil
}

// Hold puts a component back to the revision that its Deployment is at, while its number of Pods and all
// the rest follow the spec. It returns false when that revision is not on record; the Deployment is then
// best left alone.
func (c *Cell) Hold(name, revision string, history *History) bool {
	old := history.find(name, revision)
	if old == nil {
		return false
	}
	at := slices.IndexFunc(c.Components, func(component Component) bool { return component.Name == name })
	component := &c.Components[at]
	replicas := component.Deployment.Spec.Replicas
	component.Deployment, component.Config = old.Deployment.DeepCopy(), old.Config
	component.Deployment.Spec.Replicas = replicas
	Seal(component.Deployment)
	return true
}

// Revision is a recorded spec.
type Revision struct {
	Name   string
	Number int64
	Spec   *v1alpha1.ShopSetSpec
}

// SortRevisions puts the newest first.
func SortRevisions(revisions []Revision) {
	slices.SortFunc(revisions, func(a, b Revision) int { return cmp.Compare(b.Number, a.Number) })
}
