// Package decorate wraps a storage: Retry tries again, Limit bounds what is sent and received in a second, Measure counts. Each is
// a storage itself and passes the suite in storagetest, alone and over the others.
package decorate

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"time"

	"github.com/shopset/shopset/internal/warmcache/storage"
)

// Retry is a storage that tries again what failed for the time being, and gives up what makes no progress.
//
// A conditional Put whose answer was lost may have happened: if the next try finds a conflict, the object is read, and if it is
// what was to be put, it was put. A Get that breaks off goes on where it was, unless the object is another one meanwhile.
type Retry struct {
	storage.Storage
	// Tries of one operation, the first included; 5 when zero.
	Tries int
	// Pause before the second; it doubles. 200 ms when zero.
	Pause time.Duration
	// Stall is how long nothing may come; 30 s when zero. A Put may take a second more for each 64 KiB.
	Stall time.Duration
}

const longestPause = 10 * time.Second

// passing says whether an error may be another one later.
func passing(err error) bool {
	for _, final := range []error{storage.ErrNotFound, storage.ErrConflict, storage.ErrRefused, context.Canceled} {
		if errors.Is(err, final) {
			return false
		}
	}
	return err != nil
}

// errStalled ends a try that makes no progress.
var errStalled = errors.New("nothing came for too long")

func (r Retry) stall() time.Duration {
	if r.Stall == 0 {
		return 30 * time.Second
	}
	return r.Stall
}

func (r Retry) pause(ctx context.Context, try int) bool {
	pause := r.Pause
	if pause == 0 {
		pause = 200 * time.Millisecond
	}
	pause = min(pause<<min(try-1, 10), longestPause)
	timer := time.NewTimer(pause/2 + rand.N(pause/2+1)) //nolint:gosec // No secret.
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// again calls do until it succeeds, or an error is final.
func (r Retry) again(ctx context.Context, limit time.Duration, do func(ctx context.Context, try int) error) error {
	tries := r.Tries
	if tries == 0 {
		tries = 5
	}
	for try := 1; ; try++ {
		attempt, cancel := context.WithTimeoutCause(ctx, limit, errStalled)
		err := do(attempt, try)
		cancel()
		if err != nil && ctx.Err() != nil {
			return errors.Join(ctx.Err(), err)
		}
		if err == nil || !passing(err) || try == tries || !r.pause(ctx, try) {
			return err
		}
	}
}

// Do does something else with the storage, again when it fails for the time being.
func (r Retry) Do(ctx context.Context, do func(ctx context.Context) error) error {
	return r.again(ctx, r.stall(), func(ctx context.Context, _ int) error { return do(ctx) })
}

// Put implements storage.Storage.
func (r Retry) Put(ctx context.Context, key string, content []byte, condition storage.Condition) (tag string, err error) {
	err = r.again(ctx, r.stall()+time.Duration(len(content)/(64<<10))*time.Second, func(ctx context.Context, try int) error {
		tag, err = r.Storage.Put(ctx, key, content, condition)
		if try > 1 && errors.Is(err, storage.ErrConflict) {
			if ours, is := r.isOurs(ctx, key, content); is {
				tag, err = ours, nil
			}
		}
		return err
	})
	return tag, err
}

// isOurs says whether an object is what was to be put.
func (r Retry) isOurs(ctx context.Context, key string, content []byte) (tag string, is bool) {
	reader, info, err := r.Get(ctx, key, 0, -1)
	if err != nil {
		return "", false
	}
	defer reader.Close()
	there, err := io.ReadAll(io.LimitReader(reader, int64(len(content))+1))
	return info.Tag, err == nil && bytes.Equal(there, content)
}

// List implements storage.Storage.
func (r Retry) List(ctx context.Context, prefix, after string, limit int) (found []storage.Info, err error) {
	err = r.again(ctx, r.stall(), func(ctx context.Context, _ int) error {
		found, err = r.Storage.List(ctx, prefix, after, limit)
		return err
	})
	return found, err
}

// Delete implements storage.Storage.
func (r Retry) Delete(ctx context.Context, key string) error {
	return r.again(ctx, r.stall(), func(ctx context.Context, _ int) error { return r.Storage.Delete(ctx, key) })
}

// Get implements storage.Storage.
func (r Retry) Get(ctx context.Context, key string, offset, length int64) (io.ReadCloser, storage.Info, error) {
	s := &resumed{retry: r, ctx: ctx, key: key, offset: offset, left: length}
	if err := s.open(); err != nil {
		return nil, s.info, err
	}
	if rest := max(0, s.info.Size-offset); s.left < 0 || s.left > rest {
		s.left = rest
	}
	return s, s.info, nil
}

// resumed reads an object, as often as the connection breaks from where it was.
type resumed struct {
	retry  Retry
	ctx    context.Context
	key    string
	offset int64
	left   int64 // to be read; negative to the end, until that is known
	info   storage.Info
	broken int

	body   io.ReadCloser
	cancel context.CancelCauseFunc
	watch  *time.Timer
}

func (s *resumed) open() error {
	return s.retry.again(s.ctx, time.Hour, func(context.Context, int) error {
		// The body lives on when the try is over, so that it has a context of its own.
		ctx, cancel := context.WithCancelCause(s.ctx)
		watch := time.AfterFunc(s.retry.stall(), func() { cancel(errStalled) })
		body, info, err := s.retry.Storage.Get(ctx, s.key, s.offset, s.left)
		if err == nil && s.info.Tag != "" && info.Tag != s.info.Tag {
			err = fmt.Errorf("%s was replaced while it was read: %w", s.key, errors.Join(storage.ErrConflict, body.Close()))
		}
		if err != nil {
			watch.Stop()
			if context.Cause(ctx) == errStalled { //nolint:errorlint // It is itself.
				err = fmt.Errorf("%s: %w", s.key, errStalled)
			}
			cancel(nil)
			return err
		}
		watch.Stop()
		s.body, s.info, s.cancel, s.watch = body, info, cancel, watch
		return nil
	})
}

func (s *resumed) Read(p []byte) (int, error) {
	for {
		if s.left == 0 {
			return 0, io.EOF
		}
		if s.body == nil {
			return 0, fmt.Errorf("%s: it was closed", s.key)
		}
		s.watch.Reset(s.retry.stall())
		n, err := s.body.Read(p)
		s.watch.Stop()
		s.offset += int64(n)
		s.left = max(0, s.left-int64(n))
		if n > 0 {
			s.broken = 0
		}
		if err != nil && s.left > 0 { // It breaks off, or ends before it should.
			err = s.reopen(err)
		}
		if n > 0 || s.left == 0 {
			if s.left == 0 {
				err = nil // All of it is there.
			}
			return n, err
		}
		if err != nil {
			return n, err
		}
	}
}

func (s *resumed) reopen(err error) error {
	s.end()
	tries := s.retry.Tries
	if tries == 0 {
		tries = 5
	}
	if s.broken++; s.ctx.Err() != nil || s.broken >= tries || !s.retry.pause(s.ctx, s.broken) {
		return errors.Join(s.ctx.Err(), fmt.Errorf("%s breaks off after %d bytes: %w", s.key, s.offset, err))
	}
	return s.open()
}

func (s *resumed) end() {
	if s.body != nil {
		_ = s.body.Close() // Its error is told already.
		s.watch.Stop()
		s.cancel(nil)
		s.body = nil
	}
}

func (s *resumed) Close() error {
	s.end()
	return nil
}
