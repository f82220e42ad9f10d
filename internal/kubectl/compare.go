package kubectl

import (
	"cmp"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	"github.com/aymanbagabas/go-udiff"
	"sigs.k8s.io/yaml"

	"github.com/shopset/shopset/api/v1alpha1"
	"github.com/shopset/shopset/internal/cell"
)

// difference is what would change of one ShopSet.
type difference struct {
	namespace, name string
	isNew           bool
	traffic         string
	// restarts are the components that get new Pods, in the order of the change: those of an entry wait for the earlier
	// ones. starts and stops are components that come and go.
	restarts      [][]string
	starts, stops []string
	total         int
	// objects are unified diffs.
	objects []string
	// names are what differs between two cells that change alike.
	names []string
}

func (d *difference) differs() bool {
	return d.isNew || d.traffic != "" || len(d.objects) > 0
}

// pattern is the same for two ShopSets that change alike.
func (d *difference) pattern() string {
	text := fmt.Sprint(d.isNew, d.traffic, d.restarts, d.starts, d.stops, "\n") + strings.Join(d.objects, "\n")
	// Longer names first: a name may be a part of another one.
	slices.SortStableFunc(d.names, func(a, b string) int { return cmp.Compare(len(b), len(a)) })
	for _, name := range d.names {
		text = strings.ReplaceAll(text, name, "*")
	}
	return text
}

// compare builds a ShopSet as it is, nil if it is not there, and as it would be.
func compare(before, after *v1alpha1.ShopSet) (*difference, error) {
	d := &difference{namespace: after.Namespace, name: after.Name, isNew: before == nil, names: []string{after.Name}, total: len(after.Spec.Components)}
	built, err := cell.Build(after)
	if err != nil {
		return nil, fmt.Errorf("the operator would change nothing: %w", err)
	}
	old := &cell.Cell{}
	if before != nil {
		if before.Spec.Traffic != after.Spec.Traffic {
			d.traffic = fmt.Sprintf("%s instead of %s", after.Spec.Traffic, before.Spec.Traffic)
		}
		// What cannot be built runs nothing that is known; all of the new is shown then.
		if running, err := cell.Build(before); err == nil {
			old = running
		}
	}
	was := map[string]*cell.Component{}
	for i := range old.Components {
		was[old.Components[i].Name] = &old.Components[i]
	}
	changed := map[string]bool{}
	for i := range built.Components {
		now := &built.Components[i]
		earlier := was[now.Name]
		delete(was, now.Name)
		switch {
		case earlier == nil:
			d.starts = append(d.starts, now.Name)
		case earlier.Revision != now.Revision:
			changed[now.Name] = true
		}
		if err := d.component(earlier, now); err != nil {
			return nil, err
		}
	}
	d.restarts = order(built, changed)
	for _, name := range slices.Sorted(maps.Keys(was)) {
		d.stops = append(d.stops, name)
		if err := d.component(was[name], nil); err != nil {
			return nil, err
		}
	}
	return d, nil
}

// order is what restarts at the same time: a component waits for those that it uses.
func order(c *cell.Cell, changed map[string]bool) (steps [][]string) {
	done := map[string]bool{}
	for len(done) < len(changed) {
		var step []string
		for i := range c.Components {
			component := &c.Components[i]
			waits := slices.ContainsFunc(component.Uses, func(used string) bool { return changed[used] && !done[used] })
			if changed[component.Name] && !done[component.Name] && !waits {
				step = append(step, component.Name)
			}
		}
		if len(step) == 0 {
			break // A circle, which Build refuses.
		}
		for _, name := range step {
			done[name] = true
		}
		steps = append(steps, step)
	}
	return steps
}

// component compares the objects of one component, kind by kind: a ConfigMap has another name for each content.
func (d *difference) component(before, after *cell.Component) error {
	old, now := partsOf(before, d), partsOf(after, d)
	for i := range old {
		text, err := unified(labelOf(old[i]), labelOf(now[i]), shown(old[i]), shown(now[i]))
		if err != nil {
			return err
		}
		if text != "" {
			d.objects = append(d.objects, text)
		}
	}
	return nil
}

