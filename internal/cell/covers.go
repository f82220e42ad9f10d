package cell

import (
	"reflect"

	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// Covers says whether live still says everything that desired says. What desired leaves out (nil,
// an empty string, list or map, a zero number in an optional place) is nobody's or somebody else's:
// defaults of the API server, fields of other managers. Lists whose elements have a name or another
// key are compared by key, all others element by element.
//
// Selectors and ingress rules are exact: something added there changes what they mean.
//
// Both must be of the same type. Status and the metadata that the API server keeps are not compared.
func Covers(desired, live Object) bool {
	if !coversMap(desired.GetLabels(), live.GetLabels()) ||
		!coversMap(desired.GetAnnotations(), live.GetAnnotations()) ||
		!coversOwners(desired.GetOwnerReferences(), live.GetOwnerReferences()) {
		return false
	}
	d, l := reflect.ValueOf(desired).Elem(), reflect.ValueOf(live).Elem()
	for i := range d.NumField() {
		switch d.Type().Field(i).Name {
		case "TypeMeta", "ObjectMeta", "Status":
		default:
			if !covers(d.Field(i), l.Field(i)) {
				return false
			}
		}
	}
	return true
}

func coversMap(desired, live map[string]string) bool {
	for key, value := range desired {
		if got, ok := live[key]; !ok || got != value {
			return false
		}
	}
	return true
}

func coversOwners(desired, live []metav1.OwnerReference) bool {
	for _, owner := range desired {
		found := false
		for _, candidate := range live {
			found = found || candidate.UID == owner.UID && candidate.Controller != nil && *candidate.Controller
		}
		if !found {
			return false
		}
	}
	return true
}

// exactFields are Service.spec.selector, LabelSelector.matchLabels and NetworkPolicy.spec.ingress.
var exactFields = map[string]bool{"Selector": true, "MatchLabels": true, "Ingress": true}

// leaves are structs that are one value.
var leaves = map[reflect.Type]bool{
	reflect.TypeFor[resource.Quantity]():  true,
	reflect.TypeFor[intstr.IntOrString](): true,
	reflect.TypeFor[metav1.Time]():        true,
	reflect.TypeFor[metav1.MicroTime]():   true,
	reflect.TypeFor[metav1.Duration]():    true,
}

func sameLeaf(desired, live reflect.Value) bool {
	return equality.Semantic.DeepEqual(desired.Interface(), live.Interface())
}

func covers(desired, live reflect.Value) bool {
	if desired.IsZero() {
		return true
	}
	if leaves[desired.Type()] {
		return sameLeaf(desired, live)
	}
	switch desired.Kind() {
	case reflect.Pointer:
		if live.IsNil() {
			return false
		}
		return coversPointer(desired.Elem(), live.Elem())
	case reflect.Struct:
		for i := range desired.NumField() {
			if exactFields[desired.Type().Field(i).Name] {
				if !equality.Semantic.DeepEqual(desired.Field(i).Interface(), live.Field(i).Interface()) {
					return false
				}
				continue
			}
			if !covers(desired.Field(i), live.Field(i)) {
				return false
			}
		}
		return true
	case reflect.Map:
		for iterator := desired.MapRange(); iterator.Next(); {
			got := live.MapIndex(iterator.Key())
			if !got.IsValid() || !coversElement(iterator.Value(), got) {
				return false
			}
		}
		return true
	case reflect.Slice:
		return coversSlice(desired, live)
	default:
		return desired.Interface() == live.Interface()
	}
}

// coversPointer differs from covers in that a zero behind a pointer was meant: replicas: 0.
func coversPointer(desired, live reflect.Value) bool {
	if leaves[desired.Type()] {
		return sameLeaf(desired, live)
	}
	switch desired.Kind() {
	case reflect.Struct, reflect.Map, reflect.Slice, reflect.Pointer:
		return covers(desired, live)
	default:
		return desired.Interface() == live.Interface()
	}
}

// coversElement differs from covers in that an empty value of a map was meant: data: {key: ""}.
func coversElement(desired, live reflect.Value) bool { return coversPointer(desired, live) }

// listKeys are the fields by which Kubernetes' lists merge, in the order to try them. A list of
// structs that has none of them merges as a whole.
var listKeys = []string{"MountPath", "ContainerPort", "TopologyKey", "Name", "Port"}

func coversSlice(desired, live reflect.Value) bool {
	if desired.Len() == 0 {
		return true
	}
	if key := listKey(desired.Type().Elem()); key != "" {
		for i := range desired.Len() {
			at := indexByKey(live, key, desired.Index(i).FieldByName(key))
			if at < 0 || !covers(desired.Index(i), live.Index(at)) {
				return false
			}
		}
		return true
	}
	if desired.Len() != live.Len() {
		return false
	}
	for i := range desired.Len() {
		if !coversElement(desired.Index(i), live.Index(i)) {
			return false
		}
	}
	return true
}

func listKey(element reflect.Type) string {
	if element.Kind() != reflect.Struct {
		return ""
	}
	for _, key := range listKeys {
		if field, ok := element.FieldByName(key); ok && field.Type.Comparable() && field.Type.Kind() != reflect.Pointer {
			return key
		}
	}
	return ""
}

func indexByKey(list reflect.Value, key string, want reflect.Value) int {
	for i := range list.Len() {
		if list.Index(i).FieldByName(key).Interface() == want.Interface() {
			return i
		}
	}
	return -1
}
