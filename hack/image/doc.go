// Command image builds the container images of images.yaml without a registry and without a daemon.
//
//	image build [--out DIR] [--force] [NAME…]
//
// An image is written as <out>/NAME.tar (docker-archive, for ctr images import and docker load) under
// two names: localhost/NAME:dev-<12 hex digits>, which never means anything else, and
// localhost/NAME:dev, which moves. <out>/images.json says what is there:
//
//	{"shopset-proxy": {"ref": "localhost/shopset-proxy:dev-0123456789ab", "tar": "shopset-proxy.tar",
//	  "digest": "sha256:…", "size": 12345678}}
//
// ref is the immutable name, tar is relative to images.json, digest is the image id (the digest of the
// configuration, which Kubernetes reports as imageID), size is that of the tar in bytes.
//
// Go programs are linked statically and put on an empty root: CA certificates, /etc/passwd and
// /etc/group with the user nonroot (65532), an empty /tmp for those who mount nothing there, and the
// program as /usr/bin/NAME. Time zones are linked in. Nothing else is there, no shell either. The files
// that all of them share are one layer, the program is another.
//
// Debian images are made by mmdebstrap, which is installed when it is missing, and are then thinned.
// Where packages come from is taken from this machine's own sources, the release of Debian from
// images.yaml: it is the same on every machine.
//
// The same input gives the same image: all times are 1970, owners and order are fixed, the version
// control system leaves no trace. What did not change is not written again: Go's build cache knows for
// programs; a Debian image is built again when its part of images.yaml or a file named there changes,
// and with --force, which is how it gets newer packages.
package main
