package main

import (
	"context"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"google.golang.org/api/option"

	"github.com/shopset/shopset/internal/warmcache"
	"github.com/shopset/shopset/internal/warmcache/rank"
	"github.com/shopset/shopset/internal/warmcache/rank/bigquery"
	"github.com/shopset/shopset/internal/warmcache/storage"
)

// rankFlags are the flags of rank.
type rankFlags struct {
	format             rank.LogFormat
	query              bigquery.Config
	billed             *size
	endpoint           string
	out                string
	halfLife, window   time.Duration
	counters, top      int
	budget, speed      *size
	budgets, penalties string
	penalty            float64
}

func (c *command) rankFlags() *rankFlags {
	f := &rankFlags{}
	f.format.Valid = func(shop string) bool { return warmcache.CheckShop(shop) == nil }
	f.query.Valid = f.format.Valid
	c.flags.StringVar(&f.format.Shop, "shop-field", "shop", "field or column with the shop")
	c.flags.StringVar(&f.format.Time, "time-field", "time", "field or column with the time")
	c.flags.StringVar(&f.format.Requests, "requests-field", "", "field or column with a number of requests; one for each line when empty")
	c.flags.BoolVar(&f.format.CSV, "csv", false, "the logs are CSV with a header, not JSON lines")
	c.flags.StringVar(&f.query.Table.Name, "bigquery-table", "", "ask BigQuery: `PROJECT.DATASET.TABLE` with the fields above as columns")
	c.flags.StringVar(&f.query.Table.Partition, "bigquery-partition", "", "`column` of dates by which the table is partitioned, if it is not that of the time")
	c.flags.StringVar(&f.query.Project, "bigquery-project", "", "project that pays for the query; that of the table when empty")
	c.flags.StringVar(&f.query.Location, "bigquery-location", "EU", "where the data is")
	c.flags.DurationVar(&f.query.Timeout, "bigquery-timeout", 5*time.Minute, "how long the query, with all retries, may take")
	c.flags.StringVar(&f.endpoint, "bigquery-endpoint", "", "`URL` of another API than Google's; without credentials on this machine")
	f.billed = c.bytes("max-bytes-billed", 100<<30, "how many bytes a query may read, and cost, at most")
	c.flags.StringVar(&f.out, "out", "-", "`file` for the ranking, or @NAME in the storage; Pods follow @default")
	c.flags.DurationVar(&f.halfLife, "half-life", 72*time.Hour, "after which a request counts half; 0 for never")
	c.flags.DurationVar(&f.window, "window", 30*24*time.Hour, "requests before are left out; 0 for none")
	c.flags.IntVar(&f.counters, "counters", 200000, "how many shops are counted apart")
	c.flags.IntVar(&f.top, "top", 0, "how many shops are kept; 0 for all")
	f.budget = c.bytes("budget-bytes", 0, "how many bytes of snapshots are kept; 0 for all")
	c.flags.StringVar(&f.budgets, "budgets", "256MiB,1GiB,4GiB", "the report says what these many bytes would cover")
	c.flags.Float64Var(&f.penalty, "penalty", rank.DefaultPenalty, "measured part of a request that is lost while a shop is cold")
	c.flags.StringVar(&f.penalties, "penalties", "", "CSV `file` of shop,penalty: those that were measured apart")
	f.speed = c.bytes("restore-bytes-per-second", rank.DefaultSpeed, "measured speed of a restore")
	return f
}

func rankCommand(c *command) runner {
	f := c.rankFlags()
	return func(ctx context.Context, s storage.Storage) error {
		limits, err := f.limits()
		if err != nil {
			return err
		}
		worth := rank.Worth{Penalty: f.penalty, BytesPerSecond: float64(*f.speed)}
		if worth.Penalties, err = readPenalties(f.penalties); err != nil {
			return err
		}
		counter := rank.NewCounter(time.Now(), f.halfLife, f.counters)
		counter.Window(f.window)
		sources, query, err := f.sources(ctx, c)
		if err != nil {
			return err
		}
		if err := rank.CountAll(ctx, counter, sources...); err != nil {
			return err
		}
		if *c.dryRun && query != nil {
			fmt.Fprintf(os.Stderr, "the query would read %d bytes, and %d are allowed\n", query.Estimate, int64(*f.billed))
			if len(sources) == 1 {
				return nil
			}
		}
		if worth.Bytes, err = snapshotSizes(ctx, s, *c.compat); err != nil {
			return err
		}
		ranking := counter.Rank(worth)
		for _, budget := range ranking.Budgets(limits...) {
			fmt.Fprintf(os.Stderr, "%6.1f GB: %s\n", float64(budget.Limit)/1e9, budget)
		}
		ranking.Cut(f.top, int64(*f.budget))
		if len(ranking.Shops) == 0 {
			// All Pods would start cold from now on.
			return errors.New("no shop would be in the ranking, so that none is written: are there requests within --window, and does anything fit into --budget-bytes?")
		}
		fmt.Fprintln(os.Stderr, ranking)
		if *c.dryRun {
			return nil
		}
		return writeRanking(ctx, s, ranking, f.out)
	}
}

