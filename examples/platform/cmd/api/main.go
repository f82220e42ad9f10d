// Command api is the demo platform's api over PostgreSQL.
package main

import (
	"context"
	"os"

	"github.com/shopset/shopset/examples/platform/internal/api"
	"github.com/shopset/shopset/examples/platform/internal/web"
	"github.com/shopset/shopset/internal/admin"
)

func main() { admin.Main("api", run) }

func run() error {
	config, err := api.ReadConfig(os.Getenv)
	if err != nil {
		return err
	}
	a := admin.New()
	server, err := api.New(context.Background(), config, a)
	if err != nil {
		return err
	}
	defer server.Close()
	return web.Run(a, config.Listen, config.AdminListen, server)
}
