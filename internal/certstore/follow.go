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

// Run follows the changes until the context ends: in Redis, or at the API while Redis fails. Both number them alike, and each has
// a cursor of its own: what the API tells while Redis is behind, Redis tells again when it has it, so that a record that was
// read from Redis meanwhile is found to be old.
func (s *Store) Run(ctx context.Context) {
	ways := map[string]follower{}
	if s.redis != nil {
		ways["redis"] = s.redis
	}
	if s.api != nil {
		ways["api"] = s.api
	}
	f := &following{store: s, ways: ways, cursors: map[string]uint64{}}
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

type following struct {
	store *Store
	ways  map[string]follower
	// cursors are the last changes that each way has told; none before the first.
	cursors map[string]uint64
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
	return err != nil || last <= f.cursors["redis"]
}

// once asks one way for changes, and tells memory of them. It says whether memory is up to date.
func (f *following) once(ctx context.Context, way string) bool {
	source := f.ways[way]
	if source == nil {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, followWait+followTimeout)
	defer cancel()
	cursor, begun := f.cursors[way]
	if !begun && len(f.cursors) > 0 {
		for _, other := range f.cursors { // Where the other way is, this one was, or will be.
			cursor, begun = other, true
		}
		f.cursors[way] = cursor
	}
	if !begun {
		last, err := source.last(ctx)
		if err != nil {
			return false
		}
		f.cursors[way] = last
		// What is in memory was read before anybody followed.
		f.store.distrust()
	}
	changes, err := source.changes(ctx, f.cursors[way], followWait)
	if errors.Is(err, errForgotten) || err == nil && gap(f.cursors[way], changes) {
		return f.resume(ctx, way, source)
	}
	if err != nil {
		return false
	}
	f.tell(way, changes)
	return true
}

// gap says whether a change is missing: they are numbered one by one, but for the one that says that all may have changed.
func gap(cursor uint64, changes []change) bool {
	for _, c := range changes {
		if c.Number > cursor+1 && c.Name != "*" {
			return true
		}
		cursor = c.Number
	}
	return false
}

func (f *following) tell(way string, changes []change) {
	for _, c := range changes {
		f.store.changed(c)
		f.cursors[way] = c.Number
	}
	// The API is never behind Redis, which gets from it what it has.
	if api, known := f.cursors["api"]; way == "redis" && known {
		f.cursors["api"] = max(api, f.cursors["redis"])
	}
}

// resume goes on after this way has lost the place: by the API, which remembers longer, else anew, trusting
// nothing that is in memory.
func (f *following) resume(ctx context.Context, way string, source follower) bool {
	last, err := source.last(ctx)
	if err != nil {
		return false
	}
	if api := f.ways["api"]; api != nil && way != "api" {
		after := f.cursors[way]
		if own, known := f.cursors["api"]; known {
			after = max(after, own)
		}
		changes, err := api.changes(ctx, after, followWait) // It waits, as Redis would: this may go on for long.
		if err == nil {
			if len(changes) == 0 {
				f.cursors["api"] = after
			}
			f.tell("api", changes)
			if len(changes) < maxChanges && last >= f.cursors["api"] {
				f.cursors[way] = last // What Redis had before it was asked is in its records.
			}
			return true
		}
		if !errors.Is(err, errForgotten) {
			return false // Perhaps it knows in a moment.
		}
	}
	slog.Warn("changes of certificates were missed; all are asked for anew when they are used next", "from", f.cursors[way], "to", last)
	f.cursors[way] = last
	f.store.distrust()
	return true
}
