// Command shopset-router brings each connection to the cell of its host; see internal/router.
package main

import (
	"context"
	"flag"
	"fmt"

	"github.com/shopset/shopset/internal/admin"
	"github.com/shopset/shopset/internal/router"
	"github.com/shopset/shopset/internal/router/kubesource"
)

func main() { admin.Main("shopset-router", run) }

func run() error {
	path := flag.String("config", router.DefaultConfigPath, "configuration `file`")
	check := flag.Bool("check", false, "check the configuration, report every problem, and exit")
	flag.Parse()
	if flag.NArg() > 0 {
		return fmt.Errorf("unknown argument %q", flag.Arg(0))
	}
	config, err := router.Load(*path)
	if err != nil {
		return err
	}
	if *check {
		fmt.Printf("configuration %s: ok\n", *path)
		return nil
	}
	var source router.Source
	if config.Table.ConfigMap != "" {
		if source, err = kubesource.New(config.Table.ConfigMap, config.Table.Key, config.Table.Kubeconfig); err != nil {
			return err
		}
	}
	server := admin.New()
	r, err := router.New(config, server, source)
	if err != nil {
		return err
	}
	return server.Run(context.Background(), admin.Options{Address: config.Admin, Grace: config.Shutdown.Grace}, r)
}
