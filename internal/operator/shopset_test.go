package operator_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/shopset/shopset/api/v1alpha1"
	"github.com/shopset/shopset/internal/cell"
)

// started runs the operator in a namespace of its own with the sample applied and rolled out.
func started(t *testing.T) (*v1alpha1.ShopSet, *connections) {
	t.Helper()
	counter := &connections{}
	namespace := newNamespace(t)
	startOperator(t, namespace, counter)
	ss := sample(t, namespace, "a")
	create(t, ss)
	rollOutAll(t, ss)
	return ss, counter
}

func TestCreatesEverything(t *testing.T) {
	ss, _ := started(t)
	desired, err := cell.Build(ss)
	if err != nil {
		t.Fatal(err)
	}
	for _, object := range desired.Objects() {
		live := object.DeepCopyObject().(client.Object)
		if err := get(t, live, ss.Namespace, object.GetName()); err != nil {
			t.Error(err)
			continue
		}
		if !cell.Covers(object, live) {
			t.Errorf("%T %s does not say what it should", live, live.GetName())
		}
	}
	if ss.Status.Summary != "3/3" || ss.Status.Revision != desired.Revision {
		t.Errorf("status is %+v", ss.Status)
	}
	for _, kind := range []string{v1alpha1.ConditionReconciling, v1alpha1.ConditionStalled} {
		for _, condition := range ss.Status.Conditions {
			if condition.Type == kind {
				t.Errorf("a ready cell has the condition %s", kind)
			}
		}
	}
}

// TestMendsDrift edits and deletes children of every kind.
func TestMendsDrift(t *testing.T) {
	ss, _ := started(t)
	desired, _ := cell.Build(ss)
	before := dump(t, ss.Namespace)
	for _, object := range desired.Objects() {
		live := object.DeepCopyObject().(client.Object)
		name := fmt.Sprintf("%T %s", live, live.GetName())
		if err := cluster.admin.Delete(t.Context(), live); err != nil {
			t.Fatal(err)
		}
		eventually(t, func() error {
			again := object.DeepCopyObject().(client.Object)
			if err := get(t, again, ss.Namespace, object.GetName()); err != nil {
				return fmt.Errorf("deleted: %s: %w", name, err)
			}
			return nil
		})
	}
	rollOutAll(t, ss)
	meta := metav1.ObjectMeta{Namespace: ss.Namespace, Name: "a-api"}
	change(t, &appsv1.Deployment{ObjectMeta: meta}, func(d *appsv1.Deployment) { *d.Spec.Replicas = 9 })
	change(t, &appsv1.Deployment{ObjectMeta: meta}, func(d *appsv1.Deployment) { d.Spec.Template.Spec.Containers[0].Image = "evil" })
	change(t, &corev1.Service{ObjectMeta: meta}, func(s *corev1.Service) { s.Spec.Selector["x"] = "y" })
	change(t, &corev1.Service{ObjectMeta: meta}, func(s *corev1.Service) { s.Labels = nil })
	change(t, &policyv1.PodDisruptionBudget{ObjectMeta: meta}, func(p *policyv1.PodDisruptionBudget) { p.Spec.MaxUnavailable.IntVal = 7 })
	change(t, &networkingv1.NetworkPolicy{ObjectMeta: meta}, func(p *networkingv1.NetworkPolicy) { p.Spec.Ingress = nil })
	eventually(t, func() error {
		if after := dump(t, ss.Namespace); after != before {
			return fmt.Errorf("still changed:\n%s\nwant:\n%s", after, before)
		}
		return nil
	})
}

// TestTellsEvents: what the operator did and found is in `kubectl describe`.
func TestTellsEvents(t *testing.T) {
	ss, _ := started(t)
	change(t, &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: ss.Namespace, Name: "a-api"}},
		func(d *appsv1.Deployment) { *d.Spec.Replicas = 9 })
	for _, want := range []struct{ reason, note string }{
		{"Ready", "all components serve"},
		{"DriftCorrected", "Deployment a-api was changed by somebody else and is as the spec says again"},
	} {
		eventually(t, func() error {
			list := &eventsv1.EventList{}
			if err := cluster.admin.List(t.Context(), list, client.InNamespace(ss.Namespace)); err != nil {
				return err
			}
			for _, event := range list.Items {
				if event.Reason == want.reason && event.Note == want.note && event.Regarding.Name == ss.Name {
					return nil
				}
			}
			return fmt.Errorf("no event %s among %d", want.reason, len(list.Items))
		})
	}
}

