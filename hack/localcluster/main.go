package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"

	"github.com/shopset/shopset/hack/localcluster/internal/build"
	"github.com/shopset/shopset/hack/localcluster/internal/cluster"
	"github.com/shopset/shopset/hack/localcluster/internal/component"
	"github.com/shopset/shopset/hack/localcluster/internal/keeper"
	"github.com/shopset/shopset/hack/localcluster/internal/layout"
	"github.com/shopset/shopset/hack/localcluster/internal/node"
)

const usage = `localcluster runs a real one-node Kubernetes on this machine.

  localcluster up [--api-port N] [--publish HOST:NODEPORT,…]   start it, and wait until it is of use
  localcluster down                     end it and remove everything but built programs and logs
  localcluster status                   a table of its components; exit code 1 unless all is well
  localcluster load IMAGE.tar…          bring images in (docker-archive or OCI layout)
  localcluster kubeconfig               print the path: export KUBECONFIG=$(localcluster kubeconfig)
  localcluster logs [-f] COMPONENT      one of: %s
  localcluster build                    build all programs, and start nothing
  localcluster assets                   build what envtest needs, and print KUBEBUILDER_ASSETS

Flags of every command:
  --state DIR   the cluster's folder; default $SHOPSET_STATE, else <repository>/.state
  --bin DIR     built programs; default $SHOPSET_CLUSTER_BIN, else <state>/bin
`

type command struct {
	name    string
	flags   *flag.FlagSet
	state   string
	bin     string
	api     int
	publish string
	follow  bool
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:])
	stop()
	switch {
	case errors.Is(err, flag.ErrHelp):
	case errors.Is(err, errUsage):
		fmt.Fprintf(os.Stderr, "localcluster: %v\n", err)
		os.Exit(2)
	case err != nil:
		fmt.Fprintf(os.Stderr, "localcluster: %v\n", err)
		os.Exit(1)
	}
}

var errUsage = errors.New("see 'localcluster help'")

func run(ctx context.Context, args []string) error {
	if len(args) == 0 || args[0] == "help" || args[0] == "-h" || args[0] == "--help" {
		fmt.Printf(usage, strings.Join(logNames(), ", "))
		return nil
	}
	if args[0] == "node" { // has no state folder yet
		return node.Main()
	}
	c := newCommand(args[0])
	rest, err := c.parse(args[1:])
	if err != nil {
		return err
	}
	l, err := layout.New(c.state, c.bin)
	if err != nil {
		return err
	}
	return c.run(ctx, l, rest)
}

func newCommand(name string) *command {
	c := &command{name: name, flags: flag.NewFlagSet("localcluster "+name, flag.ContinueOnError)}
	c.flags.StringVar(&c.state, "state", "", "the cluster's folder")
	c.flags.StringVar(&c.bin, "bin", "", "folder of built programs")
	switch name {
	case "up":
		c.flags.IntVar(&c.api, "api-port", 0, "the API server's port on the loopback (default 6443, or a free one)")
		c.flags.StringVar(&c.publish, "publish", "8443:30443,8080:30080", "ports of the loopback that lead to node ports")
	case "logs":
		c.flags.BoolVar(&c.follow, "f", false, "go on as the log grows")
	}
	return c
}

// parse takes flags before and after arguments, as people type them.
func (c *command) parse(args []string) ([]string, error) {
	var rest []string
	for {
		if err := c.flags.Parse(args); err != nil {
			if errors.Is(err, flag.ErrHelp) {
				return nil, err
			}
			return nil, errUsage
		}
		if c.flags.NArg() == 0 {
			return rest, nil
		}
		rest = append(rest, c.flags.Arg(0))
		args = c.flags.Args()[1:]
	}
}

func (c *command) run(ctx context.Context, l layout.Layout, args []string) error {
	if c.name != "load" && c.name != "logs" && len(args) > 0 {
		return fmt.Errorf("%s takes no argument %q; %w", c.name, args[0], errUsage)
	}
	say := build.NewProgress(os.Stderr)
	self := cluster.New(l, say)
	switch c.name {
	case "up":
		publish, err := parsePublish(c.publish)
		if err != nil {
			return err
		}
		return self.Up(ctx, cluster.Options{API: c.api, Publish: publish})
	case "down":
		found, err := self.Down(ctx)
		if err == nil && !found {
			say.Line("no cluster was running")
		}
		return err
	case "status":
		return self.Status(ctx, os.Stdout)
	case "load":
		if len(args) == 0 {
			return fmt.Errorf("load needs image files; %w", errUsage)
		}
		return self.Load(ctx, args)
	case "kubeconfig":
		return printPath(self.Kubeconfig())
	case "logs":
		return showLog(ctx, l, args, c.follow)
	case "build":
		return buildNode(ctx, l, say)
	case "assets":
		return buildAssets(ctx, l, say)
	case "keeper": // started by up
		return keeper.Main(l)
	}
	return fmt.Errorf("there is no command %q; %w", c.name, errUsage)
}

func buildNode(ctx context.Context, l layout.Layout, say *build.Progress) error {
	builder, err := build.New(l, say)
	if err != nil {
		return err
	}
	return builder.Node(ctx)
}

func buildAssets(ctx context.Context, l layout.Layout, say *build.Progress) error {
	builder, err := build.New(l, say)
	if err != nil {
		return err
	}
	return printPath(l.Assets(), builder.Assets(ctx))
}

func printPath(path string, err error) error {
	if err == nil {
		fmt.Println(path)
	}
	return err
}

// parsePublish reads HOSTPORT:NODEPORT,HOSTPORT:NODEPORT.
func parsePublish(text string) ([]component.Forward, error) {
	var forwards []component.Forward
	for part := range strings.SplitSeq(text, ",") {
		if part == "" {
			continue
		}
		host, node, ok := strings.Cut(part, ":")
		h, err1 := strconv.ParseUint(host, 10, 16)
		n, err2 := strconv.ParseUint(node, 10, 16)
		if !ok || err1 != nil || err2 != nil || h == 0 || n == 0 {
			return nil, fmt.Errorf("--publish: %q is not HOSTPORT:NODEPORT, for instance 8443:30443", part)
		}
		forwards = append(forwards, component.Forward{Host: int(h), Node: int(n)})
	}
	return forwards, nil
}
