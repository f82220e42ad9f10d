// Command shopset-operator reconciles ShopSets and Fleets.
package main

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"runtime/debug"
	"time"

	"github.com/go-logr/logr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/metrics"

	"github.com/shopset/shopset/internal/admin"
	"github.com/shopset/shopset/internal/operator"
)

func main() { admin.Main("shopset-operator", run) }

func run() error {
	options := operator.Options{}
	flags := flag.NewFlagSet("shopset-operator", flag.ContinueOnError)
	flags.IntVar(&options.Concurrency, "concurrency", 16, "how many ShopSets are worked on at a time")
	flags.BoolVar(&options.LeaderElection, "leader-elect", false, "let one of several replicas work at a time")
	flags.StringVar(&options.Namespace, "namespace", "", "watch ShopSets of this namespace only")
	flags.StringVar(&options.KeyNamespace, "key-namespace", "shopset-system", "namespace of the Secrets with the keys that sign routing tables")
	adminAddress := flags.String("admin", admin.DefaultAddress, "address of health, readiness and metrics")
	if err := flags.Parse(os.Args[1:]); err != nil {
		return err
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("unknown argument %q", flags.Arg(0))
	}
	if options.Concurrency < 1 || options.Concurrency > 1000 {
		return fmt.Errorf("--concurrency %d: want 1 to 1000", options.Concurrency)
	}
	if os.Getenv("GOGC") == "" {
		// Nearly all of the heap is the cache, which hardly changes: room for as much garbage again
		// would only be memory that other Pods could use.
		debug.SetGCPercent(50)
	}
	ctrl.SetLogger(logr.FromSlogHandler(slog.Default().Handler()))
	config, err := ctrl.GetConfig()
	if err != nil {
		return fmt.Errorf("no Kubernetes cluster: %w; run in a Pod, or set KUBECONFIG", err)
	}
	options.Metrics = operator.NewMetrics(metrics.Registry)
	manager, err := operator.NewManager(context.Background(), config, options)
	if err != nil {
		return err
	}
	server := admin.NewWithRegistry(metrics.Registry)
	server.AddCheck("cache", func(ctx context.Context) error {
		if !manager.GetCache().WaitForCacheSync(ctx) {
			return fmt.Errorf("not synchronised with the API server yet")
		}
		return nil
	})
	return server.Run(context.Background(), admin.Options{Address: *adminAddress, Grace: 20 * time.Second}, newService(manager))
}

// service runs a manager as a Service of the admin package.
type service struct {
	manager ctrl.Manager
	context context.Context
	cancel  context.CancelFunc
	done    chan struct{}
}

func newService(manager ctrl.Manager) *service {
	ctx, cancel := context.WithCancel(context.Background())
	return &service{manager: manager, context: ctx, cancel: cancel, done: make(chan struct{})}
}

func (s *service) Serve() error {
	defer close(s.done)
	if err := s.manager.Start(s.context); err != nil {
		return err
	}
	return http.ErrServerClosed
}

func (s *service) Shutdown(ctx context.Context) error {
	s.cancel()
	select {
	case <-s.done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
