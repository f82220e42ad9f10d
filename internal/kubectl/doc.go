// Package kubectl is `kubectl shopset …`: what people ask and tell a fleet.
//
// It promises:
//
//   - Asking writes nothing. What diff would change is computed by the operator's own rooms (internal/cell, internal/fleet),
//     over what the API server answers to a dry run.
//   - Every write is made over the version that was read, and tried again over the next one if somebody was faster: two
//     people who move hosts at a time lose nothing of each other's.
//   - What takes the traffic of a cell away is refused if the others may not or cannot take it: the decision of the
//     operator (fleet.Decide) is made beforehand, with the cell drained.
//   - A routing table is shown only if its signature is right.
//   - An error is one sentence with the mend; the exit code is 0 (well, or done), 1 (not well, not in time, or there are
//     differences) or 2 (an error).
//
// How it is made: a command gathers objects, a pure function makes a report or a tree of lines from them, and that is printed.
//
// Limits: what is refused is checked at the moment of asking; two people who drain two cells in the same second are not
// kept from it. Shares are those of the function, so pins are counted, not weighed.
package kubectl
