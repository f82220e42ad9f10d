package proxy

import (
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// checked is an upstream of four endpoints whose checks fail while sick says so.
func checked(t *testing.T, sick *atomic.Bool) (*upstream, []*endpoint) {
	t.Helper()
	shop := origin(t, func(w http.ResponseWriter, _ *http.Request) {
		if sick.Load() {
			w.WriteHeader(http.StatusInternalServerError)
		}
	})
	config := Role{URL: shop.URL, Health: Health{Path: "/health", Failures: 3, Timeout: testPatience}}
	config.fill()
	u, err := newUpstream(&config, config.targets()[0], true)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(u.close)
	endpoints := make([]*endpoint, 4)
	for i := range endpoints {
		endpoints[i] = &endpoint{address: strings.TrimPrefix(shop.URL, "http://")}
	}
	u.endpoints.Store(&endpoints)
	return u, endpoints
}

// TestChecksAndRequestsCountApart: neither makes the other one's failures forgotten.
func TestChecksAndRequestsCountApart(t *testing.T) {
	var sick atomic.Bool
	u, endpoints := checked(t, &sick)
	one := endpoints[0]
	for range 3 {
		u.judge(one, true)
		u.checkAll(t.Context()) // Well, while requests fail.
	}
	if one.well(time.Now().UnixNano()) || one.sick.Load() {
		t.Error("an endpoint whose requests fail stays in because it passes its checks")
	}
	two := endpoints[1]
	sick.Store(true)
	for range 2 {
		u.checkAll(t.Context())
		u.judge(two, true)
		u.judge(two, false)
	}
	if two.sick.Load() {
		t.Error("two checks and requests together are no three checks")
	}
	u.checkAll(t.Context())
	if !two.sick.Load() {
		t.Error("an endpoint that fails its checks stays in because requests went well")
	}
	sick.Store(false)
	u.checkAll(t.Context())
	if two.sick.Load() {
		t.Error("an endpoint that passes stays out")
	}
}

// TestTheFloorIsForRequests: who fails the checks is out whatever the floor is, and it does not keep others in or out.
func TestTheFloorIsForRequests(t *testing.T) {
	u, endpoints := checked(t, &atomic.Bool{})
	asked := func() map[*endpoint]bool {
		all := map[*endpoint]bool{}
		for range 500 {
			all[u.pick(nil)] = true
		}
		return all
	}
	for _, e := range endpoints[:2] {
		e.sick.Store(true)
	}
	for range 3 {
		u.judge(endpoints[2], true)
	}
	if got := asked(); len(got) != 1 || !got[endpoints[3]] {
		t.Errorf("%d are asked, want the one that is well", len(got))
	}
	for range 3 {
		u.judge(endpoints[3], true)
	}
	if got := asked(); len(got) != 1 || !got[endpoints[3]] {
		t.Errorf("%d are asked, want the one that the floor keeps", len(got))
	}
	endpoints[3].sick.Store(true)
	if got := asked(); len(got) != 1 || !got[endpoints[2]] {
		t.Errorf("%d are asked, want the only one that passes its checks", len(got))
	}
	endpoints[2].sick.Store(true)
	if got := asked(); len(got) != 4 {
		t.Errorf("with all sick %d are asked, want all", len(got))
	}
}

// TestActiveHealth: an endpoint that fails its checks gets nothing until it is well.
func TestActiveHealth(t *testing.T) {
	var sick atomic.Bool
	shop := origin(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/health" && sick.Load() {
			w.WriteHeader(http.StatusInternalServerError)
		}
	})
	config := Role{URL: shop.URL, Health: Health{Path: "/health", Interval: time.Millisecond, Failures: 2}}
	config.fill()
	u, err := newUpstream(&config, config.targets()[0], true)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { defer close(done); u.run(t.Context(), time.Time{}) }()
	t.Cleanup(func() { <-done })
	endpoint := (*u.endpoints.Load())[0]
	sick.Store(true)
	eventually(t, "it is sick", endpoint.sick.Load)
	sick.Store(false)
	eventually(t, "it is well", func() bool { return !endpoint.sick.Load() })
}
