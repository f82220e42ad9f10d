// Package router brings each connection to a cell of its host, and moves its bytes. It is the thinnest layer that can do so: it has no
// TLS keys, reads no more than a ClientHello (or the head of a request on the port without TLS), and knows nothing of what it moves.
//
// A connection:
//
//	accept → read the hello, bounded in size and time (clientHello, httpHead; a PROXY header first from trusted load balancers)
//	       → place the host (internal/placement): its cells, best first
//	       → choose an endpoint that looks well; connect; send a PROXY header (version 2) and the hello
//	       → nothing comes, or an end: the next endpoint, the next cell; else move bytes both ways until both have ended
//
// Failover (chooser, health) happens within that one connection, so that clients notice a delay at most:
//
//	refused, or no answer to the SYN within dial.timeout           the next endpoint at once
//	closed or reset after the hello, before any byte               the hello is sent to another one, at most dial.replays times
//	no byte within dial.answerTimeout                              likewise, out of a budget of a tenth of all connections
//	a probe finds the endpoint down while somebody waits for it    likewise, without the budget
//
// Only a ClientHello without anything behind it is ever sent twice: it asks for nothing. A request on the port without TLS goes to one
// endpoint only. Three guards bound what failover can break:
//
//	more than maxFailover of the cells look dead      nothing is moved: the look is more likely wrong than the cells
//	a cell dies within failover.window after it took  those hosts stay where they are for failover.hold, so that a request that kills
//	over the hosts of another one                     whatever serves it gets to one more cell at a time, not to all
//	a cell comes back                                 its hosts follow one after the other within failover.slowStart
//
// Of hosts nothing is remembered: what is kept of moves is one record for each pair of cells.
//
// Tables come from a file, a Source (a ConfigMap: kubesource), or the copy on disk of the last good one. They are used if a trusted key
// signed them and they are later than the one in use. With all sources gone, the last one is used for ever.
//
// Two engines move the bytes. "epoll" has one loop for each core: non-blocking sockets, edge-triggered, everything from accept to close in
// the loop that accepted. What comes in small pieces goes through one buffer of the loop; what fills it goes through a pipe by splice(2),
// without being copied. Pipes and buffers belong to a connection only while bytes are in flight, so an idle one costs about 300 bytes.
// "plain" has two goroutines for each connection and splices too; it runs everywhere, and its decisions are the same.
//
// Limits: the first request on a connection decides for all that follow on it, which is right as every cell can serve every shop. With
// Encrypted ClientHello the outer name is all that can be seen. UDP (HTTP/3) is not routed.
package router
