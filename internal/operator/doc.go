// Package operator reconciles ShopSets and Fleets. Of a ShopSet it gathers what is there, lets the pure rooms decide
// (internal/cell what shall be, internal/diagnose what is wrong), applies and reports.
//
//	Reconcile(ShopSet):
//	  being deleted?   drain the edge → wait for idle or the deadline → delete children → wait until
//	                   they are gone → let go
//	  gather           the children, Pods and recorded revisions from the cache
//	  build            a spec with problems changes nothing; status says them all
//	  record           the spec as a ControllerRevision, before anything runs it
//	  plan             components that must wait are held at their earlier revision
//	  apply            server-side apply of every object that does not say what it should; errors add
//	                   up, one object never blocks the others
//	  prune            what is owned and no longer wanted, once nothing runs that needs it
//	  report           status, only if it differs
//
// Of a Fleet, which internal/fleet decides about, it
//
//	Reconcile(Fleet):
//	  gather           ShopSets, EndpointSlices of their edges, the published table, the keys
//	  decide           fleet.Decide
//	  publish          the table, if it says something new: version + 1, signed, over the one that was seen
//	  act              create, change, delete ShopSets, each over the version that was decided from
//	  report           status, only if it differs
//
// It promises:
//
//   - At rest nothing is written: an object is applied only if cell.Covers finds a difference.
//   - It may be killed between any two calls; the next run converges to the same state, because all
//     it knows is in the cluster. The memory of what was just applied only saves calls.
//   - A child that somebody else owns is never taken: an object that is not in the cache is applied
//     in a way that only makes it, and where one is there already, its owner is looked up.
//   - One ShopSet's trouble delays no other: each is a work item of its own with its own backoff.
//
// Limits: the reasons that only events tell (failing probes, mounts) are asked for every few seconds
// while a Pod is not well, as events are not watched.
package operator
