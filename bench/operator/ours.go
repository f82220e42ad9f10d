package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/client-go/rest"

	"github.com/shopset/shopset/bench/internal/process"
	"github.com/shopset/shopset/bench/internal/prom"
	"github.com/shopset/shopset/bench/internal/report"
)

// operatorProcess is the operator as a user runs it.
type operatorProcess struct {
	*process.Process
	address string
	log     string
}

func startOperator(ctx context.Context, b *bench, cp *controlPlane) (*operatorProcess, error) {
	address, err := freeAddress()
	if err != nil {
		return nil, err
	}
	o := &operatorProcess{address: address, log: filepath.Join(b.folder, "operator.log")}
	log, err := os.Create(o.log)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	arguments := []string{"--admin", address}
	if b.concurrency > 0 {
		arguments = append(arguments, "--concurrency", fmt.Sprint(b.concurrency))
	}
	environment := append([]string{"KUBECONFIG=" + cp.kubeconfig}, b.operatorEnv...)
	if o.Process, err = process.Start(b.operator, arguments, environment, log); err != nil {
		return nil, err
	}
	if err := o.waitReady(ctx); err != nil {
		return nil, errors.Join(err, o.Stop())
	}
	return o, nil
}

func freeAddress() (string, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return listener.Addr().String(), listener.Close()
}

func (o *operatorProcess) waitReady(ctx context.Context) error {
	return process.Until(ctx, 20*time.Millisecond, func() (bool, error) {
		if exited, err := o.Exited(); exited {
			log, _ := os.ReadFile(o.log)
			return false, fmt.Errorf("the operator ended: %w: %.1000s", err, log)
		}
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+o.address+"/readyz", nil)
		if err != nil {
			return false, err
		}
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			return false, nil //nolint:nilerr // It does not listen yet.
		}
		return response.StatusCode == http.StatusOK, response.Body.Close()
	})
}

func (o *operatorProcess) metrics(ctx context.Context) (prom.Metrics, error) {
	return prom.Scrape(ctx, "http://"+o.address+"/metrics")
}

// quiet waits until the operator's user has sent no request for a while.
func (cp *controlPlane) quiet(ctx context.Context, span time.Duration) error {
	last, since := int64(-1), time.Now()
	return process.Until(ctx, 100*time.Millisecond, func() (bool, error) {
		size, err := cp.auditSize()
		if size != last {
			last, since = size, time.Now()
		}
		return time.Since(since) > span, err
	})
}

// operatorRun is what is measured of the operator.
type operatorRun struct {
	measurement
	idle, settled          process.Usage
	reconciles             float64
	reconcileP99, queueP99 float64
	steady, restarted      requests
	restart                time.Duration
	restartCPU             time.Duration
}

// runOurs measures the operator on a control plane of its own; rest says how long it is watched at
// rest afterwards, zero is not at all.
func runOurs(ctx context.Context, b *bench, n int, rest time.Duration) (m operatorRun, err error) {
	cp, err := startControlPlane(ctx, b)
	if err != nil {
		return m, err
	}
	defer func() { err = errors.Join(err, cp.stop()) }()
	if err := warmUp(ctx, b, cp); err != nil {
		return m, err
	}
	o, err := startOperator(ctx, b, cp)
	if err != nil {
		return m, err
	}
	defer func() { err = errors.Join(err, o.Stop()) }()
	if err := cp.quiet(ctx, time.Second); err != nil {
		return m, err
	}
	if m.idle, err = process.Of(o.PID()); err != nil {
		return m, err
	}
	if err := m.load(ctx, b, cp, o, n); err != nil {
		return m, err
	}
	if err := cp.quiet(ctx, 5*time.Second); err != nil {
		return m, err
	}
	if m.settled, err = process.Of(o.PID()); err != nil {
		return m, err
	}
	if err := b.saveProfile(ctx, o); err != nil {
		return m, err
	}
	metrics, err := o.metrics(ctx)
	if err != nil {
		return m, err
	}
	m.reconciles = metrics.Sum("controller_runtime_reconcile_total")
	m.reconcileP99 = metrics.Quantile("controller_runtime_reconcile_time_seconds", 0.99)
	// The buckets are powers of ten; nothing waited longer than the run.
	m.queueP99 = min(metrics.Quantile("workqueue_queue_duration_seconds", 0.99), m.wall.Seconds())
	if rest == 0 {
		return m, nil
	}
	return m, m.rest(ctx, b, cp, &o, n, rest)
}

