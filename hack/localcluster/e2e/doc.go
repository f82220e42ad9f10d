// Package e2e tests localcluster as a user sees it: real commands, real Pods, a second cluster
// beside the first, and processes that are killed. It needs root on Linux and is skipped without;
// -short skips it too. Built programs are shared with the cluster that people work with (or come
// from $SHOPSET_CLUSTER_BIN); everything else lies in a temporary state folder. Run 'localcluster
// build' before: what is missing is built here too, but the first build takes longer than go test's
// timeout leaves room for.
package e2e
