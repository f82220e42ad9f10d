package cell_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"

	"github.com/shopset/shopset/api/v1alpha1"
	"github.com/shopset/shopset/internal/cell"
)

func TestPlan(t *testing.T) {
	ss := load(t, "sample")
	before := build(t, ss)
	ss.Spec.Values["RELEASE"] = "2" // Changes every component.
	after := build(t, ss)

	at := func(c *cell.Cell, name string, ready bool) *appsv1.Deployment {
		d := component(c, name).Deployment.DeepCopy()
		if ready {
			n := cell.Desired(d)
			d.Status = appsv1.DeploymentStatus{Replicas: n, UpdatedReplicas: n, AvailableReplicas: n}
		}
		return d
	}
	for _, test := range []struct {
		name string
		live map[string]*appsv1.Deployment
		want string
	}{
		{"first start: all at once", nil, "map[]"},
		{"all at the earlier revision: only api may change", map[string]*appsv1.Deployment{
			"proxy": at(before, "proxy", true), "shop": at(before, "shop", true), "cart": at(before, "cart", true), "api": at(before, "api", true),
		}, "map[cart:[api] proxy:[shop cart] shop:[api]]"},
		{"api changes: the others wait", map[string]*appsv1.Deployment{
			"proxy": at(before, "proxy", true), "shop": at(before, "shop", true), "cart": at(before, "cart", true), "api": at(after, "api", false),
		}, "map[cart:[api] proxy:[shop cart] shop:[api]]"},
		{"api done: shop and cart may change", map[string]*appsv1.Deployment{
			"proxy": at(before, "proxy", true), "shop": at(before, "shop", true), "cart": at(before, "cart", true), "api": at(after, "api", true),
		}, "map[proxy:[shop cart]]"},
		{"shop done, cart under way", map[string]*appsv1.Deployment{
			"proxy": at(before, "proxy", true), "shop": at(after, "shop", true), "cart": at(after, "cart", false), "api": at(after, "api", true),
		}, "map[proxy:[cart]]"},
		{"one of four Pods of api is not well: nobody waits for it", map[string]*appsv1.Deployment{
			"proxy": at(after, "proxy", true), "shop": at(before, "shop", true), "cart": at(after, "cart", true), "api": unwell(at(after, "api", true), 4, 1),
		}, "map[]"},
		{"two of four are not", map[string]*appsv1.Deployment{
			"proxy": at(after, "proxy", true), "shop": at(before, "shop", true), "cart": at(after, "cart", true), "api": unwell(at(after, "api", true), 4, 2),
		}, "map[shop:[api]]"},
		{"a component that is gone is created at once", map[string]*appsv1.Deployment{
			"shop": at(before, "shop", true), "cart": at(before, "cart", true), "api": at(before, "api", true),
		}, "map[cart:[api] shop:[api]]"},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := fmt.Sprint(cell.Plan(after, test.live)); got != test.want {
				t.Fatalf("got %s, want %s", got, test.want)
			}
		})
	}
}

// TestHold: a component that waits keeps its Pod template and config, and follows the new number of
// replicas all the same.
func TestHold(t *testing.T) {
	ss := load(t, "sample")
	before := build(t, ss)
	earlier := record(t, "earlier", ss)
	ss.Spec.Values["RELEASE"] = "2"
	ss.Spec.Components[0].Config[0].Template += "# 2\n"
	ss.Spec.Components[0].Replicas = new(int32(7))
	after := build(t, ss)
	history := cell.NewHistory(ss, []cell.Revision{{Name: "broken", Data: []byte("{")}, record(t, "now", ss), earlier})

	if !after.Hold("proxy", component(before, "proxy").Revision, history) {
		t.Fatal("the earlier revision was not found")
	}
	if !history.Needed("earlier") || history.Needed("now") || history.Needed("broken") {
		t.Error("only the record that was used is needed")
	}
	held, old := component(after, "proxy"), component(before, "proxy")
	if held.Deployment.Annotations[cell.AnnotationRevision] != old.Revision || held.Config.Name != old.Config.Name {
		t.Error("the held component is not at its earlier revision")
	}
	if *held.Deployment.Spec.Replicas != 7 {
		t.Errorf("replicas are %d, want the new 7", *held.Deployment.Spec.Replicas)
	}
	if held.Revision == old.Revision {
		t.Error("the wanted revision must stay the new one")
	}
	if after.Hold("proxy", "unknown", history) {
		t.Error("found a revision that is not on record")
	}
}

// unwell makes a Deployment of so many Pods, of which some do not serve.
func unwell(d *appsv1.Deployment, pods, sick int32) *appsv1.Deployment {
	d.Spec.Replicas = new(pods)
	d.Status = appsv1.DeploymentStatus{Replicas: pods, UpdatedReplicas: pods, AvailableReplicas: pods - sick}
	return d
}

