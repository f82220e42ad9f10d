package certstore

import (
	"context"
	"errors"
	"log/slog"
	"time"
)

const (
	// followWait is how long one question for changes waits. Redis being emptied is noticed after it.
	followWait = 500 * time.Millisecond
	// followTimeout is how long an answer may take beyond it.
	followTimeout = time.Second
	retryFirst    = 50 * time.Millisecond
	retryMost     = time.Second
	// compareEvery is how often the API is asked whether Redis lags behind it.
	compareEvery = 2 * time.Second
)

// follower is one of the ways in which changes come.
type follower interface {
	last(ctx context.Context) (uint64, error)
	changes(ctx context.Context, after uint64, wait time.Duration) ([]change, error)
}

// Run follows the changes until the context ends: in Redis, or at the API while Redis fails, with one cursor,
// because both number them alike.
func (s *Store) Run(ctx context.Context) {
	ways := map[string]follower{}
	if s.redis != nil {
		ways["redis"] = s.redis
	}
	if s.api != nil {
		ways["api"] = s.api
	}
	f := &following{store: s, ways: ways, cursor: unknownCursor}
	retry := retryFirst
	for ctx.Err() == nil {
		if f.once(ctx, "redis") && f.compare(ctx) || f.once(ctx, "api") {
			s.followed.Store(true)
			retry = retryFirst
			continue
		}
		if s.followed.Swap(false) && ctx.Err() == nil {
			slog.Error("changes of certificates cannot be followed; what is in memory goes on")
		}
		select {
		case <-ctx.Done():
		case <-time.After(retry):
		}
		retry = min(2*retry, retryMost)
	}
}

// unknownCursor is before the first change was seen.
const unknownCursor = ^uint64(0)

type following struct {
	store  *Store
	ways   map[string]follower
	cursor uint64
	// compared is when the API was last asked how far it is.
	compared time.Time
}

// compare says whether Redis is as far as the API, as far as that can be told: when nothing can be written to
// Redis, because it is full or nobody publishes, it goes on telling of no changes.
func (f *following) compare(ctx context.Context) bool {
	api, now := f.ways["api"], time.Now()
	if api == nil || f.ways["redis"] == nil || now.Sub(f.compared) < compareEvery {
		return true
	}
	f.compared = now
	ctx, cancel := context.WithTimeout(ctx, followTimeout)
	defer cancel()
	last, err := api.last(ctx)
	return err != nil || last <= f.cursor
}

// once asks one way for changes, and tells memory of them. It says whether memory is up to date.
func (f *following) once(ctx context.Context, way string) bool {
	source := f.ways[way]
	if source == nil {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, followWait+followTimeout)
	defer cancel()
	if f.cursor == unknownCursor {
		last, err := source.last(ctx)
		if err != nil {
			return false
		}
		f.cursor = last
		// What is in memory was read before anybody followed.
		f.store.distrust()
	}
	changes, err := source.changes(ctx, f.cursor, followWait)
	if errors.Is(err, errForgotten) {
		return f.resume(ctx, way, source)
	}
	if err != nil {
		return false
	}
	f.tell(changes)
	return true
}

func (f *following) tell(changes []change) {
	for _, c := range changes {
		f.store.changed(c)
		f.cursor = c.Number
	}
}

// resume goes on after this way has lost the place: by the API, which remembers longer, else anew, trusting
// nothing that is in memory.
func (f *following) resume(ctx context.Context, way string, source follower) bool {
	if api := f.ways["api"]; api != nil && way != "api" {
		changes, err := api.changes(ctx, f.cursor, followWait) // It waits, as Redis would: this may go on for long.
		if err == nil {
			f.tell(changes)
			return true
		}
		if !errors.Is(err, errForgotten) {
			return false // Perhaps it knows in a moment.
		}
	}
	last, err := source.last(ctx)
	if err != nil {
		return false
	}
	slog.Warn("changes of certificates were missed; all are asked for anew when they are used next", "from", f.cursor, "to", last)
	f.cursor = last
	f.store.distrust()
	return true
}
