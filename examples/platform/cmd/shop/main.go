// Command shop is the demo platform's shop: the pages that people browse.
package main

import (
	"os"

	"github.com/shopset/shopset/examples/platform/internal/shop"
	"github.com/shopset/shopset/examples/platform/internal/web"
	"github.com/shopset/shopset/internal/admin"
)

func main() { admin.Main("shop", run) }

func run() error {
	config, err := shop.ReadConfig(os.Getenv)
	if err != nil {
		return err
	}
	a := admin.New()
	return web.Run(a, config.Listen, config.AdminListen, shop.New(config, a))
}
