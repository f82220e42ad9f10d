// Package keeper is the sidecar beside running programs: it saves shops again and again, and tells metrics of that and of what was
// restored.
//
// A round that fails, in part or as a whole, is told, and the next one comes all the same. Rounds begin Every after each other, a
// little earlier or later so that Pods that started together do not save together, and never two at once. A shop that takes longer
// than ShopTimeout is given up for this round. Nothing is saved to a storage that ignores the conditions of writes.
package keeper

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"

	"github.com/shopset/shopset/internal/warmcache"
)

// Saver saves shops of a folder.
type Saver struct {
	// Shops are asked for in each round, because a ranking may be another one.
	Shops func(ctx context.Context) ([]warmcache.Shop, error)
	// Named says that each shop must be there; else those that this Pod has not served are left out.
	Named bool
	// Config is that of each shop, without the shop.
	Config warmcache.SaveConfig
	// Every is the time between rounds.
	Every time.Duration
	// ShopTimeout bounds one shop; 15 minutes when zero.
	ShopTimeout time.Duration
	// Collect removes what no snapshot needs, each CollectEvery; nil for nobody.
	Collect      func(context.Context) error
	CollectEvery time.Duration
	// Metrics may be nil.
	Metrics *Metrics

	// conditional says that the storage was found to keep to conditions.
	conditional bool
}

// maxTold is how many failures of a round are told one by one: there may be thousands, of one cause.
const maxTold = 20

// Round saves all shops once, and returns the failures.
func (s *Saver) Round(ctx context.Context) error {
	began := time.Now()
	err := s.checkStorage(ctx)
	var shops []warmcache.Shop
	if err == nil {
		shops, err = s.Shops(ctx)
	}
	if err != nil {
		s.Metrics.round(time.Since(began), err)
		return err
	}
	var failures []error
	counts := map[string]int{}
	sent := int64(0)
	for _, shop := range shops {
		if _, err := os.Lstat(filepath.Join(s.Config.Folder, shop.Name)); errors.Is(err, os.ErrNotExist) && !s.Named {
			continue
		}
		result, err := s.shop(ctx, shop.Name)
		if ctx.Err() != nil {
			failures = append(failures, ctx.Err())
			break
		}
		what := outcome(result, err)
		counts[what]++
		s.Metrics.saved(what, result)
		if err != nil {
			if counts["failed"] <= maxTold {
				failures = append(failures, err)
			}
			continue
		}
		sent += result.SentBytes
	}
	if more := counts["failed"] - maxTold; more > 0 {
		failures = append(failures, fmt.Errorf("and %d shops more", more))
	}
	err = errors.Join(failures...)
	s.Metrics.round(time.Since(began), err)
	what := "saved"
	if s.Config.DryRun {
		what = "this would be saved"
	}
	slog.Info(what, "shops", counts["saved"], "unchanged", counts["unchanged"], "busy", counts["busy"], "smaller", counts["smaller"],
		"recent", counts["recent"], "failed", counts["failed"], "sentBytes", sent, "took", time.Since(began).Round(time.Millisecond).String())
	return err
}

func (s *Saver) checkStorage(ctx context.Context) error {
	if s.conditional || s.Config.DryRun {
		return nil
	}
	err := warmcache.CheckConditions(ctx, s.Config.Storage, s.Config.Compatibility)
	s.conditional = err == nil
	return err
}

func (s *Saver) shop(ctx context.Context, name string) (*warmcache.SaveResult, error) {
	limit := s.ShopTimeout
	if limit == 0 {
		limit = 15 * time.Minute
	}
	bounded, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	config := s.Config
	config.Shop = name
	result, err := warmcache.Save(bounded, config)
	if err != nil && bounded.Err() != nil && ctx.Err() == nil {
		err = fmt.Errorf("it was given up because it took longer than %s: %w", limit, err)
	}
	return result, err
}

func outcome(result *warmcache.SaveResult, err error) string {
	switch {
	case err != nil:
		return "failed"
	case result.Busy:
		return "busy"
	case result.Unchanged:
		return "unchanged"
	case result.Smaller:
		return "smaller"
	case result.Recent:
		return "recent"
	}
	return "saved"
}

// Loop saves until the context ends. The first round comes at once if now says so.
func (s *Saver) Loop(ctx context.Context, now bool) {
	collected := time.Now()
	for {
		if !now && !pause(ctx, s.Every*9/10+rand.N(s.Every/5+1)) { //nolint:gosec // No secret.
			return
		}
		now = false
		if err := s.Round(ctx); err != nil && ctx.Err() == nil {
			slog.Error("not everything was saved", "error", err)
		}
		if ctx.Err() != nil {
			return
		}
		// What removes packs rests on conditional writes as what saves them does.
		if s.Collect != nil && (s.conditional || s.Config.DryRun) && s.CollectEvery > 0 && time.Since(collected) >= s.CollectEvery {
			collected = time.Now()
			if err := s.Collect(ctx); err != nil && ctx.Err() == nil {
				slog.Error("not everything was collected", "error", err)
			}
		}
	}
}

func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