// TestForeignAdditionsStay: what others add besides (an annotation of a tool, a label) is theirs.
func TestForeignAdditionsStay(t *testing.T) {
	ss, _ := started(t)
	d := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: ss.Namespace, Name: "a-api"}}
	change(t, d, func(d *appsv1.Deployment) {
		d.Annotations["tool.example/note"] = "kept"
		*d.Spec.Replicas = 8 // Drift at the same time, to know when the operator has been there.
	})
	eventually(t, func() error {
		if err := get(t, d, ss.Namespace, "a-api"); err != nil {
			return err
		}
		if *d.Spec.Replicas != 3 {
			return errors.New("replicas are not mended yet")
		}
		return nil
	})
	if d.Annotations["tool.example/note"] != "kept" {
		t.Error("an annotation of another tool was removed")
	}
}

// TestChangeFollowsUses: a change of everything reaches api first, then shop, then proxy, and replicas
// of a waiting component at once.
func TestChangeFollowsUses(t *testing.T) {
	ss, _ := started(t)
	revisions := func() map[string]string {
		result := map[string]string{}
		for _, component := range ss.Spec.Components {
			d := &appsv1.Deployment{}
			if err := get(t, d, ss.Namespace, "a-"+component.Name); err != nil {
				t.Fatal(err)
			}
			result[component.Name] = d.Annotations[cell.AnnotationRevision]
		}
		return result
	}
	before := revisions()
	change(t, ss, func(s *v1alpha1.ShopSet) {
		s.Spec.Values["LOG_LEVEL"] = "debug"
		s.Spec.Components[0].Replicas = new(int32(5))
	})
	expect := func(message string, changed ...string) {
		t.Helper()
		waitCondition(t, ss, v1alpha1.ConditionReady, metav1.ConditionFalse, message)
		eventually(t, func() error {
			now := revisions()
			for name := range now {
				isNew := now[name] != before[name]
				if want := slices.Contains(changed, name); isNew != want {
					return fmt.Errorf("%s changed: %v, want %v", name, isNew, want)
				}
			}
			return nil
		})
	}
	expect("shop: waits until the change of api is done", "api")
	proxy := &appsv1.Deployment{}
	eventually(t, func() error {
		if err := get(t, proxy, ss.Namespace, "a-proxy"); err != nil {
			return err
		}
		if *proxy.Spec.Replicas != 5 {
			return fmt.Errorf("proxy is held at %d replicas", *proxy.Spec.Replicas)
		}
		return nil
	})
	rollOut(t, ss.Namespace, "a-proxy")
	rollOut(t, ss.Namespace, "a-api")
	expect("proxy: waits until the change of shop is done", "api", "shop")
	rollOut(t, ss.Namespace, "a-shop")
	eventually(t, func() error {
		if revisions()["proxy"] == before["proxy"] {
			return errors.New("proxy has not changed")
		}
		return nil
	})
	rollOutAll(t, ss)
}

// TestOneComponentRestartsAlone: the generations of the other Deployments do not move.
func TestOneComponentRestartsAlone(t *testing.T) {
	ss, _ := started(t)
	generations := func() map[string]int64 {
		result := map[string]int64{}
		list := &appsv1.DeploymentList{}
		if err := cluster.admin.List(t.Context(), list, client.InNamespace(ss.Namespace)); err != nil {
			t.Fatal(err)
		}
		for _, d := range list.Items {
			result[d.Name] = d.Generation
		}
		return result
	}
	before := generations()
	change(t, ss, func(s *v1alpha1.ShopSet) { s.Spec.Components[1].Image = "example/shop:2" })
	waitCondition(t, ss, v1alpha1.ConditionReady, metav1.ConditionFalse, "shop")
	rollOutAll(t, ss)
	after := generations()
	if after["a-shop"] == before["a-shop"] {
		t.Error("shop did not change")
	}
	for _, name := range []string{"a-proxy", "a-api"} {
		if after[name] != before[name] {
			t.Errorf("%s changed too", name)
		}
	}
}

