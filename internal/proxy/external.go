package proxy

import (
	"context"
	"log/slog"
	"net/url"
	"sync"
	"sync/atomic"
	"time"
)

// externals are the sites that domain records name as the upstream of all their requests. Each is a role of its own,
// made when it is first asked for.
type externals struct {
	config  Role // what all of them have in common
	metrics *metrics

	mu    sync.Mutex
	roles map[string]*externalRole
	uses  uint64
}

type externalRole struct {
	role *role
	used uint64
}

// maxExternals bounds how many are kept; the one that was not used for longest goes.
const maxExternals = 1000

// externalRoleName is the role's name in metrics and logs: records must not make labels.
const externalRoleName = "external"

func newExternals(m *metrics) *externals {
	config := Role{}
	config.fill()
	config.IdleConnections = 16
	return &externals{config: config, metrics: m, roles: map[string]*externalRole{}}
}

// role returns that of a site; nil if its URL cannot be used.
func (x *externals) role(site string) *role {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.uses++
	if known := x.roles[site]; known != nil {
		known.used = x.uses
		return known.role
	}
	base, err := url.Parse(site)
	if err != nil || base.Host == "" || base.Scheme != "https" && base.Scheme != "http" {
		slog.Warn("a domain's upstream is no URL", "upstream", site)
		return nil
	}
	config := x.config
	config.Upstreams = []Upstream{{URL: site}}
	config.fill()
	target, err := newUpstream(&config, config.Upstreams[0], false)
	if err != nil {
		slog.Warn("a domain's upstream cannot be used", "upstream", site, "error", err)
		return nil
	}
	made := &role{name: externalRoleName, config: config, upstreams: []*upstream{target}, weights: 1,
		retried: x.metrics.retries.WithLabelValues(externalRoleName).Inc,
		active:  &atomic.Int64{}, budget: &budget{percent: int64(*config.Retries)}, breaker: &breaker{}}
	x.forget()
	x.roles[site] = &externalRole{made, x.uses}
	return made
}

func (x *externals) forget() {
	if len(x.roles) < maxExternals {
		return
	}
	oldest := ""
	for site, r := range x.roles {
		if oldest == "" || r.used < x.roles[oldest].used {
			oldest = site
		}
	}
	x.roles[oldest].role.close()
	delete(x.roles, oldest)
}

// externalSweep is how often idle connections are looked at.
const externalSweep = 5 * time.Second

// run closes connections that were idle for too long, until the context ends.
func (x *externals) run(ctx context.Context, every time.Duration) {
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		var all []*direct
		x.mu.Lock()
		for _, r := range x.roles {
			if d := r.role.upstreams[0].direct; d != nil {
				all = append(all, d)
			}
		}
		x.mu.Unlock()
		for _, d := range all {
			d.sweep()
		}
	}
}

func (x *externals) close() {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, r := range x.roles {
		r.role.close()
	}
}
