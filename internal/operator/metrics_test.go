package operator_test

import (
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/shopset/shopset/api/v1alpha1"
	"github.com/shopset/shopset/internal/operator"
)

// TestMetrics: each ShopSet counts once, in its present state, and no longer when it is gone.
func TestMetrics(t *testing.T) {
	registry := prometheus.NewRegistry()
	metrics := operator.NewMetrics(registry)
	namespace := newNamespace(t)
	startOperatorWith(t, operator.Options{Namespace: namespace, Connections: &connections{}, Metrics: metrics})
	expect := func(ready, reconciling, stalled string) {
		t.Helper()
		eventually(t, func() error {
			return testutil.GatherAndCompare(registry, strings.NewReader(`
# HELP shopset_operator_shopsets ShopSets by state: ready, reconciling or stalled.
# TYPE shopset_operator_shopsets gauge
shopset_operator_shopsets{state="ready"} `+ready+`
shopset_operator_shopsets{state="reconciling"} `+reconciling+`
shopset_operator_shopsets{state="stalled"} `+stalled+`
`), "shopset_operator_shopsets")
		})
	}
	expect("0", "0", "0")
	ss := sample(t, namespace, "a")
	create(t, ss)
	expect("0", "1", "0")
	rollOutAll(t, ss)
	expect("1", "0", "0")
	change(t, ss, func(s *v1alpha1.ShopSet) { s.Spec.Components[2].Uses = []string{"proxy"} })
	waitCondition(t, ss, v1alpha1.ConditionStalled, metav1.ConditionTrue, "circle")
	expect("0", "0", "1")
	remove(t, ss)
	expect("0", "0", "0")
}
