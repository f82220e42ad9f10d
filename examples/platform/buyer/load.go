package buyer

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sort"
	"strings"
	"sync"
	"time"
)

// LoadOptions say who buys where. Options.Shop is not used.
type LoadOptions struct {
	Options
	// Shops are the host names to buy at, in turn, each worker beginning elsewhere.
	Shops []string
	// Workers is how many buy at the same time; 1 by default.
	Workers int
	// Pause lies between two purchases of a worker.
	Pause time.Duration
	// OnPurchase hears of each purchase, from many goroutines, if it is not nil.
	OnPurchase func(Receipt, error)
}

// Report is what came of a load.
type Report struct {
	Duration time.Duration
	Bought   int
	Failed   int
	// Repeated counts purchases that succeeded, though not at the first attempt.
	Repeated int
	Shops    map[string]*ShopReport
}

// ShopReport is what came of the load at one shop.
type ShopReport struct {
	Bought   int
	Failed   int
	Repeated int
	// Orders are the order numbers, to be compared with those of the database.
	Orders []string
	// Outage is the longest time from a failure to the next success, or to the end.
	Outage time.Duration
	// FirstError and LastError are those of failed purchases.
	FirstError, LastError error

	failingSince time.Time
}

// Load buys continuously until the context ends. Where somebody could not buy, one more person (of Workers at most) tries at
// once, again and again until it works: so the length of an outage is that of the outage, and not of the way round all shops.
// Purchases that are under way at the end are finished, so that the orders of the report are all there are.
func Load(ctx context.Context, o LoadOptions) Report {
	began := time.Now()
	finishing := context.WithoutCancel(ctx)
	report := Report{Shops: map[string]*ShopReport{}}
	for _, shop := range o.Shops {
		report.Shops[shop] = &ShopReport{}
	}
	var mu sync.Mutex
	var wait sync.WaitGroup
	// buy says whether it worked.
	buy := func(shop string) (ok, first bool) {
		options := o.Options
		options.Shop = shop
		receipt, err := Buy(finishing, options)
		if o.OnPurchase != nil {
			o.OnPurchase(receipt, err)
		}
		mu.Lock()
		defer mu.Unlock()
		first = report.note(shop, receipt, err)
		return err == nil, first
	}
	pause := func() {
		select {
		case <-ctx.Done():
		case <-time.After(o.Pause):
		}
	}
	// insist has at most as many more people try as there are: what is slow must not be drowned.
	places := make(chan struct{}, max(o.Workers, 1))
	insist := func(shop string) {
		select {
		case places <- struct{}{}:
		default:
			return
		}
		wait.Go(func() {
			defer func() { <-places }()
			for ok := false; !ok && ctx.Err() == nil; ok, _ = buy(shop) {
				pause()
			}
		})
	}
	for range max(o.Workers, 1) {
		wait.Go(func() {
			for n := rand.IntN(max(len(o.Shops), 1)); ctx.Err() == nil && len(o.Shops) > 0; n++ {
				shop := o.Shops[n%len(o.Shops)]
				if _, first := buy(shop); first {
					insist(shop)
				}
				pause()
			}
		})
	}
	wait.Wait()
	report.Duration = time.Since(began)
	for _, shop := range report.Shops {
		shop.recovered()
	}
	return report
}

// note says whether this is the first failure after a success.
func (r *Report) note(name string, receipt Receipt, err error) (first bool) {
	shop := r.Shops[name]
	if err != nil {
		r.Failed++
		shop.Failed++
		if shop.FirstError == nil {
			shop.FirstError = err
		}
		shop.LastError = err
		if first = shop.failingSince.IsZero(); first {
			shop.failingSince = time.Now().Add(-receipt.Duration)
		}
		return first
	}
	r.Bought++
	shop.Bought++
	shop.Orders = append(shop.Orders, receipt.Order)
	if receipt.Repeated() {
		r.Repeated++
		shop.Repeated++
	}
	shop.recovered()
	return false
}

func (s *ShopReport) recovered() {
	if !s.failingSince.IsZero() {
		s.Outage = max(s.Outage, time.Since(s.failingSince))
		s.failingSince = time.Time{}
	}
}

// String is a summary with one line for each shop that had failures.
func (r Report) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d purchases in %s (%.1f/s), %d failed, %d repeated", r.Bought, r.Duration.Round(time.Millisecond),
		float64(r.Bought)/max(r.Duration.Seconds(), 0.001), r.Failed, r.Repeated)
	names := make([]string, 0, len(r.Shops))
	for name := range r.Shops {
		names = append(names, name)
	}
	sort.Strings(names)
	for _, name := range names {
		if s := r.Shops[name]; s.Failed > 0 {
			fmt.Fprintf(&b, "\n%s: %d bought, %d failed, longest outage %s, last: %v",
				name, s.Bought, s.Failed, s.Outage.Round(time.Millisecond), s.LastError)
		}
	}
	return b.String()
}

// Err is nil when no purchase failed and at least one succeeded.
func (r Report) Err() error {
	switch {
	case r.Bought == 0:
		return errors.New("nobody bought anything: " + r.String())
	case r.Failed > 0:
		return errors.New(r.String())
	}
	return nil
}
