package cell_test

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/shopset/shopset/api/v1alpha1"
	"github.com/shopset/shopset/internal/cell"
)

var update = flag.Bool("update", false, "write the golden files anew; a changed Pod template restarts cells when operators are upgraded")

func load(t *testing.T, name string) *v1alpha1.ShopSet {
	t.Helper()
	content, err := os.ReadFile(filepath.Join("testdata", name+".yaml"))
	if err != nil {
		t.Fatal(err)
	}
	return parse(t, string(content))
}

func parse(t *testing.T, content string) *v1alpha1.ShopSet {
	t.Helper()
	var ss v1alpha1.ShopSet
	if err := yaml.UnmarshalStrict([]byte(content), &ss); err != nil {
		t.Fatal(err)
	}
	return &ss
}

func build(t *testing.T, ss *v1alpha1.ShopSet) *cell.Cell {
	t.Helper()
	c, err := cell.Build(ss)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func component(c *cell.Cell, name string) *cell.Component {
	for i := range c.Components {
		if c.Components[i].Name == name {
			return &c.Components[i]
		}
	}
	return nil
}

// TestGolden guards running cells: objects of a given spec may not change between releases.
func TestGolden(t *testing.T) {
	for _, name := range []string{"sample", "everything", "warm"} {
		t.Run(name, func(t *testing.T) {
			var got bytes.Buffer
			for _, object := range build(t, load(t, name)).Objects() {
				content, err := yaml.Marshal(object)
				if err != nil {
					t.Fatal(err)
				}
				fmt.Fprintf(&got, "---\n%s", content)
			}
			golden := filepath.Join("testdata", name+".golden.yaml")
			if *update {
				if err := os.WriteFile(golden, got.Bytes(), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got.Bytes(), want) {
				t.Fatalf("%s differs; run with -update and read the difference", golden)
			}
		})
	}
}

// TestWarmCacheMistakes: what the schema cannot say is told with the field and the mend.
func TestWarmCacheMistakes(t *testing.T) {
	ss := load(t, "warm")
	warm := ss.Spec.Components[0].WarmCache
	warm.Budget.Bytes, warm.SizeLimit = new(resource.MustParse("-1")), new(resource.MustParse("0"))
	warm.Save.Every, warm.Save.BytesPerSecond = &metav1.Duration{Duration: time.Millisecond}, new(resource.MustParse("0"))
	ss.Spec.Components[0].Ports[0].Port = v1alpha1.WarmCachePort
	ss.Spec.Components[1].WarmCache.Source.Storage = "/mnt/cachesAndMore"
	ss.Spec.Components[1].WarmCache.Budget.Time = &metav1.Duration{}
	ss.Spec.Components[1].WarmCache.SizeLimit = new(resource.MustParse("1Gi"))
	_, err := cell.Build(ss)
	if err == nil {
		t.Fatal("built")
	}
	for _, want := range []string{"spec.components[shop].warmCache.budget.bytes: must be above 0", "warmCache.sizeLimit: must be above 0", "warmCache.save.every: must be 1s",
		"warmCache.save.bytesPerSecond: must be above 0", "spec.components[shop].ports: 9091 is where", "spec.components[feed].warmCache.source.storage: no volume is mounted at /mnt/cachesAndMore",
		"spec.components[feed].warmCache.budget.time: must be above 0", "spec.components[feed].warmCache.sizeLimit: 1Gi is less than budget.bytes, 2Gi"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%v\nlacks %q", err, want)
		}
	}
}

// TestRestoreHasMemory: a component with little memory does not wait for ever for a restore that is killed for that.
func TestRestoreHasMemory(t *testing.T) {
	ss := load(t, "warm")
	memory := func(of corev1.Container) string { return of.Resources.Limits.Memory().String() }
	for limit, want := range map[string]string{"64Mi": "384Mi", "1Gi": "1Gi"} {
		ss.Spec.Components[1].Resources.Limits = corev1.ResourceList{corev1.ResourceMemory: resource.MustParse(limit)}
		pod := component(build(t, ss), "feed").Deployment.Spec.Template.Spec
		if got := memory(pod.InitContainers[0]); got != want || memory(pod.Containers[0]) != limit {
			t.Errorf("the component has %s, which was to be %s; the restore has %s, want %s", memory(pod.Containers[0]), limit, got, want)
		}
	}
}

// TestImageHasItsOwnCaches: without a compatibility key another image never reads what this one saved.
func TestImageHasItsOwnCaches(t *testing.T) {
	key := func(edit func(*v1alpha1.ShopSet)) string {
		ss := load(t, "warm")
		edit(ss)
		args := component(build(t, ss), "feed").Deployment.Spec.Template.Spec.InitContainers[0].Args
		return args[slices.Index(args, "--compat")+1]
	}
	same := key(func(*v1alpha1.ShopSet) {})
	if other := key(func(ss *v1alpha1.ShopSet) { ss.Spec.Components[1].Image = "example/feed:2" }); other == same {
		t.Fatalf("both images read %q", same)
	}
	if other := key(func(ss *v1alpha1.ShopSet) { ss.Spec.Components[1].Replicas = new(int32(7)) }); other != same {
		t.Fatalf("%q is not %q, and the image is the same", other, same)
	}
}

func TestBuildIsPure(t *testing.T) {
	ss := load(t, "sample")
	before := ss.DeepCopy()
	first, second := build(t, ss), build(t, ss)
	a, _ := yaml.Marshal(first.Objects())
	b, _ := yaml.Marshal(second.Objects())
	if !bytes.Equal(a, b) {
		t.Fatal("two builds differ")
	}
	x, _ := yaml.Marshal(before)
	y, _ := yaml.Marshal(ss)
	if !bytes.Equal(x, y) {
		t.Fatal("Build changed its input")
	}
}

// TestOneComponentAlone: a change to one component changes no other component's revision.
func TestOneComponentAlone(t *testing.T) {
	for _, test := range []struct {
		name    string
		change  func(*v1alpha1.ShopSet)
		changed string // components whose revision changes, in order
		cell    bool   // whether the revision of the whole changes
	}{
		{"image", func(s *v1alpha1.ShopSet) { s.Spec.Components[1].Image = "x" }, "shop", true},
		{"env", func(s *v1alpha1.ShopSet) { s.Spec.Components[2].Env[0].Name = "X" }, "cart", true},
		{"config", func(s *v1alpha1.ShopSet) { s.Spec.Components[0].Config[0].Template += "# x\n" }, "proxy", true},
		{"value", func(s *v1alpha1.ShopSet) { s.Spec.Values["X"] = "x" }, "proxy shop cart api", true},
		{"port of a used component", func(s *v1alpha1.ShopSet) { s.Spec.Components[3].Ports[0].Port = 8081 }, "shop cart api", true},
		{"replicas", func(s *v1alpha1.ShopSet) { s.Spec.Components[1].Replicas = new(int32(9)) }, "", false},
		{"autoscaling", func(s *v1alpha1.ShopSet) { s.Spec.Components[2].Autoscaling.Max = 99 }, "", false},
		{"drain", func(s *v1alpha1.ShopSet) { s.Spec.Traffic = v1alpha1.TrafficDrain }, "", false},
	} {
		t.Run(test.name, func(t *testing.T) {
			ss := load(t, "sample")
			before := build(t, ss)
			test.change(ss)
			after := build(t, ss)
			var changed []string
			for i := range before.Components {
				if before.Components[i].Revision != after.Components[i].Revision {
					changed = append(changed, before.Components[i].Name)
				}
			}
			if got := strings.Join(changed, " "); got != test.changed {
				t.Errorf("changed %q, want %q", got, test.changed)
			}
			if got := before.Revision != after.Revision; got != test.cell {
				t.Errorf("revision of the cell changed: %v", got)
			}
		})
	}
}

func TestProblems(t *testing.T) {
	for _, test := range []struct {
		name   string
		change func(*v1alpha1.ShopSet)
		want   string
	}{
		{"circle", func(s *v1alpha1.ShopSet) { s.Spec.Components[3].Uses = []string{"proxy"} },
			"spec.components: uses forms a circle: proxy → shop → api → proxy; nothing in it could be changed first, take one of these out"},
		{"reserved name", func(s *v1alpha1.ShopSet) { s.Spec.Values["ENVIRONMENT"] = "x" },
			"spec.values: ENVIRONMENT is set by the operator; choose another name"},
		{"missing variable", func(s *v1alpha1.ShopSet) { s.Spec.Components[0].Config[0].Template = "a\n{{ .SHOP_ULR }}" },
			"spec.components[proxy].config: /etc/shopset-proxy/config.yaml line 2: variable SHOP_ULR is not set"},
		{"variable of a Secret", func(s *v1alpha1.ShopSet) {
			s.Spec.Components[2].Config = []v1alpha1.ConfigFile{{Path: "/c", Template: "{{ .COOKIE_KEYS }}"}}
		}, "spec.components[cart].config: /c line 1: variable COOKIE_KEYS is not set: its value comes from a Secret or a field of the Pod and is not known before the Pod starts; let the program read it from its environment"},
		{"overlay of the wrong type", func(s *v1alpha1.ShopSet) {
			s.Spec.Components[3].PodTemplate.Raw = []byte(`{"spec":{"containers":"x"}}`)
		},
			"spec.components[api].podTemplate: is not a Pod template: json: cannot unmarshal string into Go struct field"},
		{"overlay with an unknown field", func(s *v1alpha1.ShopSet) {
			s.Spec.Components[3].PodTemplate.Raw = []byte(`{"spec":{"priorityClas":"x"}}`)
		}, `spec.components[api].podTemplate: is not a Pod template: json: unknown field "priorityClas"`},
		{"same port twice", func(s *v1alpha1.ShopSet) { s.Spec.Components[0].Ports[1].Port = 8443 },
			"spec.components[proxy].ports: https and http are both 8443"},
		{"too much config", func(s *v1alpha1.ShopSet) {
			s.Spec.Components[0].Config = nil
			for i := range 3 {
				s.Spec.Components[0].Config = append(s.Spec.Components[0].Config, v1alpha1.ConfigFile{
					Path: fmt.Sprint("/c", i), Template: strings.Repeat("x", 400<<10)})
			}
		}, "spec.components[proxy].config: the files have more than 1024 KiB together; a ConfigMap holds no more"},
		{"overlay that takes what is the operator's", func(s *v1alpha1.ShopSet) {
			s.Spec.Components[3].PodTemplate.Raw = []byte(`{"metadata":{"creationTimestamp":"2026-01-02T03:04:05Z",
				"labels":{"shopset.dev/drained":"true","shopset.dev/component":"shop"},"annotations":{"shopset.dev/revision":"x"}},
				"spec":{"containers":[{"$patch":"replace"},{"name":"other","image":"x"}]}}`)
		}, "spec.components[api].podTemplate.metadata.labels: shopset.dev/component belongs to the operator; take it out; " +
			"spec.components[api].podTemplate.metadata.labels: shopset.dev/drained belongs to the operator; take it out; " +
			"spec.components[api].podTemplate.metadata.annotations: shopset.dev/revision belongs to the operator; take it out; " +
			"spec.components[api].podTemplate.metadata: only labels and annotations can be set here; " +
			"spec.components[api].podTemplate.spec.containers: the container api is the component itself and must stay"},
		{"a template for the Pod that cannot be read", func(s *v1alpha1.ShopSet) {
			s.Spec.Components[0].EntrypointImage = "x"
			s.Spec.Components[0].Config[0].Template = "a\n{{ if }}"
		}, "spec.components[proxy].config: /etc/shopset-proxy/config.yaml line 2: missing value for if"},
		{"volumes", func(s *v1alpha1.ShopSet) {
			s.Spec.Components[3].Volumes = []corev1.Volume{{Name: "data"}, {Name: "data"}, {Name: "shopset-tmp"}}
			s.Spec.Components[3].VolumeMounts = []corev1.VolumeMount{{Name: "date", MountPath: "/a"}, {Name: "data", MountPath: "/a"}}
		}, "spec.components[api].volumes: data is there twice; rename one (shopset-config, shopset-rendered, shopset-tmp, shopset-warm, shopset-warm-report are the operator's own); " +
			"spec.components[api].volumes: shopset-tmp is there twice; rename one (shopset-config, shopset-rendered, shopset-tmp, shopset-warm, shopset-warm-report are the operator's own); " +
			"spec.components[api].volumeMounts: date is mounted at /a, but there is no volume of that name; " +
			"spec.components[api].volumeMounts: two volumes or config files are mounted at /a"},
		{"all at once", func(s *v1alpha1.ShopSet) {
			s.Spec.Values["SHOPSET"] = "x"
			s.Spec.Components[0].Ports[1].Port = 8443
		}, "spec.values: SHOPSET is set by the operator; choose another name; spec.components[proxy].ports: https and http are both 8443"},
	} {
		t.Run(test.name, func(t *testing.T) {
			ss := load(t, "sample")
			ss.Spec.Components[3].PodTemplate = load(t, "everything").Spec.Components[0].PodTemplate.DeepCopy()
			ss.Spec.Components[3].PodTemplate.Raw = []byte(`{}`)
			test.change(ss)
			_, err := cell.Build(ss)
			if err == nil || !strings.HasPrefix(err.Error(), test.want) {
				t.Fatalf("got  %v\nwant %s", err, test.want)
			}
		})
	}
}

func TestCovers(t *testing.T) {
	desired := build(t, load(t, "sample"))
	for _, test := range []struct {
		name  string
		drift func(*cell.Component)
		want  bool
	}{
		{"same", func(*cell.Component) {}, true},
		{"status", func(c *cell.Component) { c.Deployment.Status.Replicas = 5 }, true},
		{"default filled in", func(c *cell.Component) { c.Deployment.Spec.Template.Spec.DNSPolicy = "ClusterFirst" }, true},
		{"label of somebody else", func(c *cell.Component) { c.Deployment.Labels["x"] = "y" }, true},
		{"env of somebody else", func(c *cell.Component) {
			container := &c.Deployment.Spec.Template.Spec.Containers[0]
			container.Env = append(container.Env[:0:0], container.Env...)
			container.Env = append(container.Env, container.Env[0])
			container.Env[len(container.Env)-1].Name = "INJECTED"
		}, true},
		{"quantity written otherwise", func(c *cell.Component) {
			r := c.Deployment.Spec.Template.Spec.Containers[0].Resources.Requests
			q := r["cpu"]
			q.SetMilli(50)
			r["cpu"] = q
		}, true},
		{"privileged", func(c *cell.Component) {
			*c.Deployment.Spec.Template.Spec.Containers[0].SecurityContext.Privileged = true
		}, false},
		{"zero behind a pointer", func(c *cell.Component) {
			c.Deployment.Spec.Strategy.RollingUpdate.MaxUnavailable.IntVal = 1
		}, false},
		{"replicas", func(c *cell.Component) { *c.Deployment.Spec.Replicas = 1 }, false},
		{"label removed", func(c *cell.Component) { delete(c.Deployment.Labels, cell.LabelShopSet) }, false},
		{"owner removed", func(c *cell.Component) { c.Deployment.OwnerReferences = nil }, false},
		{"image", func(c *cell.Component) { c.Deployment.Spec.Template.Spec.Containers[0].Image = "evil" }, false},
		{"env value", func(c *cell.Component) { c.Deployment.Spec.Template.Spec.Containers[0].Env[0].Value = "x" }, false},
		{"probe path", func(c *cell.Component) {
			c.Deployment.Spec.Template.Spec.Containers[0].ReadinessProbe.HTTPGet.Path = "/"
		}, false},
		{"selector widened", func(c *cell.Component) { delete(c.Service.Spec.Selector, cell.LabelComponent) }, false},
		{"selector narrowed", func(c *cell.Component) { c.Service.Spec.Selector["x"] = "y" }, false},
		{"policy opened", func(c *cell.Component) { c.NetworkPolicy.Spec.Ingress[0].Ports = nil }, false},
		{"budget", func(c *cell.Component) { c.DisruptionBudget.Spec.MaxUnavailable.IntVal = 9 }, false},
		{"volume removed", func(c *cell.Component) { c.Deployment.Spec.Template.Spec.Volumes = nil }, false},
		{"earlier apply", func(c *cell.Component) { c.Service.Annotations[cell.AnnotationApplied] = "old" }, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			live := build(t, load(t, "sample"))
			test.drift(component(live, "proxy"))
			got := true
			wanted, present := desired.Objects(), live.Objects()
			for i := range wanted {
				got = got && cell.Covers(wanted[i], present[i])
			}
			if got != test.want {
				t.Fatalf("Covers is %v", got)
			}
		})
	}
}

