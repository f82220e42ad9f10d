// Package proxy is the edge of a ShopSet: it terminates TLS, picks a role for each request and
// forwards it.
//
// A request passes these phases, in this order, and a feature belongs to exactly one of them:
//
//	accept    a connection is counted, TLS is done, limits on slow clients hold from here on
//	admit     what cannot be served is refused: CONNECT, a body that is too large
//	redirect  on a port that only redirects, everything ends here
//	find      the path picks a route, the route names a role
//	forward   the role's upstream gets the request, its answer is streamed back
//	finish    one line in the access log, the metrics, whatever happened before
//
// It promises:
//
//   - A request that no upstream has seen is never lost to a connection that just died: it is sent
//     once more. A request that an upstream may have seen is repeated only when it is a GET, HEAD,
//     OPTIONS or TRACE without a body.
//   - What the upstream knows of the client (X-Forwarded-For, -Proto, -Host) is true: a client's
//     own claims are dropped, except those of trusted peers.
//   - A client that is slow in any phase (handshake, headers, body, reading the answer) is cut, and
//     so is an upstream.
//   - A stop loses no request: readiness goes off, for a while every answer tells its client to
//     come back on a new connection, then requests under way are finished.
//   - An upgraded connection, a WebSocket mostly, ends when nothing passes, at a great age, and with a
//     stop: its client connects again, elsewhere.
//   - When a role fails the client gets a short page, and a metric says which role and why.
//
// Limits: an upstream URL is a service name whose ClusterIP spreads connections, not requests. A
// request with a body whose upstream goes away after a part was sent is answered with 502.
package proxy
