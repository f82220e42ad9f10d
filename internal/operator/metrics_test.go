package operator_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"k8s.io/apimachinery/pkg/api/meta"
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
	// Of those that are on their way, the one that has been so for longest is told; of those that are there, none.
	waitCondition(t, ss, v1alpha1.ConditionReady, metav1.ConditionFalse, "")
	since := meta.FindStatusCondition(ss.Status.Conditions, v1alpha1.ConditionReady).LastTransitionTime.Unix()
	if err := testutil.GatherAndCompare(registry, strings.NewReader(fmt.Sprintf(`
# HELP shopset_operator_unready_since_timestamp_seconds Since when the ShopSet, and the Fleet, that has been reconciling for longest has not been ready. No series if there is none.
# TYPE shopset_operator_unready_since_timestamp_seconds gauge
shopset_operator_unready_since_timestamp_seconds{kind="ShopSet",name="a",namespace="%s"} %d
`, namespace, since)), "shopset_operator_unready_since_timestamp_seconds"); err != nil {
		t.Error(err)
	}
	rollOutAll(t, ss)
	expect("1", "0", "0")
	if n, err := testutil.GatherAndCount(registry, "shopset_operator_unready_since_timestamp_seconds"); err != nil || n != 0 {
		t.Errorf("%d are on their way: %v", n, err)
	}
	change(t, ss, func(s *v1alpha1.ShopSet) { s.Spec.Components[2].Uses = []string{"proxy"} })
	waitCondition(t, ss, v1alpha1.ConditionStalled, metav1.ConditionTrue, "circle")
	expect("0", "0", "1")
	remove(t, ss)
	expect("0", "0", "0")
}
