// Package kubesource reads the routing table from a ConfigMap through the API of the cluster. It is the only part of the router
// that knows Kubernetes.
//
// It lists and watches that one ConfigMap, so that a change arrives as soon as the API server has it, and needs no more rights
// than get, list and watch of it. While the API server is gone it asks again, at growing intervals of up to 30 seconds.
package kubesource

import (
	"context"
	"fmt"
	"log/slog"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"
)

// Source is a router.Source.
type Source struct {
	client               kubernetes.Interface
	namespace, name, key string
}

// New makes a Source for the key of a ConfigMap, given as NAMESPACE/NAME. Access is that of a kubeconfig file, or of the Pod's
// service account if that is empty. The API is not asked yet.
func New(configMap, key, kubeconfig string) (*Source, error) {
	config, err := access(kubeconfig)
	if err != nil {
		return nil, fmt.Errorf("access to the API of the cluster: %w", err)
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("access to the API of the cluster: %w", err)
	}
	namespace, name, _ := strings.Cut(configMap, "/")
	return &Source{client: client, namespace: namespace, name: name, key: key}, nil
}

func access(kubeconfig string) (*rest.Config, error) {
	if kubeconfig != "" {
		return clientcmd.BuildConfigFromFlags("", kubeconfig)
	}
	return rest.InClusterConfig()
}

// Watch implements router.Source.
func (s *Source) Watch(ctx context.Context, offer func(envelope []byte)) {
	list := cache.NewFilteredListWatchFromClient(s.client.CoreV1().RESTClient(), "configmaps", s.namespace, func(o *metav1.ListOptions) {
		o.FieldSelector = fields.OneTermEqualSelector(metav1.ObjectNameField, s.name).String()
	})
	give := func(object any) {
		configMap, ok := object.(*corev1.ConfigMap)
		if !ok {
			return
		}
		if envelope, ok := configMap.BinaryData[s.key]; ok {
			offer(envelope)
		} else if text, ok := configMap.Data[s.key]; ok {
			offer([]byte(text))
		} else {
			slog.Error("the ConfigMap holds no routing table", "configMap", s.namespace+"/"+s.name, "key", s.key)
		}
	}
	// Without a resync: the last table is known, and the same one again would say nothing.
	_, informer := cache.NewInformerWithOptions(cache.InformerOptions{
		ListerWatcher: list,
		ObjectType:    &corev1.ConfigMap{},
		Handler:       cache.ResourceEventHandlerFuncs{AddFunc: give, UpdateFunc: func(_, object any) { give(object) }},
	})
	informer.RunWithContext(ctx)
}