// TestReady: a number in the spec must be reached; between an autoscaler's minimum and what it asks for
// just now, single Pods do not count.
func TestReady(t *testing.T) {
	c := component(build(t, load(t, "sample")), "api")
	live := func(sick int32) *appsv1.Deployment { return unwell(c.Deployment.DeepCopy(), 8, sick) }
	if !cell.Ready(c, live(0)) || cell.Ready(c, live(1)) {
		t.Error("a stated number: ready when all Pods serve, and only then")
	}
	c.Autoscaler = &autoscalingv2.HorizontalPodAutoscaler{Spec: autoscalingv2.HorizontalPodAutoscalerSpec{MinReplicas: new(int32(7))}}
	if !cell.Ready(c, live(1)) || cell.Ready(c, live(2)) {
		t.Error("autoscaled: ready from the minimum on")
	}
	c.Autoscaler.Spec.MinReplicas = new(int32(2))
	if !cell.Ready(c, live(2)) || cell.Ready(c, live(3)) {
		t.Error("autoscaled: not ready when more than a quarter is missing")
	}
	other := live(0)
	other.Annotations[cell.AnnotationRevision] = "other"
	if cell.Ready(c, other) || cell.Ready(c, nil) {
		t.Error("ready at another revision")
	}
}

func record(t *testing.T, name string, ss *v1alpha1.ShopSet) cell.Revision {
	t.Helper()
	data, err := cell.EncodeRevision(&ss.Spec)
	if err != nil {
		t.Fatal(err)
	}
	return cell.Revision{Name: name, Data: data}
}

// running is a component as an earlier spec has it.
func running(t *testing.T, before *v1alpha1.ShopSet, name string) cell.Running {
	t.Helper()
	return cell.Running{Component: name, Revision: component(build(t, before), name).Revision}
}

func TestEarlier(t *testing.T) {
	ss := load(t, "sample")
	before := ss.DeepCopy()
	ss.Spec.Components[3].Args = []string{"2"}
	after := build(t, ss)
	got := after.Earlier([]cell.Running{
		running(t, before, "api"), running(t, ss, "api"), running(t, before, "shop"), {Component: "gone", Revision: "x"},
	})
	if len(got) != 2 || got[0] != running(t, before, "api") || got[1].Component != "gone" {
		t.Fatalf("got %v, want the earlier api and what is gone", got)
	}
}

// ways tells who gets into a component and at which ports, and where its Service leads.
func ways(c *cell.Component) string {
	var lines []string
	if c.Service != nil {
		for _, port := range c.Service.Spec.Ports {
			lines = append(lines, fmt.Sprintf("%s %d→%s", port.Name, port.Port, port.TargetPort.String()))
		}
	}
	for _, rule := range c.NetworkPolicy.Spec.Ingress {
		var who, where []string
		for _, from := range rule.From {
			if from.PodSelector != nil {
				who = append(who, from.PodSelector.MatchLabels[cell.LabelComponent])
			} else {
				who = append(who, "admin")
			}
		}
		for _, port := range rule.Ports {
			where = append(where, port.Port.String())
		}
		lines = append(lines, fmt.Sprintf("from %v at %v", who, where))
	}
	return strings.Join(lines, ", ")
}

