package operator

import (
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/shopset/shopset/api/v1alpha1"
)

// Metrics of the operator. A nil *Metrics counts nothing. Controller-runtime adds those of the queue,
// the reconciler and the client.
type Metrics struct {
	applies  *prometheus.CounterVec
	shopSets *prometheus.GaugeVec
	fleets   *prometheus.GaugeVec
	version  *prometheus.GaugeVec
	tables   prometheus.Counter

	mu     sync.Mutex
	states map[member]string
}

// member is one ShopSet or Fleet, counted in the gauge of its kind.
type member struct {
	gauge *prometheus.GaugeVec
	types.NamespacedName
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
		fleets: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "shopset_operator_fleets",
			Help: "Fleets by state: ready, reconciling or stalled.",
		}, []string{"state"}),
		version: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "shopset_operator_table_version",
			Help: "Version of the routing table that was published last, by fleet.",
		}, []string{"namespace", "fleet"}),
		tables: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "shopset_operator_tables_published_total",
			Help: "Routing tables published.",
		}),
		states: map[member]string{},
	}
	for _, state := range []string{stateReady, stateReconciling, stateStalled} {
		m.shopSets.WithLabelValues(state).Set(0)
		m.fleets.WithLabelValues(state).Set(0)
	}
	registry.MustRegister(m.applies, m.shopSets, m.fleets, m.version, m.tables)
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
	if m != nil {
		m.move(member{m.shopSets, types.NamespacedName{Namespace: ss.Namespace, Name: ss.Name}}, stateOf(ss.Status.Conditions))
	}
}

func stateOf(conditions []metav1.Condition) string {
	switch {
	case meta.IsStatusConditionTrue(conditions, v1alpha1.ConditionReady):
		return stateReady
	case meta.IsStatusConditionTrue(conditions, v1alpha1.ConditionStalled):
		return stateStalled
	default:
		return stateReconciling
	}
}

func (m *Metrics) forget(name types.NamespacedName) {
	if m != nil {
		m.move(member{m.shopSets, name}, "")
	}
}

func (m *Metrics) observeFleet(fleet *v1alpha1.Fleet) {
	if m == nil {
		return
	}
	m.move(member{m.fleets, types.NamespacedName{Namespace: fleet.Namespace, Name: fleet.Name}}, stateOf(fleet.Status.Conditions))
	if table := fleet.Status.Table; table != nil {
		m.version.WithLabelValues(fleet.Namespace, fleet.Name).Set(float64(table.Version))
	}
}

func (m *Metrics) published() {
	if m != nil {
		m.tables.Inc()
	}
}

func (m *Metrics) forgetFleet(name types.NamespacedName) {
	if m != nil {
		m.move(member{m.fleets, name}, "")
		m.version.DeleteLabelValues(name.Namespace, name.Name)
	}
}

// move counts a ShopSet or a Fleet in its new state; an empty state is none.
func (m *Metrics) move(who member, state string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if old := m.states[who]; old != "" {
		who.gauge.WithLabelValues(old).Dec()
	}
	delete(m.states, who)
	if state != "" {
		who.gauge.WithLabelValues(state).Inc()
		m.states[who] = state
	}
}
