// Command shopset-cache is the cache manager; see docs/cache.md.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/shopset/shopset/internal/admin"
	"github.com/shopset/shopset/internal/warmcache"
	"github.com/shopset/shopset/internal/warmcache/rank"
	"github.com/shopset/shopset/internal/warmcache/storage"
	"github.com/shopset/shopset/internal/warmcache/storage/local"
	"github.com/shopset/shopset/internal/warmcache/storage/s3store"
)

func main() { admin.Main("shopset-cache", run) }

const usage = `shopset-cache COMMAND --storage URL --compat KEY ...

  rank       LOG ...                    count requests in access logs and write a ranking
  save       [SHOP ...]                 save shops of a folder; those of the ranking when none is named
  restore    [SHOP ...]                 restore shops into a folder, the most valuable first
  ls                                    list snapshots
  verify     [SHOP ...]                 read everything and check it
  revoke     [SHOP ...]                 keep snapshots from being restored
  invalidate SHOP ...                   what was saved of these shops before now never comes back
  gc                                    remove what no snapshot needs

--storage is s3://BUCKET/PREFIX?region=…&endpoint=…&path-style=true&encryption=AES256, or a folder.
Credentials of S3 come from the environment or the identity of the Pod. See --help of each command.
`

// command is what all commands have in common.
type command struct {
	flags   *flag.FlagSet
	storage *string
	compat  *string
	dryRun  *bool
}

func run() error {
	commands := map[string]func(*command) func(context.Context, storage.Storage) error{
		"rank": rankCommand, "save": saveCommand, "restore": restoreCommand, "ls": listCommand, "verify": verifyCommand,
		"revoke": revokeCommand, "invalidate": invalidateCommand, "gc": gcCommand,
	}
	if len(os.Args) < 2 || commands[os.Args[1]] == nil {
		if len(os.Args) >= 2 && slices.Contains([]string{"help", "-h", "--help"}, os.Args[1]) {
			fmt.Print(usage)
			return nil
		}
		return fmt.Errorf("want a command\n\n%s", usage)
	}
	flags := flag.NewFlagSet("shopset-cache "+os.Args[1], flag.ContinueOnError)
	c := &command{flags: flags,
		storage: flags.String("storage", "", "`URL` of the storage"),
		compat:  flags.String("compat", "", "compatibility `key` of the application, such as its version"),
		dryRun:  flags.Bool("dry-run", false, "look, and change nothing")}
	do := commands[os.Args[1]](c)
	if err := flags.Parse(os.Args[2:]); err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	var s storage.Storage
	if *c.storage != "" || os.Args[1] != "rank" {
		opened, err := openStorage(ctx, *c.storage)
		if err != nil {
			return err
		}
		s = opened
	}
	return do(ctx, s)
}

func openStorage(ctx context.Context, address string) (storage.Storage, error) {
	u, err := url.Parse(address)
	if address == "" || err != nil {
		return nil, fmt.Errorf("--storage %q: want s3://BUCKET/PREFIX or a folder", address)
	}
	if u.Scheme != "s3" {
		return local.Open(strings.TrimPrefix(address, "file://"))
	}
	query := u.Query()
	for name := range query {
		if !slices.Contains([]string{"region", "endpoint", "path-style", "encryption"}, name) {
			return nil, fmt.Errorf("--storage: there is no option %q: want region, endpoint, path-style or encryption", name)
		}
	}
	return s3store.Open(ctx, s3store.Config{Bucket: u.Host, Prefix: strings.Trim(u.Path, "/"), Region: query.Get("region"), Endpoint: query.Get("endpoint"),
		PathStyle: query.Get("path-style") == "true", Encryption: query.Get("encryption")})
}

