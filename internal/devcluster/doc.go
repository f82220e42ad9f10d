// Package devcluster brings ShopSet to a cluster for people and for tests: images without a registry,
// manifests, the stand-ins for managed services, the sample, and the way to its edge.
//
// It promises that everything may be run again over what is there, and that images are named by
// their content: what did not change does not restart.
//
// The cluster is the local one of hack/localcluster, or one of the user's own when KUBECONFIG or
// CONTEXT is set. A cluster of one's own takes images through the command in IMAGE_LOAD, which is
// called with the image files as arguments.
package devcluster
