package operator

import (
	"maps"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/shopset/shopset/internal/placement"
)

// fleetMemory saves calls and computing; losing it costs these, nothing else.
type fleetMemory struct {
	memory

	mu sync.Mutex
	// uids are those of the fleets that something is remembered of.
	uids map[types.NamespacedName]types.UID
	// written are the ConfigMaps as the operator wrote them last.
	written map[writtenKey]writtenConfigMap
	rings   map[types.UID]knownRing
	shares  map[types.UID]knownShares
}

type writtenKey struct {
	fleet types.UID
	name  string
}

type writtenConfigMap struct {
	// before is the version that it was written over, empty for none.
	before string
	after  *corev1.ConfigMap
	at     time.Time
}

type knownRing struct {
	ring *keyring
	at   time.Time
}

type knownShares struct {
	config string
	shares placement.Shares
}

func (m *fleetMemory) noteConfigMap(fleet types.UID, before, after *corev1.ConfigMap, now time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.written == nil {
		m.written = map[writtenKey]writtenConfigMap{}
	}
	version := ""
	if before != nil {
		version = before.ResourceVersion
	}
	m.written[writtenKey{fleet, after.Name}] = writtenConfigMap{before: version, after: after, at: now}
}

// latest is the ConfigMap that was written last, while the cache still shows the one before; otherwise the cache's.
func (m *fleetMemory) latest(fleet types.UID, name string, cached *corev1.ConfigMap, now time.Time) *corev1.ConfigMap {
	m.mu.Lock()
	defer m.mu.Unlock()
	key := writtenKey{fleet, name}
	last, known := m.written[key]
	if !known {
		return cached
	}
	version := ""
	if cached != nil {
		version = cached.ResourceVersion
	}
	if version == last.before && now.Sub(last.at) < cacheLag {
		return last.after
	}
	delete(m.written, key)
	return cached
}

// ring is nil if the keys should be read again.
func (m *fleetMemory) ring(fleet types.UID, now time.Time) *keyring {
	m.mu.Lock()
	defer m.mu.Unlock()
	if known, found := m.rings[fleet]; found && now.Sub(known.at) < keyRetry {
		return known.ring
	}
	return nil
}

func (m *fleetMemory) noteRing(fleet types.UID, ring *keyring, now time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.rings == nil {
		m.rings = map[types.UID]knownRing{}
	}
	m.rings[fleet] = knownRing{ring, now}
}

// sharesOf computes the shares of a placement, which may take a sample of hosts, once.
func (m *fleetMemory) sharesOf(fleet types.UID, config string, compute func() placement.Shares) placement.Shares {
	m.mu.Lock()
	defer m.mu.Unlock()
	if known, found := m.shares[fleet]; found && known.config == config {
		return known.shares
	}
	if m.shares == nil {
		m.shares = map[types.UID]knownShares{}
	}
	m.shares[fleet] = knownShares{config, compute()}
	return m.shares[fleet].shares
}

// known notes who has the name. What is remembered of a fleet that had it before goes.
func (m *fleetMemory) known(f client.Object) {
	name := client.ObjectKeyFromObject(f)
	m.mu.Lock()
	before := m.uids[name]
	if m.uids == nil {
		m.uids = map[types.NamespacedName]types.UID{}
	}
	m.uids[name] = f.GetUID()
	m.mu.Unlock()
	if before != "" && before != f.GetUID() {
		m.forget(before)
	}
}

// forgetName is for a fleet that is gone: without a finalizer, nobody sees it go.
func (m *fleetMemory) forgetName(name types.NamespacedName) {
	m.mu.Lock()
	uid := m.uids[name]
	delete(m.uids, name)
	m.mu.Unlock()
	m.forget(uid)
}

func (m *fleetMemory) forget(fleet types.UID) {
	m.memory.forget(fleet)
	m.mu.Lock()
	defer m.mu.Unlock()
	maps.DeleteFunc(m.written, func(key writtenKey, _ writtenConfigMap) bool { return key.fleet == fleet })
	delete(m.rings, fleet)
	delete(m.shares, fleet)
}