// TestCoversTimes: a struct with hidden fields is one value.
func TestCoversTimes(t *testing.T) {
	at := func(second int64) *appsv1.Deployment {
		d := &appsv1.Deployment{}
		d.Spec.Template.CreationTimestamp = metav1.Unix(second, 0)
		return d
	}
	if !cell.Covers(at(1), at(1)) || cell.Covers(at(1), at(2)) {
		t.Error("times are not compared")
	}
}

func BenchmarkBuild(b *testing.B) {
	content, _ := os.ReadFile("testdata/sample.yaml")
	var ss v1alpha1.ShopSet
	if err := yaml.UnmarshalStrict(content, &ss); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := cell.Build(&ss); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkCovers(b *testing.B) {
	content, _ := os.ReadFile("testdata/sample.yaml")
	var ss v1alpha1.ShopSet
	if err := yaml.UnmarshalStrict(content, &ss); err != nil {
		b.Fatal(err)
	}
	desired, _ := cell.Build(&ss)
	live, _ := cell.Build(&ss)
	wanted, present := desired.Objects(), live.Objects()
	b.ReportAllocs()
	for b.Loop() {
		for i := range wanted {
			if !cell.Covers(wanted[i], present[i]) {
				b.Fatal("differs")
			}
		}
	}
}

// TestConfigInThePodSeesTheOverlay: what the overlay sets for the component, its config is rendered with, unless it
// says something else for the container that renders.
func TestConfigInThePodSeesTheOverlay(t *testing.T) {
	for overlay, want := range map[string]string{
		`{"spec":{"containers":[{"name":"proxy","env":[{"name":"EXTRA","value":"x"}]}]}}`: "x",
		`{"spec":{"containers":[{"name":"proxy","env":[{"name":"EXTRA","value":"x"}]}],` +
			`"initContainers":[{"name":"shopset-render","env":[{"name":"EXTRA","value":"y"}]}]}}`: "y",
	} {
		ss := load(t, "sample")
		proxy := &ss.Spec.Components[0]
		proxy.EntrypointImage = "entrypoint:test"
		proxy.Config[0].Path = "/" + strings.Repeat("a", 255)
		proxy.PodTemplate = load(t, "everything").Spec.Components[0].PodTemplate.DeepCopy()
		proxy.PodTemplate.Raw = []byte(overlay)
		built := component(build(t, ss), "proxy")
		got := ""
		for _, env := range built.Deployment.Spec.Template.Spec.InitContainers[0].Env {
			if env.Name == "EXTRA" {
				got = env.Value
			}
		}
		if got != want {
			t.Errorf("%s: the container that renders has EXTRA=%q, want %q", overlay, got, want)
		}
		for key := range built.Config.Data {
			if len(key) > 253 {
				t.Errorf("a key of %d characters; a ConfigMap takes 253", len(key))
			}
		}
	}
}
