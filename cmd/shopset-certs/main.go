// Command shopset-certs is the certificate API; see internal/certs.
package main

import (
	"bufio"
	"context"
	"encoding/csv"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/shopset/shopset/internal/admin"
	"github.com/shopset/shopset/internal/certs"
	"github.com/shopset/shopset/internal/certs/importer"
)

func main() { admin.Main("shopset-certs", run) }

const usage = `shopset-certs COMMAND

  serve  --config FILE                      serve the certificate API
  check  --config FILE                      check the configuration and all its files, and exit
  rotate --config FILE                      seal all keys in the database with the first key of the keyring
  import --server URL --token-file FILE [--shop NAME] [--shops FILE] FOLDER
                                            give certificates that are there as files to the API; again to go on
`

func run() error {
	if len(os.Args) < 2 {
		return fmt.Errorf("want a command\n\n%s", usage)
	}
	flags := flag.NewFlagSet(os.Args[1], flag.ContinueOnError)
	flags.SetOutput(os.Stderr)
	commands := map[string]func(*flag.FlagSet) func() error{"serve": serve, "check": check, "rotate": rotate, "import": importFiles}
	command, ok := commands[os.Args[1]]
	if !ok {
		return fmt.Errorf("%q is no command\n\n%s", os.Args[1], usage)
	}
	do := command(flags)
	if err := flags.Parse(os.Args[2:]); err != nil {
		return err
	}
	return do()
}

func configured(flags *flag.FlagSet, do func(*certs.Config) error) func() error {
	path := flags.String("config", "/etc/shopset-certs/config.yaml", "configuration `file`")
	return func() error {
		if flags.NArg() > 0 {
			return fmt.Errorf("unknown argument %q", flags.Arg(0))
		}
		config := certs.DefaultConfig()
		if err := admin.ReadConfig(*path, config); err != nil {
			return err
		}
		return do(config)
	}
}

func serve(flags *flag.FlagSet) func() error {
	return configured(flags, func(config *certs.Config) error {
		program, err := open(context.Background(), config)
		if err != nil {
			return err
		}
		defer program.close()
		return program.serve()
	})
}

func check(flags *flag.FlagSet) func() error {
	return configured(flags, func(config *certs.Config) error {
		program, err := open(context.Background(), config)
		if err != nil {
			return err
		}
		program.close()
		fmt.Println("configuration: ok")
		return nil
	})
}

func rotate(flags *flag.FlagSet) func() error {
	return configured(flags, func(config *certs.Config) error {
		program, err := open(context.Background(), config)
		if err != nil {
			return err
		}
		defer program.close()
		n, err := program.service.Rotate(context.Background())
		slog.Info("sealed anew", "keys", n)
		if err != nil {
			return fmt.Errorf("%d keys are sealed anew, then: %w", n, err)
		}
		if program.issuer != nil {
			if err := program.issuer.Reseal(context.Background()); err != nil {
				return err
			}
		}
		return program.republish(context.Background())
	})
}

func importFiles(flags *flag.FlagSet) func() error {
	config := importer.Config{}
	flags.StringVar(&config.URL, "server", "", "`URL` of the API")
	tokenFile := flags.String("token-file", "", "`file` with a writer's token")
	flags.StringVar(&config.Shop, "shop", "", "shop that new domains belong to")
	shops := flags.String("shops", "", "`file` with a line DOMAIN,SHOP for each domain")
	flags.IntVar(&config.Parallel, "parallel", 8, "how many are sent at once")
	return func() error {
		var problems []error
		if flags.NArg() != 1 {
			problems = append(problems, fmt.Errorf("want one folder, after the options; got %d", flags.NArg()))
		}
		if config.URL == "" || *tokenFile == "" {
			problems = append(problems, errors.New("want --server and --token-file"))
		}
		if config.Parallel < 1 || config.Parallel > 256 {
			problems = append(problems, errors.New("--parallel is out of range: want 1 to 256"))
		}
		if len(problems) > 0 {
			return errors.Join(problems...)
		}
		config.Folder = flags.Arg(0)
		token, err := os.ReadFile(*tokenFile)
		if err != nil {
			return err
		}
		config.Token = strings.TrimSpace(string(token))
		if *shops != "" {
			if config.Shops, err = readShops(*shops); err != nil {
				return err
			}
		}
		config.Progress = progress()
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
		defer stop()
		result, err := importer.Run(ctx, config)
		fmt.Fprintf(os.Stderr, "\r%d certificates: %d imported, %d were there, %d failed, %d not looked at\n",
			result.Total, result.Imported, result.Present, result.Failed, result.Total-result.Done())
		return err
	}
}

func readShops(path string) (map[string]string, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	reader := csv.NewReader(bufio.NewReader(file))
	reader.FieldsPerRecord, reader.Comment, reader.TrimLeadingSpace = 2, '#', true
	lines, err := reader.ReadAll()
	if err != nil {
		return nil, fmt.Errorf("%s: %w; want lines of DOMAIN,SHOP", path, err)
	}
	shops := make(map[string]string, len(lines))
	for _, line := range lines {
		shops[line[0]] = line[1]
	}
	return shops, nil
}

// progress draws a bar on a terminal, and writes a line every few seconds elsewhere.
func progress() func(importer.Result) {
	var mu sync.Mutex
	var last time.Time
	info, err := os.Stderr.Stat()
	terminal := err == nil && info.Mode()&os.ModeCharDevice != 0
	every := 5 * time.Second
	if terminal {
		every = 100 * time.Millisecond
	}
	return func(r importer.Result) {
		mu.Lock()
		defer mu.Unlock()
		if now := time.Now(); now.Sub(last) >= every || r.Done() == r.Total && terminal {
			last = now
			const width = 40
			filled := width * r.Done() / max(1, r.Total)
			if terminal {
				fmt.Fprintf(os.Stderr, "\r[%s%s] %d of %d, %d failed ", strings.Repeat("#", filled), strings.Repeat(".", width-filled), r.Done(), r.Total, r.Failed)
			} else {
				fmt.Fprintf(os.Stderr, "%d of %d, %d failed\n", r.Done(), r.Total, r.Failed)
			}
		}
	}
}
