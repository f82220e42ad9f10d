// Package bigquery is the source of a ranking that asks BigQuery.
//
// It promises:
//
//   - Nothing is asked before a dry run has said how many bytes it would read; more than MaxBytes are refused, with both numbers, and
//     the job itself is bounded by the same number, should the table have grown meanwhile.
//   - Values are parameters of the query. Names of the table and the columns cannot be: they are checked against the characters
//     that names have, and stand between backticks.
//   - A request weighs what it weighs in a log (rank.Counter): 2^(-age/half-life), the age in microseconds.
//   - Quotas (403, 429) and errors of the server (5xx) are waited for, longer each time, until Timeout; a job that was begun
//     when it is over, or when the context ends, is cancelled, so that nothing goes on being billed. A job that fails inside of
//     BigQuery, for no reason that lies in the query, is begun anew.
//
// It is a package of its own because the client brings much with it: only shopset-cache imports it.
//
// Limits: the column of the time is a TIMESTAMP, and rows without one do not count; no more than the counter's limit of shops is
// fetched, the others count in the total alone.
package bigquery

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net/http"
	"time"

	"cloud.google.com/go/bigquery"
	"google.golang.org/api/googleapi"
	"google.golang.org/api/iterator"
	"google.golang.org/api/option"
	htransport "google.golang.org/api/transport/http"

	"github.com/shopset/shopset/internal/warmcache/rank"
)

// Config says what to ask, and where.
type Config struct {
	Table Table
	// Project that pays for the query, and Location of the data, such as EU.
	Project, Location string
	// MaxBytes is how much may be read, and billed, at most.
	MaxBytes int64
	// Timeout bounds all of it; 5 minutes when zero.
	Timeout time.Duration
	// PageRows is how many rows an answer has; 10,000 when zero.
	PageRows int
	// DryRun asks what it would cost, and nothing else.
	DryRun bool
	// Valid says whether a text can be a shop's name; nil when all can.
	Valid func(shop string) bool
	// Options of the client; the identity of the environment when there are none.
	Options []option.ClientOption
	// Pause before the first retry; a second when zero.
	Pause time.Duration
}

// Source implements rank.Source.
type Source struct {
	config Config
	// Estimate is how many bytes the dry run said would be read.
	Estimate int64
}

var _ rank.Source = (*Source)(nil)

// New checks a configuration; it sends nothing. All that is wrong is told at once.
func New(c Config) (*Source, error) {
	if c.Table.Shop == "" {
		c.Table.Shop = "shop"
	}
	if c.Table.Time == "" {
		c.Table.Time = "time"
	}
	problems := []error{c.Table.check()}
	if !projectPattern.MatchString(c.Project) {
		problems = append(problems, fmt.Errorf("project %q: want the project that pays for the query", c.Project))
	}
	if !tablePattern.MatchString(c.Location) {
		problems = append(problems, fmt.Errorf("location %q: want that of the data, such as EU or europe-west3", c.Location))
	}
	if c.MaxBytes <= 0 {
		problems = append(problems, errors.New("want how many bytes a query may read at most: what it reads is paid for"))
	}
	if err := errors.Join(problems...); err != nil {
		return nil, fmt.Errorf("BigQuery: %w", err)
	}
	if c.Timeout == 0 {
		c.Timeout = 5 * time.Minute
	}
	if c.PageRows == 0 {
		c.PageRows = 10000
	}
	if c.Pause == 0 {
		c.Pause = time.Second
	}
	return &Source{config: c}, nil
}

func (s *Source) String() string { return "BigQuery " + s.config.Table.Name }

// Count implements rank.Source.
func (s *Source) Count(ctx context.Context, counter *rank.Counter) (rank.LogResult, error) {
	ctx, cancel := context.WithTimeout(ctx, s.config.Timeout)
	defer cancel()
	client, err := s.client(ctx)
	if err != nil {
		return rank.LogResult{}, err
	}
	defer client.Close()
	query := s.query(client, counter)
	if err := s.estimate(ctx, query); err != nil || s.config.DryRun {
		return rank.LogResult{}, err
	}
	job, err := s.run(ctx, client, query)
	if job == nil {
		return rank.LogResult{}, err
	}
	var result rank.LogResult
	if err == nil {
		result, err = s.read(ctx, job, counter)
	}
	if err != nil {
		// Nobody waits for it any more, so that nobody pays for it. One that has ended does not mind.
		late, stop := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer stop()
		if failure := job.Cancel(late); failure != nil {
			slog.Warn("a query goes on that nobody waits for", "job", job.ID(), "error", failure)
		}
		err = errors.Join(ctx.Err(), err)
	}
	return result, err
}

func (s *Source) client(ctx context.Context) (*bigquery.Client, error) {
	options := append([]option.ClientOption{option.WithScopes(bigquery.Scope)}, s.config.Options...)
	base, ok := http.DefaultTransport.(*http.Transport)
	if !ok {
		return nil, errors.New("the default transport is not net/http's")
	}
	base = base.Clone()
	base.ResponseHeaderTimeout = time.Minute
	transport, err := htransport.NewTransport(ctx, retrying{base, s.config.Pause}, options...)
	if err != nil {
		return nil, fmt.Errorf("the identity: %w", err)
	}
	return bigquery.NewClient(ctx, s.config.Project, append(options, option.WithHTTPClient(&http.Client{Transport: transport}))...)
}

