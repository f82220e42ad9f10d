package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net/http"
	"os"
	"slices"
	"sort"
	"sync"
	"sync/atomic"
	"time"

	"github.com/shopset/shopset/bench/internal/report"
)

// load asks for pages of shops, some much more often than others (Zipf with exponent 1), as traffic is.
type load struct {
	address    string
	shops      int
	products   int
	cumulative []float64
	client     *http.Client
}

func newLoad(shops, products int) *load {
	l := &load{shops: shops, products: products, client: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64}, Timeout: 30 * time.Second}}
	total := 0.0
	for i := range shops {
		total += 1 / float64(i+1)
		l.cumulative = append(l.cumulative, total)
	}
	return l
}

func name(shop int) string { return fmt.Sprintf("shop-%05d", shop) }

func (l *load) pick(random *rand.Rand) int {
	return sort.SearchFloat64s(l.cumulative, random.Float64()*l.cumulative[l.shops-1])
}

// everything asks for every page once.
func (l *load) everything(ctx context.Context, clients int) error {
	var next atomic.Int64
	return together(clients, func(int) error {
		for {
			shop := int(next.Add(1)) - 1
			if shop >= l.shops {
				return nil
			}
			for product := range l.products + 1 {
				if _, err := l.ask(ctx, shop, product); err != nil {
					return err
				}
			}
		}
	})
}

// ask gets the home page, product 0, or that of a product.
func (l *load) ask(ctx context.Context, shop, product int) (time.Duration, error) {
	path := "/"
	if product > 0 {
		path = fmt.Sprintf("/products/%d", product)
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+l.address+path, nil)
	if err != nil {
		return 0, err
	}
	request.Host = name(shop) + ".shops.example"
	began := time.Now()
	answer, err := l.client.Do(request)
	if err != nil {
		return 0, err
	}
	defer answer.Body.Close()
	if _, err := io.Copy(io.Discard, answer.Body); err != nil {
		return 0, err
	}
	if answer.StatusCode != http.StatusOK {
		return 0, fmt.Errorf("%s%s: %s", request.Host, path, answer.Status)
	}
	return time.Since(began), nil
}

// run asks as fast as the shop answers, for a time: what it answers is its capacity.
func (l *load) run(ctx context.Context, clients int, duration time.Duration) (*series, error) {
	began := time.Now()
	parts := make([][]sample, clients)
	err := together(clients, func(client int) error {
		random := rand.New(rand.NewPCG(7, uint64(client))) //nolint:gosec // No secret.
		for time.Since(began) < duration {
			took, err := l.ask(ctx, l.pick(random), max(0, random.IntN(2*l.products)-l.products+1))
			if err != nil {
				return err
			}
			parts[client] = append(parts[client], sample{time.Since(began), took})
		}
		return nil
	})
	return &series{duration: duration, samples: slices.Concat(parts...)}, err
}

// accessLog writes what an edge would have logged of such traffic.
func (l *load) accessLog(path string, lines int) error {
	file, err := os.Create(path) //nolint:gosec // It is ours.
	if err != nil {
		return err
	}
	random := rand.New(rand.NewPCG(11, 13)) //nolint:gosec // No secret.
	now := time.Now()
	for i := range lines {
		if _, err := fmt.Fprintf(file, "{\"time\":%q,\"shop\":%q}\n", now.Add(-time.Duration(i)*time.Second/10).UTC().Format(time.RFC3339), name(l.pick(random))); err != nil {
			return errors.Join(err, file.Close())
		}
	}
	return file.Close()
}

func together(n int, do func(int) error) error {
	failures := make([]error, n)
	var group sync.WaitGroup
	for i := range n {
		group.Go(func() { failures[i] = do(i) })
	}
	group.Wait()
	return errors.Join(failures...)
}

// sample is one answer: when it came, and how long it took.
type sample struct{ at, took time.Duration }

// series is what an instance answered.
type series struct {
	duration time.Duration
	samples  []sample
}

func (s *series) rate() float64 { return float64(len(s.samples)) / s.duration.Seconds() }

// tail is the rate of the last third.
func (s *series) tail() float64 {
	from, n := s.duration*2/3, 0
	for _, one := range s.samples {
		if one.at >= from {
			n++
		}
	}
	return float64(n) / (s.duration - from).Seconds()
}

// second has the samples of the seconds from, up to to.
func (s *series) second(from, to int) []time.Duration {
	var took []time.Duration
	for _, one := range s.samples {
		if at := int(one.at / time.Second); at >= from && at < to {
			took = append(took, one.took)
		}
	}
	slices.Sort(took)
	return took
}

// lost is how many requests fewer than in the steady state were answered: the integral of the lost capacity.
func (s *series) lost(steady float64) float64 {
	return steady*s.duration.Seconds() - float64(len(s.samples))
}

// tell reports rate and percentiles of the time around a second.
func (s *series) tell(who string, at int) {
	took := s.second(at, at+5)
	if len(took) == 0 {
		return
	}
	quantile := func(q float64) float64 {
		return float64(took[min(len(took)-1, int(math.Ceil(q*float64(len(took)))))]) / 1e6
	}
	report.Result(fmt.Sprintf("warmstart.%s_rps_%ds", who, at), float64(len(took))/5, "1/s")
	report.Result(fmt.Sprintf("warmstart.%s_p50_ms_%ds", who, at), quantile(0.5), "ms")
	report.Result(fmt.Sprintf("warmstart.%s_p99_ms_%ds", who, at), quantile(0.99), "ms")
}

func (s *series) report(who string, lost float64) {
	for _, at := range []int{0, 5, 15, 30, 55} {
		if time.Duration(at+5)*time.Second <= s.duration {
			s.tell(who, at)
		}
	}
	report.Result("warmstart."+who+"_lost_requests", lost, "")
}
