// Package routetable is the routing table: one immutable, versioned snapshot of a fleet's cells, their endpoints, weights
// and pins, which the operator signs and publishes and routers use. docs/routing-table.md gives the format for those
// who read it with other programs.
//
//	Sign:      Validate → canonical JSON (equal content is equal bytes) → gzip if large → Ed25519 over the bytes
//	Open:      bound → signature of a trusted key over the very bytes → gunzip, bounded → JSON → Validate
//	SaveFile:  Open → later than the one on disk? → write beside it, fsync, keep the former, rename, fsync the folder
//	LoadFile:  the file, or the former one if it does not open
//
// It promises:
//
//   - Nothing in a table is looked at before its signature is found right.
//   - Tables only go forward: (epoch, version) grows. Versions grow by one per change; a new epoch begins when the
//     publisher has lost its earlier versions, and is the Unix time of that moment. So that a table from before
//     a loss, or one that is replayed, never replaces a later one.
//   - A crash at any moment of SaveFile leaves a table on disk that opens: the former or the new one.
//   - A later release may add fields; they are ignored. What would change the meaning of a table raises its format, which
//     is refused.
//
// Limits: 256 cells, 1,000 endpoints per role and cell, 10,000 pins, 900 KiB when signed, to fit into a ConfigMap.
// A signature says who made a table, not that it is the latest: who can hold back news can keep a router at what it
// has. Metrics tell the version of each.
package routetable
