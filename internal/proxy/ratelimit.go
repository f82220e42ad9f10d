package proxy

import (
	"context"
	"fmt"
	"hash/maphash"
	"log/slog"
	"net/http"
	"net/netip"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/rueidis"

	"github.com/shopset/shopset/internal/certrecord"
)

// RateLimit bounds how often, or how many times at once, something may be asked for. What is over the limit is answered
// with 429.
type RateLimit struct {
	Match `yaml:",inline"`
	// Name is for the log and for Redis. Required.
	Name string `yaml:"name"`
	// Key is what is counted apart: shop, host, client, client/BITS (a network of IPv4; /64 of IPv6), agent, path,
	// method, header:NAME. Empty counts everything together.
	Key []string `yaml:"key"`
	// Requests per Period may come, and Burst at once; one for the other, a token bucket. Default Period 1s, and Burst
	// as many as Requests.
	Requests int           `yaml:"requests"`
	Period   time.Duration `yaml:"period"`
	Burst    int           `yaml:"burst"`
	// Concurrent may be under way, instead of Requests; each replica counts its own.
	Concurrent int `yaml:"concurrent"`
	// Scope is "local", where each replica counts its own, or "shared", where all count together in Redis. Default
	// local.
	Scope string `yaml:"scope"`
	// WithoutRedis says what becomes of a request while Redis does not answer: "allow" or "refuse". Default allow.
	WithoutRedis string `yaml:"withoutRedis"`
	// Keys bounds how many different keys are remembered here. Default 100000.
	Keys int `yaml:"keys"`
}

// The values of RateLimit.Scope and RateLimit.WithoutRedis.
const (
	ScopeLocal  = "local"
	ScopeShared = "shared"
	Allow       = "allow"
	Refuse      = "refuse"
)

func (l *RateLimit) fill() {
	fallback(&l.Period, time.Second)
	fallback(&l.Burst, l.Requests)
	fallback(&l.Scope, ScopeLocal)
	fallback(&l.WithoutRedis, Allow)
	fallback(&l.Keys, 100000)
}

func (l *RateLimit) problems(p *problems, at string, redis bool) {
	l.Match.problems(p, at)
	p.required(at+".name", l.Name, "a name for the log")
	if (l.Requests > 0) == (l.Concurrent > 0) || l.Requests < 0 || l.Concurrent < 0 {
		p.add(at, "wants requests or concurrent, above 0")
	}
	for i, key := range l.Key {
		if _, err := newKeyPart(key); err != nil {
			p.add(fmt.Sprintf("%s.key[%d]", at, i), err.Error())
		}
	}
	p.positive(at+".period", l.Period)
	if l.Burst < 0 || l.Keys < 1 {
		p.add(at, "wants burst and keys above 0")
	}
	if l.Requests > 0 && l.Period/time.Duration(l.Requests) < time.Microsecond {
		p.add(at+".requests", "are more than a million a second")
	}
	p.oneOf(at+".scope", l.Scope, ScopeLocal, ScopeShared)
	p.oneOf(at+".withoutRedis", l.WithoutRedis, Allow, Refuse)
	switch {
	case l.Scope == ScopeShared && l.Concurrent > 0:
		p.add(at+".scope", "concurrent is counted by each replica: want local")
	case l.Scope == ScopeShared && !redis:
		p.add(at+".scope", "shared needs Redis: add the section redis, or certificates.redis")
	}
}

// keyPart gives a part of the key of a request.
type keyPart func(e *exchange) string

