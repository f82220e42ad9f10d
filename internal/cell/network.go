package cell

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
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
	if component.Edge && Draining(ss) {
		result.Spec.Selector[labelDrained] = "true"
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

// Widen lets those in that used a component at the revision before, as long as Pods of that revision
// may run: the door closes behind the last one, not in front of it.
func (c *Cell) Widen(ss *v1alpha1.ShopSet, before *v1alpha1.ShopSetSpec) {
	for i := range c.Components {
		component := &c.Components[i]
		spec := find(ss, component.Name)
		if spec.Edge || len(spec.Ports) == 0 {
			continue
		}
		now := usersOf(&ss.Spec, component.Name)
		rules := component.NetworkPolicy.Spec.Ingress
		for _, user := range usersOf(before, component.Name) {
			if slices.Contains(now, user) {
				continue
			}
			if len(now) == 0 {
				rules = append([]networkingv1.NetworkPolicyIngressRule{{Ports: networkPorts(spec.Ports)}}, rules...)
			}
			now = append(now, user)
			rules[0].From = append(rules[0].From, peer(ss.Name, user))
		}
		component.NetworkPolicy.Spec.Ingress = rules
		Seal(component.NetworkPolicy)
	}
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
