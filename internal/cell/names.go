package cell

import (
	"crypto/sha256"
	"encoding/base32"
	"encoding/json"
	"fmt"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// Labels and annotations that the operator writes.
const (
	LabelShopSet   = "shopset.dev/shopset"
	LabelComponent = "shopset.dev/component"
	// LabelEdge is on the Service that brings traffic into the cell.
	LabelEdge = "shopset.dev/edge"
	// LabelRevision is on every Pod: the revision of its component.
	LabelRevision = "shopset.dev/revision"
	// AnnotationRevision on a Deployment is the revision of its Pod template.
	AnnotationRevision = "shopset.dev/revision"
	// AnnotationApplied is the hash of an object as the operator applied it. A field that the
	// operator once wrote and no longer wants shows as a difference here.
	AnnotationApplied = "shopset.dev/applied"
	// labelDrained is in the selector of a drained edge's Service and on no Pod.
	labelDrained = "shopset.dev/drained"
	// labelAdminAccess on a namespace lets its Pods (the operator's, Prometheus') reach the health
	// ports of all components.
	labelAdminAccess = "shopset.dev/admin-access"
	// labelRouter on a Pod of the same namespace lets it reach the health ports of edges: routers probe them.
	labelRouter = "shopset.dev/router"

	// Manager is the field manager of everything the operator applies.
	Manager = "shopset-operator"
)

// Object is a Kubernetes object; the same as client.Object without the client.
type Object interface {
	metav1.Object
	runtime.Object
}

// ObjectName is the name of a component's Deployment, Service, PodDisruptionBudget, NetworkPolicy
// and autoscaler.
func ObjectName(shopSet, component string) string { return shopSet + "-" + component }

// URLVariable is the environment variable that points to a component.
func URLVariable(component string) string { return variable(component) + "_URL" }

func variable(component string) string {
	return strings.ToUpper(strings.ReplaceAll(component, "-", "_"))
}

func labels(shopSet, component string) map[string]string {
	return map[string]string{
		"app.kubernetes.io/name":       component,
		"app.kubernetes.io/instance":   shopSet,
		"app.kubernetes.io/managed-by": Manager,
		LabelShopSet:                   shopSet,
		LabelComponent:                 component,
	}
}

func selector(shopSet, component string) map[string]string {
	return map[string]string{LabelShopSet: shopSet, LabelComponent: component}
}

// hash is short enough for a name and long enough that two contents of one component never meet:
// 50 bits of SHA-256 in lower-case base32.
func hash(value any) string {
	content, err := json.Marshal(value)
	if err != nil {
		// Only types without channels, functions and odd maps are hashed.
		panic(fmt.Sprintf("cell: hash of %T: %v", value, err))
	}
	sum := sha256.Sum256(content)
	return strings.ToLower(base32.StdEncoding.EncodeToString(sum[:])[:10])
}