// TestConfigRollsBackWithCode: going back to an earlier spec brings back the very ConfigMap.
func TestConfigRollsBackWithCode(t *testing.T) {
	ss, _ := started(t)
	config := func() string {
		d := &appsv1.Deployment{}
		if err := get(t, d, ss.Namespace, "a-proxy"); err != nil {
			t.Fatal(err)
		}
		for _, volume := range d.Spec.Template.Spec.Volumes {
			if volume.ConfigMap != nil {
				return volume.ConfigMap.Name
			}
		}
		return ""
	}
	first := config()
	template := ss.Spec.Components[0].Config[0].Template
	pod := runningPod(t, ss, "proxy")
	change(t, ss, func(s *v1alpha1.ShopSet) { s.Spec.Components[0].Config[0].Template += "# new\n" })
	waitCondition(t, ss, v1alpha1.ConditionReady, metav1.ConditionFalse, "proxy")
	if err := get(t, &corev1.ConfigMap{}, ss.Namespace, first); err != nil {
		t.Errorf("Pods of the earlier revision still run, but their config is gone: %v", err)
	}
	rollOutAll(t, ss)
	terminate(t, pod)
	if err := get(t, &corev1.ConfigMap{}, ss.Namespace, first); err != nil {
		t.Errorf("a Pod of the earlier revision is on its way out, but its config is gone: %v", err)
	}
	endPod(t, pod)
	eventually(t, func() error {
		if err := get(t, &corev1.ConfigMap{}, ss.Namespace, first); !apierrors.IsNotFound(err) {
			return fmt.Errorf("the earlier config is not pruned: %v", err)
		}
		return nil
	})
	change(t, ss, func(s *v1alpha1.ShopSet) { s.Spec.Components[0].Config[0].Template = template })
	waitCondition(t, ss, v1alpha1.ConditionReady, metav1.ConditionFalse, "proxy")
	rollOutAll(t, ss)
	if config() != first {
		t.Errorf("config is %s, want %s again", config(), first)
	}
}

// TestRemovedComponentGoesLast: cart's Deployment stays until proxy no longer runs the revision that
// uses it.
func TestRemovedComponentGoesLast(t *testing.T) {
	ss, _ := started(t)
	pod := runningPod(t, ss, "shop")
	change(t, ss, func(s *v1alpha1.ShopSet) {
		s.Spec.Components[1].Uses = nil
		s.Spec.Components = s.Spec.Components[:2]
	})
	waitCondition(t, ss, v1alpha1.ConditionReady, metav1.ConditionFalse, "shop")
	if err := get(t, &appsv1.Deployment{}, ss.Namespace, "a-api"); err != nil {
		t.Fatalf("api went before shop stopped to use it: %v", err)
	}
	policy := &networkingv1.NetworkPolicy{}
	if err := get(t, policy, ss.Namespace, "a-api"); err != nil || len(policy.Spec.Ingress) == 0 {
		t.Fatalf("shop is shut out of api before its time: %v %v", policy.Spec, err)
	}
	rollOutAll(t, ss)
	terminate(t, pod)
	// Another change is through while the last earlier Pod of shop still ends.
	change(t, ss, func(s *v1alpha1.ShopSet) { s.Spec.Values["LOG_LEVEL"] = "debug" })
	rollOutAll(t, ss)
	if err := get(t, &appsv1.Deployment{}, ss.Namespace, "a-api"); err != nil {
		t.Fatalf("api went before the last Pod that uses it: %v", err)
	}
	endPod(t, pod)
	for _, object := range []client.Object{&appsv1.Deployment{}, &corev1.Service{}, &policyv1.PodDisruptionBudget{}, &networkingv1.NetworkPolicy{}} {
		eventually(t, func() error {
			if err := get(t, object, ss.Namespace, "a-api"); !apierrors.IsNotFound(err) {
				return fmt.Errorf("%T is still there: %v", object, err)
			}
			return nil
		})
	}
}

// TestAutoscaling: the switch to an autoscaler changes no number, and the operator leaves it alone
// then.
func TestAutoscaling(t *testing.T) {
	ss, _ := started(t)
	change(t, ss, func(s *v1alpha1.ShopSet) {
		s.Spec.Components[2].Replicas = nil
		s.Spec.Components[2].Autoscaling = &v1alpha1.Autoscaling{Min: 2, Max: 9, CPU: new(int32(70))}
	})
	scaler := &autoscalingv2.HorizontalPodAutoscaler{}
	eventually(t, func() error { return get(t, scaler, ss.Namespace, "a-api") })
	replicas := func() int32 {
		d := &appsv1.Deployment{}
		if err := get(t, d, ss.Namespace, "a-api"); err != nil {
			t.Fatal(err)
		}
		return *d.Spec.Replicas
	}
	if got := replicas(); got != 3 {
		t.Fatalf("the switch to the autoscaler made %d of 3 replicas", got)
	}
	d := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: ss.Namespace, Name: "a-api"}}
	change(t, d, func(d *appsv1.Deployment) { *d.Spec.Replicas = 7 }) // As the autoscaler does.
	change(t, ss, func(s *v1alpha1.ShopSet) { s.Spec.Components[2].Image = "example/api:2" })
	eventually(t, func() error {
		if err := get(t, d, ss.Namespace, "a-api"); err != nil {
			return err
		}
		if d.Spec.Template.Spec.Containers[0].Image != "example/api:2" {
			return errors.New("not changed yet")
		}
		return nil
	})
	if got := replicas(); got != 7 {
		t.Fatalf("a change of the image made %d of the autoscaler's 7 replicas", got)
	}
}

