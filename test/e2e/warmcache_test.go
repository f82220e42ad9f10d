package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/shopset/shopset/api/v1alpha1"
	"github.com/shopset/shopset/examples/platform/buyer"
)

// TestWarmCache: what a Pod compiled is saved beside it, and the Pod after it has it from its first request on. The status
// says so.
func TestWarmCache(t *testing.T) {
	t.Parallel()
	ss := warmSample(t, newNamespace(t))
	shop := &ss.Spec.Components[1]
	shop.Replicas = new(int32(1))
	shop.WarmCache.Source.Compatibility = ss.Namespace // Nobody else's caches.
	shop.WarmCache.Save.Every = &metav1.Duration{Duration: time.Second}
	if err := target.Client.Create(t.Context(), ss); err != nil {
		t.Fatal(err)
	}
	ss = waitReady(t, ss)
	bought := shops(3)
	buyFrom(t, ss, bought)
	first := shopPod(t, ss)
	if n := compiled(t, first); n != "3" {
		t.Errorf("the first Pod compiled %s themes, want 3", n)
	}
	waitSaved(t, first, shop.WarmCache, len(bought))

	if err := target.Client.Delete(t.Context(), &first); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error {
		if err := target.Client.Get(t.Context(), client.ObjectKeyFromObject(ss), ss); err != nil {
			return err
		}
		if warm := warmth(ss, "shop"); !strings.HasPrefix(warm, "3 shops, 100 % of traffic, ") {
			return fmt.Errorf("the status says %q of what was restored", warm)
		}
		return nil
	})
	ss = waitReady(t, ss)
	buyFrom(t, ss, bought)
	if second := shopPod(t, ss); second.Name == first.Name {
		t.Error("the Pod is still the first one")
	} else if n := compiled(t, second); n != "0" {
		t.Errorf("the Pod with a restored cache compiled %s themes, and says:\n%s\nwhat was restored:\n%s", n, grep(metricsOf(t, second), "cache"),
			kubectl(t, "logs", "-n", second.Namespace, second.Name, "--all-containers", "--prefix"))
	}
}

// waitSaved waits until the snapshots have all that the Pod has, also what is too young for the sidecar: whoever saved now would
// find nothing to save.
func waitSaved(t *testing.T, pod corev1.Pod, warm *v1alpha1.WarmCache, shops int) {
	t.Helper()
	eventually(t, func() error {
		log := kubectl(t, "exec", "-n", pod.Namespace, pod.Name, "-c", "shopset-save", "--",
			"shopset-cache", "save", "--dry-run", "--settle", "20ms", "--folder", warm.Path,
			"--compat", warm.Source.Compatibility, "--storage", warm.Source.Storage)
		if !strings.Contains(log, fmt.Sprintf(`"unchanged":%d,`, shops)) {
			return fmt.Errorf("not everything is saved:\n%s", log)
		}
		return nil
	})
}

func buyFrom(t *testing.T, ss *v1alpha1.ShopSet, shops []string) {
	t.Helper()
	options := buyerOptions(t, ss)
	options.Retries = 20 // The only Pod was just another one.
	for _, options.Shop = range shops {
		if _, err := buyer.Buy(t.Context(), options); err != nil {
			t.Fatal(err)
		}
	}
}

func warmth(ss *v1alpha1.ShopSet, component string) string {
	for _, c := range ss.Status.Components {
		if c.Name == component {
			return c.Warm
		}
	}
	return ""
}

func shopPod(t *testing.T, ss *v1alpha1.ShopSet) corev1.Pod {
	t.Helper()
	alive := pods(t, ss, "shop")
	if len(alive) != 1 {
		t.Fatalf("shop has %d Pods, want 1", len(alive))
	}
	return alive[0]
}

// compiled is how many themes a Pod compiled.
func compiled(t *testing.T, pod corev1.Pod) string {
	t.Helper()
	for line := range strings.Lines(metricsOf(t, pod)) {
		if value, ok := strings.CutPrefix(line, "shopset_shop_compile_seconds_count "); ok {
			return strings.TrimSpace(value)
		}
	}
	t.Fatalf("Pod %s tells nothing of compiled themes", pod.Name)
	return ""
}

func metricsOf(t *testing.T, pod corev1.Pod) string {
	t.Helper()
	return kubectl(t, "get", "--raw", "/api/v1/namespaces/"+pod.Namespace+"/pods/"+pod.Name+":9090/proxy/metrics")
}

func grep(text, word string) string {
	var found strings.Builder
	for line := range strings.Lines(text) {
		if strings.Contains(line, word) && !strings.HasPrefix(line, "#") {
			found.WriteString(line)
		}
	}
	return found.String()
}
