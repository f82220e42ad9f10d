// Command envtest is the part of command kube that tests against a bare API server need:
// kube-apiserver and kubectl. It exists so that those tests do not wait for the build of a kubelet.
package main

import (
	"fmt"
	"os"
	"path/filepath"
	_ "time/tzdata" // CronJob time zones

	"k8s.io/component-base/cli"
	_ "k8s.io/component-base/logs/json/register"          // the JSON log format
	_ "k8s.io/component-base/metrics/prometheus/clientgo" // client-go's metrics
	_ "k8s.io/component-base/metrics/prometheus/version"  // the version metric
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"

	"github.com/shopset/shopset/hack/localcluster/internal/kubectl"
)

func main() {
	switch name := filepath.Base(os.Args[0]); name {
	case "kube-apiserver":
		os.Exit(cli.Run(apiserver.NewAPIServerCommand()))
	case "kubectl":
		kubectl.Main()
	default:
		fmt.Fprintf(os.Stderr, "%s: unknown program; call me kube-apiserver or kubectl\n", name)
		os.Exit(2)
	}
}
