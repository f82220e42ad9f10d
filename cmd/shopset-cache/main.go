// Command shopset-cache is the cache manager; see docs/cache.md.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"syscall"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/shopset/shopset/internal/admin"
	"github.com/shopset/shopset/internal/warmcache"
	"github.com/shopset/shopset/internal/warmcache/storage"
)

func main() { admin.Main("shopset-cache", run) }

const usage = `shopset-cache COMMAND --storage URL --compat KEY ...

  rank       LOG|s3://BUCKET/PREFIX ... count requests in access logs or BigQuery and write a ranking
  save       [SHOP ...]                 save shops of a folder; those of the ranking when none is named
  restore    [SHOP ...]                 restore shops into a folder, the most valuable first
  keep       [SHOP ...]                 the sidecar: restore what is left, then save again and again
  ls                                    list snapshots
  verify     [SHOP ...]                 read everything and check it
  revoke     [SHOP ...]                 keep snapshots from being restored
  invalidate SHOP ...                   what was saved of these shops before now never comes back
  gc                                    remove what no snapshot needs

--storage is s3://BUCKET/PREFIX?region=…&endpoint=…&path-style=true&encryption=aws:kms&kms-key=…, or a folder.
Credentials of S3 come from the environment or the identity of the Pod. See --help of each command.
`

// command is what all commands have in common.
type command struct {
	name    string
	flags   *flag.FlagSet
	storage *string
	compat  *string
	dryRun  *bool
	// allKeys says that no compatibility key is wanted; of gc alone.
	allKeys bool
	// own are the metrics of this program; registry puts them there and on the admin port, which has those of the process, too.
	own      *prometheus.Registry
	registry prometheus.Registerer
	admin    *admin.Server
}

// both registers metrics in two places.
type both struct {
	prometheus.Registerer
	other *prometheus.Registry
}

// MustRegister implements prometheus.Registerer.
func (b both) MustRegister(all ...prometheus.Collector) {
	b.Registerer.MustRegister(all...)
	b.other.MustRegister(all...)
}

// runner does what a command is for, after its flags were read.
type runner = func(context.Context, storage.Storage) error

func run() error {
	commands := map[string]func(*command) runner{
		"rank": rankCommand, "save": saveCommand, "restore": restoreCommand, "keep": keepCommand, "ls": listCommand, "verify": verifyCommand,
		"revoke": revokeCommand, "invalidate": invalidateCommand, "gc": gcCommand,
	}
	if len(os.Args) < 2 || commands[os.Args[1]] == nil {
		if len(os.Args) >= 2 && slices.Contains([]string{"help", "-h", "--help"}, os.Args[1]) {
			fmt.Print(usage)
			return nil
		}
		return fmt.Errorf("want a command\n\n%s", usage)
	}
	name := os.Args[1]
	if !slices.Contains([]string{"save", "restore", "keep"}, name) {
		// What these say on stdout is their result, which programs read.
		if err := admin.SetupLog(os.Stderr, "shopset-cache", "info"); err != nil {
			return err
		}
	}
	flags := flag.NewFlagSet("shopset-cache "+name, flag.ContinueOnError)
	server, own := admin.New(), prometheus.NewRegistry()
	c := &command{name: name, flags: flags, own: own, registry: both{server.Registry(), own}, admin: server,
		storage: flags.String("storage", "", "`URL` of the storage"),
		compat:  flags.String("compat", "", "compatibility `key` of the application, such as its version"),
		dryRun:  flags.Bool("dry-run", false, "look, and change nothing")}
	do := commands[name](c)
	if err := flags.Parse(os.Args[2:]); err != nil {
		if name == "restore" && !errors.Is(err, flag.ErrHelp) && !slices.Contains(os.Args, "--strict") && !slices.Contains(os.Args, "-strict") {
			return c.startCold(err) // An image that is older than what starts it keeps no Pod from starting, either.
		}
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	s, err := c.open(ctx)
	if err != nil {
		if c.lenient() {
			return c.startCold(err)
		}
		return err
	}
	return do(ctx, s)
}

// open opens the storage, and checks what else all commands need. rank does without.
func (c *command) open(ctx context.Context) (storage.Storage, error) {
	var problems []error
	if c.name != "invalidate" && !c.allKeys && (c.name != "rank" || *c.compat != "") {
		if err := warmcache.CheckCompatibility(*c.compat); err != nil {
			problems = append(problems, fmt.Errorf("--compat: %w", err))
		}
	}
	if *c.storage == "" && c.name == "rank" {
		return nil, errors.Join(problems...)
	}
	s, err := openStorage(ctx, *c.storage, c.registry)
	return s, errors.Join(append(problems, err)...)
}
