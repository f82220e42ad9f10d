// Package fleet decides what becomes of a Fleet: a pure function of its spec, of what is there, and of the time.
//
//	Decide(fleet, seen, now):
//	  members   the cells that there shall be, and those that are on their way out
//	  problems  all that is wrong with the spec, at once; then no cell is touched, and the table goes on with the
//	            placement that it has, and today's endpoints and drains
//	  table     cells with their states, weights within maxShare, endpoints, pins that have not ended
//	  actions   create what is missing; take what may be taken; change what differs, one cell at a time; drain what
//	            leaves, and delete it when it is idle; each with its reason
//
// It promises:
//
//   - A cell gets hosts when it is ready for the first time, and keeps them whatever becomes of it: who is well is for
//     routers to judge, which see it themselves, and at once.
//   - A cell is deleted only when the published table says that it is drained, and the ShopSet that it is idle.
//   - Traffic that a human has set on a ShopSet stays as it is, unless namedCells states it.
//   - A change waits while maxUnavailable cells are not ready. Cells that are not ready anyway go first, so that a mended
//     template mends them.
//   - A Fleet that is made anew waits for the cells of the one of its name before, and does not take other names meanwhile.
//   - Of the ShopSets that there are, only those that nobody controls are taken, and only if the fleet has a place for them.
//   - The same input gives the same decision: nothing depends on the order of lists or maps.
package fleet
