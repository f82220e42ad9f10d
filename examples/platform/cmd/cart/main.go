// Command cart is the demo platform's cart and checkout over Redis.
package main

import (
	"os"

	"github.com/shopset/shopset/examples/platform/internal/cart"
	"github.com/shopset/shopset/examples/platform/internal/web"
	"github.com/shopset/shopset/internal/admin"
)

func main() { admin.Main("cart", run) }

func run() error {
	config, err := cart.ReadConfig(os.Getenv)
	if err != nil {
		return err
	}
	a := admin.New()
	server, err := cart.New(config, a)
	if err != nil {
		return err
	}
	defer server.Close()
	return web.Run(a, config.Listen, config.AdminListen, server)
}
