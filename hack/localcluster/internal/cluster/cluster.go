// Package cluster is what the commands do: up, down, status, load.
package cluster

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/shopset/shopset/hack/localcluster/internal/build"
	"github.com/shopset/shopset/hack/localcluster/internal/cgroup"
	"github.com/shopset/shopset/hack/localcluster/internal/flock"
	"github.com/shopset/shopset/hack/localcluster/internal/keeper"
	"github.com/shopset/shopset/hack/localcluster/internal/kubeapi"
	"github.com/shopset/shopset/hack/localcluster/internal/layout"
	"github.com/shopset/shopset/hack/localcluster/internal/node"
	"github.com/shopset/shopset/hack/localcluster/internal/preflight"
	"github.com/shopset/shopset/hack/localcluster/internal/subnet"
)

// Cluster is a cluster that may or may not run.
type Cluster struct {
	layout layout.Layout
	say    *build.Progress
}

// New returns the cluster with this layout.
func New(l layout.Layout, say *build.Progress) *Cluster { return &Cluster{l, say} }

// ErrDown says that no cluster runs.
var ErrDown = errors.New("no cluster is running; start one with 'localcluster up'")

// running returns the record of the cluster if it runs.
func (c *Cluster) running() (keeper.Record, error) {
	record, err := keeper.Read(c.layout)
	if errors.Is(err, fs.ErrNotExist) {
		return record, ErrDown
	}
	if err != nil {
		return record, err
	}
	if !record.Keeper.Alive() || !record.Node.Alive() {
		return record, fmt.Errorf("%w (an earlier one was killed)", ErrDown)
	}
	return record, nil
}

// healthy says what is wrong with a running cluster, if anything is.
func (c *Cluster) healthy(ctx context.Context, record keeper.Record) error {
	client, err := kubeapi.New(record.Spec)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	statuses, err := node.ReadStatus(c.layout)
	if err != nil {
		return err
	}
	for _, status := range statuses {
		if status.State != node.Running {
			why := ""
			if status.LastExit != "" {
				why = ": " + status.LastExit
			}
			return fmt.Errorf("%s is %s%s; see 'localcluster logs %[1]s'", status.Name, status.State, why)
		}
	}
	ready, why, err := client.NodeReady(ctx)
	if err != nil {
		return err
	}
	if !ready {
		return fmt.Errorf("the node is not ready: %s", why)
	}
	return nil
}

// lock keeps two commands from changing the same cluster.
func (c *Cluster) lock(ctx context.Context) (unlock func(), err error) {
	if err := os.MkdirAll(c.layout.State, 0o755); err != nil {
		return nil, err
	}
	return flock.Lock(ctx, c.layout.Lock(), func() {
		c.say.Line("waiting: another localcluster command works on %s", c.layout.State)
	})
}

// Down ends the cluster and removes everything of it but built programs and logs. It says whether
// there was anything to end.
func (c *Cluster) Down(ctx context.Context) (bool, error) {
	if err := preflight.Root(); err != nil {
		return false, err
	}
	unlock, err := c.lock(ctx)
	if err != nil {
		return false, err
	}
	defer unlock()
	return c.clean(ctx)
}

// clean ends whatever there is of this cluster: running, half started, or killed long ago.
func (c *Cluster) clean(ctx context.Context) (bool, error) {
	const patience = 15 * time.Second
	record, err := keeper.Read(c.layout)
	found := !errors.Is(err, fs.ErrNotExist)
	if record.Keeper.Alive() {
		if err := record.Keeper.Signal(unix.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
			return true, err
		}
		if !record.Keeper.WaitGone(patience) {
			_ = record.Keeper.Signal(unix.SIGKILL)
		}
	}
	// With the keeper the node dies, unless somebody has broken the bond between them.
	if err := record.Node.Signal(unix.SIGKILL); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return true, err
	}
	if !record.Node.WaitGone(patience) {
		return true, fmt.Errorf("process %d, the node, does not die; something in it waits for the kernel: see /proc/%[1]d/stack", record.Node.PID)
	}
	// A keeper that nobody has a record of, since it was deleted, ends by itself; its lock shows when.
	if err := os.RemoveAll(c.layout.Record()); err != nil {
		return true, err
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	unlock, err := flock.Lock(ctx, c.layout.KeeperLock(), func() { c.say.Line("waiting for an earlier cluster to end") })
	if err != nil {
		return true, fmt.Errorf("an earlier keeper does not end: %w; see 'localcluster logs keeper'", err)
	}
	defer unlock()
	if err := subnet.Disconnect(c.layout.ID(), patience); err != nil {
		return true, err
	}
	hierarchies, err := cgroup.Detect()
	if err != nil {
		return true, err
	}
	if err := hierarchies.Remove(cgroup.Name(c.layout.ID()), patience); err != nil {
		return true, fmt.Errorf("control groups are left over: %w", err)
	}
	for _, path := range []string{c.layout.Kubeconfig(), c.layout.Run()} {
		if err := os.RemoveAll(path); err != nil {
			return true, err
		}
	}
	return found, nil
}
