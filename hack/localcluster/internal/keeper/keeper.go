// Package keeper is the host's side of a cluster: one process that starts the node, joins it to
// the host by a veth pair, and forwards ports of the host's loopback into it.
//
// Keeper and node live and die together: the kernel kills the node with the keeper (parent death
// signal), and the keeper ends when the node does. It also ends when its record disappears, so a
// cluster whose state folder is deleted does not run on unseen.
package keeper

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/shopset/shopset/hack/localcluster/internal/cgroup"
	"github.com/shopset/shopset/hack/localcluster/internal/component"
	"github.com/shopset/shopset/hack/localcluster/internal/flock"
	"github.com/shopset/shopset/hack/localcluster/internal/layout"
	"github.com/shopset/shopset/hack/localcluster/internal/node"
	"github.com/shopset/shopset/hack/localcluster/internal/proc"
	"github.com/shopset/shopset/hack/localcluster/internal/subnet"
)

// cleanUp is how long the kernel may take to let go of a dead node's link and control groups.
const cleanUp = 10 * time.Second

type keeper struct {
	spec   component.Spec
	record Record
	node   *exec.Cmd
	gone   chan struct{} // closed when the node has ended
}

// Main is the keeper's process. It runs until the node ends or it is told to end the node.
func Main(l layout.Layout) error {
	// The parent death signal belongs to a thread, not to a process: this one must stay.
	runtime.LockOSThread()
	data, err := os.ReadFile(SpecFile(l))
	if err != nil {
		return err
	}
	k := &keeper{gone: make(chan struct{})}
	if err := json.Unmarshal(data, &k.spec); err != nil {
		return err
	}
	// An earlier keeper that has lost its record may still be ending; its last acts would hit ours.
	ctx, cancel := context.WithTimeout(context.Background(), 2*cleanUp)
	defer cancel()
	unlock, err := flock.Lock(ctx, l.KeeperLock(), func() { slog.Info("waiting for an earlier keeper to end") })
	if err != nil {
		return err
	}
	defer unlock()
	self, err := proc.Of(os.Getpid())
	if err != nil {
		return err
	}
	k.record = Record{Keeper: self, Spec: k.spec, Started: time.Now()}
	if err := k.record.write(l); err != nil {
		return err
	}
	end := make(chan os.Signal, 1)
	signal.Notify(end, unix.SIGTERM, unix.SIGINT)

	if err := k.start(); err != nil {
		return errors.Join(err, k.stop())
	}
	k.watch(end)
	return k.stop()
}

// start starts the node, then its network, then lets it go on.
func (k *keeper) start() error {
	l := k.spec.Layout
	hierarchies, err := cgroup.Detect()
	if err != nil {
		return err
	}
	if err := hierarchies.Create(cgroup.Name(l.ID())); err != nil {
		return fmt.Errorf("control group: %w", err)
	}
	input, output, err := os.Pipe()
	if err != nil {
		return err
	}
	defer output.Close()
	if err := k.clone(input); err != nil {
		return err
	}
	if err := subnet.Connect(l.ID(), k.spec.Plan, k.node.Process.Pid); err != nil {
		return err
	}
	if err := k.listen(); err != nil {
		return err
	}
	id, err := proc.Of(k.node.Process.Pid)
	if err != nil {
		return fmt.Errorf("the node has ended: %w", err)
	}
	if err := json.NewEncoder(output).Encode(k.spec); err != nil {
		return err
	}
	k.record.Node = id
	return k.record.write(l)
}

// clone starts the node's first process in new namespaces; input becomes its node.GoFile.
func (k *keeper) clone(input *os.File) error {
	defer input.Close()
	log, err := os.OpenFile(filepath.Join(k.spec.Layout.Logs(), "node.log"), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	k.node = &exec.Cmd{
		Path:       "/proc/self/exe",
		Args:       []string{"localcluster", "node"},
		Dir:        "/",
		Env:        node.Environment(),
		Stdout:     log,
		Stderr:     log,
		ExtraFiles: []*os.File{input},
		SysProcAttr: &syscall.SysProcAttr{
			Cloneflags: node.CloneFlags,
			Pdeathsig:  unix.SIGKILL,
			Setsid:     true,
		},
	}
	if err := k.node.Start(); err != nil {
		return fmt.Errorf("namespaces for the node: %w", err)
	}
	go func() {
		slog.Info("node has ended", "state", k.node.Wait())
		close(k.gone)
	}()
	return nil
}

// listen opens the forwarded ports. Only the API server's is indispensable.
func (k *keeper) listen() error {
	api := component.Forward{Host: k.spec.API.Host, Node: component.APIPort}
	if err := forward(api, k.spec.Plan.Node); err != nil {
		return fmt.Errorf("API server's port: %w", err)
	}
	for _, f := range k.spec.Publish {
		if err := forward(f, k.spec.Plan.Node); err != nil {
			slog.Warn("port is not published", "port", f.Host, "err", err)
			continue
		}
		k.record.Publish = append(k.record.Publish, f)
	}
	if k.spec.Resolver.IsValid() {
		if err := relayDNS(subnet.HostLink(k.spec.Layout.ID()), k.spec.Plan.Host, k.spec.Resolver); err != nil {
			slog.Warn("outside names will not resolve", "err", err)
		}
	}
	return nil
}

// watch returns when the cluster is to end.
func (k *keeper) watch(end <-chan os.Signal) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-k.gone:
			return
		case s := <-end:
			slog.Info("told to end", "signal", s.String())
			return
		case <-tick.C:
			record, err := Read(k.spec.Layout)
			if err != nil || record.Keeper != k.record.Keeper {
				slog.Warn("the record of this cluster is gone; ending", "err", err)
				return
			}
		}
	}
}

// stop kills the node and removes what the kernel does not remove with it.
func (k *keeper) stop() error {
	if k.node != nil && k.node.Process != nil {
		_ = k.node.Process.Kill()
		<-k.gone
	}
	id := k.spec.Layout.ID()
	err := subnet.Disconnect(id, cleanUp)
	hierarchies, detectErr := cgroup.Detect()
	if detectErr != nil {
		return errors.Join(err, detectErr)
	}
	return errors.Join(err, hierarchies.Remove(cgroup.Name(id), cleanUp))
}