func rankCommand(c *command) func(context.Context, storage.Storage) error {
	format := rank.LogFormat{}
	c.flags.StringVar(&format.Shop, "shop-field", "shop", "field or column with the shop")
	c.flags.StringVar(&format.Time, "time-field", "time", "field or column with the time")
	c.flags.StringVar(&format.Requests, "requests-field", "", "field or column with a number of requests; one for each line when empty")
	c.flags.BoolVar(&format.CSV, "csv", false, "the logs are CSV with a header, not JSON lines")
	out := c.flags.String("out", "-", "`file` for the ranking")
	halfLife := c.flags.Duration("half-life", 72*time.Hour, "after which a request counts half")
	limit := c.flags.Int("counters", 200000, "how many shops are counted apart")
	top := c.flags.Int("top", 0, "how many shops are kept; 0 for all")
	budget := c.flags.Int64("budget-bytes", 0, "how many bytes of snapshots are kept; 0 for all")
	return func(ctx context.Context, s storage.Storage) (err error) {
		counter := rank.NewCounter(time.Now(), *halfLife, *limit)
		if c.flags.NArg() == 0 {
			return errors.New("want access logs; - is the standard input")
		}
		for _, name := range c.flags.Args() {
			if err := rankFile(ctx, name, format, counter); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
		}
		sizes := map[string]int64{}
		if s != nil && *c.compat != "" {
			if err := warmcache.Shops(ctx, s, *c.compat, func(shop string, generations []warmcache.Generation) error {
				if len(generations) > 0 {
					sizes[shop] = generations[0].Bytes
				}
				return nil
			}); err != nil {
				return err
			}
		}
		ranking := counter.Rank(sizes)
		ranking.Cut(*top, *budget)
		fmt.Fprintln(os.Stderr, ranking)
		if *c.dryRun {
			return nil
		}
		if *out == "-" {
			return ranking.Write(os.Stdout)
		}
		file, err := os.Create(*out)
		if err != nil {
			return err
		}
		return errors.Join(ranking.Write(file), file.Close())
	}
}

func rankFile(ctx context.Context, name string, format rank.LogFormat, counter *rank.Counter) error {
	file := os.Stdin
	if name != "-" {
		opened, err := os.Open(name)
		if err != nil {
			return err
		}
		defer opened.Close()
		file = opened
	}
	result, err := rank.ReadLog(ctx, file, format, counter)
	slog.Info("read", "log", name, "lines", result.Lines, "skipped", result.Skipped)
	return err
}

// chosen are the shops that are named, or those of a ranking, or all folders.
func chosen(args []string, rankingFile, folder string) ([]warmcache.Shop, error) {
	if len(args) > 0 {
		var shops []warmcache.Shop
		for _, name := range args {
			if err := warmcache.CheckShop(name); err != nil {
				return nil, err
			}
			shops = append(shops, warmcache.Shop{Name: name})
		}
		return shops, nil
	}
	if rankingFile != "" {
		file, err := os.Open(rankingFile)
		if err != nil {
			return nil, err
		}
		defer file.Close()
		ranking, err := rank.Read(file)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", rankingFile, err)
		}
		var shops []warmcache.Shop
		for _, shop := range ranking.Shops {
			shops = append(shops, warmcache.Shop{Name: shop.Name, Share: shop.Share})
		}
		return shops, nil
	}
	if folder == "" {
		return nil, errors.New("want shops, or --ranking")
	}
	entries, err := os.ReadDir(folder)
	if err != nil {
		return nil, err
	}
	var shops []warmcache.Shop
	for _, entry := range entries {
		if entry.IsDir() && warmcache.CheckShop(entry.Name()) == nil {
			shops = append(shops, warmcache.Shop{Name: entry.Name()})
		}
	}
	return shops, nil
}

func validator(line string) func(ctx context.Context, folder string) error {
	if line == "" {
		return nil
	}
	return func(ctx context.Context, folder string) error {
		words := strings.Fields(line)
		output, err := exec.CommandContext(ctx, words[0], append(words[1:], folder)...).CombinedOutput() //nolint:gosec // That is what it is for.
		if err != nil {
			return fmt.Errorf("%s: %w: %s", line, err, output[:min(len(output), 500)])
		}
		return nil
	}
}

func saveCommand(c *command) func(context.Context, storage.Storage) error {
	folder := c.flags.String("folder", "", "`folder` of the shops' caches")
	ranking := c.flags.String("ranking", "", "`file` of shops to save; all when empty")
	source := c.flags.String("source", os.Getenv("HOSTNAME"), "name of this Pod")
	limit := c.flags.Int("bytes-per-second", 16<<20, "what may be sent in a second; 0 for no bound")
	settle := c.flags.Duration("settle", 2*time.Second, "how long a file must have been left alone")
	every := c.flags.Duration("every", 0, "save again and again, in this period; 0 for once")
	validate := c.flags.String("validate", "", "`command` that is given each shop's folder, and fails when it must not be saved")
	return func(ctx context.Context, s storage.Storage) error {
		if *folder == "" {
			return errors.New("save needs --folder")
		}
		// The shops that are served meanwhile come first.
		if err := syscall.Setpriority(syscall.PRIO_PROCESS, 0, 19); err != nil {
			slog.Warn("the priority stays as it is", "error", err)
		}
		for {
			failed := saveAll(ctx, s, c, *folder, *ranking, func(shop string) warmcache.SaveConfig {
				return warmcache.SaveConfig{Storage: s, Folder: *folder, Shop: shop, Compatibility: *c.compat, Source: *source, Settle: *settle,
					BytesPerSecond: *limit, Validate: validator(*validate), DryRun: *c.dryRun}
			})
			if *every == 0 {
				return failed
			}
			if failed != nil {
				slog.Error("not everything was saved", "error", failed)
			}
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(*every):
			}
		}
	}
}

