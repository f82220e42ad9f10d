// Package proxy is the edge of a ShopSet: it terminates TLS, picks a role for each request and
// forwards it.
//
// A request passes these phases, in this order, and a feature belongs to exactly one of them:
//
//	accept       a connection is counted, TLS is done, limits on slow clients hold from here on
//	admit        what cannot be served is refused: CONNECT, a body that is too large
//	challenge    an ACME authority gets its answer
//	redirect     on a port that only redirects, everything ends here
//	tenant       the host's record is found, and who the client is
//	access       who may not come
//	maintenance  the page of a shop that is being worked on
//	limit        too much, too often
//	find         the record or a route names a role
//	forward      the role's upstream gets the request, its answer is streamed back
//	fall back    what the role says for when it fails
//	finish       one line in the access log, the metrics, whatever happened before
//
// The first phases are the list in pipeline.go; to add one is a function there and a file. Upstreams, endpoints and their
// health are in upstream.go and role.go, connections to them in direct.go, stored pages in store.go.
//
// It promises:
//
//   - A request that no upstream has seen is never lost to a connection that just died: it is sent
//     once more, and a third time a moment later if no connection comes about. A request that an upstream may have seen is repeated only when it is a GET, HEAD,
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
//   - A request of HTTP/1.1 that can be read in two ways is refused, and no upstream sees it (package framing).
//   - A stored page is served only when its role failed, to the same host, and never with or after a session.
//   - A changed configuration loses no request; one that cannot be used changes nothing.
//
// Limits: see docs/proxy.md. A request with a body whose upstream goes away after a part was sent is answered with 502.
package proxy
