package warmcache

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"time"
)

// lease says whose turn it is to save a shop. It is in the head, so that taking it over and committing a snapshot are changes of one
// object: whoever has lost the lease finds another head than the one that was read, and cannot commit, however long it slept.
// Clocks decide when a lease may be taken over, and nothing else.
type lease struct {
	Holder string    `json:"holder"`
	Token  string    `json:"token"`
	Until  time.Time `json:"until"`
}

// LeaseTime is how long a saver that is not heard of keeps others from saving the same shop.
const LeaseTime = time.Minute

// ErrLeaseLost says that somebody else has taken over: nothing was published.
var ErrLeaseLost = errors.New("another saver has taken over")

// maxSkew is how far apart clocks may be. A lease that claims to be good for longer is not believed: who wrote it, with a clock that
// is far ahead or for no good reason, would keep everybody else from saving the shop.
const maxSkew = 5 * time.Minute

// held says whether somebody else has the lease.
func (h *head) held(token string, now time.Time) bool {
	return h.Lease != nil && h.Lease.Token != token && now.Before(h.Lease.Until) && !h.Lease.Until.After(now.Add(LeaseTime+maxSkew))
}

// turn is the time in which one saver may save a shop.
type turn struct {
	saving *saving
	token  string
	until  time.Time
}

// errBusy says that somebody else is saving the shop.
var errBusy = errors.New("another saver is at it")

// begin takes the lease if nobody has it, and nobody has saved since newest was the last generation.
func (s *saving) begin(ctx context.Context, newest int64) (*turn, error) {
	t := &turn{saving: s, token: rand.Text()}
	return t, t.change(ctx, func(h *head, now time.Time) error {
		if h.held(t.token, now) || h.newest() != newest {
			return errBusy
		}
		return nil
	})
}

// newest is the number of the last generation; zero for none.
func (h *head) newest() (number int64) {
	for i := range h.Generations {
		number = max(number, h.Generations[i].Number)
	}
	return number
}

// renew keeps the lease while there is something to do.
func (t *turn) renew(ctx context.Context) error {
	if t.until.Sub(t.saving.Now()) > LeaseTime/2 {
		return nil
	}
	return t.change(ctx, t.ours)
}

func (t *turn) ours(h *head, _ time.Time) error {
	if h.Lease == nil || h.Lease.Token != t.token {
		return ErrLeaseLost
	}
	return nil
}

func (t *turn) change(ctx context.Context, check func(*head, time.Time) error) error {
	s := t.saving
	var until time.Time
	err := changeHead(ctx, s.Storage, s.Compatibility, s.Shop, func(h *head) error {
		now := s.Now()
		if err := check(h, now); err != nil {
			return err
		}
		until = now.Add(LeaseTime)
		h.Lease = &lease{Holder: s.Source, Token: t.token, Until: until.UTC()}
		return nil
	})
	if err == nil {
		t.until = until
	}
	return err
}

// commit adds a generation and gives the lease back, both at once.
func (t *turn) commit(ctx context.Context, made *Generation) error {
	s := t.saving
	return changeHead(ctx, s.Storage, s.Compatibility, s.Shop, func(h *head) error {
		if err := t.ours(h, time.Time{}); err != nil {
			return err
		}
		if h.revokedSince(s.known) {
			return errRevoked
		}
		made.Number = h.newest() + 1
		h.Generations = append([]Generation{*made}, h.Generations...)
		h.retain(s.Now())
		h.Lease = nil
		return nil
	})
}

// errRevoked says that what was looked at before the snapshot was begun is not trusted any more.
var errRevoked = errors.New("snapshots of it were revoked while it was saved; this one may have what is wrong with them, and is not published")

// revokedSince says whether something was revoked that was not when known was read.
func (h *head) revokedSince(known *head) bool {
	revoked := func(of *head) (numbers []int64) {
		for i := range of.Generations {
			if of.Generations[i].Revoked {
				numbers = append(numbers, of.Generations[i].Number)
			}
		}
		return numbers
	}
	before := revoked(known)
	return slices.ContainsFunc(revoked(h), func(number int64) bool { return !slices.Contains(before, number) })
}

// giveUp gives the lease back when nothing came of it, so that others need not wait.
func (t *turn) giveUp(ctx context.Context) {
	late, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	// Who cannot give it back loses it anyway, some time later.
	_ = changeHead(late, t.saving.Storage, t.saving.Compatibility, t.saving.Shop, func(h *head) error {
		if t.ours(h, time.Time{}) != nil {
			return errNothing
		}
		h.Lease = nil
		return nil
	})
}

func checkSource(source string) error {
	if len(source) > maxSource {
		return fmt.Errorf("source %.40q…: want a name of at most %d bytes", source, maxSource)
	}
	return nil
}
