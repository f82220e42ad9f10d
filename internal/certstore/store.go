package certstore

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"hash/maphash"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"github.com/shopset/shopset/internal/certrecord"
)

// Config of a store. Redis or API may be missing, not both.
type Config struct {
	Redis *certrecord.Redis
	API   *API
	Keys  *certrecord.Keyring
	// Default is for handshakes that name no domain, if there is one.
	Default *tls.Certificate
	// MaxBytes of memory for records; 256 MiB when zero.
	MaxBytes int
	// UnknownNames is how many names that nobody has are remembered; 65,536 when zero.
	UnknownNames int
	// UnknownTime is for how long; a minute when zero.
	UnknownTime time.Duration
	// RedisTimeout and APITimeout bound one call; 200 ms and 2 s when zero.
	RedisTimeout, APITimeout time.Duration
	// CallsPerSecond bounds what handshakes may ask the API in all; 500 when zero, and twice that at once.
	CallsPerSecond int
	// UnknownPerHour is how many unknown names a client's network may ask for, and that many at once; 600 when zero.
	UnknownPerHour int
	// Trust is for how long a record is believed while changes cannot be followed; a minute when zero.
	Trust time.Duration
	// RefreshBefore is how long before its end a certificate is asked for anew, in case that a change was not
	// told; 7 days when zero.
	RefreshBefore time.Duration
	// Now is the clock; time.Now when nil.
	Now func() time.Time
}

func (c *Config) defaults() {
	c.MaxBytes = or(c.MaxBytes, 256<<20)
	c.UnknownNames = or(c.UnknownNames, 1<<16)
	c.UnknownTime = or(c.UnknownTime, time.Minute)
	c.RedisTimeout = or(c.RedisTimeout, 200*time.Millisecond)
	c.APITimeout = or(c.APITimeout, 2*time.Second)
	c.CallsPerSecond = or(c.CallsPerSecond, 500)
	c.UnknownPerHour = or(c.UnknownPerHour, 600)
	c.Trust = or(c.Trust, time.Minute)
	c.RefreshBefore = or(c.RefreshBefore, 7*24*time.Hour)
	if c.Now == nil {
		c.Now = time.Now
	}
}

func or[T comparable](value, otherwise T) T {
	var zero T
	if value == zero {
		return otherwise
	}
	return value
}

// Errors of handshakes. They are made once, because a scanner causes many.
var (
	ErrUnknown     = errors.New("no such domain")
	ErrRefused     = errors.New("the client has asked for too many unknown domains")
	ErrNoName      = errors.New("the handshake names no domain")
	ErrUnavailable = errors.New("the domain is not in memory, and neither Redis nor the certificate API answers")
	ErrBusy        = errors.New("too many domains are asked for that are not in memory")
)

// Store is one; see the package.
type Store struct {
	config   Config
	redis    *redisSource
	api      *apiSource
	cache    *cache
	interner *interner
	clock    clock
	// calls of the API, and of Redis, which bears more.
	calls, redisCalls *rate.Limiter
	// challenges bounds what askers of ACME challenges may cause.
	challenges *rate.Limiter
	// unknown are names that nobody has; covered those that have no record of their own but a wildcard's.
	unknown, covered *unknown
	scanners         *scanners
	// epoch counts how often changes were missed: what is older than that is asked for anew.
	epoch atomic.Uint32
	// followed says whether changes reach memory right now.
	followed                 atomic.Bool
	redisBreaker, apiBreaker breaker
	refreshing               chan struct{}

	mu      sync.Mutex
	flights map[string]*flight

	metrics *metrics
}

// flight is a question to the sources that everybody waits for who has the same.
type flight struct {
	done  chan struct{}
	entry *entry
	err   error
	// changed is the number of a change of the name since it began, guarded by the store's lock.
	changed uint64
	// again says that the name's wildcard changed since it began, guarded likewise.
	again bool
}

// redisShare is how many calls Redis gets for one of the API.
const redisShare = 20

// maxRefreshing bounds how many questions run in the background.
const maxRefreshing = 16

