package certs

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/redis/rueidis"

	"github.com/shopset/shopset/internal/certrecord"
	"github.com/shopset/shopset/internal/certs/storage"
)

// Publisher brings what changes to Redis:
//
//	cursor := the last entry of the stream of changes in Redis
//	if there is none, or one that the database does not know: publish everything, begin the stream
//	for each change after cursor: set the record, unless a newer one is there; append to the stream
//
// The entry comes after the record, so that who is told of a change finds it. Its ID is the change's number;
// Redis refuses one that it has already, so that any number of publishers may run, and one that is killed
// anywhere is continued by the next.
type Publisher struct {
	service *Service
	redis   *certrecord.Redis
	kick    chan struct{}
	// published is the number of the last change that this one knows to be in Redis.
	published atomic.Uint64
}

const (
	// poll is how often the database is asked for changes that others made.
	poll = 200 * time.Millisecond
	// streamLength is roughly how many changes Redis keeps; a proxy that was away for longer asks the API.
	streamLength = 100_000
	batch        = 256
	fullPage     = 500
	// publishTime bounds one round: a Redis that is away is told of, and the client would wait for it for ever.
	publishTime = 10 * time.Minute
	// tombstones stay long enough for every publisher that is late.
	tombstoneTime = 24 * time.Hour
	// rememberChanges is how long the database knows them.
	rememberChanges = 30 * 24 * time.Hour
)

// setNewer sets a record unless a newer one is there. Versions are 16 hexadecimal digits at the beginning.
var setNewer = rueidis.NewLuaScript(`
local old = redis.call('GETRANGE', KEYS[1], 0, 15)
if ARGV[2] == 'always' or old == '' or old <= string.sub(ARGV[1], 1, 16) then
	if string.len(ARGV[1]) == 16 then
		redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[3])
	else
		redis.call('SET', KEYS[1], ARGV[1])
	end
end
return 1`)

// NewPublisher makes one; it publishes while Run runs.
func NewPublisher(service *Service, redis *certrecord.Redis) *Publisher {
	return &Publisher{service: service, redis: redis, kick: make(chan struct{}, 1)}
}

// Kick has it look for changes now.
func (p *Publisher) Kick() {
	select {
	case p.kick <- struct{}{}:
	default:
	}
}

// Challenge brings a challenge of ACME to Redis, or takes it away when the answer is empty. When that fails the
// proxies ask the API.
func (p *Publisher) Challenge(ctx context.Context, token, keyAuthorization string) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	key := certrecord.ChallengeKey(token)
	redis, err := p.redis.Client()
	if err == nil {
		command := redis.B().Del().Key(key).Build()
		if keyAuthorization != "" {
			// Sealed: who can write to Redis must not be able to prove that every domain is its own.
			sealed := p.service.keys.Seal(nil, []byte(keyAuthorization), key)
			command = redis.B().Set().Key(key).Value(rueidis.BinaryString(sealed)).Px(challengeTime).Build()
		}
		err = redis.Do(ctx, command).Error()
	}
	if err != nil {
		slog.Warn("a challenge of ACME does not reach Redis", "error", err)
	}
}

// Lag is how many changes Redis is behind.
func (p *Publisher) Lag(ctx context.Context) (uint64, error) {
	last, err := p.service.storage.LastChange(ctx)
	if err != nil {
		return 0, err
	}
	return last - min(last, p.published.Load()), nil
}

// Run publishes until the context ends. Redis or the database may be away for as long as they like.
func (p *Publisher) Run(ctx context.Context) {
	failing := ""
	forget := time.Now()
	for ctx.Err() == nil {
		wait := poll
		step, cancel := context.WithTimeout(ctx, publishTime)
		err := p.publish(step)
		cancel()
		switch {
		case err == nil && failing != "":
			slog.Info("changes reach Redis again")
			failing = ""
		case err != nil && ctx.Err() == nil:
			wait = time.Second
			if err.Error() != failing {
				failing = err.Error()
				slog.Error("changes do not reach Redis; proxies keep what they have", "error", err)
			}
		}
		if now := time.Now(); now.After(forget) {
			forget = now.Add(time.Hour)
			if err := p.service.storage.ForgetChanges(ctx, now.Add(-rememberChanges)); err != nil {
				slog.Warn("old changes are not forgotten", "error", err)
			}
		}
		select {
		case <-ctx.Done():
		case <-p.kick:
		case <-time.After(wait):
		}
	}
}