// labelOf is KIND NAME; empty for an object that is not there.
func labelOf(object cell.Object) string {
	if object == nil {
		return ""
	}
	return reflect.TypeOf(object).Elem().Name() + " " + object.GetName()
}

// partsOf are the objects of a component, in the same places for each; and what is in their names.
func partsOf(c *cell.Component, d *difference) []cell.Object {
	parts := make([]cell.Object, 6)
	if c == nil {
		return parts
	}
	d.names = append(d.names, c.Revision)
	for i, part := range []cell.Object{c.Config, c.Service, c.NetworkPolicy, c.DisruptionBudget, c.Deployment, c.Autoscaler} {
		if !reflect.ValueOf(part).IsNil() {
			parts[i] = part
			d.names = append(d.names, part.GetName())
		}
	}
	return parts
}

// shown is an object as people compare it: without the hash of it all, and without whose it is.
func shown(object cell.Object) any {
	if object == nil {
		return nil
	}
	copied, _ := object.DeepCopyObject().(cell.Object)
	annotations := copied.GetAnnotations()
	delete(annotations, cell.AnnotationApplied)
	copied.SetAnnotations(annotations)
	copied.SetOwnerReferences(nil)
	return copied
}

// unified is the difference of two values as YAML, empty if there is none. A nil is an object that is not there.
func unified(nameBefore, nameAfter string, before, after any) (string, error) {
	texts := [2]string{}
	labels := [2]string{"/dev/null", "/dev/null"}
	for i, value := range []any{before, after} {
		if value == nil {
			continue
		}
		encoded, err := yaml.Marshal(value)
		if err != nil {
			return "", err
		}
		texts[i], labels[i] = strings.TrimSuffix(string(encoded), "status: {}\n"), [2]string{nameBefore, nameAfter}[i]
	}
	if texts[0] == texts[1] {
		return "", nil
	}
	if before != nil && after != nil {
		labels[0], labels[1] = labels[0]+" (now)", labels[1]+" (then)"
	}
	return udiff.Unified(labels[0], labels[1], texts[0], texts[1]), nil
}

// difference prints one, the objects if they are wanted.
func (p *printer) difference(d *difference, objects bool) {
	if objects {
		for _, text := range d.objects {
			p.unified(text)
		}
	}
	name := p.paint(column{"ShopSet " + d.namespace + "/" + d.name, bold})
	if !d.differs() {
		fmt.Fprintf(p, "%s: nothing changes\n", name)
		return
	}
	var parts []string
	if d.isNew {
		parts = append(parts, "is new")
	}
	if d.traffic != "" {
		parts = append(parts, "traffic becomes "+d.traffic)
	}
	var steps []string
	n := 0
	for _, step := range d.restarts {
		steps = append(steps, strings.Join(step, " and "))
		n += len(step)
	}
	switch {
	case n > 0:
		parts = append(parts, fmt.Sprintf("%d of %s restart: %s", n, count(d.total, "component", "components"), strings.Join(steps, ", then ")))
	case !d.isNew:
		parts = append(parts, "no component restarts")
	}
	if len(d.starts) > 0 {
		parts = append(parts, strings.Join(d.starts, ", ")+" start")
	}
	if len(d.stops) > 0 {
		parts = append(parts, strings.Join(d.stops, ", ")+" end")
	}
	fmt.Fprintf(p, "%s: %s\n", name, strings.Join(parts, "; "))
}

// unified prints a diff, coloured.
func (p *printer) unified(text string) {
	for l := range strings.Lines(text) {
		shade := plain
		switch {
		case strings.HasPrefix(l, "---"), strings.HasPrefix(l, "+++"):
			shade = bold
		case strings.HasPrefix(l, "+"):
			shade = green
		case strings.HasPrefix(l, "-"):
			shade = red
		}
		body, end := strings.CutSuffix(l, "\n")
		fmt.Fprint(p, p.paint(column{body, shade}))
		if end {
			fmt.Fprintln(p)
		}
	}
}