// TestAutoscalerKeepsItsNumber: neither a lost label nor a zero leaves an autoscaled component with the
// wrong number of Pods.
func TestAutoscalerKeepsItsNumber(t *testing.T) {
	ss, _ := started(t)
	change(t, ss, func(s *v1alpha1.ShopSet) {
		s.Spec.Components[2].Replicas = nil
		s.Spec.Components[2].Autoscaling = &v1alpha1.Autoscaling{Min: 2, Max: 90, CPU: new(int32(70))}
	})
	eventually(t, func() error {
		return get(t, &autoscalingv2.HorizontalPodAutoscaler{}, ss.Namespace, "a-api")
	})
	d := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: ss.Namespace, Name: "a-api"}}
	change(t, d, func(d *appsv1.Deployment) { *d.Spec.Replicas = 50 })
	change(t, d, func(d *appsv1.Deployment) { delete(d.Labels, cell.LabelShopSet) })
	eventually(t, func() error {
		if err := get(t, d, ss.Namespace, "a-api"); err != nil {
			return err
		}
		if d.Labels[cell.LabelShopSet] != ss.Name {
			return errors.New("the label is not back")
		}
		return nil
	})
	if *d.Spec.Replicas != 50 {
		t.Fatalf("a lost label made %d of the autoscaler's 50 Pods", *d.Spec.Replicas)
	}
	change(t, d, func(d *appsv1.Deployment) { *d.Spec.Replicas = 0 })
	eventually(t, func() error {
		if err := get(t, d, ss.Namespace, "a-api"); err != nil {
			return err
		}
		if *d.Spec.Replicas != 2 {
			return fmt.Errorf("%d Pods; the autoscaler counts zero as switched off", *d.Spec.Replicas)
		}
		return nil
	})
}

// TestForeignChild: a child of ours that somebody else has is never touched, for every kind.
func TestForeignChild(t *testing.T) {
	meta := func(namespace string) metav1.ObjectMeta {
		return metav1.ObjectMeta{Namespace: namespace, Name: "a-api", Annotations: map[string]string{"mine": "yes"}}
	}
	labels := map[string]string{"app": "other"}
	for _, object := range []func(string) client.Object{
		func(ns string) client.Object {
			return &corev1.Service{ObjectMeta: meta(ns), Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 1}}}}
		},
		func(ns string) client.Object {
			return &networkingv1.NetworkPolicy{ObjectMeta: meta(ns)}
		},
		func(ns string) client.Object {
			return &appsv1.Deployment{ObjectMeta: meta(ns), Spec: appsv1.DeploymentSpec{
				Selector: &metav1.LabelSelector{MatchLabels: labels},
				Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels},
					Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "x", Image: "x"}}}},
			}}
		},
	} {
		namespace := newNamespace(t)
		foreign := object(namespace)
		t.Run(fmt.Sprintf("%T", foreign), func(t *testing.T) {
			create(t, foreign)
			startOperator(t, namespace, &connections{})
			ss := sample(t, namespace, "a")
			create(t, ss)
			waitCondition(t, ss, v1alpha1.ConditionStalled, metav1.ConditionTrue,
				"a-api exists already and belongs to nobody's controller")
			after := foreign.DeepCopyObject().(client.Object)
			if err := get(t, after, namespace, "a-api"); err != nil {
				t.Fatal(err)
			}
			if after.GetResourceVersion() != foreign.GetResourceVersion() {
				t.Error("the foreign object was changed")
			}
			eventually(t, func() error { return get(t, &appsv1.Deployment{}, namespace, "a-proxy") })
			if err := cluster.admin.Delete(t.Context(), foreign); err != nil {
				t.Fatal(err)
			}
			// The next try comes by itself; a touch of the spec only shortens the test.
			change(t, ss, func(s *v1alpha1.ShopSet) { s.Spec.RevisionHistoryLimit = new(int32(7)) })
			rollOutAll(t, ss)
		})
	}
}

