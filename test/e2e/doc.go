// Package e2e tests the whole path in a real cluster: Pods that are built, started, killed and deleted,
// while people buy.
//
// The cluster must have been prepared by `make up`; each test brings up a ShopSet in a namespace of its
// own, against the shared stand-ins of the managed services, and leaves nothing.
package e2e
