package e2e

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/shopset/shopset/examples/platform/buyer"
)

// load is people who buy.
type load struct {
	bought atomic.Int64
	cancel context.CancelFunc
	done   chan buyer.Report
}

const workers = 4

// startLoad lets people buy until stop is called, however long that is.
func startLoad(t *testing.T, options buyer.Options) *load {
	t.Helper()
	return startLoadAt(t, options, shops(20), func(buyer.Receipt, error) {})
}

// startLoadAt is startLoad at shops of choice; each hears of every purchase.
func startLoadAt(t *testing.T, options buyer.Options, hosts []string, each func(buyer.Receipt, error)) *load {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	l := &load{cancel: cancel, done: make(chan buyer.Report, 1)}
	go func() {
		l.done <- buyer.Load(ctx, buyer.LoadOptions{
			Options: options, Shops: hosts, Workers: workers, Pause: 100 * time.Millisecond,
			OnPurchase: func(receipt buyer.Receipt, err error) {
				each(receipt, err)
				if err == nil {
					l.bought.Add(1)
				}
			},
		})
	}()
	t.Cleanup(cancel)
	l.more(t)
	return l
}

// more waits for a purchase that began after this call: of one more than there are people, one did.
func (l *load) more(t *testing.T) {
	t.Helper()
	goal := l.bought.Load() + workers + 1
	eventually(t, func() error {
		if n := l.bought.Load(); n < goal {
			return fmt.Errorf("nobody buys anything: %d of %d purchases", n, goal)
		}
		return nil
	})
}

// stop returns what came of it.
func (l *load) stop() buyer.Report {
	l.cancel()
	return <-l.done
}
