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
// and to the health ports from namespaces that are labelled for it, at the edge from routers too. Where a component may call out
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
		from := []networkingv1.NetworkPolicyPeer{{NamespaceSelector: &metav1.LabelSelector{MatchLabels: map[string]string{labelAdminAccess: "true"}}}}
		if component.Edge {
			from = append(from, networkingv1.NetworkPolicyPeer{PodSelector: &metav1.LabelSelector{MatchLabels: map[string]string{labelRouter: "true"}}})
		}
		result.Spec.Ingress = append(result.Spec.Ingress, networkingv1.NetworkPolicyIngressRule{From: from, Ports: ports})
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

// Widen keeps open what Pods of earlier revisions need as long as they run: they reach those they use,
// at the ports that they know, and are reached at their own. The door closes behind the last one, not in
// front of it. live maps the names of components to their Services in the cluster.
func (c *Cell) Widen(ss *v1alpha1.ShopSet, earlier []Running, history *History, live map[string]*corev1.Service) {
	if len(earlier) == 0 {
		return
	}
	for _, running := range earlier {
		for _, spec := range history.specs(running) {
			c.widenFor(ss, running.Component, spec)
		}
	}
	for i := range c.Components {
		component := &c.Components[i]
		if component.Service == nil {
			continue
		}
		for j := range component.NetworkPolicy.Spec.Ingress {
			if rule := &component.NetworkPolicy.Spec.Ingress[j]; !isAdminRule(rule) {
				rule.Ports = portsOf(component.Service)
			}
		}
		keepNames(component.Service, live[component.Name])
		Seal(component.Service)
		Seal(component.NetworkPolicy)
	}
}

// widenFor keeps open what one component needs that runs as an earlier spec says.
func (c *Cell) widenFor(ss *v1alpha1.ShopSet, name string, spec *v1alpha1.ShopSetSpec) {
	then := findIn(spec, name)
	if then == nil {
		return
	}
	if own := c.component(name); own != nil {
		own.keepPorts(ss, then)
	}
	for _, used := range then.Uses {
		if callee := c.component(used); callee != nil {
			callee.keepPorts(ss, findIn(spec, used))
			callee.keepUser(ss, name)
		}
	}
}

// keepPorts leaves the numbers of earlier ports in the Service. Every Pod finds its own number by the
// port's name; where a number goes on under another name, it is led there by number.
func (c *Component) keepPorts(ss *v1alpha1.ShopSet, then *v1alpha1.Component) {
	if len(then.Ports) == 0 {
		return
	}
	if c.Service == nil {
		c.Service = service(ss, &v1alpha1.Component{Name: then.Name, Ports: then.Ports})
		c.Service.OwnerReferences = c.Deployment.OwnerReferences
	}
	for _, port := range then.Ports {
		at := slices.IndexFunc(c.Service.Spec.Ports, func(p corev1.ServicePort) bool { return p.Port == port.Port })
		if at < 0 {
			c.Service.Spec.Ports = append(c.Service.Spec.Ports, corev1.ServicePort{
				Name: otherName(port.Name, port.Port), Port: port.Port,
				Protocol: corev1.ProtocolTCP, TargetPort: intstr.FromString(port.Name),
			})
			continue
		}
		target := &c.Service.Spec.Ports[at].TargetPort
		known := slices.ContainsFunc(then.Ports, func(p v1alpha1.Port) bool { return p.Name == target.StrVal })
		if target.Type == intstr.String && !known {
			*target = intstr.FromInt32(port.Port)
		}
	}
}

// keepNames leaves the ports that the live Service has the names they have there. Endpoints are found by the
// name of the Service's port, and nodes learn of Services and of endpoints one after the other: a number under
// a new name is without endpoints for up to a second, and refuses connections.
func keepNames(service, live *corev1.Service) {
	if live == nil {
		return
	}
	ports := service.Spec.Ports
	taken := map[string]bool{}
	kept := make([]bool, len(ports))
	for i := range ports {
		at := slices.IndexFunc(live.Spec.Ports, func(p corev1.ServicePort) bool { return p.Port == ports[i].Port })
		if at >= 0 {
			ports[i].Name, kept[i] = live.Spec.Ports[at].Name, true
			taken[ports[i].Name] = true
		}
	}
	for i := range ports {
		if kept[i] {
			continue
		}
		if taken[ports[i].Name] {
			ports[i].Name = otherName(ports[i].Name, ports[i].Port)
		}
		taken[ports[i].Name] = true
	}
}

// otherName names a port whose own name belongs to another number for the time being.
func otherName(name string, number int32) string { return fmt.Sprintf("%s-%d", name, number) }

// keepUser lets a component in that used this one.
func (c *Component) keepUser(ss *v1alpha1.ShopSet, user string) {
	rules := c.NetworkPolicy.Spec.Ingress
	if len(rules) == 0 || isAdminRule(&rules[0]) {
		rules = append([]networkingv1.NetworkPolicyIngressRule{{From: []networkingv1.NetworkPolicyPeer{}}}, rules...)
	} else if len(rules[0].From) == 0 {
		return // Open to everybody.
	}
	candidate := peer(ss.Name, user)
	if !slices.ContainsFunc(rules[0].From, func(p networkingv1.NetworkPolicyPeer) bool {
		return equality.Semantic.DeepEqual(p, candidate)
	}) {
		rules[0].From = append(rules[0].From, candidate)
	}
	c.NetworkPolicy.Spec.Ingress = rules
}

// isAdminRule tells the rule for the health ports from the one for traffic.
func isAdminRule(rule *networkingv1.NetworkPolicyIngressRule) bool {
	return len(rule.From) > 0 && rule.From[0].NamespaceSelector != nil
}

// portsOf are the ports of the Pods behind a Service: they have its numbers, all or some of them.
func portsOf(service *corev1.Service) []networkingv1.NetworkPolicyPort {
	var result []networkingv1.NetworkPolicyPort
	for _, port := range service.Spec.Ports {
		result = append(result, networkPort(intstr.FromInt32(port.Port)))
	}
	return result
}

func networkPorts(ports []v1alpha1.Port) []networkingv1.NetworkPolicyPort {
	var result []networkingv1.NetworkPolicyPort
	for _, port := range ports {
		result = append(result, networkPort(intstr.FromInt32(port.Port)))
	}
	return result
}

// adminPorts are the ports of health, connections and the saver of caches, each once.
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
	if component.WarmCache != nil && component.WarmCache.Save != nil {
		add(intstr.FromInt32(v1alpha1.WarmCachePort))
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
