// Package certstore gives the proxy the certificate and the options of a domain at the TLS handshake: from
// memory, else from Redis, else from the certificate API.
//
// It promises:
//
//   - A name that is in memory costs no lock that waits, no parsing and no call. A name that is not costs one
//     call, however many handshakes wait for it, each with its own deadline.
//   - Memory is bounded by bytes. What goes is chosen by S3-FIFO (Yang et al., SOSP 2023): new entries pass a
//     small queue, and only those that are asked for again reach the main one; both in O(1). A scanner of
//     many existing names cannot push out what is in use.
//   - Names that nobody has are remembered, too, in a table of fixed size. A client network that asks for many
//     of them is refused without any call for a while, and so is everybody's excess over a rate of calls.
//   - When Redis fails the API answers, when both fail what is in memory goes on, however old. A source that
//     fails is left alone for a moment, so that handshakes do not wait for it.
//   - What a source sends is believed if it is sealed for the asked name, and its certificates cover it. A
//     broken record counts as a failure of its source.
//   - A change reaches memory as soon as Redis tells it (a stream, read from the last number seen, so that no
//     reconnect misses one), or the API while Redis is away. If changes were forgotten meanwhile, everything
//     in memory is asked for anew when it is next used.
//   - Who can do ECDSA gets it, others RSA. Wildcards serve the names below them that have no record.
//
// The algorithm, for a name:
//
//	entry in memory and trusted          → it; asked for anew in the background if its end comes near
//	entry in memory, not trusted         → ask the sources; it is the answer if they fail
//	in the table of unknown names        → unknown
//	client's network asked for too many  → unknown, for now
//	else, once for all who wait: Redis (name and wildcard in one call), the API if it fails or knows neither
//
// Limits: Redis must not evict (maxmemory-policy noeviction). A certificate that is in nobody's memory cannot be served while both sources are away. Names
// without a dot, addresses, and handshakes without a name get the default certificate, if there is one.
package certstore
