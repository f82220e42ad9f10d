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

// Settled says whether a component has changed so far that those who use it may: all its Pods are of the
// wanted revision, and at least three of four serve. One sick Pod of many must not hold up everybody else.
func Settled(component *Component, deployment *appsv1.Deployment) bool {
	return deployment != nil &&
		deployment.Annotations[AnnotationRevision] == component.Revision &&
		deployment.Status.ObservedGeneration >= deployment.Generation &&
		deployment.Status.UpdatedReplicas == deployment.Status.Replicas &&
		deployment.Status.AvailableReplicas >= threeQuarters(Desired(deployment))
}

// Ready says whether a component is all that its spec says. A number that the spec states is to be
// reached; what an autoscaler asks for on top of its minimum is on its way much of the day.
func Ready(component *Component, deployment *appsv1.Deployment) bool {
	if !Settled(component, deployment) {
		return false
	}
	if component.Autoscaler != nil {
		return deployment.Status.AvailableReplicas >= *component.Autoscaler.Spec.MinReplicas
	}
	return RolledOut(deployment)
}

func threeQuarters(n int32) int32 { return n - n/4 }

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

// Running is a component at a revision of which there are Pods, or may be in a moment.
type Running struct{ Component, Revision string }

// Earlier leaves out those that are as the cell wants them.
func (c *Cell) Earlier(running []Running) []Running {
	return slices.DeleteFunc(slices.Clone(running), func(r Running) bool {
		component := c.component(r.Component)
		return component != nil && component.Revision == r.Revision
	})
}

func (c *Cell) component(name string) *Component {
	for i := range c.Components {
		if c.Components[i].Name == name {
			return &c.Components[i]
		}
	}
	return nil
}

// Has says whether the cell has a component of that name.
func (c *Cell) Has(name string) bool { return c.component(name) != nil }

// Revision is a recorded spec.
type Revision struct {
	Name   string
	Number int64
	// Data is what EncodeRevision made.
	Data []byte
}

// SortRevisions puts the newest first.
func SortRevisions(revisions []Revision) {
	slices.SortFunc(revisions, func(a, b Revision) int { return cmp.Compare(b.Number, a.Number) })
}

// History reads and builds recorded revisions again, each at most once and only when asked.
type History struct {
	shopSet   *v1alpha1.ShopSet
	revisions []Revision
	built     []built
	needed    map[string]bool
}

type built struct {
	spec *v1alpha1.ShopSetSpec
	cell *Cell
}

// NewHistory takes the recorded revisions of a ShopSet, newest first.
func NewHistory(ss *v1alpha1.ShopSet, revisions []Revision) *History {
	return &History{shopSet: ss, revisions: revisions, needed: map[string]bool{}}
}

// Needed says whether something asked for has been found in the record of that name.
func (h *History) Needed(name string) bool { return h.needed[name] }

// Config names the ConfigMap that a running component mounts; empty when it has none. known is false
// when its revision is not on record.
func (h *History) Config(running Running) (name string, known bool) {
	_, component := h.find(running)
	if component == nil {
		return "", false
	}
	if component.Config == nil {
		return "", true
	}
	return component.Config.Name, true
}

// at builds a record; one that cannot be read or built any more (an earlier operator could) is empty.
func (h *History) at(i int) built {
	for len(h.built) <= i {
		next := built{spec: &v1alpha1.ShopSetSpec{}, cell: &Cell{}}
		if spec, err := DecodeRevision(h.revisions[len(h.built)].Data); err == nil {
			earlier := h.shopSet.DeepCopy()
			earlier.Spec = *spec
			if cell, err := Build(earlier); err == nil {
				next = built{spec: spec, cell: cell}
			}
		}
		h.built = append(h.built, next)
	}
	return h.built[i]
}

// find looks for the newest record with a component at a revision.
func (h *History) find(running Running) (*v1alpha1.ShopSetSpec, *Component) {
	for i := range h.revisions {
		record := h.at(i)
		if c := record.cell.component(running.Component); c != nil && c.Revision == running.Revision {
			h.needed[h.revisions[i].Name] = true
			return record.spec, c
		}
	}
	return nil, nil
}

// specs are those that may have made a running component: the one that did, or all when none is known.
func (h *History) specs(running Running) []*v1alpha1.ShopSetSpec {
	if spec, _ := h.find(running); spec != nil {
		return []*v1alpha1.ShopSetSpec{spec}
	}
	var all []*v1alpha1.ShopSetSpec
	for i := range h.revisions {
		all = append(all, h.at(i).spec)
	}
	return all
}

// Hold puts a component back to the revision that its Deployment is at, while its number of Pods and all
// the rest follow the spec. It returns false when that revision is not on record; the Deployment is then
// best left alone.
func (c *Cell) Hold(name, revision string, history *History) bool {
	_, old := history.find(Running{Component: name, Revision: revision})
	if old == nil {
		return false
	}
	component := c.component(name)
	replicas := component.Deployment.Spec.Replicas
	component.Deployment, component.Config = old.Deployment.DeepCopy(), old.Config
	component.Deployment.Spec.Replicas = replicas
	Seal(component.Deployment)
	return true
}
