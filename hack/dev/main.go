// Command dev brings the demo to a cluster and shows it: `make up`, `make status`, `make buy`.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/shopset/shopset/internal/devcluster"
)

const usage = `usage: dev COMMAND
  up      start a cluster (or use KUBECONFIG/CONTEXT), install everything, buy something
  status  show the local cluster, its Fleets and ShopSets
  buy     buy something from a shop of the running demo
  target  say which cluster is meant: local, or own`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:])
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "dev:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	if len(args) != 1 {
		return fmt.Errorf("%s", usage)
	}
	target, err := devcluster.Find()
	if err != nil {
		return err
	}
	switch args[0] {
	case "up":
		return up(ctx, target)
	case "status":
		return status(ctx, target)
	case "target":
		name := "own"
		if target.Local {
			name = "local"
		}
		fmt.Println(name)
		return nil
	case "buy":
		if err := target.Connect(); err != nil {
			return err
		}
		return buy(ctx, target, 0, 0)
	default:
		return fmt.Errorf("unknown command %q\n%s", args[0], usage)
	}
}
