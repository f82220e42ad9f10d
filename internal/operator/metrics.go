package operator

import (
	"sync"
	"time"

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
	epoch    *prometheus.GaugeVec
	tables   prometheus.Counter

	unready *prometheus.Desc

	mu     sync.Mutex
	states map[member]string
	// since is when those that are reconciling were ready last.
	since map[member]time.Time
}

// member is one ShopSet or Fleet, counted in the gauge of its kind.
type member struct {
	kind  string
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
		epoch: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "shopset_operator_table_epoch",
			Help: "Epoch of the routing table that was published last, by fleet.",
		}, []string{"namespace", "fleet"}),
		unready: prometheus.NewDesc("shopset_operator_unready_since_timestamp_seconds",
			"Since when the ShopSet, and the Fleet, that has been reconciling for longest has not been ready. No series if there is none.",
			[]string{"kind", "namespace", "name"}, nil),
		states: map[member]string{}, since: map[member]time.Time{},
	}
	for _, state := range []string{stateReady, stateReconciling, stateStalled} {
		m.shopSets.WithLabelValues(state).Set(0)
		m.fleets.WithLabelValues(state).Set(0)
	}
	registry.MustRegister(m.applies, m.shopSets, m.fleets, m.version, m.epoch, m.tables, unreadyCollector{m})
	return m
}

// unreadyCollector tells only of the longest, so that there is one series of a kind and not one of each ShopSet.
type unreadyCollector struct{ m *Metrics }

func (c unreadyCollector) Describe(ch chan<- *prometheus.Desc) { ch <- c.m.unready }

func (c unreadyCollector) Collect(ch chan<- prometheus.Metric) {
	c.m.mu.Lock()
	defer c.m.mu.Unlock()
	longest := map[string]member{}
	for who, since := range c.m.since {
		other, found := longest[who.kind]
		if !found || since.Before(c.m.since[other]) || since.Equal(c.m.since[other]) && who.String() < other.String() {
			longest[who.kind] = who
		}
	}
	for kind, who := range longest {
		ch <- prometheus.MustNewConstMetric(c.m.unready, prometheus.GaugeValue, float64(c.m.since[who].Unix()), kind, who.Namespace, who.Name)
	}
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
		m.move(m.shopSet(types.NamespacedName{Namespace: ss.Namespace, Name: ss.Name}), ss.Status.Conditions)
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
		m.move(m.shopSet(name), nil)
	}
}

func (m *Metrics) observeFleet(fleet *v1alpha1.Fleet) {
	if m == nil {
		return
	}
	m.move(m.fleet(types.NamespacedName{Namespace: fleet.Namespace, Name: fleet.Name}), fleet.Status.Conditions)
	if table := fleet.Status.Table; table != nil {
		m.epoch.WithLabelValues(fleet.Namespace, fleet.Name).Set(float64(table.Epoch))
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
		m.move(m.fleet(name), nil)
		m.epoch.DeleteLabelValues(name.Namespace, name.Name)
		m.version.DeleteLabelValues(name.Namespace, name.Name)
	}
}

func (m *Metrics) shopSet(name types.NamespacedName) member {
	return member{"ShopSet", m.shopSets, name}
}

func (m *Metrics) fleet(name types.NamespacedName) member { return member{"Fleet", m.fleets, name} }

// move counts a ShopSet or a Fleet in its new state; one without conditions is gone.
func (m *Metrics) move(who member, conditions []metav1.Condition) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if old := m.states[who]; old != "" {
		who.gauge.WithLabelValues(old).Dec()
	}
	delete(m.states, who)
	delete(m.since, who)
	if len(conditions) == 0 {
		return
	}
	state := stateOf(conditions)
	who.gauge.WithLabelValues(state).Inc()
	m.states[who] = state
	if ready := meta.FindStatusCondition(conditions, v1alpha1.ConditionReady); ready != nil && state == stateReconciling {
		m.since[who] = ready.LastTransitionTime.Time
	}
}