func saveAll(ctx context.Context, _ storage.Storage, c *command, folder, ranking string, config func(string) warmcache.SaveConfig) error {
	shops, err := chosen(c.flags.Args(), ranking, folder)
	if err != nil {
		return err
	}
	var failures []error
	sent, saved, unchanged := int64(0), 0, 0
	for _, shop := range shops {
		if _, err := os.Stat(filepath.Join(folder, shop.Name)); errors.Is(err, os.ErrNotExist) && len(c.flags.Args()) == 0 {
			continue // This Pod has not served it.
		}
		result, err := warmcache.Save(ctx, config(shop.Name))
		if ctx.Err() != nil {
			return errors.Join(append(failures, ctx.Err())...)
		}
		switch {
		case err != nil:
			failures = append(failures, err)
		case result.Unchanged:
			unchanged++
		default:
			saved++
			sent += result.SentBytes
		}
	}
	slog.Info("saved", "shops", saved, "unchanged", unchanged, "failed", len(failures), "sentBytes", sent)
	return errors.Join(failures...)
}

func restoreCommand(c *command) func(context.Context, storage.Storage) error {
	folder := c.flags.String("folder", "", "`folder` for the shops' caches")
	ranking := c.flags.String("ranking", "", "`file` of shops, the most valuable first")
	bytes := c.flags.Int64("budget-bytes", 0, "how many bytes are restored; 0 for no bound")
	files := c.flags.Int64("budget-files", 0, "how many files are restored; 0 for no bound")
	limit := c.flags.Duration("budget-time", 20*time.Second, "how long it may take; 0 for no bound")
	workers := c.flags.Int("workers", 8, "how many shops at the same time")
	quarantine := c.flags.Duration("quarantine", 0, "how old a snapshot must be")
	validate := c.flags.String("validate", "", "`command` that is given each shop's folder before it is published, and fails when it must not be")
	strict := c.flags.Bool("strict", false, "fail when anything does; else the Pod starts cold where it has to")
	return func(ctx context.Context, s storage.Storage) error {
		err := func() error {
			if *folder == "" {
				return errors.New("restore needs --folder")
			}
			shops, err := chosen(c.flags.Args(), *ranking, "")
			if err != nil {
				return err
			}
			config := warmcache.RestoreConfig{Storage: s, Folder: *folder, Compatibility: *c.compat, Shops: shops, Bytes: *bytes, Files: *files, Time: *limit,
				Workers: *workers, Quarantine: *quarantine, DryRun: *c.dryRun, Progress: progress(len(shops))}
			if check := validator(*validate); check != nil {
				config.Validate = func(ctx context.Context, _, folder string) error { return check(ctx, folder) }
			}
			report, err := warmcache.Restore(ctx, config)
			if err != nil {
				return err
			}
			for _, failure := range report.Errors {
				slog.Warn("a shop starts cold", "error", failure)
			}
			fmt.Fprintln(os.Stderr, report)
			if *strict && (report.Failed > 0 || report.Expired) {
				return errors.New("not everything was restored")
			}
			return nil
		}()
		if err != nil && !*strict {
			// A warm start is an optimisation: nothing of it keeps a Pod from starting.
			slog.Error("starting cold", "error", err)
			return nil
		}
		return err
	}
}

// progress draws a bar on a terminal, and writes a line every few seconds elsewhere.
func progress(all int) func(*warmcache.Report) {
	var mu sync.Mutex
	last := time.Now()
	info, err := os.Stderr.Stat()
	terminal := err == nil && info.Mode()&os.ModeCharDevice != 0
	return func(r *warmcache.Report) {
		mu.Lock()
		defer mu.Unlock()
		done := r.Shops + r.Absent + r.OverBudget + r.Failed
		switch now := time.Now(); {
		case terminal && now.Sub(last) > 100*time.Millisecond:
			last = now
			filled := 40 * done / max(1, all)
			fmt.Fprintf(os.Stderr, "\r[%s%s] %d of %d shops, %d files ", strings.Repeat("#", filled), strings.Repeat(".", 40-filled), done, all, r.Files)
		case !terminal && now.Sub(last) > 5*time.Second:
			last = now
			slog.Info("restoring", "done", done, "of", all, "files", r.Files, "bytes", r.Bytes)
		}
	}
}

