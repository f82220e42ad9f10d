// Package cell is the desired state of a ShopSet as a pure function of its spec.
//
// Build promises: the same ShopSet gives the same objects, byte for byte, whatever the time, the
// cluster or the release of the operator; a change to one component changes the Pod template of
// that component alone; no object holds an address. All problems of a spec are reported at once,
// each naming the field and the mend.
//
//	Build(ShopSet):
//	  check what the CRD's schema cannot (circle in uses, overlay, templates)
//	  for each component:
//	    environment   = built in < values < discovery < the component's env
//	    config        = render(template, environment) → ConfigMap named by the hash of its content
//	    Pod template  = defaults + spec + overlay      → component revision = its hash
//	    objects       = Deployment, Service, PodDisruptionBudget, NetworkPolicy, autoscaler
//	  revision of the ShopSet = hash of the spec without what only scales or drains it
//
// Plan decides what a change may touch now: a component that does not exist yet is created at once
// (recovery time counts, readiness does the rest); one that exists changes only when every component
// it uses has finished changing. Until then it stays at its earlier revision, which is built again
// from the recorded spec. Widen keeps open what Pods of earlier revisions call and how they are called;
// which these are is told by the revision label of the Pods, not by how far the change seems to be.
//
// Covers decides whether a live object still says all that a desired one says, so that nothing is
// written when nothing is wrong.
//
// Limits: names are at most 40 characters for a ShopSet and 22 for a component, so that Service
// names fit into 63; a component's config files share one ConfigMap of 1 MiB.
package cell