// New makes a store. It follows changes while Run runs.
func New(config Config) (*Store, error) {
	if config.Keys == nil || config.Redis == nil && config.API == nil {
		return nil, errors.New("certstore: wants a keyring, and Redis or the certificate API")
	}
	config.defaults()
	s := &Store{config: config, cache: newCache(config.MaxBytes), interner: newInterner(), clock: clock{config.Now(), config.Now},
		calls:      rate.NewLimiter(rate.Limit(config.CallsPerSecond), 2*config.CallsPerSecond),
		redisCalls: rate.NewLimiter(rate.Limit(redisShare*config.CallsPerSecond), 2*redisShare*config.CallsPerSecond),
		challenges: rate.NewLimiter(50, 100),
		unknown:    newUnknown(config.UnknownNames), covered: newUnknown(config.UnknownNames),
		scanners: &scanners{seed: maphash.MakeSeed(), perHour: uint32(config.UnknownPerHour), burst: uint32(config.UnknownPerHour)}, //nolint:gosec // A small number.
		flights:  map[string]*flight{}, refreshing: make(chan struct{}, maxRefreshing)}
	if config.Redis != nil {
		s.redis = &redisSource{config.Redis, config.Keys, config.API == nil}
	}
	if config.API != nil {
		s.api = &apiSource{*config.API, config.Keys}
	}
	s.metrics = newMetrics(s)
	return s, nil
}

// GetCertificate is for tls.Config.
func (s *Store) GetCertificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	name, ok := certrecord.LookupName(hello.ServerName)
	if !ok {
		if s.config.Default != nil {
			return s.config.Default, nil
		}
		s.metrics.answer(resultNoName)
		return nil, ErrNoName
	}
	e, err := s.find(hello.Context(), name, clientOf(hello.Conn), true)
	if err != nil {
		return nil, err
	}
	now := s.config.Now().Unix()
	certificate, ended, err := e.pick(hello, now)
	if wildcard := certrecord.Wildcard(name); (err != nil || ended) && wildcard != "" && e.name() == name {
		// It has a record for its options alone, waits for its first certificate, or its own has ended. It is nobody's fault if
		// there is no wildcard either, so that the client is not charged.
		if other, errOther := s.find(hello.Context(), wildcard, netip.Addr{}, false); errOther == nil {
			if better, endedToo, errBetter := other.pick(hello, now); errBetter == nil && (err != nil || !endedToo) {
				return better, nil //nolint:nilerr // The wildcard's serves.
			}
		}
	}
	return certificate, err
}

func clientOf(conn net.Conn) netip.Addr {
	if conn == nil {
		return netip.Addr{}
	}
	if tcp, ok := conn.RemoteAddr().(*net.TCPAddr); ok {
		return tcp.AddrPort().Addr()
	}
	address, _ := netip.ParseAddrPort(conn.RemoteAddr().String())
	return address.Addr()
}

// Domain returns what is known of the domain that serves a host name.
func (s *Store) Domain(ctx context.Context, host string, client netip.Addr) (*Domain, error) {
	name, ok := certrecord.LookupName(host)
	if !ok {
		return nil, ErrUnknown
	}
	// Not the wildcard's when nobody can say whether the name has its own: it may be another shop's.
	e, err := s.find(ctx, name, client, false)
	if err != nil {
		return nil, err
	}
	return e.domain, nil
}

// inMemory returns the entry that serves a name, its own or its wildcard's.
func (s *Store) inMemory(name string, now uint32) *entry {
	if e := s.cache.get(name); e != nil {
		return e
	}
	if s.covered.has(name, now) {
		return s.cache.get(certrecord.Wildcard(name))
	}
	return nil
}

// find returns the entry that serves a name. orWildcard takes that of the wildcard when nobody can say whether the name has its
// own: its certificate fits.
func (s *Store) find(ctx context.Context, name string, client netip.Addr, orWildcard bool) (*entry, error) {
	now := s.clock.seconds()
	e := s.inMemory(name, now)
	if e != nil {
		if e.changed.Load() == 0 && e.epoch == s.epoch.Load() {
			if s.isDue(e, now) {
				s.refresh(e, now)
			}
			s.metrics.answer(resultMemory)
			return e, nil
		}
	} else {
		if s.unknown.has(name, now) {
			s.metrics.answer(resultUnknown)
			return nil, ErrUnknown
		}
		if s.scanners.refused(client, now) {
			s.metrics.answer(resultRefused)
			return nil, ErrRefused
		}
	}
	found, err := s.askFor(ctx, name, e)
	if err != nil && e == nil && orWildcard && !errors.Is(err, ErrUnknown) {
		e = s.cache.peek(certrecord.Wildcard(name)) // Nobody can say that it has none of its own, but this one fits.
	}
	switch {
	case err == nil:
		s.metrics.answer(resultAsked)
		return found, nil
	case errors.Is(err, ErrUnknown):
		s.scanners.charge(client, now)
		s.metrics.answer(resultUnknown)
		return nil, ErrUnknown
	case e != nil: // However old, it is better than nothing.
		s.metrics.answer(resultStale)
		return e, nil
	case errors.Is(err, errAbsent):
		s.metrics.answer(resultUnknown)
		return nil, ErrUnknown
	}
	s.metrics.answer(resultFailed)
	return nil, err
}

