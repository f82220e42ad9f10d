package cell

import (
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/shopset/shopset/api/v1alpha1"
)

// service is nil for a component without ports. The Service of a drained edge selects no Pod: it
// takes no new connection, and those that are open go on.
func service(ss *v1alpha1.ShopSet, component *v1alpha1.Component) *corev1.Service {
	if len(component.Ports) == 0 {
		return nil
	}
	result := &corev1.Service{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Service"},
		ObjectMeta: meta(ss, component.Name),
		Spec: corev1.ServiceSpec{
			Type:     corev1.ServiceTypeClusterIP,
			Selector: selector(ss.Name, component.Name),
		},
	}
	if shape := component.Service; shape != nil {
		if shape.Type != "" {
			result.Spec.Type = shape.Type
		}
		result.Annotations = shape.Annotations
		if result.Spec.Type != corev1.ServiceTypeClusterIP {
			result.Spec.ExternalTrafficPolicy = shape.ExternalTrafficPolicy
		}
	}
	if component.Edge {
		result.Labels[LabelEdge] = "true"
		if Draining(ss) {
			result.Spec.Selector[labelDrained] = "true"
		}
	}
	for _, port := range component.Ports {
		result.Spec.Ports = append(result.Spec.Ports, corev1.ServicePort{
			Name: port.Name, Port: port.Port, Protocol: corev1.ProtocolTCP,
			TargetPort: intstr.FromString(port.Name), NodePort: port.NodePort,
		})
	}
	return result
}

// Draining says whether a cell is being taken out of service: because its spec says so, or because
// it is being deleted.
func Draining(ss *v1alpha1.ShopSet) bool {
	return ss.Spec.Traffic == v1alpha1.TrafficDrain || !ss.DeletionTimestamp.IsZero()
}

// Drained says whether a Service selects no Pod because its cell was taken out of service.
func Drained(service *corev1.Service) bool { return service.Spec.Selector[labelDrained] != "" }

// networkPolicy lets traffic in from the components that use this one, from everywhere at the edge,
// and to the health ports from namespaces that are labelled for it. Where a component may call out
// to is not restricted: its database is outside of the cell, and the spec does not know where.
func networkPolicy(ss *v1alpha1.ShopSet, component *v1alpha1.Component) *networkingv1.NetworkPolicy {
	result := &networkingv1.NetworkPolicy{
		TypeMeta:   metav1.TypeMeta{APIVersion: "networking.k8s.io/v1", Kind: "NetworkPolicy"},
		ObjectMeta: meta(ss, component.Name),
		Spec: networkingv1.NetworkPolicySpec{
			PodSelector: metav1.LabelSelector{MatchLabels: selector(ss.Name, component.Name)},
			PolicyTypes: []networkingv1.PolicyType{networkingv1.PolicyTypeIngress},
		},
	}
	var users []networkingv1.NetworkPolicyPeer
	for _, user := range usersOf(&ss.Spec, component.Name) {
		users = append(users, peer(ss.Name, user))
	}
	if len(component.Ports) > 0 && (component.Edge || len(users) > 0) {
		if component.Edge {
			users = nil // An empty list is everybody.
		}
		result.Spec.Ingress = append(result.Spec.Ingress, networkingv1.NetworkPolicyIngressRule{
			From: users, Ports: networkPorts(component.Ports),
		})
	}
	if ports := adminPorts(component); len(ports) > 0 {
		result.Spec.Ingress = append(result.Spec.Ingress, networkingv1.NetworkPolicyIngressRule{
			From: []networkingv1.NetworkPolicyPeer{{
				NamespaceSelector: &metav1.LabelSelector{MatchLabels: map[string]string{labelAdminAccess: "true"}},
			}},
			Ports: ports,
		})
	}
	return result
}

func usersOf(spec *v1alpha1.ShopSetSpec, name string) []string {
	var users []string
	for i := range spec.Components {
		if slices.Contains(spec.Components[i].Uses, name) {
			users = append(users, spec.Components[i].Name)
		}
	}
	return users
}

func peer(shopSet, component string) networkingv1.NetworkPolicyPeer {
	return networkingv1.NetworkPolicyPeer{
		PodSelector: &metav1.LabelSelector{MatchLabels: selector(shopSet, component)},
	}
}

