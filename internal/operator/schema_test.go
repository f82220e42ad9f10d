package operator_test

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/shopset/shopset/api/v1alpha1"
)

// TestRefusedBySchema: the API server itself refuses what one resource can be checked against alone,
// with a sentence that names the field and the mend.
func TestRefusedBySchema(t *testing.T) {
	namespace := newNamespace(t)
	component := func(s *v1alpha1.ShopSet, name string) *v1alpha1.Component {
		for i := range s.Spec.Components {
			if s.Spec.Components[i].Name == name {
				return &s.Spec.Components[i]
			}
		}
		t.Fatalf("no component %s", name)
		return nil
	}
	for _, test := range []struct {
		name   string
		change func(*v1alpha1.ShopSet)
		want   string
	}{
		{"no edge", func(s *v1alpha1.ShopSet) { component(s, "proxy").Edge = false },
			"spec.components: Invalid value: exactly one component must have edge: true"},
		{"two edges", func(s *v1alpha1.ShopSet) { component(s, "shop").Edge = true },
			"exactly one component must have edge: true, the one that receives traffic from outside"},
		{"same name twice", func(s *v1alpha1.ShopSet) { component(s, "api").Name = "shop" },
			`spec.components[2]: Duplicate value: {"name":"shop"}`},
		{"uses something unknown", func(s *v1alpha1.ShopSet) { component(s, "shop").Uses = []string{"db"} },
			"uses names a component that does not exist; add it or take the name out of uses"},
		{"uses itself", func(s *v1alpha1.ShopSet) { component(s, "shop").Uses = []string{"shop"} },
			"spec.components[1].uses: Invalid value: a component cannot use itself"},
		{"uses one without ports", func(s *v1alpha1.ShopSet) { component(s, "api").Ports = nil },
			"a component that others name in uses needs at least one port"},
		{"edge without ports", func(s *v1alpha1.ShopSet) { component(s, "proxy").Ports = nil },
			"the edge needs at least one port to receive traffic on"},
		{"replicas and autoscaling", func(s *v1alpha1.ShopSet) {
			component(s, "api").Autoscaling = &v1alpha1.Autoscaling{Min: 1, Max: 2, CPU: new(int32(50))}
		}, "replicas and autoscaling exclude each other: the autoscaler decides the number; remove one"},
		{"min above max", func(s *v1alpha1.ShopSet) {
			component(s, "shop").Autoscaling = &v1alpha1.Autoscaling{Min: 3, Max: 2, CPU: new(int32(50))}
		}, "autoscaling.min is larger than autoscaling.max"},
		{"autoscaling by nothing", func(s *v1alpha1.ShopSet) { component(s, "shop").Autoscaling = &v1alpha1.Autoscaling{Min: 1, Max: 2} },
			"autoscaling needs cpu (a percentage of the request) or metrics"},
		{"port out of range", func(s *v1alpha1.ShopSet) { component(s, "api").Ports[0].Port = 70000 },
			"spec.components[2].ports[0].port: Invalid value: 70000: spec.components[2].ports[0].port in body should be less than or equal to 65535"},
		{"port zero", func(s *v1alpha1.ShopSet) { component(s, "api").Ports[0].Port = 0 },
			"should be greater than or equal to 1"},
		{"node port of a ClusterIP", func(s *v1alpha1.ShopSet) {
			component(s, "proxy").Ports[0].NodePort = 30443
			component(s, "proxy").Service = &v1alpha1.Service{Type: corev1.ServiceTypeClusterIP}
		}, "a port has a nodePort, but the Service is of type ClusterIP; set service.type to NodePort or LoadBalancer"},
		{"health on an unknown port", func(s *v1alpha1.ShopSet) {
			component(s, "shop").Health = &v1alpha1.Health{Path: "/", Port: intstr.FromString("web")}
		}, "health.port names a port that is not in ports; name one of them, write a number, or 'admin' for 9090"},
		{"negative replicas", func(s *v1alpha1.ShopSet) { *component(s, "api").Replicas = -1 },
			"should be greater than or equal to 0"},
		{"no components", func(s *v1alpha1.ShopSet) { s.Spec.Components = []v1alpha1.Component{} },
			"should have at least 1 items"},
		{"no image", func(s *v1alpha1.ShopSet) { component(s, "api").Image = "" }, "image in body should be at least 1 chars long"},
		{"traffic", func(s *v1alpha1.ShopSet) { s.Spec.Traffic = "Some" }, `spec.traffic: Unsupported value: "Some": supported values: "Active", "Drain"`},
		{"name of a value", func(s *v1alpha1.ShopSet) { s.Spec.Values["NOT-A-NAME"] = "x" },
			"spec.values: Invalid value: each name must be that of an environment variable"},
		{"relative config path", func(s *v1alpha1.ShopSet) { component(s, "proxy").Config[0].Path = "../etc/passwd" },
			"spec.components[0].config[0].path"},
		{"long name", func(s *v1alpha1.ShopSet) { s.Name = strings.Repeat("a", 41) },
			"metadata.name is longer than 40 characters"},
		{"name with a digit first", func(s *v1alpha1.ShopSet) { s.Name = "1a" }, "metadata.name must start with a letter"},
		{"long component name", func(s *v1alpha1.ShopSet) { component(s, "api").Name = strings.Repeat("a", 23) },
			"may not be more than 22 bytes"},
	} {
		t.Run(test.name, func(t *testing.T) {
			ss := sample(t, namespace, "a")
			test.change(ss)
			err := cluster.admin.Create(t.Context(), ss)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Fatalf("got  %v\nwant %s", err, test.want)
			}
		})
	}
	create(t, sample(t, namespace, "a"))
}