// patience is how long a handshake waits for something newer than what is in memory. The question goes on.
const patience = 500 * time.Millisecond

func (s *Store) askFor(ctx context.Context, name string, have *entry) (*entry, error) {
	if have != nil {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, patience)
		defer cancel()
	}
	return s.ask(ctx, name)
}

// isDue says whether an entry is to be asked for in the background: its end is near, or nobody tells changes.
func (s *Store) isDue(e *entry, now uint32) bool {
	if !s.followed.Load() && now-e.checked > uint32(s.config.Trust/time.Second) {
		return true
	}
	return e.ends > 0 && e.ends-s.config.Now().Unix() < int64(s.config.RefreshBefore/time.Second) && now-e.checked > refreshAgain
}

// refreshAgain is how long an entry is left alone, in seconds, whose refreshing brought nothing new.
const refreshAgain = 60

// refresh asks for an entry in the background, unless that was done a moment ago, or too many are.
func (s *Store) refresh(e *entry, now uint32) {
	last := e.refreshed.Load()
	if last != 0 && now-last < refreshAgain || !e.refreshed.CompareAndSwap(last, max(now, 1)) {
		return
	}
	select {
	case s.refreshing <- struct{}{}:
		go func() {
			defer func() { <-s.refreshing }()
			_, _ = s.ask(context.Background(), e.name()) // The entry stays when it fails.
		}()
	default:
		e.refreshed.Store(last)
	}
}