// Widen keeps the ways of an earlier revision open as long as Pods of it may run: who used a component
// still gets in, and at the ports where it was. The door closes behind the last one, not in front of it.
func (c *Cell) Widen(ss *v1alpha1.ShopSet, before *v1alpha1.ShopSetSpec) {
	for i := range c.Components {
		component := &c.Components[i]
		now, then := find(ss, component.Name), findIn(before, component.Name)
		if then == nil || len(now.Ports) == 0 {
			continue
		}
		component.keepUsers(ss, now, usersOf(before, component.Name))
		component.keepPorts(now, then)
		Seal(component.Service)
		Seal(component.NetworkPolicy)
	}
}

// keepPorts leads the numbers of earlier ports to the ports of the same name now. A Pod of either
// revision knows the name, each by its own number.
func (c *Component) keepPorts(now, then *v1alpha1.Component) {
	for _, port := range then.Ports {
		if slices.ContainsFunc(c.Service.Spec.Ports, func(p corev1.ServicePort) bool { return p.Port == port.Port }) {
			continue
		}
		target := intstr.FromInt32(port.Port)
		if slices.ContainsFunc(now.Ports, func(p v1alpha1.Port) bool { return p.Name == port.Name }) {
			target = intstr.FromString(port.Name)
		}
		c.Service.Spec.Ports = append(c.Service.Spec.Ports, corev1.ServicePort{
			Name: fmt.Sprintf("%s-%d", port.Name, port.Port), Port: port.Port, Protocol: corev1.ProtocolTCP, TargetPort: target,
		})
		for i := range c.NetworkPolicy.Spec.Ingress {
			rule := &c.NetworkPolicy.Spec.Ingress[i]
			if !isAdminRule(rule) {
				rule.Ports = append(rule.Ports, networkPort(intstr.FromInt32(port.Port)))
			}
		}
	}
}

func (c *Component) keepUsers(ss *v1alpha1.ShopSet, now *v1alpha1.Component, users []string) {
	rules := c.NetworkPolicy.Spec.Ingress
	if now.Edge {
		return // Open to everybody.
	}
	for _, user := range users {
		if len(rules) == 0 || isAdminRule(&rules[0]) {
			rules = append([]networkingv1.NetworkPolicyIngressRule{{Ports: networkPorts(now.Ports)}}, rules...)
		}
		candidate := peer(ss.Name, user)
		if !slices.ContainsFunc(rules[0].From, func(p networkingv1.NetworkPolicyPeer) bool {
			return equality.Semantic.DeepEqual(p, candidate)
		}) {
			rules[0].From = append(rules[0].From, candidate)
		}
	}
	c.NetworkPolicy.Spec.Ingress = rules
}

// isAdminRule tells the rule for the health ports from the one for traffic.
func isAdminRule(rule *networkingv1.NetworkPolicyIngressRule) bool {
	return len(rule.From) == 1 && rule.From[0].NamespaceSelector != nil
}

func networkPorts(ports []v1alpha1.Port) []networkingv1.NetworkPolicyPort {
	var result []networkingv1.NetworkPolicyPort
	for _, port := range ports {
		result = append(result, networkPort(intstr.FromInt32(port.Port)))
	}
	return result
}

// adminPorts are the ports of health and connections, each once.
func adminPorts(component *v1alpha1.Component) []networkingv1.NetworkPolicyPort {
	var ports []networkingv1.NetworkPolicyPort
	add := func(port intstr.IntOrString) {
		number := PortNumber(component, port)
		for _, p := range ports {
			if p.Port.IntVal == number {
				return
			}
		}
		ports = append(ports, networkPort(intstr.FromInt32(number)))
	}
	if component.Health != nil {
		add(component.Health.Port)
	}
	if component.Connections != nil {
		add(component.Connections.Port)
	}
	return ports
}

// PortNumber resolves a port of a component that is given by number, by name or as "admin".
func PortNumber(component *v1alpha1.Component, port intstr.IntOrString) int32 {
	if port.Type == intstr.Int {
		return port.IntVal
	}
	for _, p := range component.Ports {
		if p.Name == port.StrVal {
			return p.Port
		}
	}
	return v1alpha1.AdminPort
}

func networkPort(port intstr.IntOrString) networkingv1.NetworkPolicyPort {
	return networkingv1.NetworkPolicyPort{Protocol: new(corev1.ProtocolTCP), Port: &port}
}
