// Package admin is what every program of ShopSet shares around its real work: structured logs,
// health, readiness and metrics on an admin port, a strict configuration reader and an orderly end.
//
// It promises:
//
//   - /healthz answers 200 as long as the process can answer at all; a failing dependency never
//     makes the kubelet restart a Pod.
//   - /readyz answers 200 only when every registered check passes, and names each one that does
//     not; from the first SIGTERM on it answers 503, so that traffic goes elsewhere while the
//     requests under way are finished.
//   - /metrics is Prometheus text; names are shopset_<program>_….
//   - Run ends every server gracefully within one deadline, and the admin server last, so that
//     the end of a program can be watched.
//
// Limits: checks share one second; a check that hangs counts as failed. Configuration files are
// read up to 1 MiB.
package admin