// ask asks the sources for a name, once for all who want it. It has a deadline of its own, so that who began it
// may leave.
func (s *Store) ask(ctx context.Context, name string) (*entry, error) {
	s.mu.Lock()
	f := s.flights[name]
	if f == nil {
		f = &flight{done: make(chan struct{})}
		s.flights[name] = f
		go s.fly(name, f)
	}
	s.mu.Unlock()
	select {
	case <-f.done:
		return f.entry, f.err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// fly answers a flight. When the domain changes meanwhile it asks again.
func (s *Store) fly(name string, f *flight) {
	ctx, cancel := context.WithTimeout(context.Background(), s.config.RedisTimeout+s.config.APITimeout)
	defer cancel()
	newest := uint64(0)
	// A source that has less than memory is behind, unless numbers have begun anew.
	if e := s.cache.peek(name); e != nil && e.epoch == s.epoch.Load() {
		newest = max(e.version, e.changed.Load())
	}
	for {
		epoch := s.epoch.Load()
		e, err := s.fetch(ctx, name, newest)
		s.mu.Lock()
		if (f.changed > newest || f.again) && ctx.Err() == nil {
			newest, f.again = max(newest, f.changed), false
			s.mu.Unlock()
			continue
		}
		s.keep(name, e, err, epoch, newest)
		f.entry, f.err = e, err
		delete(s.flights, name)
		s.mu.Unlock()
		close(f.done)
		return
	}
}

// keep remembers an answer. Under the lock, so that no change comes between it and the flight's end.
func (s *Store) keep(name string, e *entry, err error, epoch uint32, newest uint64) {
	now := s.clock.seconds()
	switch {
	case err == nil:
		e.epoch, e.checked = epoch, now
		if e.version < newest {
			e.changed.Store(newest)
		}
		s.metrics.evicted(s.cache.put(e))
		if e.name() != name {
			s.cache.remove(name)
			s.covered.add(name, e.name(), now+uint32(s.config.UnknownTime/time.Second)+coveredTime)
		}
	case errors.Is(err, ErrUnknown):
		s.cache.remove(name)
		s.unknown.add(name, certrecord.Wildcard(name), now+uint32(s.config.UnknownTime/time.Second))
	case errors.Is(err, errAbsent) && s.cache.peek(name) == nil:
		s.unknown.add(name, certrecord.Wildcard(name), now+absentTime)
	}
}

// absentTime is how long a name is left alone, in seconds, that Redis has not and the API cannot say.
const absentTime = 2

// coveredTime is how long a name is known to have no record of its own, in seconds: a change says otherwise.
const coveredTime = 24 * 3600

// fetch asks Redis, then the API. A record that is older than the newest change of the name is taken only if
// there is no better one.
func (s *Store) fetch(ctx context.Context, name string, newest uint64) (*entry, error) {
	var old *entry
	failed := ErrUnavailable
	if s.redis != nil && s.redisBreaker.allows(s.config.Now()) {
		if !s.redisCalls.Allow() {
			return nil, ErrBusy
		}
		e, err := s.from(ctx, "redis", s.redis.find, &s.redisBreaker, s.config.RedisTimeout, name)
		switch {
		case err == nil && e.version >= newest:
			return e, nil
		case err == nil:
			old = e
		case errors.Is(err, errNone): // The API may know better, if it answers.
			failed = ErrUnknown
		case errors.Is(err, errAbsent):
			failed = errAbsent
		}
	}
	if s.api != nil && s.apiBreaker.allows(s.config.Now()) {
		if !s.calls.Allow() {
			return old, orNil(old, ErrBusy)
		}
		e, err := s.from(ctx, "api", s.api.find, &s.apiBreaker, s.config.APITimeout, name)
		switch {
		case err == nil:
			return e, nil
		case errors.Is(err, errNone):
			return nil, ErrUnknown
		}
	}
	return old, orNil(old, failed)
}

func orNil(e *entry, err error) error {
	if e != nil {
		return nil
	}
	return err
}

// from asks one source and makes an entry of its answer.
func (s *Store) from(ctx context.Context, source string, find func(context.Context, string) (*certrecord.Record, error), b *breaker, timeout time.Duration, name string) (*entry, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	began := time.Now()
	record, err := find(ctx, name)
	var broken *brokenRecord
	works := err == nil || errors.Is(err, errNone) || errors.Is(err, errAbsent) || errors.As(err, &broken)
	b.tell(s.config.Now(), works)
	var e *entry
	if err == nil {
		if e, err = s.interner.load(record); err != nil {
			err = &brokenRecord{err}
		}
	}
	s.metrics.call(source, time.Since(began), err)
	if errors.As(err, &broken) {
		slog.Error("a certificate record cannot be used", "source", source, "domain", name, "error", err)
	}
	return e, err
}

// changed tells memory that a domain is another now.
func (s *Store) changed(c change) {
	if c.Name == "*" {
		s.distrust()
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if f := s.flights[c.Name]; f != nil {
		f.changed = max(f.changed, c.Number)
	}
	if c.Name != "" && c.Name[0] == '*' { // Names below it may be asked for just now.
		for name, f := range s.flights {
			if certrecord.Wildcard(name) == c.Name {
				f.again = true // It may be the answer for a name that has none of its own.
			}
		}
	}
	if e := s.cache.peek(c.Name); e != nil && e.version < c.Number {
		e.changed.Store(c.Number)
	}
	s.unknown.remove(c.Name)
	s.covered.remove(c.Name)
	s.metrics.changes.Inc()
}

// distrust has everything asked for anew, because changes were missed.
func (s *Store) distrust() {
	s.epoch.Add(1)
	s.unknown.clear()
	s.covered.clear()
	s.metrics.distrusted.Inc()
}

// TicketKeys has a tls.Config use the session ticket keys that all proxies share, and change them in time, until
// the context ends.
func (s *Store) TicketKeys(ctx context.Context, config *tls.Config) error {
	set := func() error {
		keys, err := s.config.Keys.TicketKeys(s.config.Now())
		if err != nil {
			return fmt.Errorf("session ticket keys: %w", err)
		}
		config.SetSessionTicketKeys(keys)
		return nil
	}
	if err := set(); err != nil {
		return err
	}
	go func() {
		ticker := time.NewTicker(time.Minute)
		defer ticker.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-ticker.C:
				if err := set(); err != nil {
					slog.Error("old session ticket keys stay", "error", err)
				}
			}
		}
	}()
	return nil
}
