package cluster

import (
	"context"
	"fmt"

	"github.com/shopset/shopset/hack/localcluster/internal/component"
	"github.com/shopset/shopset/hack/localcluster/internal/kubeapi"
)

type object = map[string]any

// bootstrap makes the objects that a cluster needs and no component makes: CoreDNS's rights, and
// the Service under which Pods know it. CoreDNS is a process and no Pod, so its Service has no
// selector and an EndpointSlice of its own.
func bootstrap(ctx context.Context, client *kubeapi.Client, spec component.Spec) error {
	const rbac = "/apis/rbac.authorization.k8s.io/v1/"
	for _, o := range []struct {
		path   string
		object object
	}{
		{rbac + "clusterroles", corednsRole()},
		{rbac + "clusterrolebindings", corednsBinding()},
		{"/api/v1/namespaces/kube-system/services", dnsService(spec)},
		{"/apis/discovery.k8s.io/v1/namespaces/kube-system/endpointslices", dnsEndpoints(spec)},
	} {
		if err := client.Create(ctx, o.path, o.object); err != nil {
			return fmt.Errorf("%s: %w", o.path, err)
		}
	}
	return nil
}

func corednsRole() object {
	watch := []string{"list", "watch"}
	return object{
		"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
		"metadata": object{"name": "system:coredns"},
		"rules": []object{
			{"apiGroups": []string{""}, "resources": []string{"services", "pods", "namespaces"}, "verbs": watch},
			{"apiGroups": []string{"discovery.k8s.io"}, "resources": []string{"endpointslices"}, "verbs": watch},
		},
	}
}

func corednsBinding() object {
	const group = "rbac.authorization.k8s.io"
	return object{
		"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
		"metadata": object{"name": "system:coredns"},
		"roleRef":  object{"apiGroup": group, "kind": "ClusterRole", "name": "system:coredns"},
		"subjects": []object{{"apiGroup": group, "kind": "User", "name": "system:coredns"}},
	}
}

func dnsService(spec component.Spec) object {
	return object{
		"apiVersion": "v1", "kind": "Service",
		"metadata": object{"name": "kube-dns", "namespace": "kube-system", "labels": object{"k8s-app": "kube-dns"}},
		"spec": object{
			"clusterIP": spec.Plan.DNS().String(),
			"ports": []object{
				{"name": "dns", "port": 53, "protocol": "UDP"},
				{"name": "dns-tcp", "port": 53, "protocol": "TCP"},
			},
		},
	}
}

func dnsEndpoints(spec component.Spec) object {
	return object{
		"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
		"metadata": object{
			"name": "kube-dns", "namespace": "kube-system",
			"labels": object{"kubernetes.io/service-name": "kube-dns"},
		},
		"endpoints": []object{{"addresses": []string{spec.Plan.Node.String()}, "conditions": object{"ready": true}}},
		"ports": []object{
			{"name": "dns", "port": 53, "protocol": "UDP"},
			{"name": "dns-tcp", "port": 53, "protocol": "TCP"},
		},
	}
}
