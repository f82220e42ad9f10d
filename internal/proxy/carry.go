package proxy

import (
	"context"
	"crypto/x509"
	"reflect"
	"time"

	"github.com/shopset/shopset/internal/certrecord"
)

// use has a pipeline serve from now on. The one before finishes what it has; what both have goes on.
func (p *Proxy) use(next *pipeline) {
	for _, role := range next.roles {
		for _, u := range role.upstreams {
			if u.stop == nil {
				ctx, cancel := context.WithCancel(p.ctx)
				u.stop = cancel
				p.beside.Go(func() { u.run(ctx, p.greeting.until) })
			}
		}
	}
	if before := p.current.Swap(next); before != nil {
		before.retire(next)
	}
}

// redisRest is how long a Redis stays open that is not for new requests.
const redisRest = 10 * time.Second

// retire ends what a pipeline runs beside requests, but for what the next one took over; nil is the end of all. Requests
// under way keep their connections.
func (p *pipeline) retire(next *pipeline) {
	kept := map[*upstream]bool{}
	if next != nil {
		for _, role := range next.roles {
			for _, u := range role.upstreams {
				kept[u] = true
			}
		}
	}
	for _, role := range p.roles {
		for _, u := range role.upstreams {
			if !kept[u] {
				u.close()
			}
		}
	}
	switch {
	case next == nil:
		p.redis.close()
	case next.redis != p.redis:
		time.AfterFunc(redisRest, p.redis.close)
	}
}

// kept is the role's own upstream if another one is just the same, else the other one.
func (r *role) kept(made *upstream) *upstream {
	if r == nil {
		return made
	}
	for _, u := range r.upstreams {
		if u.name == made.name && u.roots.Equal(made.roots) && reflect.DeepEqual(u.config, made.config) && reflect.DeepEqual(u.settings, made.settings) {
			return u
		}
	}
	return made
}

// carry takes over what is known of a role.
func (r *role) carry(before *role) {
	if before == nil {
		return
	}
	r.active = before.active
	if before.budget.percent == r.budget.percent {
		r.budget = before.budget
	}
	if before.breaker.percent == r.breaker.percent {
		r.breaker = before.breaker
	}
	if before.store != nil && reflect.DeepEqual(before.config.Store, r.config.Store) {
		r.store = before.store
	}
}

// sharedRedis is where limits are counted together.
type sharedRedis struct {
	*certrecord.Redis
	section  certrecord.RedisConfig
	password string
	roots    *x509.CertPool
}

// openRedis opens what a section names; before is the one in use, which stays if nothing changed. Both may be nil.
func openRedis(section *certrecord.RedisConfig, before *sharedRedis) (*sharedRedis, error) {
	if section == nil {
		return nil, nil //nolint:nilnil // There is none.
	}
	options, err := section.Options("redis")
	if err != nil {
		return nil, err
	}
	made := &sharedRedis{section: *section, password: options.Password}
	if options.TLSConfig != nil {
		made.roots = options.TLSConfig.RootCAs
	}
	if before != nil && reflect.DeepEqual(before.section, made.section) && before.password == made.password && before.roots.Equal(made.roots) {
		return before, nil
	}
	made.Redis = certrecord.NewRedis(options)
	return made, nil
}

func (s *sharedRedis) client() *certrecord.Redis {
	if s == nil {
		return nil
	}
	return s.Redis
}

func (s *sharedRedis) close() {
	if s != nil {
		s.Close()
	}
}
