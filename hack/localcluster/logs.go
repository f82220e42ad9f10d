package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/shopset/shopset/hack/localcluster/internal/component"
	"github.com/shopset/shopset/hack/localcluster/internal/layout"
)

// logNames lists what has a log: the components, and the two processes around them.
func logNames() []string { return append([]string{"keeper", "node"}, component.Names...) }

// showLog writes the log of a component, and with follow goes on until it is interrupted.
func showLog(ctx context.Context, l layout.Layout, args []string, follow bool) error {
	if len(args) != 1 || !slices.Contains(logNames(), args[0]) {
		return fmt.Errorf("logs needs one of %s; %w", strings.Join(logNames(), ", "), errUsage)
	}
	file, err := os.Open(l.Log(args[0]))
	if os.IsNotExist(err) {
		return fmt.Errorf("%s has not run yet: %w", args[0], err)
	}
	if err != nil {
		return err
	}
	defer file.Close()
	for {
		if _, err := io.Copy(os.Stdout, file); err != nil || !follow {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(200 * time.Millisecond):
		}
	}
}