// TestWiden: what Pods of an earlier revision call and how they are called stays as long as they run, and
// no longer.
func TestWiden(t *testing.T) {
	port := func(name string, number int32) []v1alpha1.Port { return []v1alpha1.Port{{Name: name, Port: number}} }
	for _, test := range []struct {
		name string
		// change makes the new spec: components are proxy (uses shop and cart), shop, cart (use api) and api.
		change func(*v1alpha1.ShopSetSpec)
		// runs are the components that still run as the earlier spec says; nil is an unknown revision.
		runs      []string
		component string
		want      string
	}{
		{"a user that is none any more", func(s *v1alpha1.ShopSetSpec) {
			s.Components[0].Uses, s.Components[0].Config = []string{"shop"}, nil
		}, []string{"proxy"}, "cart", "http 8080→http, from [proxy] at [8080]"},
		{"only what the earlier one used is kept open", func(s *v1alpha1.ShopSetSpec) {
			s.Components[0].Uses, s.Components[0].Config = []string{"shop"}, nil
		}, []string{"shop"}, "cart", "http 8080→http"},
		{"a user that is gone from the spec", func(s *v1alpha1.ShopSetSpec) {
			s.Components[0].Uses, s.Components[0].Config = []string{"shop"}, nil
			s.Components = slices.Delete(s.Components, 2, 3)
		}, []string{"cart"}, "api", "http 8080→http, from [shop cart] at [8080]"},
		{"a port with another number, for those who call and those who are called", func(s *v1alpha1.ShopSetSpec) {
			s.Components[3].Ports = port("http", 8081)
		}, []string{"api", "cart", "shop"}, "api", "http 8081→http, http-8080 8080→http, from [shop cart] at [8081 8080]"},
		{"the callers alone are left", func(s *v1alpha1.ShopSetSpec) {
			s.Components[3].Ports = port("http", 8081)
		}, []string{"cart"}, "api", "http 8081→http, http-8080 8080→http, from [shop cart] at [8081 8080]"},
		{"a port with another name", func(s *v1alpha1.ShopSetSpec) {
			s.Components[3].Ports = port("web", 8080)
		}, []string{"api"}, "api", "web 8080→8080, from [shop cart] at [8080]"},
		{"another name and another number", func(s *v1alpha1.ShopSetSpec) {
			s.Components[3].Ports = port("web", 8081)
		}, []string{"api"}, "api", "web 8081→web, http-8080 8080→http, from [shop cart] at [8081 8080]"},
		{"no port any more", func(s *v1alpha1.ShopSetSpec) {
			s.Components[0].Uses, s.Components[0].Config = []string{"shop"}, nil
			s.Components[2].Ports = nil
		}, []string{"proxy"}, "cart", "http 8080→http, from [proxy] at [8080]"},
		{"a revision that is not on record: whatever is", func(s *v1alpha1.ShopSetSpec) {
			s.Components[3].Ports = port("http", 8081)
		}, nil, "api", "http 8081→http, http-8080 8080→http, from [shop cart] at [8081 8080]"},
	} {
		t.Run(test.name, func(t *testing.T) {
			ss := load(t, "sample")
			for i := range ss.Spec.Components {
				ss.Spec.Components[i].Health = nil // Its ports are not what this is about.
			}
			before := ss.DeepCopy()
			test.change(&ss.Spec)
			after := build(t, ss)
			earlier := []cell.Running{{Component: "api", Revision: "unknown"}}
			if test.runs != nil {
				earlier = nil
			}
			for _, name := range test.runs {
				earlier = append(earlier, running(t, before, name))
			}
			history := cell.NewHistory(ss, []cell.Revision{record(t, "now", ss), record(t, "before", before)})
			after.Widen(ss, earlier, history, nil)
			if got := ways(component(after, test.component)); got != test.want {
				t.Errorf("got  %s\nwant %s", got, test.want)
			}
			again := build(t, ss)
			again.Widen(ss, append(earlier, earlier...), history, nil)
			if got := ways(component(again, test.component)); got != test.want {
				t.Errorf("said twice it is %s", got)
			}
		})
	}
}

// TestWidenKeepsNames: a port's number never changes its name in the Service while somebody may call it.
func TestWidenKeepsNames(t *testing.T) {
	withPort := func(name string, number int32) *v1alpha1.ShopSet {
		ss := load(t, "sample")
		for i := range ss.Spec.Components {
			ss.Spec.Components[i].Health = nil
		}
		ss.Spec.Components[3].Ports = []v1alpha1.Port{{Name: name, Port: number}}
		return ss
	}
	services := func(c *cell.Cell) map[string]*corev1.Service {
		return map[string]*corev1.Service{"api": component(c, "api").Service}
	}
	first, second, third := withPort("http", 8080), withPort("http", 8081), withPort("http", 8082)
	history := cell.NewHistory(third, []cell.Revision{record(t, "3", third), record(t, "2", second), record(t, "1", first)})
	live := services(build(t, first))
	for _, step := range []struct {
		name   string
		wanted *v1alpha1.ShopSet
		runs   []*v1alpha1.ShopSet
		want   string
	}{
		{"the new number gets another name", second, []*v1alpha1.ShopSet{first}, "http-8081 8081→http, http 8080→http"},
		{"once more", third, []*v1alpha1.ShopSet{first, second}, "http-8082 8082→http, http 8080→http, http-8081 8081→http"},
		{"back to the first", first, []*v1alpha1.ShopSet{second, third}, "http 8080→http, http-8081 8081→http, http-8082 8082→http"},
		{"forth again", third, []*v1alpha1.ShopSet{first}, "http-8082 8082→http, http 8080→http"},
		{"over", third, nil, "http 8082→http"},
		{"another name for the same number", withPort("web", 8082), []*v1alpha1.ShopSet{third}, "http 8082→8082"},
	} {
		after := build(t, step.wanted)
		var earlier []cell.Running
		for _, spec := range step.runs {
			earlier = append(earlier, running(t, spec, "api"))
		}
		after.Widen(step.wanted, earlier, history, live)
		if got, _, _ := strings.Cut(ways(component(after, "api")), ", from"); got != step.want {
			t.Errorf("%s:\ngot  %s\nwant %s", step.name, got, step.want)
		}
		live = services(after)
	}
}