func newKeyPart(text string) (keyPart, error) {
	name, argument, _ := strings.Cut(text, ":")
	if network, bits, found := strings.Cut(text, "/"); found && network == "client" {
		n, err := strconv.Atoi(bits)
		if err != nil || n < 8 || n > 32 {
			return nil, fmt.Errorf("%q is no key: want client/8 to client/32", text)
		}
		return func(e *exchange) string { return networkOf(e.client, n) }, nil
	}
	switch {
	case name == "header" && isToken(argument):
		return func(e *exchange) string { return e.request.Header.Get(argument) }, nil
	case text == "agent":
		return func(e *exchange) string { return e.request.UserAgent() }, nil
	case text == "client":
		return func(e *exchange) string { return networkOf(e.client, 32) }, nil
	case text == "shop":
		return func(e *exchange) string {
			if shop := e.shop(); shop != "" {
				return shop
			}
			return "host " + e.host
		}, nil
	case text == "path": // As rules are matched: another spelling has no limit of its own.
		return func(e *exchange) string { return e.path }, nil
	case text == "host", text == "method":
		return variables[text], nil
	}
	return nil, fmt.Errorf("%q is no key: want shop, host, client, client/24, agent, path, method or header:NAME", text)
}

// networkOf is the network of a client: one that has a /64 of IPv6 has as many addresses as it likes.
func networkOf(client netip.Addr, bits int) string {
	if client.Is6() {
		bits = 64
	}
	prefix, err := client.Prefix(bits)
	if err != nil {
		return client.String()
	}
	return prefix.String()
}

// limiter is a RateLimit at work.
type limiter struct {
	*matcher
	config *RateLimit
	keys   []keyPart
	// interval is the time that one request takes from the bucket (generic cell rate algorithm, ITU-T I.371).
	interval, depth time.Duration
	seed            maphash.Seed
	shards          [64]limiterShard
	redis           *certrecord.Redis
	// askAgain is when Redis is asked again that did not answer, in Unix nanoseconds.
	askAgain atomic.Int64
}

type limiterShard struct {
	mu sync.Mutex
	// full is, by key, when the bucket would be full again, or how many are under way.
	full map[uint64]int64
}

// newLimiters makes them. Those of before go on counting where nothing changed.
func newLimiters(config []RateLimit, redis *certrecord.Redis, before []*limiter) (limiters []*limiter, err error) {
	for i := range config {
		c := &config[i]
		if known := slices.IndexFunc(before, func(l *limiter) bool {
			return reflect.DeepEqual(l.config, c) && (c.Scope == ScopeLocal || l.redis == redis)
		}); known >= 0 {
			limiters = append(limiters, before[known])
			continue
		}
		l := &limiter{matcher: newMatcher(&c.Match), config: c, seed: maphash.MakeSeed(), redis: redis}
		for _, text := range c.Key {
			part, err := newKeyPart(text)
			if err != nil {
				return nil, err
			}
			l.keys = append(l.keys, part)
		}
		if c.Requests > 0 {
			l.interval = c.Period / time.Duration(c.Requests)
			l.depth = l.interval * time.Duration(c.Burst)
		}
		for s := range l.shards {
			l.shards[s].full = map[uint64]int64{}
		}
		limiters = append(limiters, l)
	}
	return limiters, nil
}

// limit refuses what is over a limit.
func (p *pipeline) limit(e *exchange) (done bool) {
	for _, l := range p.limiters {
		if !l.holds(e) {
			continue
		}
		wait, over := l.take(e)
		if !over {
			continue
		}
		e.refused = l.config.Name
		p.metrics.limited.WithLabelValues(l.config.Name).Inc()
		e.Header().Set("Retry-After", retryAfter(wait))
		errorPage(e, http.StatusTooManyRequests)
		return true
	}
	return false
}

func (l *limiter) take(e *exchange) (wait time.Duration, over bool) {
	if l.config.Scope == ScopeShared {
		return l.takeShared(e)
	}
	shard, key := l.bucket(e)
	if l.config.Concurrent > 0 {
		return l.enter(e, shard, key)
	}
	now := time.Now().UnixNano()
	shard.mu.Lock()
	defer shard.mu.Unlock()
	full, known := shard.full[key]
	if !known && len(shard.full) >= max(1, l.config.Keys/len(l.shards)) {
		shard.sweep(now)
	}
	full = max(full, now)
	if wait := full + int64(l.interval) - int64(l.depth) - now; wait > 0 {
		return time.Duration(wait), true
	}
	shard.full[key] = full + int64(l.interval)
	return 0, false
}