// TestSiblingOfTheSameName: two ShopSets whose components have the same full name.
func TestSiblingOfTheSameName(t *testing.T) {
	ss, _ := started(t)
	sibling := sample(t, ss.Namespace, "a-shop")
	sibling.Name = "a"
	sibling = sample(t, ss.Namespace, "b")
	create(t, sibling)
	rollOutAll(t, sibling)

	clash := sample(t, ss.Namespace, "a-shop")
	clash.Spec.Components[2].Name = "x"
	clash.Spec.Components[1].Uses = []string{"x"}
	create(t, clash)
	rollOutAll(t, clash)
	// a-shop + "x" and a + "shop-x" both make a-shop-x.
	change(t, ss, func(s *v1alpha1.ShopSet) {
		s.Spec.Components[2].Name = "shop-x"
		s.Spec.Components[1].Uses = []string{"shop-x"}
	})
	waitCondition(t, ss, v1alpha1.ConditionStalled, metav1.ConditionTrue, "a-shop-x exists already and belongs to ShopSet a-shop")
}

func TestSameNameInTwoNamespaces(t *testing.T) {
	one, _ := started(t)
	two, _ := started(t)
	if one.Namespace == two.Namespace || one.Name != two.Name {
		t.Fatal("the test does not test")
	}
	remove(t, one)
	if err := get(t, &appsv1.Deployment{}, two.Namespace, "a-api"); err != nil {
		t.Fatalf("deleting one took a child of the other: %v", err)
	}
}

func TestNamesAtTheLimit(t *testing.T) {
	namespace := newNamespace(t)
	startOperator(t, namespace, &connections{})
	ss := sample(t, namespace, strings.Repeat("s", 40))
	ss.Spec.Components[2].Name = strings.Repeat("c", 22)
	ss.Spec.Components[1].Uses = []string{strings.Repeat("c", 22)}
	create(t, ss)
	rollOutAll(t, ss)
}

// TestBadSpecChangesNothing: what CEL cannot say stops everything, and a mended spec goes on.
func TestBadSpecChangesNothing(t *testing.T) {
	ss, _ := started(t)
	change(t, ss, func(s *v1alpha1.ShopSet) {
		s.Spec.Components[2].Uses = []string{"proxy"}
		s.Spec.Components[1].Image = "example/shop:2"
	})
	waitCondition(t, ss, v1alpha1.ConditionStalled, metav1.ConditionTrue, "uses forms a circle: proxy → shop → api → proxy")
	d := &appsv1.Deployment{}
	if err := get(t, d, ss.Namespace, "a-shop"); err != nil || d.Spec.Template.Spec.Containers[0].Image != "example/shop:1" {
		t.Fatalf("a bad spec was half applied: %v", err)
	}
	change(t, ss, func(s *v1alpha1.ShopSet) { s.Spec.Components[2].Uses = nil })
	rollOutAll(t, ss)
}

// TestRefusedByTheServer: an overlay that only the API server can judge.
func TestRefusedByTheServer(t *testing.T) {
	ss, _ := started(t)
	change(t, ss, func(s *v1alpha1.ShopSet) {
		s.Spec.Components[2].Volumes = []corev1.Volume{{Name: "x", VolumeSource: corev1.VolumeSource{
			HostPath: &corev1.HostPathVolumeSource{Path: "../x"},
		}}}
	})
	waitCondition(t, ss, v1alpha1.ConditionStalled, metav1.ConditionTrue, "api: the API server refuses it")
	waitCondition(t, ss, v1alpha1.ConditionStalled, metav1.ConditionTrue, "must not contain '..'")
}

// remove deletes a ShopSet and waits until it and its children are gone.
func remove(t *testing.T, ss *v1alpha1.ShopSet) {
	t.Helper()
	if err := cluster.admin.Delete(t.Context(), ss); client.IgnoreNotFound(err) != nil {
		t.Fatal(err)
	}
	eventually(t, func() error {
		if err := get(t, &v1alpha1.ShopSet{}, ss.Namespace, ss.Name); !apierrors.IsNotFound(err) {
			return fmt.Errorf("still there: %v", err)
		}
		return nil
	})
	if left := children(t, ss.Namespace); len(left) > 0 {
		t.Fatalf("left over: %v", left)
	}
}

// children lists everything that bears the operator's label in a namespace.
func children(t *testing.T, namespace string) []string {
	t.Helper()
	var names []string
	for _, list := range childLists() {
		if err := cluster.admin.List(t.Context(), list, client.InNamespace(namespace), client.HasLabels{cell.LabelShopSet}); err != nil {
			t.Fatal(err)
		}
		names = append(names, namesOf(t, list)...)
	}
	return names
}

func childLists() []client.ObjectList {
	return []client.ObjectList{
		&appsv1.DeploymentList{}, &corev1.ServiceList{}, &corev1.ConfigMapList{}, &policyv1.PodDisruptionBudgetList{},
		&networkingv1.NetworkPolicyList{}, &autoscalingv2.HorizontalPodAutoscalerList{}, &appsv1.ControllerRevisionList{},
	}
}