func (f *rankFlags) limits() (limits []int64, err error) {
	for text := range strings.SplitSeq(f.budgets, ",") {
		if text == "" {
			continue
		}
		var limit size
		if err := limit.Set(text); err != nil {
			return nil, fmt.Errorf("--budgets: %w", err)
		}
		limits = append(limits, int64(limit))
	}
	if !(f.penalty > 0 && f.penalty <= 1000) || *f.speed <= 0 || f.counters < 1 {
		return nil, errors.New("--penalty, --restore-bytes-per-second and --counters want more than 0")
	}
	return limits, nil
}

// sources are files, buckets, and BigQuery, in this order.
func (f *rankFlags) sources(ctx context.Context, c *command) (sources []rank.Source, query *bigquery.Source, err error) {
	var files []string
	for _, name := range c.flags.Args() {
		if !strings.HasPrefix(name, "s3://") {
			files = append(files, name)
			continue
		}
		bucket, err := openS3(ctx, name)
		if err != nil {
			return nil, nil, err
		}
		address, _, _ := strings.Cut(name, "?")
		sources = append(sources, rank.Logs{Name: address, Format: f.format, Walk: bucket.Logs})
	}
	if len(files) > 0 {
		sources = append(sources, rank.Files(f.format, files...))
	}
	if f.query.Table.Name != "" {
		if query, err = f.bigquery(c); err != nil {
			return nil, nil, err
		}
		sources = append(sources, query)
	}
	if len(sources) == 0 {
		return nil, nil, errors.New("want access logs, s3://BUCKET/PREFIX, or --bigquery-table; - is the standard input")
	}
	return sources, query, nil
}

func (f *rankFlags) bigquery(c *command) (*bigquery.Source, error) {
	q := f.query
	q.Table.Shop, q.Table.Time, q.Table.Requests = f.format.Shop, f.format.Time, f.format.Requests
	q.MaxBytes, q.DryRun = int64(*f.billed), *c.dryRun
	if q.Project == "" {
		q.Project, _, _ = strings.Cut(q.Table.Name, ".")
	}
	if f.endpoint != "" {
		u, err := url.Parse(f.endpoint)
		if err != nil || u.Host == "" || u.User != nil {
			return nil, errors.New("--bigquery-endpoint: want https://HOST/bigquery/v2/, without a user or a password")
		}
		q.Options = append(q.Options, option.WithEndpoint(f.endpoint))
		switch address := net.ParseIP(u.Hostname()); {
		case address != nil && address.IsLoopback():
			q.Options = append(q.Options, option.WithoutAuthentication())
		case u.Scheme != "https":
			return nil, fmt.Errorf("--bigquery-endpoint %q: want https", f.endpoint)
		}
	}
	return bigquery.New(q)
}

// snapshotSizes asks the storage how large shops are, if there is one.
func snapshotSizes(ctx context.Context, s storage.Storage, compat string) (map[string]int64, error) {
	sizes := map[string]int64{}
	if s == nil || compat == "" {
		return sizes, nil
	}
	return sizes, warmcache.Shops(ctx, s, compat, func(shop string, generations []warmcache.Generation) error {
		if len(generations) > 0 {
			sizes[shop] = generations[0].Bytes
		}
		return nil
	})
}

// maxPenalties bounds a file of penalties.
const maxPenalties = 64 << 20

func readPenalties(name string) (map[string]float64, error) {
	if name == "" {
		return nil, nil
	}
	file, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("--penalties: %w", err)
	}
	defer file.Close()
	rows, err := csv.NewReader(io.LimitReader(file, maxPenalties)).ReadAll()
	if err != nil {
		return nil, fmt.Errorf("--penalties: %w", err)
	}
	penalties := map[string]float64{}
	for i, row := range rows {
		if i == 0 && len(row) == 2 && row[0] == "shop" {
			continue
		}
		penalty, err := strconv.ParseFloat(row[len(row)-1], 64)
		if len(row) != 2 || err != nil || !(penalty >= 0 && penalty <= 1000) || warmcache.CheckShop(row[0]) != nil {
			return nil, fmt.Errorf("--penalties: %s: line %d: want SHOP,PENALTY, such as a.example,0.3", name, i+1)
		}
		penalties[row[0]] = penalty
	}
	return penalties, nil
}

// replaceFile writes a file beside, and puts it in its place when it is whole.
func replaceFile(name string, write func(io.Writer) error) error {
	file, err := os.CreateTemp(filepath.Dir(name), "."+filepath.Base(name)+"-")
	if err != nil {
		return err
	}
	err = errors.Join(write(file), file.Chmod(0o644), file.Close())
	if err == nil {
		err = os.Rename(file.Name(), name)
	}
	if err != nil {
		return errors.Join(err, os.Remove(file.Name()))
	}
	return nil
}
