// Package certs is the certificate API, shopset-certs: domains with their shops and options, certificates with their
// keys, and what it takes to bring both to the proxies.
//
// It promises:
//
//   - What was answered with success is in the database, and reaches Redis within a second of Redis being there:
//     each change has a number, given in its transaction, and the publisher brings the numbers to Redis in their
//     order, from the last one that Redis has. So nothing is lost when it is killed between the two, and
//     several replicas may publish at once: a record is replaced by a newer one only.
//   - When Redis was emptied, or the database restored, everything is published anew.
//   - Private keys are sealed before they reach the database or Redis (certrecord.Keyring). Seal anew with
//     another key: put it first into the keyring of all programs, restart them, and `shopset-certs rotate`.
//   - A certificate is refused with a sentence for each thing that is wrong with it.
//   - Every change is one log line: audit, with who, what, and the number of the change.
//
// Limits: a request has 256 KiB, a chain 10 certificates, a page 1000 domains. Changes are remembered for
// thirty days for proxies that ask here, because Redis is away.
package certs