// load creates the ShopSets and waits until all is applied.
func (m *operatorRun) load(ctx context.Context, b *bench, cp *controlPlane, o *operatorProcess, n int) error {
	template, err := sample(ctx, b, cp)
	if err != nil {
		return err
	}
	systems := make([]rendered, n)
	for i := range systems {
		if systems[i], err = encode(named(template, namespace, i)); err != nil {
			return err
		}
	}
	creator, err := newBareClient(cp.adminConfig, variant{8, true})
	if err != nil {
		return err
	}
	observer, err := watchShopSets(ctx, cp.adminConfig)
	if err != nil {
		return err
	}
	defer observer.stop()
	server, err := cp.cpu()
	if err != nil {
		return err
	}
	began := time.Now()
	group, groupContext := errgroup.WithContext(ctx)
	// The API server ends a watch that is not read.
	group.Go(func() error { return observer.wait(n) })
	group.Go(func() error { return b.profileServer(groupContext, cp) })
	creating := sync.WaitGroup{}
	var next atomic.Int64
	for range 8 {
		creating.Add(1)
		group.Go(func() error {
			defer creating.Done()
			for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
				if _, err := creator.apply(groupContext, systems[i], systems[i].body); err != nil {
					return err
				}
			}
			return nil
		})
	}
	creating.Wait()
	created := time.Since(began)
	if err := group.Wait(); err != nil {
		return err
	}
	m.wall = time.Since(began)
	report.Say("  all %d ShopSets created after %.2f s", n, created.Seconds())
	return m.finish(ctx, cp, n, server, func() (time.Duration, error) {
		usage, err := process.Of(o.PID())
		return usage.CPU - m.idle.CPU, err
	})
}

// rest watches the operator while nothing happens, and starts it anew over all that is there.
func (m *operatorRun) rest(ctx context.Context, b *bench, cp *controlPlane, o **operatorProcess, n int, span time.Duration) error {
	from, err := cp.auditSize()
	if err != nil {
		return err
	}
	select {
	case <-time.After(span):
	case <-ctx.Done():
		return ctx.Err()
	}
	if m.steady, err = cp.requestsSince(from); err != nil {
		return err
	}
	if err := (*o).Stop(); err != nil {
		return err
	}
	if from, err = cp.auditSize(); err != nil {
		return err
	}
	began := time.Now()
	again, err := startOperator(ctx, b, cp)
	if err != nil {
		return err
	}
	*o = again
	err = process.Until(ctx, 50*time.Millisecond, func() (bool, error) {
		metrics, err := again.metrics(ctx)
		if err != nil {
			return false, err
		}
		return metrics.Sum("controller_runtime_reconcile_total") >= float64(n) && metrics.Sum("workqueue_depth") == 0, nil
	})
	if err != nil {
		return err
	}
	m.restart = time.Since(began)
	if err := cp.quiet(ctx, 3*time.Second); err != nil {
		return err
	}
	usage, err := process.Of(again.PID())
	if err != nil {
		return err
	}
	m.restartCPU = usage.CPU
	m.restarted, err = cp.requestsSince(from)
	return err
}

// observer knows which ShopSets the operator has reported on.
type observer struct {
	stop   context.CancelFunc
	events *json.Decoder
	done   map[string]bool
}

func watchShopSets(ctx context.Context, config *rest.Config) (*observer, error) {
	config = rest.CopyConfig(config)
	config.DisableCompression = true
	client, err := rest.HTTPClientFor(config)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	url := strings.TrimSuffix(config.Host, "/") + fmt.Sprintf(resources["ShopSet"], namespace) + "?watch=true"
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		cancel()
		return nil, err
	}
	response, err := client.Do(request)
	if err != nil {
		cancel()
		return nil, err
	}
	if response.StatusCode != http.StatusOK {
		cancel()
		return nil, errors.Join(fmt.Errorf("GET %s: %s", url, response.Status), response.Body.Close())
	}
	return &observer{stop: cancel, events: json.NewDecoder(bufio.NewReaderSize(response.Body, 1<<16)), done: map[string]bool{}}, nil
}

// wait until n ShopSets are reported on.
func (o *observer) wait(n int) error {
	for len(o.done) < n {
		var event struct {
			Type   string
			Object struct {
				Metadata struct {
					Name       string
					Generation int64
				}
				Status struct{ ObservedGeneration int64 }
			}
		}
		if err := o.events.Decode(&event); err != nil {
			return fmt.Errorf("%d of %d ShopSets were reported on: %w", len(o.done), n, err)
		}
		if event.Object.Metadata.Generation > 0 && event.Object.Status.ObservedGeneration == event.Object.Metadata.Generation {
			o.done[event.Object.Metadata.Name] = true
		}
	}
	return nil
}