// query is what is asked, without a job's name.
func (s *Source) query(client *bigquery.Client, counter *rank.Counter) *bigquery.Query {
	now, halfLife, window := counter.Times()
	query := client.Query(s.config.Table.sql(halfLife > 0, window > 0, counter.Limit()))
	if halfLife > 0 {
		query.Parameters = append(query.Parameters,
			bigquery.QueryParameter{Name: "now", Value: float64(now.UnixMicro())},
			bigquery.QueryParameter{Name: "half_life", Value: float64(halfLife.Microseconds())})
	}
	if window > 0 {
		query.Parameters = append(query.Parameters, bigquery.QueryParameter{Name: "since", Value: now.Add(-window).UTC()})
	}
	query.MaxBytesBilled = s.config.MaxBytes
	query.Labels = map[string]string{"program": "shopset-cache"}
	query.JobTimeout = s.config.Timeout
	query.Location = s.config.Location
	return query
}

// estimate asks what the query would read, and refuses what is too much.
func (s *Source) estimate(ctx context.Context, query *bigquery.Query) error {
	dry := *query
	dry.DryRun, dry.MaxBytesBilled, dry.JobTimeout = true, 0, 0
	job, err := dry.Run(ctx)
	if err != nil {
		return fmt.Errorf("the dry run: %w", err)
	}
	status := job.LastStatus()
	if status == nil || status.Statistics == nil {
		return errors.New("the dry run does not say what the query would read")
	}
	s.Estimate = status.Statistics.TotalBytesProcessed
	if s.Estimate > s.config.MaxBytes {
		return fmt.Errorf("the query would read %d bytes, and %d are allowed: allow more, shorten the window, or name the column by which the table is partitioned",
			s.Estimate, s.config.MaxBytes)
	}
	slog.Info("asking BigQuery", "table", s.config.Table.Name, "bytes", s.Estimate, "allowed", s.config.MaxBytes)
	return nil
}

// run begins a job and waits for its end. The job is not nil if one may still be running.
func (s *Source) run(ctx context.Context, client *bigquery.Client, query *bigquery.Query) (*bigquery.Job, error) {
	for try := 1; ; try++ {
		job, err := s.start(ctx, client, query)
		if err != nil {
			return nil, err
		}
		if err = s.settle(ctx, job); err == nil {
			return job, nil
		}
		err = fmt.Errorf("the query: %w", err)
		if try == maxTries || !failedInside(err) {
			return job, err
		}
		slog.Warn("the query is begun anew", "job", job.ID(), "error", err, "try", try)
		if wait(ctx, s.config.Pause, try) != nil {
			return job, err
		}
	}
}

// settle waits for the end of a job, and says how it ended. The client's own way asks for the results, and goes on asking when the job
// failed for a rate limit, until there is no time left.
func (s *Source) settle(ctx context.Context, job *bigquery.Job) error {
	for try := 1; ; try++ {
		status, err := job.Status(ctx)
		switch {
		case err != nil:
			return err
		case status.Done():
			return status.Err()
		}
		if err := wait(ctx, s.config.Pause, min(try, 3)); err != nil {
			return err
		}
	}
}

// start begins the job under a name of ours: one that was begun although its answer was lost is found by it, and not paid for twice.
func (s *Source) start(ctx context.Context, client *bigquery.Client, query *bigquery.Query) (*bigquery.Job, error) {
	query.JobID = "shopset-rank-" + rand.Text()
	job, err := query.Run(ctx)
	var refused *googleapi.Error
	if errors.As(err, &refused) && refused.Code == http.StatusConflict {
		job, err = client.JobFromIDLocation(ctx, query.JobID, s.config.Location)
	}
	if err != nil {
		if ctx.Err() != nil {
			s.abandon(ctx, client, query.JobID)
		}
		return nil, fmt.Errorf("the query: %w", err)
	}
	return job, nil
}

// abandon cancels a job that may have begun although nobody was told.
func (s *Source) abandon(ctx context.Context, client *bigquery.Client, id string) {
	late, stop := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer stop()
	job, err := client.JobFromIDLocation(late, id, s.config.Location)
	if err == nil {
		err = job.Cancel(late)
	}
	if err != nil {
		slog.Warn("a query may have begun that nobody waits for", "job", id, "error", err)
	}
}

// row is what the query answers.
type row struct {
	Shop     string  `bigquery:"shop"`
	Requests float64 `bigquery:"requests"`
	Total    float64 `bigquery:"total"`
}

// read fetches the answer, page by page.
func (s *Source) read(ctx context.Context, job *bigquery.Job, counter *rank.Counter) (result rank.LogResult, err error) {
	rows, err := job.Read(ctx)
	if err != nil {
		return result, fmt.Errorf("its answer: %w", err)
	}
	rows.PageInfo().MaxSize = s.config.PageRows
	total, told := 0.0, 0.0
	for {
		var r row
		switch err := rows.Next(&r); {
		case errors.Is(err, iterator.Done):
			counter.AddOthers(total - told)
			return result, nil
		case err != nil:
			return result, fmt.Errorf("its answer, after %d rows: %w", result.Lines, err)
		}
		if result.Lines++; result.Lines > counter.Limit() {
			return result, fmt.Errorf("its answer has more than the %d rows that were asked for", counter.Limit())
		}
		total = r.Total
		told += r.Requests
		if r.Shop == "" || len(r.Shop) > 128 || !(r.Requests > 0) || math.IsInf(r.Requests, 0) || s.config.Valid != nil && !s.config.Valid(r.Shop) {
			result.Skipped++
			continue
		}
		// It is weighed already.
		counter.Add(r.Shop, time.Time{}, r.Requests)
	}
}
