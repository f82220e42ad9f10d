package e2e

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/shopset/shopset/examples/platform/buyer"
)

// load is people who buy.
type load struct {
	bought  atomic.Int64
	cancel  context.CancelFunc
	done    chan buyer.Report
	machine *machine
	// excused counts failures by shop that are the machine's.
	mu      sync.Mutex
	excused map[string]int
	// lost is how many they are in all: an order may have been made of each.
	lost int
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
	l := &load{cancel: cancel, done: make(chan buyer.Report, 1), machine: watchMachine(t.Context()), excused: map[string]int{}}
	go func() {
		l.done <- buyer.Load(ctx, buyer.LoadOptions{
			Options: options, Shops: hosts, Workers: workers, Pause: 100 * time.Millisecond,
			OnPurchase: func(receipt buyer.Receipt, err error) {
				each(receipt, err)
				switch {
				case err == nil:
					l.bought.Add(1)
				case receipt.Shop != "" && l.machine.stoodStill(time.Now().Add(-receipt.Duration)):
					t.Logf("the machine stood still meanwhile: %v", err)
					l.mu.Lock()
					l.excused[receipt.Shop]++
					l.mu.Unlock()
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

// stop returns what came of it, without the failures that are the machine's.
func (l *load) stop() buyer.Report {
	l.cancel()
	report := <-l.done
	for host, n := range l.excused {
		shop := report.Shops[host]
		report.Failed -= n
		l.lost += n
		if shop.Failed -= n; shop.Failed == 0 {
			*shop = buyer.ShopReport{Bought: shop.Bought, Repeated: shop.Repeated, Orders: shop.Orders}
		}
	}
	return report
}

// machine notices when everything on it stands still, as virtual machines do that share a host: what was under way then says nothing
// about the cells, in which all time limits have passed at once.
type machine struct {
	mu sync.Mutex
	// last is when it was last seen running, still when it last stood still.
	last, still time.Time
}

const (
	machineLook  = 50 * time.Millisecond
	machineStill = time.Second
)

func watchMachine(ctx context.Context) *machine {
	m := &machine{last: time.Now()}
	go func() {
		look := time.NewTicker(machineLook)
		defer look.Stop()
		for {
			select {
			case <-look.C:
				m.look()
			case <-ctx.Done():
				return
			}
		}
	}()
	return m
}

// look is called by the clock, and by who wants to know: after a stop they may run in any order.
func (m *machine) look() (still time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	if now.Sub(m.last) > machineStill {
		m.still = now
	}
	m.last = now
	return m.still
}

// stoodStill says whether it did since a time, or so shortly before that it was felt.
func (m *machine) stoodStill(since time.Time) bool {
	return m.look().After(since.Add(-machineStill))
}
