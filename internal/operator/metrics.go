package operator

import (
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/types"

	"github.com/shopset/shopset/api/v1alpha1"
)

// Metrics of the operator. A nil *Metrics counts nothing. Controller-runtime adds those of the queue,
// the reconciler and the client.
type Metrics struct {
	applies  *prometheus.CounterVec
	shopSets *prometheus.GaugeVec

	mu     sync.Mutex
	states map[types.NamespacedName]string
}

// States of a ShopSet in shopset_operator_shopsets.
const (
	stateReady       = "ready"
	stateReconciling = "reconciling"
	stateStalled     = "stalled"
)

// NewMetrics registers the metrics.
func NewMetrics(registry prometheus.Registerer) *Metrics {
	m := &Metrics{
		applies: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "shopset_operator_applies_total",
			Help: "Objects that the operator applied, by kind and by whether they were created or changed.",
		}, []string{"kind", "what"}),
		shopSets: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "shopset_operator_shopsets",
			Help: "ShopSets by state: ready, reconciling or stalled.",
		}, []string{"state"}),
		states: map[types.NamespacedName]string{},
	}
	for _, state := range []string{stateReady, stateReconciling, stateStalled} {
		m.shopSets.WithLabelValues(state).Set(0)
	}
	registry.MustRegister(m.applies, m.shopSets)
	return m
}

func (m *Metrics) applied(kind string, existed bool) {
	if m == nil {
		return
	}
	what := "created"
	if existed {
		what = "changed"
	}
	m.applies.WithLabelValues(kind, what).Inc()
}

func (m *Metrics) observe(ss *v1alpha1.ShopSet) {
	if m == nil {
		return
	}
	state := stateReconciling
	switch conditions := ss.Status.Conditions; {
	case meta.IsStatusConditionTrue(conditions, v1alpha1.ConditionReady):
		state = stateReady
	case meta.IsStatusConditionTrue(conditions, v1alpha1.ConditionStalled):
		state = stateStalled
	}
	m.move(types.NamespacedName{Namespace: ss.Namespace, Name: ss.Name}, state)
}

func (m *Metrics) forget(name types.NamespacedName) {
	if m != nil {
		m.move(name, "")
	}
}

// move counts a ShopSet in its new state; an empty state is none.
func (m *Metrics) move(name types.NamespacedName, state string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if old := m.states[name]; old != "" {
		m.shopSets.WithLabelValues(old).Dec()
	}
	delete(m.states, name)
	if state != "" {
		m.shopSets.WithLabelValues(state).Inc()
		m.states[name] = state
	}
}
