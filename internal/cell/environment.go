package cell

import (
	"maps"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/shopset/shopset/api/v1alpha1"
)

// Variables that every component gets.
const (
	variableEnvironment = "ENVIRONMENT"
	variableShopSet     = "SHOPSET"
	variableComponent   = "COMPONENT"
)

var builtIn = []string{variableEnvironment, variableShopSet, variableComponent}

// environment returns the variables of a component in a fixed order, each name once. What comes
// later wins: built in, values, discovery, the component's own.
func environment(ss *v1alpha1.ShopSet, component *v1alpha1.Component) []corev1.EnvVar {
	env := []corev1.EnvVar{
		{Name: variableEnvironment, Value: ss.Spec.Environment},
		{Name: variableShopSet, Value: ss.Name},
		{Name: variableComponent, Value: component.Name},
	}
	set := func(v corev1.EnvVar) {
		if at := slices.IndexFunc(env, func(e corev1.EnvVar) bool { return e.Name == v.Name }); at >= 0 {
			env[at] = v
			return
		}
		env = append(env, v)
	}
	for _, name := range sortedKeys(ss.Spec.Values) {
		// A value is taken as it is; only the component's own env knows Kubernetes' $(NAME).
		set(corev1.EnvVar{Name: name, Value: strings.ReplaceAll(string(ss.Spec.Values[name]), "$(", "$$(")})
	}
	for _, used := range component.Uses {
		set(corev1.EnvVar{Name: URLVariable(used), Value: serviceURL(ss, used)})
	}
	for _, own := range component.Env {
		set(own)
	}
	return env
}

// serviceURL is how components of one cell find each other: by the name of the Service, never by
// address. The first port counts.
func serviceURL(ss *v1alpha1.ShopSet, name string) string {
	component := find(ss, name)
	if component == nil || len(component.Ports) == 0 {
		return ""
	}
	port := component.Ports[0]
	scheme := "http"
	if strings.HasPrefix(port.Name, "https") {
		scheme = "https"
	}
	return scheme + "://" + ObjectName(ss.Name, name) + ":" + strconv.Itoa(int(port.Port))
}

// templateEnvironment is the part of the environment that is known before the Pod starts. The second
// result names the variables that are not.
func templateEnvironment(ss *v1alpha1.ShopSet, env []corev1.EnvVar) (known map[string]string, later map[string]bool) {
	known, later = map[string]string{}, map[string]bool{}
	for _, v := range env {
		switch value, isValue := ss.Spec.Values[v.Name]; {
		case v.ValueFrom != nil:
			later[v.Name] = true
		case isValue && v.Value == strings.ReplaceAll(string(value), "$(", "$$("):
			known[v.Name] = string(value)
		default:
			known[v.Name] = v.Value
		}
	}
	return known, later
}

func find(ss *v1alpha1.ShopSet, name string) *v1alpha1.Component { return findIn(&ss.Spec, name) }

func findIn(spec *v1alpha1.ShopSetSpec, name string) *v1alpha1.Component {
	for i := range spec.Components {
		if spec.Components[i].Name == name {
			return &spec.Components[i]
		}
	}
	return nil
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
