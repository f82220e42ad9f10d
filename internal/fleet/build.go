package fleet

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/shopset/shopset/api/v1alpha1"
)

// annotationMetadata on a ShopSet lists the labels and annotations that the fleet gave it, so that it can take away those
// that its template no longer has.
const annotationMetadata = "shopset.dev/fleet-metadata"

// desiredSpec is the spec that a cell shall have, its traffic excepted, which is not part of the template.
func desiredSpec(fleet *v1alpha1.Fleet, cell *member) *v1alpha1.ShopSetSpec {
	spec := fleet.Spec.Template.Spec.DeepCopy()
	spec.Traffic = ""
	if cell.named != nil && len(cell.named.Values) > 0 {
		if spec.Values == nil {
			spec.Values = map[string]v1alpha1.Value{}
		}
		maps.Copy(spec.Values, cell.named.Values)
	}
	return spec
}

// sameSpec says whether two specs say the same, traffic excepted.
func sameSpec(a, b *v1alpha1.ShopSetSpec) bool {
	left, right := *a, *b
	left.Traffic, right.Traffic = "", ""
	return equality.Semantic.DeepEqual(left, right) || slices.Equal(plain(&left), plain(&right))
}

// plain is a spec as JSON in which raw parts have lost their own order of keys.
func plain(spec *v1alpha1.ShopSetSpec) []byte {
	var value any
	content, err := json.Marshal(spec)
	if err == nil {
		err = json.Unmarshal(content, &value)
	}
	if err == nil {
		content, err = json.Marshal(value)
	}
	if err != nil {
		// A spec comes from the API server's JSON.
		panic(fmt.Sprintf("fleet: a spec as JSON: %v", err))
	}
	return content
}

// newShopSet is a cell that is not there yet.
func newShopSet(fleet *v1alpha1.Fleet, cell *member) *v1alpha1.ShopSet {
	ss := &v1alpha1.ShopSet{ObjectMeta: metav1.ObjectMeta{Namespace: fleet.Namespace, Name: cell.name}}
	setMetadata(fleet, cell, ss)
	ss.Spec = *desiredSpec(fleet, cell)
	setTraffic(ss, cell, false)
	return ss
}

// setMetadata adds owner, labels and annotations, and takes away what the template no longer has.
func setMetadata(fleet *v1alpha1.Fleet, cell *member, ss *v1alpha1.ShopSet) {
	if !owned(fleet, ss) {
		ss.OwnerReferences = append(ss.OwnerReferences, metav1.OwnerReference{
			APIVersion: v1alpha1.GroupVersion.String(), Kind: "Fleet", Name: fleet.Name, UID: fleet.UID,
			Controller: new(true), BlockOwnerDeletion: new(true),
		})
	}
	labels := maps.Clone(fleet.Spec.Template.Metadata.Labels)
	if labels == nil {
		labels = map[string]string{}
	}
	if cell.named != nil {
		maps.Copy(labels, cell.named.Labels)
	}
	annotations := fleet.Spec.Template.Metadata.Annotations
	var given []string
	for _, key := range slices.Sorted(maps.Keys(labels)) {
		given = append(given, "l:"+key)
	}
	for _, key := range slices.Sorted(maps.Keys(annotations)) {
		given = append(given, "a:"+key)
	}
	for before := range strings.FieldsSeq(ss.Annotations[annotationMetadata]) {
		if slices.Contains(given, before) {
			continue
		}
		if key, isLabel := strings.CutPrefix(before, "l:"); isLabel {
			delete(ss.Labels, key)
		} else {
			delete(ss.Annotations, strings.TrimPrefix(before, "a:"))
		}
	}
	labels[v1alpha1.LabelFleet] = fleet.Name
	ss.Labels = with(ss.Labels, labels)
	ss.Annotations = with(ss.Annotations, annotations)
	if len(given) > 0 {
		ss.Annotations = with(ss.Annotations, map[string]string{annotationMetadata: strings.Join(given, " ")})
	} else {
		delete(ss.Annotations, annotationMetadata)
	}
}

// with adds entries to a map that may be nil.
func with(into, entries map[string]string) map[string]string {
	if into == nil && len(entries) > 0 {
		into = map[string]string{}
	}
	maps.Copy(into, entries)
	return into
}

// setTraffic drains a cell that leaves, and undoes that for one that stays after all. Otherwise traffic is the ShopSet's
// own, unless the spec states it.
func setTraffic(ss *v1alpha1.ShopSet, cell *member, leaves bool) {
	byFleet := ss.Annotations[v1alpha1.AnnotationDrainedBy] == v1alpha1.DrainedByFleet
	switch {
	case leaves:
		if ss.Spec.Traffic != v1alpha1.TrafficDrain {
			ss.Spec.Traffic = v1alpha1.TrafficDrain
			ss.Annotations = with(ss.Annotations, map[string]string{v1alpha1.AnnotationDrainedBy: v1alpha1.DrainedByFleet})
		}
		return
	case byFleet:
		ss.Spec.Traffic = v1alpha1.TrafficActive
		delete(ss.Annotations, v1alpha1.AnnotationDrainedBy)
	case ss.Spec.Traffic == "":
		ss.Spec.Traffic = v1alpha1.TrafficActive
	}
	if cell.named != nil && cell.named.Traffic != "" {
		ss.Spec.Traffic = cell.named.Traffic
	}
}
