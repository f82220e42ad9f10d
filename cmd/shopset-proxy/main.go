// Command shopset-proxy is the edge of a ShopSet; see internal/proxy.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"runtime"

	"github.com/shopset/shopset/internal/admin"
	"github.com/shopset/shopset/internal/proxy"
)

func main() { admin.Main("shopset-proxy", run) }

func run() error {
	path := flag.String("config", proxy.DefaultConfigPath, "configuration `file`")
	check := flag.Bool("check", false, "check the configuration and the files that it names, report every problem, and exit")
	flag.Parse()
	if flag.NArg() > 0 {
		return fmt.Errorf("unknown argument %q", flag.Arg(0))
	}
	config, err := proxy.Load(*path)
	if err != nil {
		return err
	}
	if *check {
		if err := proxy.Check(config); err != nil {
			return err
		}
		fmt.Printf("configuration %s: ok\n", *path)
		return nil
	}
	defer runtime.KeepAlive(proxy.HeapFloor())
	server := admin.New()
	p, err := proxy.New(config, server, os.Stdout)
	if err != nil {
		return err
	}
	p.Follow(*path)
	return server.Run(context.Background(), admin.Options{Address: config.Admin, Grace: config.Shutdown.Grace}, p)
}