// bucket is where a request counts.
func (l *limiter) bucket(e *exchange) (*limiterShard, uint64) {
	var h maphash.Hash
	h.SetSeed(l.seed)
	for _, part := range l.keys {
		_, _ = h.WriteString(part(e))
		_ = h.WriteByte(0)
	}
	key := h.Sum64()
	return &l.shards[key%uint64(len(l.shards))], key
}

// refund takes back what a request took from a local bucket.
func (l *limiter) refund(e *exchange) {
	shard, key := l.bucket(e)
	shard.mu.Lock()
	defer shard.mu.Unlock()
	if full, known := shard.full[key]; known {
		shard.full[key] = full - int64(l.interval)
	}
}

// sweep forgets buckets that are full; if none of some is, one that is not, so that many keys cost no more memory.
func (s *limiterShard) sweep(now int64) {
	looked, gone := 0, false
	var victim uint64
	for key, full := range s.full { // In random order.
		if looked == 0 {
			victim = key
		}
		if full <= now {
			delete(s.full, key)
			gone = true
		}
		if looked++; looked == 256 {
			break
		}
	}
	if !gone {
		delete(s.full, victim)
	}
}

// enter counts a request until it is over.
func (l *limiter) enter(e *exchange, shard *limiterShard, key uint64) (time.Duration, bool) {
	shard.mu.Lock()
	defer shard.mu.Unlock()
	if shard.full[key] >= int64(l.config.Concurrent) {
		return time.Second, true
	}
	shard.full[key]++
	e.atEnd(func() {
		shard.mu.Lock()
		defer shard.mu.Unlock()
		if shard.full[key]--; shard.full[key] <= 0 {
			delete(shard.full, key)
		}
	})
	return 0, false
}

// shared is the same bucket in Redis, by its clock: one round trip. It answers with the microseconds to wait.
var shared = rueidis.NewLuaScript(`
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local interval, depth = tonumber(ARGV[1]), tonumber(ARGV[2])
local full = tonumber(redis.call('GET', KEYS[1]) or '0')
if full < now then full = now end
local wait = full + interval - depth - now
if wait > 0 then return wait end
full = full + interval
redis.call('SET', KEYS[1], string.format('%.0f', full), 'PX', math.floor((full - now) / 1000) + 1)
return 0`)

// sharedTimeout bounds what Redis may add to a request. Tests give it more, as they run on busy machines.
var sharedTimeout = 100 * time.Millisecond

func (l *limiter) takeShared(e *exchange) (time.Duration, bool) {
	var key strings.Builder
	key.WriteString("shopset:limit:" + l.config.Name)
	for _, part := range l.keys {
		value := part(e)
		if len(value) > 64 { // A key that the client chooses must not fill Redis.
			value = digest(value)
		}
		key.WriteByte(0)
		key.WriteString(value)
	}
	now := time.Now().UnixNano()
	if now < l.askAgain.Load() {
		return time.Second, l.config.WithoutRedis == Refuse
	}
	ctx, cancel := context.WithTimeout(e.request.Context(), sharedTimeout)
	defer cancel()
	client, err := l.redis.ClientWithin(ctx)
	var wait int64
	if err == nil {
		wait, err = shared.Exec(ctx, client, []string{key.String()},
			[]string{strconv.FormatInt(l.interval.Microseconds(), 10), strconv.FormatInt(l.depth.Microseconds(), 10)}).AsInt64()
	}
	if err != nil {
		if e.request.Context().Err() == nil {
			l.askAgain.Store(now + int64(time.Second)) // Nobody else waits for a Redis that does not answer.
			slog.Warn("a shared limit cannot be asked for; leaving Redis alone for a second", "limit", l.config.Name, "then", l.config.WithoutRedis, "error", err)
		}
		return time.Second, l.config.WithoutRedis == Refuse
	}
	return time.Duration(wait) * time.Microsecond, wait > 0
}
