package operator

import (
	"maps"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// memory knows what was applied a moment ago, so that a cache that lags behind does not make the
// operator write twice, and an object that always comes back different (an admission webhook) is
// written once per version and not without end. Losing it costs calls, nothing else.
type memory struct {
	mu       sync.Mutex
	attempts map[types.UID]map[objectKey]attempt
	// superseded are the versions of ShopSets and Fleets that the operator wrote over, while the cache may still
	// show them.
	superseded map[types.UID][]string
	// asked are the warnings about Pods, by ShopSet and Pod.
	asked map[types.UID]map[types.UID]warnings
}

type warnings struct {
	at     time.Time
	events []corev1.Event
}

// warnings returns what was asked a moment ago; older answers are dropped.
func (m *memory) warnings(shopSet, pod types.UID, now time.Time) (events []corev1.Event, fresh bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	maps.DeleteFunc(m.asked[shopSet], func(_ types.UID, w warnings) bool { return now.Sub(w.at) >= askRetry })
	known, fresh := m.asked[shopSet][pod]
	return known.events, fresh
}

func (m *memory) noteWarnings(shopSet, pod types.UID, events []corev1.Event, now time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.asked == nil {
		m.asked = map[types.UID]map[types.UID]warnings{}
	}
	if m.asked[shopSet] == nil {
		m.asked[shopSet] = map[types.UID]warnings{}
	}
	m.asked[shopSet][pod] = warnings{at: now, events: events}
}

// wrote notes that a ShopSet or a Fleet has a new version.
func (m *memory) wrote(object client.Object, version string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.superseded == nil {
		m.superseded = map[types.UID][]string{}
	}
	if uid := object.GetUID(); version != object.GetResourceVersion() {
		m.superseded[uid] = append(m.superseded[uid], object.GetResourceVersion())
	}
	object.SetResourceVersion(version)
}

// outdated says whether the operator itself has written a later version of the object.
func (m *memory) outdated(object client.Object) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	uid := object.GetUID()
	if slices.Contains(m.superseded[uid], object.GetResourceVersion()) {
		return true
	}
	delete(m.superseded, uid)
	return false
}

type attempt struct {
	hash, before, after string
	at                  time.Time
}

// cacheLag is the longest time that the cache is thought to lag behind a write.
const cacheLag = 10 * time.Second

// applied says whether the object with this hash was applied over the version that the cache shows,
// or resulted in it.
func (m *memory) applied(uid types.UID, key objectKey, hash, version string, now time.Time) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	last, ok := m.attempts[uid][key]
	if !ok || last.hash != hash {
		return false
	}
	return version != "" && version == last.after || version == last.before && now.Sub(last.at) < cacheLag
}

func (m *memory) remember(uid types.UID, key objectKey, a attempt) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.attempts == nil {
		m.attempts = map[types.UID]map[objectKey]attempt{}
	}
	if m.attempts[uid] == nil {
		m.attempts[uid] = map[objectKey]attempt{}
	}
	m.attempts[uid][key] = a
}

func (m *memory) drop(uid types.UID, key objectKey) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.attempts[uid], key)
	if len(m.attempts[uid]) == 0 {
		delete(m.attempts, uid)
	}
}

func (m *memory) forget(uid types.UID) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.attempts, uid)
	delete(m.superseded, uid)
	delete(m.asked, uid)
}
