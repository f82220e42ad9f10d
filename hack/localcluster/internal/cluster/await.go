package cluster

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/shopset/shopset/hack/localcluster/internal/component"
	"github.com/shopset/shopset/hack/localcluster/internal/image"
	"github.com/shopset/shopset/hack/localcluster/internal/keeper"
	"github.com/shopset/shopset/hack/localcluster/internal/kubeapi"
	"github.com/shopset/shopset/hack/localcluster/internal/node"
)

// patience is how often a component may die while the cluster starts. A single death may have a
// neighbour as its reason; a component that cannot start goes on dying.
const patience = 3

// await waits until the cluster is of use: the API answers, the node takes Pods, names resolve,
// and Pods can be made in namespace default.
func (c *Cluster) await(ctx context.Context, spec component.Spec, took *steps) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go c.watchDeaths(ctx, cancel)

	pause := make(chan error, 1)
	go func() { pause <- c.loadPause(ctx) }()

	client, err := kubeapi.New(spec)
	if err != nil {
		return err
	}
	err = poll(ctx, pollingPeriod, "the API server", func() (bool, error) {
		err := client.Get(ctx, "/readyz", nil)
		return err == nil, err
	})
	if err != nil {
		return err
	}
	took.done("API server ready")
	if err := bootstrap(ctx, client, spec); err != nil {
		return fmt.Errorf("first objects: %w", err)
	}
	if err := <-pause; err != nil {
		return fmt.Errorf("pause image: %w", err)
	}
	took.done("first objects, pause image")
	err = poll(ctx, pollingPeriod, "the node to be ready", func() (bool, error) {
		ready, why, err := client.NodeReady(ctx)
		if err == nil && !ready {
			err = errors.New(why)
		}
		return ready && err == nil, err
	})
	if err != nil {
		return err
	}
	took.done("node ready")
	err = poll(ctx, pollingPeriod, "service account default/default", func() (bool, error) {
		err := client.Get(ctx, "/api/v1/namespaces/default/serviceaccounts/default", nil)
		return err == nil, err
	})
	if err != nil {
		return err
	}
	took.done("default service account")
	err = poll(ctx, pollingPeriod, "DNS", func() (bool, error) {
		err := resolves(ctx, spec)
		return err == nil, err
	})
	took.done("DNS answers through its Service")
	return err
}

// loadPause brings in the image without which no Pod starts.
func (c *Cluster) loadPause(ctx context.Context) error {
	file := filepath.Join(c.layout.Run(), "pause.tar")
	if err := image.Pack(component.PauseImage, c.layout.Program("pause"), file); err != nil {
		return err
	}
	record, err := keeper.Read(c.layout)
	if err != nil {
		return err
	}
	socket := containerdSocket(record)
	err = poll(ctx, pollingPeriod, "containerd", func() (bool, error) {
		conn, err := net.Dial("unix", socket)
		if err == nil {
			_ = conn.Close()
		}
		return err == nil, err
	})
	if err != nil {
		return err
	}
	return c.importFile(ctx, record, file)
}

// resolves asks the cluster's DNS by its Service, so that kube-proxy is asked too.
// A query sent before kube-proxy has its rules is lost, so it does not wait long.
func resolves(ctx context.Context, spec component.Spec) error {
	ctx, cancel := context.WithTimeout(ctx, 200*time.Millisecond)
	defer cancel()
	resolver := net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		var dialer net.Dialer
		return dialer.DialContext(ctx, network, net.JoinHostPort(spec.Plan.DNS().String(), "53"))
	}}
	_, err := resolver.LookupHost(ctx, "kubernetes.default.svc.cluster.local.")
	return err
}

// watchDeaths ends the wait when the node ends or a component keeps dying, with the reason.
func (c *Cluster) watchDeaths(ctx context.Context, cancel context.CancelCauseFunc) {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		record, err := keeper.Read(c.layout)
		if err != nil || !record.Node.Alive() {
			cancel(fmt.Errorf("the node has ended:\n%s", lastLines(c.layout.Log("node"), 20)))
			return
		}
		statuses, _ := node.ReadStatus(c.layout)
		for _, status := range statuses {
			if status.Restarts >= patience {
				cancel(fmt.Errorf("%s does not start (%s); the end of %s:\n%s", status.Name, status.LastExit,
					c.layout.Log(status.Name), lastLines(c.layout.Log(status.Name), 20)))
				return
			}
		}
	}
}

// lastLines returns the end of a file.
func lastLines(file string, n int) string {
	data, err := os.ReadFile(file)
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimRight(string(data), "\n"), "\n")
	return "  " + strings.Join(lines[max(0, len(lines)-n):], "\n  ")
}