// Republish writes everything anew, as after a rotation of keys.
func (p *Publisher) Republish(ctx context.Context) error {
	redis, err := p.redis.Client()
	if err != nil {
		return err
	}
	cursor, err := p.cursor(ctx, redis)
	if err == nil {
		_, err = p.publishAll(ctx, redis, cursor)
	}
	return err
}

// publish brings Redis up to date once.
func (p *Publisher) publish(ctx context.Context) error {
	redis, err := p.redis.Client()
	if err != nil {
		return err
	}
	cursor, err := p.cursor(ctx, redis)
	if err != nil {
		return err
	}
	for {
		var changes []storage.Numbered
		if cursor == 0 {
			err = storage.ErrNotFound
		} else {
			changes, err = p.service.storage.Changes(ctx, cursor, batch)
		}
		switch {
		case errors.Is(err, storage.ErrNotFound):
			if cursor, err = p.publishAll(ctx, redis, cursor); err != nil {
				return err
			}
			p.published.Store(cursor)
			if cursor == 0 {
				return nil // There is nothing yet.
			}
			continue
		case err != nil:
			return err
		}
		if err := p.publishChanges(ctx, redis, changes); err != nil {
			return err
		}
		if len(changes) > 0 {
			cursor = changes[len(changes)-1].Number
		}
		p.published.Store(cursor)
		if len(changes) < batch {
			return nil
		}
	}
}

// cursor is the number of the last change in Redis, zero when it knows none.
func (p *Publisher) cursor(ctx context.Context, redis rueidis.Client) (uint64, error) {
	entries, err := redis.Do(ctx, redis.B().Xrevrange().Key(certrecord.ChangesKey).End("+").Start("-").Count(1).Build()).AsXRange()
	if err != nil && !rueidis.IsRedisNil(err) {
		return 0, fmt.Errorf("redis: %w", err)
	}
	if len(entries) == 0 {
		return 0, nil
	}
	number, _, _ := strings.Cut(entries[0].ID, "-")
	cursor, err := strconv.ParseUint(number, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("redis: the last change is called %s, want a number; is something else kept at %s?", entries[0].ID, certrecord.ChangesKey)
	}
	return cursor, nil
}

func (p *Publisher) publishChanges(ctx context.Context, redis rueidis.Client, changes []storage.Numbered) error {
	// A name that changed several times is published once, as it is now, which is not older than its last change.
	var records []rueidis.LuaExec
	newest := map[string]uint64{}
	for _, change := range changes {
		newest[change.Name] = max(newest[change.Name], change.Number)
	}
	for _, change := range changes {
		if newest[change.Name] != change.Number {
			continue
		}
		sealed, err := p.sealed(ctx, change)
		var broken *unusable
		if errors.As(err, &broken) {
			// One domain must not hold up all others. Proxies are told of the change, and find out for themselves.
			slog.Error("a domain cannot be published", "domain", change.Name, "error", err)
			continue
		}
		if err != nil {
			return err
		}
		records = append(records, setRecord(change.Name, sealed, "newer"))
	}
	if err := set(ctx, redis, records); err != nil {
		return err
	}
	entries := make(rueidis.Commands, len(changes))
	for i, change := range changes {
		entries[i] = entry(redis, change.Number, change.Name)
	}
	for _, result := range redis.DoMulti(ctx, entries...) {
		if err := result.Error(); err != nil && !isKnown(err) {
			return fmt.Errorf("redis: %w", err)
		}
	}
	return nil
}

// unusable says that a domain's record cannot be made, whatever is tried.
type unusable struct{ err error }

func (u *unusable) Error() string { return u.err.Error() }
func (u *unusable) Unwrap() error { return u.err }

func (p *Publisher) sealed(ctx context.Context, change storage.Numbered) ([]byte, error) {
	domain, certificates, err := p.service.storage.Domain(ctx, change.Name)
	switch {
	case errors.Is(err, storage.ErrNotFound):
		return certrecord.Tombstone(change.Number), nil
	case err != nil:
		return nil, err
	}
	return p.seal(domain, certificates)
}

func (p *Publisher) seal(domain *storage.Domain, certificates []storage.Certificate) ([]byte, error) {
	record, err := p.service.record(domain, certificates)
	var sealed []byte
	if err == nil {
		sealed, err = certrecord.Seal(p.service.keys, record)
	}
	if err != nil {
		return nil, &unusable{err}
	}
	return sealed, nil
}

func setRecord(name string, sealed []byte, when string) rueidis.LuaExec {
	return rueidis.LuaExec{Keys: []string{certrecord.RedisKey(name)}, Args: []string{rueidis.BinaryString(sealed), when, strconv.FormatInt(tombstoneTime.Milliseconds(), 10)}}
}

