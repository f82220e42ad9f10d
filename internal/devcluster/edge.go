package devcluster

import (
	"context"
	"fmt"
	"net"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/shopset/shopset/api/v1alpha1"
	"github.com/shopset/shopset/internal/cell"
)

// EdgeAddress is the address (host:port) where the first port of a ShopSet's edge takes connections
// from this machine: its load balancer, else its node port.
func (t *Target) EdgeAddress(ctx context.Context, ss *v1alpha1.ShopSet) (string, error) {
	var edge string
	for _, component := range ss.Spec.Components {
		if component.Edge {
			edge = component.Name
		}
	}
	return t.serviceAddress(ctx, client.ObjectKey{Namespace: ss.Namespace, Name: cell.ObjectName(ss.Name, edge)})
}

// serviceAddress is where the first port of a Service takes connections from this machine.
func (t *Target) serviceAddress(ctx context.Context, key client.ObjectKey) (string, error) {
	service := &corev1.Service{}
	if err := t.Client.Get(ctx, key, service); err != nil {
		return "", err
	}
	port := service.Spec.Ports[0]
	for _, ingress := range service.Status.LoadBalancer.Ingress {
		if host := ingress.IP + ingress.Hostname; host != "" {
			return net.JoinHostPort(host, strconv.Itoa(int(port.Port))), nil
		}
	}
	if port.NodePort == 0 {
		return "", fmt.Errorf("Service %s can only be reached inside the cluster; give it the type NodePort or LoadBalancer", key)
	}
	return t.nodeAddress(ctx, port.NodePort)
}

// nodeAddress is where a node port takes connections.
func (t *Target) nodeAddress(ctx context.Context, nodePort int32) (string, error) {
	nodes := &corev1.NodeList{}
	if err := t.Client.List(ctx, nodes); err != nil {
		return "", err
	}
	for _, node := range nodes.Items {
		for _, address := range node.Status.Addresses {
			if address.Type == corev1.NodeInternalIP {
				return net.JoinHostPort(address.Address, strconv.Itoa(int(nodePort))), nil
			}
		}
	}
	return "", fmt.Errorf("no node of the cluster has an address")
}
