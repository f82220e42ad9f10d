// Command kubectl-shopset is `kubectl shopset …`, for people; see docs/kubectl.md.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/shopset/shopset/internal/kubectl"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := kubectl.Run(ctx, kubectl.Streams{In: os.Stdin, Out: os.Stdout, ErrOut: os.Stderr}, os.Args[1:])
	stop()
	os.Exit(code)
}
