package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net"
	"os"
	"os/exec"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/shopset/shopset/hack/localcluster/internal/build"
	"github.com/shopset/shopset/hack/localcluster/internal/component"
	"github.com/shopset/shopset/hack/localcluster/internal/keeper"
	"github.com/shopset/shopset/hack/localcluster/internal/preflight"
	"github.com/shopset/shopset/hack/localcluster/internal/subnet"
)

const (
	startLimit    = 2 * time.Minute
	spaceToRun    = 1 << 30
	spaceToBuild  = 6 << 30
	DefaultAPI    = 6443
	previousLogs  = ".1"
	pollingPeriod = 25 * time.Millisecond
)

// Options are what a user may choose.
type Options struct {
	API     int                 // port of the API server on the loopback; 0: DefaultAPI, or any when that is taken
	Publish []component.Forward // further ports of the loopback
}

// Up starts the cluster unless it runs and is well. What is left of an earlier run is removed
// first; when the start fails, everything of it is removed but the logs.
func (c *Cluster) Up(ctx context.Context, options Options) error {
	if err := preflight.Root(); err != nil {
		return err
	}
	unlock, err := c.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	if record, err := c.running(); err == nil {
		unwell := c.healthy(ctx, record)
		if unwell == nil {
			c.say.Line("the cluster is up since %s", record.Started.Format(time.DateTime))
			return nil
		}
		c.say.Line("the running cluster is not well and starts anew: %v", unwell)
	}
	took := newSteps()
	if _, err := c.clean(ctx); err != nil {
		return fmt.Errorf("the remains of an earlier run cannot be removed: %w", err)
	}
	took.done("remove what an earlier run left")
	spec, err := c.prepare(ctx, options, took)
	if err != nil {
		return err
	}
	if err := c.start(ctx, spec, took); err != nil {
		_, cleanErr := c.clean(context.WithoutCancel(ctx))
		return errors.Join(err, cleanErr)
	}
	c.report(took)
	return nil
}

// prepare checks the machine, builds what is missing, and decides on addresses and ports.
func (c *Cluster) prepare(ctx context.Context, options Options, took *steps) (component.Spec, error) {
	spec := component.Spec{Layout: c.layout}
	problems := []error{preflight.Packages(func(line string) { c.say.Line("%s", line) })}
	builder, err := build.New(c.layout, c.say)
	space := uint64(spaceToRun)
	switch {
	case err != nil && build.Has(c.layout.Bin) == nil:
		c.say.Line("using the programs in %s as they are: %v", c.layout.Bin, err)
	case err != nil:
		problems = append(problems, err)
	case len(builder.NodeMissing()) > 0:
		space = spaceToBuild
	}
	problems = append(problems, preflight.Machine(c.layout, space))
	api, err := apiPort(options.API)
	problems = append(problems, err)
	used, err := subnet.Used()
	problems = append(problems, err)
	spec.Plan, err = subnet.Pick(used)
	problems = append(problems, err)
	if err := errors.Join(problems...); err != nil {
		return spec, fmt.Errorf("this machine is not ready for a cluster:\n%w", err)
	}
	took.done("check the machine")
	if builder != nil {
		if err := builder.Node(ctx); err != nil {
			return spec, err
		}
		took.done("build")
	}
	spec.API = component.Forward{Host: api, Node: component.APIPort}
	for _, f := range options.Publish {
		if err := preflight.PortFree(f.Host); err != nil {
			c.say.Line("port %d is not published: %v; choose another with --publish", f.Host, err)
			continue
		}
		spec.Publish = append(spec.Publish, f)
	}
	spec.Resolver = findResolver()
	return spec, nil
}

// apiPort returns a free port for the API server. A port that the user asked for is not replaced.
func apiPort(asked int) (int, error) {
	port := asked
	if port == 0 {
		port = DefaultAPI
	}
	err := preflight.PortFree(port)
	if err == nil {
		return port, nil
	}
	if asked != 0 {
		return 0, fmt.Errorf("the API server's port is taken: %w; choose another with --api-port", err)
	}
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer listener.Close()
	return listener.Addr().(*net.TCPAddr).Port, nil
}

// start starts the keeper and waits until the cluster is of use.
func (c *Cluster) start(ctx context.Context, spec component.Spec, took *steps) error {
	ctx, cancel := context.WithTimeoutCause(ctx, startLimit, fmt.Errorf("not done after %s", startLimit))
	defer cancel()
	for _, dir := range []string{c.layout.Run(), c.layout.Logs()} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return err
		}
	}
	c.rotateLogs()
	if err := spec.Write(); err != nil {
		return err
	}
	data, err := json.Marshal(spec)
	if err != nil {
		return err
	}
	if err := os.WriteFile(keeper.SpecFile(c.layout), data, 0o600); err != nil {
		return err
	}
	took.done("write keys and configuration")
	if err := c.startKeeper(ctx); err != nil {
		return err
	}
	took.done("start the node")
	return c.await(ctx, spec, took)
}

func (c *Cluster) startKeeper(ctx context.Context) error {
	log, err := os.OpenFile(c.layout.Log("keeper"), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command("/proc/self/exe", "keeper", "--state", c.layout.State, "--bin", c.layout.Bin)
	cmd.Args[0] = "localcluster"
	cmd.Dir, cmd.Stdout, cmd.Stderr = "/", log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	// The keeper stays. It must not hold on to what a script has opened, a lock for instance.
	if err := unix.CloseRange(3, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC); err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	ended := make(chan struct{})
	go func() {
		_ = cmd.Wait()
		close(ended)
	}()
	return poll(ctx, 5*time.Millisecond, "the node", func() (bool, error) {
		select {
		case <-ended:
			return true, fmt.Errorf("the node did not start:\n%s", lastLines(c.layout.Log("keeper"), 20))
		default:
		}
		record, err := keeper.Read(c.layout)
		return err == nil && record.Node.PID != 0, nil
	})
}

// rotateLogs keeps the logs of the run before.
func (c *Cluster) rotateLogs() {
	for _, name := range append([]string{"keeper", "node"}, component.Names...) {
		_ = os.Rename(c.layout.Log(name), c.layout.Log(name)+previousLogs)
	}
}

func (c *Cluster) report(took *steps) {
	c.say.Line("%s", took)
	record, err := keeper.Read(c.layout)
	if err != nil {
		return
	}
	for _, f := range record.Publish {
		c.say.Line("http://127.0.0.1:%d leads to node port %d", f.Host, f.Node)
	}
	c.say.Line("the cluster is up; export KUBECONFIG=%s", c.layout.Kubeconfig())
}
