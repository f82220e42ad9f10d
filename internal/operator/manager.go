package operator

import (
	"context"
	"fmt"
	"time"

	"k8s.io/client-go/rest"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/config"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"
)

// Options of the operator.
type Options struct {
	// Concurrency is how many ShopSets are worked on at a time.
	Concurrency int
	// LeaderElection lets one of several replicas work at a time.
	LeaderElection bool
	// Namespace restricts the operator to one namespace; empty is all.
	Namespace string
	// KeyNamespace is where the keys are that sign routing tables: the operator's own namespace.
	KeyNamespace string
	// Metrics may be nil.
	Metrics *Metrics
	// Connections asks the edge for its connections; over HTTP when nil.
	Connections ConnectionCounter
	// SkipNameValidation lets tests run several managers in one process.
	SkipNameValidation bool
}

// The lease outlives an API server that is away for a minute and more: the operator waits and goes on
// without a restart. The price is that a leader which dies without a word is replaced after two
// minutes; cells serve meanwhile. A leader that ends in order releases the lease at once.
const (
	leaseDuration = 120 * time.Second
	renewDeadline = 100 * time.Second
	retryPeriod   = 5 * time.Second
)

// NewManager makes a manager that runs the reconcilers.
func NewManager(ctx context.Context, kubeconfig *rest.Config, options Options) (ctrl.Manager, error) {
	scheme, err := Scheme()
	if err != nil {
		return nil, err
	}
	cacheOptions, err := CacheOptions()
	if err != nil {
		return nil, err
	}
	if options.Namespace != "" {
		cacheOptions.DefaultNamespaces = map[string]cache.Config{options.Namespace: {}}
	}
	kubeconfig = rest.CopyConfig(kubeconfig)
	kubeconfig.UserAgent = "shopset-operator"
	// The API server's priority and fairness paces the operator among all others. A limit of its own
	// would only slow it down when there is room.
	kubeconfig.QPS = -1
	// The API server would compress every event of a watch by itself, which costs both sides more than
	// the network between them.
	kubeconfig.DisableCompression = true
	manager, err := ctrl.NewManager(kubeconfig, ctrl.Options{
		Scheme:                        scheme,
		Cache:                         cacheOptions,
		Metrics:                       metricsserver.Options{BindAddress: "0"},
		LeaderElection:                options.LeaderElection,
		LeaderElectionID:              "shopset-operator",
		LeaderElectionReleaseOnCancel: true,
		LeaseDuration:                 new(leaseDuration),
		RenewDeadline:                 new(renewDeadline),
		RetryPeriod:                   new(retryPeriod),
		Controller:                    config.Controller{SkipNameValidation: new(options.SkipNameValidation)},
	})
	if err != nil {
		return nil, fmt.Errorf("connect to Kubernetes: %w", err)
	}
	if options.Connections == nil {
		options.Connections = NewHTTPConnections()
	}
	reconciler := &Reconciler{
		Client:      manager.GetClient(),
		Live:        manager.GetAPIReader(),
		Events:      manager.GetEventRecorder("shopset-operator"),
		Connections: options.Connections,
		Metrics:     options.Metrics,
	}
	if err := reconciler.SetupWithManager(ctx, manager, options.Concurrency); err != nil {
		return nil, err
	}
	tables, err := newTableCache(manager, cacheOptions.DefaultNamespaces)
	if err != nil {
		return nil, err
	}
	fleets := &FleetReconciler{
		Client:       manager.GetClient(),
		Live:         manager.GetAPIReader(),
		KeyNamespace: options.KeyNamespace,
		Events:       manager.GetEventRecorder("shopset-operator"),
		Metrics:      options.Metrics,
	}
	return manager, fleets.SetupWithManager(manager, tables, options.Concurrency)
}