func listCommand(c *command) func(context.Context, storage.Storage) error {
	return func(ctx context.Context, s storage.Storage) error {
		return warmcache.Shops(ctx, s, *c.compat, func(shop string, generations []warmcache.Generation) error {
			for _, g := range generations {
				state := ""
				if g.Revoked {
					state = "  revoked"
				}
				fmt.Printf("%-40s %4d  %s  %7d files  %9d KiB  %s%s\n", shop, g.Number, g.Taken.Format(time.RFC3339), g.Files, g.Bytes>>10, g.Source, state)
			}
			return nil
		})
	}
}

// named are the shops of the arguments, or all that have snapshots.
func named(ctx context.Context, c *command, s storage.Storage) (shops []string, err error) {
	if c.flags.NArg() > 0 {
		return c.flags.Args(), nil
	}
	err = warmcache.Shops(ctx, s, *c.compat, func(shop string, _ []warmcache.Generation) error {
		shops = append(shops, shop)
		return nil
	})
	return shops, err
}

func verifyCommand(c *command) func(context.Context, storage.Storage) error {
	return func(ctx context.Context, s storage.Storage) error {
		shops, err := named(ctx, c, s)
		if err != nil {
			return err
		}
		var failures []error
		for _, shop := range shops {
			files, bytes, err := warmcache.Verify(ctx, s, *c.compat, shop)
			if err != nil {
				failures = append(failures, fmt.Errorf("%s: %w", shop, err))
				continue
			}
			fmt.Printf("%s: good, %d files, %d bytes of packs\n", shop, files, bytes)
		}
		return errors.Join(failures...)
	}
}

func revokeCommand(c *command) func(context.Context, storage.Storage) error {
	source := c.flags.String("source", "", "those of a Pod alone")
	since := c.flags.String("since", "", "those taken at a time (RFC 3339) or later alone")
	return func(ctx context.Context, s storage.Storage) error {
		var after time.Time
		if *since != "" {
			parsed, err := time.Parse(time.RFC3339, *since)
			if err != nil {
				return fmt.Errorf("--since: want a time like 2026-01-02T15:04:05Z: %w", err)
			}
			after = parsed
		}
		if c.flags.NArg() == 0 && *source == "" && *since == "" {
			return errors.New("want shops, --source or --since: nothing is named")
		}
		shops, err := named(ctx, c, s)
		if err != nil {
			return err
		}
		newestOnly := *source == "" && *since == ""
		for _, shop := range shops {
			if *c.dryRun {
				fmt.Printf("%s would be looked at\n", shop)
				continue
			}
			n, err := warmcache.Revoke(ctx, s, *c.compat, shop, func(g warmcache.Generation, newest bool) bool {
				return (newest || !newestOnly) && (*source == "" || g.Source == *source) && !g.Taken.Before(after)
			})
			if err != nil {
				return fmt.Errorf("%s: %w", shop, err)
			}
			fmt.Printf("%s: %d snapshots revoked\n", shop, n)
		}
		return nil
	}
}

func invalidateCommand(c *command) func(context.Context, storage.Storage) error {
	return func(ctx context.Context, s storage.Storage) error {
		if c.flags.NArg() == 0 {
			return errors.New("want shops")
		}
		for _, shop := range c.flags.Args() {
			if *c.dryRun {
				fmt.Printf("%s would be invalidated\n", shop)
				continue
			}
			if err := warmcache.Invalidate(ctx, s, shop, time.Now()); err != nil {
				return fmt.Errorf("%s: %w", shop, err)
			}
			fmt.Printf("%s: what was saved before now is not restored any more\n", shop)
		}
		return nil
	}
}

func gcCommand(c *command) func(context.Context, storage.Storage) error {
	grace := c.flags.Duration("grace", 24*time.Hour, "how old something must be to be removed")
	return func(ctx context.Context, s storage.Storage) error {
		removed, bytes, err := warmcache.GC(ctx, s, *c.compat, *grace, time.Now(), *c.dryRun)
		fmt.Printf("%d objects of %d KiB are no longer needed\n", removed, bytes>>10)
		return err
	}
}
