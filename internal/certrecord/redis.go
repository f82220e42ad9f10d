package certrecord

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/rueidis"
)

// Redis is one that may be away, when the program starts as well as later.
type Redis struct {
	options rueidis.ClientOption

	client atomic.Pointer[rueidis.Client]

	// What follows is guarded, and about the first connection alone.
	mu     sync.Mutex
	err    error
	next   time.Time
	closed bool
}

// NewRedis connects when it is first used.
func NewRedis(options rueidis.ClientOption) *Redis { return &Redis{options: options} }

// reconnect is how often a first connection is tried; later ones are the client's own matter.
const reconnect = time.Second

var errConnecting = errors.New("redis: connecting for the first time")

// Client returns the client, or why there is none. Who comes while somebody connects does not wait.
func (r *Redis) Client() (rueidis.Client, error) {
	if client := r.client.Load(); client != nil {
		return *client, nil
	}
	if !r.mu.TryLock() {
		return nil, errConnecting
	}
	defer r.mu.Unlock()
	switch client := r.client.Load(); {
	case client != nil:
		return *client, nil
	case r.closed:
		return nil, rueidis.ErrClosing
	case time.Now().Before(r.next):
		return nil, r.err
	}
	client, err := rueidis.NewClient(r.options)
	if err != nil {
		r.err, r.next = fmt.Errorf("redis: %w", err), time.Now().Add(reconnect)
		return nil, r.err
	}
	r.client.Store(&client)
	return client, nil
}

// ClientWithin is Client, but for the time that the context gives. A connection that takes longer is for those who come later.
func (r *Redis) ClientWithin(ctx context.Context) (rueidis.Client, error) {
	if client := r.client.Load(); client != nil {
		return *client, nil
	}
	done := make(chan struct{})
	var client rueidis.Client
	var err error
	go func() {
		defer close(done)
		client, err = r.Client()
	}()
	select {
	case <-done:
		return client, err
	case <-ctx.Done():
		return nil, fmt.Errorf("redis: connecting for the first time: %w", ctx.Err())
	}
}

// Close ends all connections.
func (r *Redis) Close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed = true
	if client := r.client.Load(); client != nil {
		(*client).Close()
	}
}
