// Package certrecord is what shopset-certs and the proxies tell each other: names, sealed records, and where they
// are in Redis. It is the one thing that the writing side (internal/certs) and the reading side
// (internal/certstore) have in common.
//
// A record is all that a proxy needs to know of one domain: its shop, options and certificates with their keys.
// It bears the number of the change that made it; of two records of a domain the one with the higher number is
// right. Numbers are given by the database, without gaps that matter and in the order of commits.
//
// In Redis there are:
//
//	shopset:cert:NAME        16 hexadecimal digits of the number, then the sealed record; nothing after the
//	                         digits says that the domain is no more
//	shopset:certs:changes    a stream; the entry NUMBER-0 has the field "name" of the record that changed
//	shopset:acme:TOKEN       the key authorization of an ACME challenge (RFC 8555, 8.3), for its time
//
// The same sealed records are served by the API, so that either source can stand in for the other.
//
// Sealing: XChaCha20-Poly1305 with a random nonce (24 bytes, which is enough for any number of records) and the
// record's name as additional data: a record that is moved to another name does not open. A keyring has
// several keys; the first seals, any opens, so that keys can be rotated.
package certrecord
