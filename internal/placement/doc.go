// Package placement says which cells serve a host, and in which order: a pure function of the host's name and the
// list of cells, so that every router, and every other front end, comes to the same answer without asking.
//
//	Place(host):
//	  h = XXH64(host)
//	  for each cell of weight w > 0:  x = mix(h xor XXH64(cell's name))     a number of 64 bits
//	                                  u = (2·⌊x/2¹²⌋ + 1) / 2⁵³             between 0 and 1
//	                                  score = -ln(u) / w
//	  the cells in ascending order of score, the first ShardSize of them; a pinned host has its cell first
//
// This is weighted rendezvous hashing (Thaler and Ravishankar 1998; the weights by the exponential variates of
// Schindelhauer and Schomaker 2005). docs/routing-table.md gives it in full, with test vectors.
//
// It promises:
//
//   - A cell of weight w is the first of a share w/Σw of all hosts.
//   - A cell that goes, or gets weight 0, moves its own hosts and no others; one that comes takes its share from
//     each of the others in proportion and moves nothing between them. A weight that changes moves only hosts
//     to or from that cell.
//   - The same answer on every machine, for ever: integers, and floating point without fused operations.
//   - A host without a cell of its own in the list has none: ShardSize bounds who can ever serve it (shuffle sharding).
//   - Place allocates nothing.
//
// Limits: 256 cells, 10,000 pins. Shares are of hosts, not of traffic: one big shop is one host. Pins are not in
// the shares. The function has no secret in it, so whoever may choose host names can choose their cells.
package placement
