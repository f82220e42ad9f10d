package cell

import (
	"fmt"
	"slices"
	"strings"

	"github.com/shopset/shopset/api/v1alpha1"
)

// Problem is one thing that is wrong with a spec.
type Problem struct {
	// Field is the path of the field, as in spec.components[shop].uses.
	Field string
	// Text says what is wrong and what to do.
	Text string
}

func (p Problem) String() string { return p.Field + ": " + p.Text }

// Problems are all that is wrong with a spec.
type Problems []Problem

func (p Problems) Error() string {
	lines := make([]string, len(p))
	for i, problem := range p {
		lines[i] = problem.String()
	}
	return strings.Join(lines, "; ")
}

func (p *Problems) add(field, format string, args ...any) {
	*p = append(*p, Problem{Field: field, Text: fmt.Sprintf(format, args...)})
}

func componentField(component, field string) string {
	return "spec.components[" + component + "]." + field
}

// check finds what the CRD's schema cannot say.
func check(spec *v1alpha1.ShopSetSpec) Problems {
	var problems Problems
	if circle := findCircle(spec.Components); circle != nil {
		problems.add("spec.components", "uses forms a circle: %s; nothing in it could be changed first, take one of these out",
			strings.Join(circle, " → "))
	}
	for _, name := range sortedKeys(spec.Values) {
		if slices.Contains(builtIn, name) {
			problems.add("spec.values", "%s is set by the operator; choose another name", name)
		}
	}
	owners := map[string]string{}
	for _, component := range spec.Components {
		name := URLVariable(component.Name)
		if other, taken := owners[name]; taken {
			problems.add("spec.components", "%s and %s would both be %s in the environment; rename one", other, component.Name, name)
		}
		owners[name] = component.Name
		if slices.Contains([]string{renderContainer, RestoreContainer, saveContainer}, component.Name) {
			problems.add("spec.components", "%s is the name of a container of the operator's; choose another", component.Name)
		}
		checkPorts(&component, &problems)
		checkWarmCache(&component, &problems)
		for _, env := range component.Env {
			if slices.Contains(builtIn, env.Name) {
				problems.add(componentField(component.Name, "env"), "%s is set by the operator; choose another name", env.Name)
			}
		}
	}
	return problems
}

func checkPorts(component *v1alpha1.Component, problems *Problems) {
	owners := map[int32]string{}
	for _, port := range component.Ports {
		if other, taken := owners[port.Port]; taken {
			problems.add(componentField(component.Name, "ports"), "%s and %s are both %d", other, port.Name, port.Port)
		}
		owners[port.Port] = port.Name
	}
}

// findCircle returns the names along a circle in uses, the first again at the end, or nil.
func findCircle(components []v1alpha1.Component) []string {
	uses := map[string][]string{}
	for _, component := range components {
		uses[component.Name] = component.Uses
	}
	done := map[string]bool{}
	var path []string
	var visit func(string) []string
	visit = func(name string) []string {
		if at := slices.Index(path, name); at >= 0 {
			return append(slices.Clone(path[at:]), name)
		}
		if done[name] {
			return nil
		}
		path = append(path, name)
		for _, used := range uses[name] {
			if circle := visit(used); circle != nil {
				return circle
			}
		}
		path = path[:len(path)-1]
		done[name] = true
		return nil
	}
	for _, component := range components {
		if circle := visit(component.Name); circle != nil {
			return circle
		}
	}
	return nil
}
