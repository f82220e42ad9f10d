package e2e

import (
	"fmt"
	"strconv"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/shopset/shopset/api/v1alpha1"
	"github.com/shopset/shopset/examples/platform/buyer"
)

// TestPurchase buys over HTTPS with a cookie jar, as a browser does, and looks for the order where it
// must be: in PostgreSQL, once.
func TestPurchase(t *testing.T) {
	ss := started(t)
	options := buyerOptions(t, ss)
	before := orders(t)
	for _, shop := range shops(3) {
		options.Shop = shop
		receipt, err := buyer.Buy(t.Context(), options)
		if err != nil {
			t.Fatal(err)
		}
		got := sql(t, fmt.Sprintf("SELECT total_cents FROM orders WHERE id = '%s'", receipt.Order))
		if want := strconv.FormatInt(receipt.TotalCents, 10); got != want {
			t.Errorf("order %s has a total of %q cents in the database, the receipt says %s", receipt.Order, got, want)
		}
	}
	if after := orders(t); after != before+3 {
		t.Errorf("3 purchases made %d orders", after-before)
	}
}

func orders(t *testing.T) int {
	t.Helper()
	n, err := strconv.Atoi(sql(t, "SELECT count(*) FROM orders"))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// checkOrders compares what people were told with what is in the database: nothing lost, nothing twice.
func checkOrders(t *testing.T, report buyer.Report, lost, before int) {
	t.Helper()
	var told []string
	for _, shop := range report.Shops {
		told = append(told, shop.Orders...)
	}
	found := sql(t, "SELECT count(*) FROM orders WHERE id IN ('"+strings.Join(told, "','")+"')")
	if found != strconv.Itoa(len(told)) {
		t.Errorf("%d orders were confirmed, the database has %s of them", len(told), found)
	}
	if made := orders(t) - before; made < report.Bought || made > report.Bought+report.Failed+lost {
		t.Errorf("%d purchases (%d more failed) made %d orders", report.Bought, report.Failed+lost, made)
	}
	t.Log(report)
}

// TestPodsDieUnderTraffic kills a Pod of each component without warning while people buy. A browser
// that asks again is always served, and asking again never buys twice.
func TestPodsDieUnderTraffic(t *testing.T) {
	ss := started(t)
	options := buyerOptions(t, ss)
	options.Retries = 20
	before := orders(t)
	people := startLoad(t, options)
	for _, component := range ss.Spec.Components {
		victim := pods(t, ss, component.Name)[0]
		if err := target.Client.Delete(t.Context(), &victim, client.GracePeriodSeconds(0)); err != nil {
			t.Fatal(err)
		}
		waitReady(t, ss)
		eventually(t, func() error {
			if n := len(pods(t, ss, component.Name)); n != 2 {
				return fmt.Errorf("%s has %d Pods", component.Name, n)
			}
			return nil
		})
		waitReady(t, ss)
		people.more(t)
	}
	report := people.stop()
	if err := report.Err(); err != nil {
		t.Error(err)
	}
	checkOrders(t, report, people.lost, before)
}

// TestChangeUnderTraffic changes every component while people buy, who do not even have to ask again.
func TestChangeUnderTraffic(t *testing.T) {
	ss := started(t)
	before := orders(t)
	people := startLoad(t, buyerOptions(t, ss))
	change(t, ss, func(s *v1alpha1.ShopSet) {
		if s.Spec.Values == nil {
			s.Spec.Values = map[string]v1alpha1.Value{}
		}
		s.Spec.Values["RELEASE"] = "2"
	})
	waitReady(t, ss)
	report := people.stop()
	if err := report.Err(); err != nil {
		t.Error(err)
	}
	checkOrders(t, report, people.lost, before)
	for _, component := range ss.Spec.Components {
		for _, pod := range pods(t, ss, component.Name) {
			if !hasValue(pod, component.Name, "RELEASE", "2") {
				t.Errorf("Pod %s is not of the new revision", pod.Name)
			}
		}
	}
}

// TestPortChangeUnderTraffic moves api to another port while people buy: those who still know the earlier
// one get there until they know the new one.
func TestPortChangeUnderTraffic(t *testing.T) {
	ss := started(t)
	before := orders(t)
	people := startLoad(t, buyerOptions(t, ss))
	change(t, ss, func(s *v1alpha1.ShopSet) {
		api := &s.Spec.Components[3]
		api.Ports[0].Port = 8181
		api.Env = append(api.Env, corev1.EnvVar{Name: "LISTEN", Value: ":8181"})
	})
	waitReady(t, ss)
	report := people.stop()
	if err := report.Err(); err != nil {
		t.Error(err)
	}
	checkOrders(t, report, people.lost, before)
	service := &corev1.Service{}
	eventually(t, func() error {
		if err := target.Client.Get(t.Context(), client.ObjectKey{Namespace: ss.Namespace, Name: "a-api"}, service); err != nil {
			return err
		}
		if len(service.Spec.Ports) != 1 || service.Spec.Ports[0].Port != 8181 {
			return fmt.Errorf("the Service still has %v", service.Spec.Ports)
		}
		return nil
	})
}

func hasValue(pod corev1.Pod, container, name, value string) bool {
	for _, c := range pod.Spec.Containers {
		for _, env := range c.Env {
			if c.Name == container && env.Name == name {
				return env.Value == value
			}
		}
	}
	return false
}

// TestBrokenImage: the others serve on, the earlier Pods of the broken component too, and the status
// names the culprit; the mended spec heals it.
func TestBrokenImage(t *testing.T) {
	ss := started(t)
	people := startLoad(t, buyerOptions(t, ss))
	var good string
	change(t, ss, func(s *v1alpha1.ShopSet) {
		good = s.Spec.Components[1].Image
		s.Spec.Components[1].Image = "localhost/platform-shop:no-such-tag"
	})
	eventually(t, func() error {
		if err := target.Client.Get(t.Context(), client.ObjectKeyFromObject(ss), ss); err != nil {
			return err
		}
		text := message(ss)
		for _, want := range []string{"shop: Pod a-shop-", "image localhost/platform-shop:no-such-tag cannot be pulled", "2 Pods serve meanwhile"} {
			if !strings.Contains(text, want) {
				return fmt.Errorf("the status says %q, not %q", text, want)
			}
		}
		return nil
	})
	if ss.Status.Summary != "3/4" || meta.IsStatusConditionTrue(ss.Status.Conditions, v1alpha1.ConditionReady) {
		t.Errorf("summary %s, conditions %v", ss.Status.Summary, ss.Status.Conditions)
	}
	table := kubectl(t, "get", "shopset", "-n", ss.Namespace)
	for _, want := range []string{"READY", "False", "3/4", "image localhost/platform-shop:no-such-tag cannot be pulled"} {
		if !strings.Contains(table, want) {
			t.Errorf("kubectl get shopset does not show %q:\n%s", want, table)
		}
	}
	change(t, ss, func(s *v1alpha1.ShopSet) { s.Spec.Components[1].Image = good })
	waitReady(t, ss)
	if err := people.stop().Err(); err != nil {
		t.Error(err)
	}
}

// TestReasons breaks one component in each way that people know from nights on call, and reads what
// the ShopSet says about it.
func TestReasons(t *testing.T) {
	t.Parallel()
	ss := started(t)
	for _, test := range []struct {
		name   string
		breaks func(*v1alpha1.Component)
		want   []string
	}{
		{"crash with the last line of the log",
			func(c *v1alpha1.Component) {
				c.Env = append(c.Env, corev1.EnvVar{Name: "REQUEST_TIMEOUT", Value: "soon"})
			},
			[]string{"cart: Pod a-cart-", "container cart", "ended with code 1", "REQUEST_TIMEOUT"}},
		{"missing secret",
			func(c *v1alpha1.Component) {
				c.EnvFrom = []corev1.EnvFromSource{{SecretRef: &corev1.SecretEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: "nowhere"}}}}
			},
			[]string{`secret "nowhere" not found`}},
		{"failing readiness probe",
			func(c *v1alpha1.Component) { c.Health.ReadyPath = "/no-such-page" },
			[]string{"Readiness probe failed: HTTP probe failed with statuscode: 404"}},
		{"no node",
			func(c *v1alpha1.Component) { c.NodeSelector = map[string]string{"moon": "yes"} },
			[]string{"no node takes it", "didn't match Pod's node affinity/selector"}},
		{"missing volume",
			func(c *v1alpha1.Component) {
				c.Volumes = []corev1.Volume{{Name: "x", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{
					LocalObjectReference: corev1.LocalObjectReference{Name: "gone"}}}}}
				c.VolumeMounts = []corev1.VolumeMount{{Name: "x", MountPath: "/x"}}
			},
			[]string{`configmap "gone" not found`}},
	} {
		t.Run(test.name, func(t *testing.T) {
			healthy := ss.Spec.DeepCopy()
			change(t, ss, func(s *v1alpha1.ShopSet) { test.breaks(&s.Spec.Components[2]) })
			eventually(t, func() error {
				if err := target.Client.Get(t.Context(), client.ObjectKeyFromObject(ss), ss); err != nil {
					return err
				}
				for _, want := range test.want {
					if !strings.Contains(message(ss), want) {
						return fmt.Errorf("the status says %q, not %q", message(ss), want)
					}
				}
				return nil
			})
			change(t, ss, func(s *v1alpha1.ShopSet) { s.Spec = *healthy })
			waitReady(t, ss)
		})
	}
}

// TestQuota: a quota that leaves no room is named.
func TestQuota(t *testing.T) {
	t.Parallel()
	namespace := newNamespace(t)
	quota := &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "small"},
		Spec: corev1.ResourceQuotaSpec{Hard: corev1.ResourceList{corev1.ResourcePods: *quantity("3")}}}
	if err := target.Client.Create(t.Context(), quota); err != nil {
		t.Fatal(err)
	}
	ss := sample(t, namespace)
	if err := target.Client.Create(t.Context(), ss); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error {
		if err := target.Client.Get(t.Context(), client.ObjectKeyFromObject(ss), ss); err != nil {
			return err
		}
		if !strings.Contains(message(ss), "exceeded quota: small") {
			return fmt.Errorf("the status says %q", message(ss))
		}
		return nil
	})
}
