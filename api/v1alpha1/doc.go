// Package v1alpha1 holds the API of ShopSet: the resources a human writes and what the operator
// reports about them.
//
// Every rule that one resource can be checked against alone is in the schema (OpenAPI and CEL), so
// that the API server refuses a bad spec with one sentence before anything happens. What CEL cannot
// say in bounded cost (a circle in uses, a pod template overlay that does not fit, a config template
// that does not render) is checked by internal/cell and reported in the Stalled condition.
//
// +kubebuilder:object:generate=true
// +groupName=shopset.dev
package v1alpha1