func set(ctx context.Context, redis rueidis.Client, records []rueidis.LuaExec) error {
	if len(records) == 0 {
		return nil
	}
	for _, result := range setNewer.ExecMulti(ctx, redis, records...) {
		if err := result.Error(); err != nil {
			return fmt.Errorf("redis: %w", err)
		}
	}
	return nil
}

// entry appends a change to the stream. A name "*" says that anything may have changed.
func entry(redis rueidis.Client, number uint64, name string) rueidis.Completed {
	return redis.B().Xadd().Key(certrecord.ChangesKey).Maxlen().Almost().Threshold(strconv.Itoa(streamLength)).
		Id(strconv.FormatUint(number, 10)+"-0").FieldValue().FieldValue("name", name).Build()
}

// isKnown says whether Redis has the entry already.
func isKnown(err error) bool {
	answer, ok := rueidis.IsRedisErr(err)
	return ok && strings.Contains(answer.Error(), "equal or smaller")
}

// publishAll writes every record and begins the stream anew. Changes that are made meanwhile come after it. When Redis knows
// more changes than the database, which was restored from a backup, what the database has counts: its numbers go on behind
// those that were given before, so that what is made now is newer than everything of then, and records that it does not
// have are taken away.
func (p *Publisher) publishAll(ctx context.Context, redis rueidis.Client, cursor uint64) (uint64, error) {
	last, err := p.service.storage.LastChange(ctx)
	if err != nil || last == 0 && cursor == 0 {
		return 0, err
	}
	restored := cursor > last
	when := "newer"
	if restored {
		when = "always"
		if last, err = p.service.storage.SkipChanges(ctx, cursor+1); err != nil {
			return 0, err
		}
	}
	began, count := time.Now(), 0
	known := map[string]bool{}
	slog.Info("publishing all domains: Redis knows none, or others than the database", "last", last)
	for after := ""; ; {
		domains, err := p.service.storage.Domains(ctx, storage.Query{After: after, Limit: fullPage})
		if err != nil {
			return 0, err
		}
		if len(domains) == 0 {
			break
		}
		if err := p.publishPage(ctx, redis, after, domains, when); err != nil {
			return 0, err
		}
		for i := range domains {
			known[domains[i].Name] = true
		}
		count += len(domains)
		after = domains[len(domains)-1].Name
	}
	if restored {
		if err := removeOthers(ctx, redis, known); err != nil {
			return 0, err
		}
	}
	if last > 0 {
		if err := redis.Do(ctx, entry(redis, last, "*")).Error(); err != nil && !isKnown(err) {
			return 0, fmt.Errorf("redis: %w", err)
		}
	}
	slog.Info("all domains are published", "domains", count, "took", time.Since(began))
	return last, nil
}

// removeOthers takes records away whose domains the database does not have.
func removeOthers(ctx context.Context, redis rueidis.Client, known map[string]bool) error {
	prefix := certrecord.RedisKey("")
	for cursor := uint64(0); ; {
		page, err := redis.Do(ctx, redis.B().Scan().Cursor(cursor).Match(prefix+"*").Count(1000).Build()).AsScanEntry()
		if err != nil {
			return fmt.Errorf("redis: %w", err)
		}
		for _, key := range page.Elements {
			if known[strings.TrimPrefix(key, prefix)] {
				continue
			}
			if err := redis.Do(ctx, redis.B().Del().Key(key).Build()).Error(); err != nil {
				return fmt.Errorf("redis: %w", err)
			}
		}
		if cursor = page.Cursor; cursor == 0 {
			return nil
		}
	}
}

func (p *Publisher) publishPage(ctx context.Context, redis rueidis.Client, after string, domains []storage.Domain, when string) error {
	certificates, err := p.service.storage.Certificates(ctx, after, domains[len(domains)-1].Name)
	if err != nil {
		return err
	}
	// By name: a domain may have been made between the two questions, and is in one answer alone.
	byDomain := map[string][]storage.Certificate{}
	for _, c := range certificates {
		byDomain[c.Domain] = append(byDomain[c.Domain], c)
	}
	records := make([]rueidis.LuaExec, 0, len(domains))
	for i := range domains {
		sealed, err := p.seal(&domains[i], byDomain[domains[i].Name])
		if err != nil {
			slog.Error("a domain cannot be published", "domain", domains[i].Name, "error", err)
			continue
		}
		records = append(records, setRecord(domains[i].Name, sealed, when))
	}
	return set(ctx, redis, records)
}
