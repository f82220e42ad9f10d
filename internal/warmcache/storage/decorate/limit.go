package decorate

import (
	"context"
	"io"

	"golang.org/x/time/rate"

	"github.com/shopset/shopset/internal/warmcache/storage"
)

// Limit is a storage that sends and receives no more than some bytes in a second, whoever uses it. A limiter that is nil is none.
type Limit struct {
	storage.Storage
	Sent, Received *rate.Limiter
}

// BytesPerSecond makes a limiter of a number of bytes in a second; nil for zero. At most a quarter of a second's bytes pass at once.
func BytesPerSecond(n int) *rate.Limiter {
	if n <= 0 {
		return nil
	}
	return rate.NewLimiter(rate.Limit(n), max(n/4, 4<<10))
}

func wait(ctx context.Context, limiter *rate.Limiter, bytes int) error {
	for limiter != nil && bytes > 0 {
		n := min(bytes, limiter.Burst())
		if err := limiter.WaitN(ctx, n); err != nil {
			return err
		}
		bytes -= n
	}
	return nil
}

// Put implements storage.Storage.
func (l Limit) Put(ctx context.Context, key string, content []byte, condition storage.Condition) (string, error) {
	if err := wait(ctx, l.Sent, len(content)); err != nil {
		return "", err
	}
	return l.Storage.Put(ctx, key, content, condition)
}

// Get implements storage.Storage.
func (l Limit) Get(ctx context.Context, key string, offset, length int64) (io.ReadCloser, storage.Info, error) {
	body, info, err := l.Storage.Get(ctx, key, offset, length)
	if err != nil || l.Received == nil {
		return body, info, err
	}
	return &limited{body, ctx, l.Received}, info, nil
}

type limited struct {
	io.ReadCloser
	ctx     context.Context
	limiter *rate.Limiter
}

func (l *limited) Read(p []byte) (int, error) {
	p = p[:min(len(p), l.limiter.Burst())]
	n, err := l.ReadCloser.Read(p)
	if failure := wait(l.ctx, l.limiter, n); failure != nil {
		return n, failure
	}
	return n, err
}
