package rank

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"time"
)

// Source is something that knows the requests of shops: log files, logs in a bucket, a table of BigQuery.
type Source interface {
	// Count adds what it knows to a counter. An error says that what was counted is not all; what is broken for good is counted in
	// the result, and no error.
	Count(ctx context.Context, counter *Counter) (LogResult, error)
	// String names it for people.
	String() string
}

// Object is a log that can be opened.
type Object struct {
	Name string
	// Modified is when it was written last; the zero time if that is not known.
	Modified time.Time
	Open     func(ctx context.Context) (io.ReadCloser, error)
}

// Logs is a Source of access logs, read one after the other.
type Logs struct {
	Name   string
	Format LogFormat
	// Walk visits all logs.
	Walk func(ctx context.Context, visit func(Object) error) error
}

// Files are logs on the disk; "-" is the standard input.
func Files(format LogFormat, names ...string) Logs {
	return Logs{Name: fmt.Sprint(len(names), " files"), Format: format, Walk: func(_ context.Context, visit func(Object) error) error {
		for _, name := range names {
			if err := visit(fileObject(name)); err != nil {
				return err
			}
		}
		return nil
	}}
}

func fileObject(name string) Object {
	if name == "-" {
		return Object{Name: "standard input", Open: func(context.Context) (io.ReadCloser, error) { return io.NopCloser(os.Stdin), nil }}
	}
	o := Object{Name: name, Open: func(context.Context) (io.ReadCloser, error) { return os.Open(name) }}
	if info, err := os.Stat(name); err == nil && info.Mode().IsRegular() {
		o.Modified = info.ModTime()
	}
	return o
}

func (l Logs) String() string { return l.Name }

// Count implements Source. A log that nobody has written to since the counter's window began is not opened.
func (l Logs) Count(ctx context.Context, counter *Counter) (total LogResult, err error) {
	err = l.Walk(ctx, func(o Object) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		if !o.Modified.IsZero() && counter.tooOld(o.Modified) {
			slog.Info("older than the window", "log", o.Name)
			return nil
		}
		reader, err := o.Open(ctx)
		if err != nil {
			return fmt.Errorf("%s: %w", o.Name, err)
		}
		result, err := ReadLog(ctx, reader, l.Format, counter)
		err = errors.Join(err, reader.Close())
		total.Lines += result.Lines
		total.Skipped += result.Skipped
		slog.Info("read", "log", o.Name, "lines", result.Lines, "skipped", result.Skipped)
		if errors.Is(err, ErrBroken) {
			// One log of thousands that was cut off, perhaps years ago, is no reason to have no ranking.
			slog.Warn("a log is counted up to where it is broken", "log", o.Name, "error", err)
			total.Broken++
			return nil
		}
		if err != nil {
			return fmt.Errorf("%s: %w", o.Name, err)
		}
		return nil
	})
	return total, err
}

// CountAll counts all sources. One that says nothing at all, of many lines, is an error: a wrong name of a field would else make an
// empty ranking.
func CountAll(ctx context.Context, counter *Counter, sources ...Source) error {
	for _, source := range sources {
		result, err := source.Count(ctx, counter)
		if err != nil {
			return fmt.Errorf("%s: %w", source, err)
		}
		if result.Broken > 0 && result.Lines == result.Skipped {
			return fmt.Errorf("%s: nothing can be read of it: %d logs are broken", source, result.Broken)
		}
		if result.Lines > 0 && result.Lines == result.Skipped {
			return fmt.Errorf("%s: none of %d lines names a shop and a time as they are expected; are the names of the fields right?", source, result.Lines)
		}
	}
	return nil
}

// Budget is what the first shops of a ranking need, and what they are worth.
type Budget struct {
	// Limit is what they were chosen for, in bytes; zero for none.
	Limit int64   `json:"limit"`
	Shops int     `json:"shops"`
	Share float64 `json:"share"`
	Bytes int64   `json:"bytes"`
}

func (b Budget) String() string {
	return fmt.Sprintf("top %d shops = %.0f %% of requests, %.1f GB", b.Shops, 100*b.Share, float64(b.Bytes)/1e9)
}

// Budgets says for each of some limits in bytes how much of the traffic it covers, smaller limits first. Shops without a snapshot
// count as large as the others on average.
func (r *Ranking) Budgets(limits ...int64) []Budget {
	limits = slices.Compact(slices.Sorted(slices.Values(limits)))
	found := make([]Budget, 0, len(limits))
	for _, limit := range limits {
		found = append(found, r.within(limit))
	}
	return found
}

// within takes shops, the most valuable first, as a restore does: one that does not fit is left out.
func (r *Ranking) within(limit int64) Budget {
	b := Budget{Limit: limit}
	for i := range r.Shops {
		size := r.sizeOf(&r.Shops[i])
		if limit > 0 && b.Bytes+size > limit {
			continue
		}
		b.Shops++
		b.Share += r.Shops[i].Share
		b.Bytes += size
	}
	return b
}

func (r *Ranking) sizeOf(shop *Shop) int64 {
	if shop.Bytes > 0 {
		return shop.Bytes
	}
	return r.Average
}
