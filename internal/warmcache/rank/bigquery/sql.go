package bigquery

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
)

// Table says where requests are: one row for each, or for many.
type Table struct {
	// Name is PROJECT.DATASET.TABLE.
	Name string
	// Shop is a column of texts, Time one of timestamps. Parts of nested columns are parted by dots. "shop" and "time" when empty.
	Shop, Time string
	// Requests is a column with a number of requests; each row is one when empty.
	Requests string
	// Partition is a column of dates by which the table is partitioned, if that is another one than Time; it bounds what is read.
	Partition string
}

var (
	projectPattern = regexp.MustCompile(`^([a-z][a-z0-9.-]{0,62}:)?[a-z][a-z0-9-]{4,28}[a-z0-9]$`)
	datasetPattern = regexp.MustCompile(`^[A-Za-z0-9_]{1,1000}$`)
	tablePattern   = regexp.MustCompile(`^[A-Za-z0-9_-]{1,1000}$`)
	columnPattern  = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]{0,127}(\.[A-Za-z_][A-Za-z0-9_]{0,127}){0,6}$`)
)

// check wants names that can be put between backticks as they are; all that is wrong is told at once. Names cannot be parameters of
// a query, so nothing else keeps a name from being something else.
func (t *Table) check() error {
	var problems []error
	parts := strings.Split(t.Name, ".")
	if n := len(parts); n < 3 || !projectPattern.MatchString(strings.Join(parts[:n-2], ".")) || !datasetPattern.MatchString(parts[n-2]) || !tablePattern.MatchString(parts[n-1]) {
		problems = append(problems, fmt.Errorf("table %q: want PROJECT.DATASET.TABLE", t.Name))
	}
	for _, column := range []struct{ what, name string }{{"shop", t.Shop}, {"time", t.Time}, {"requests", t.Requests}, {"partition", t.Partition}} {
		if column.name != "" && !columnPattern.MatchString(column.name) {
			problems = append(problems, fmt.Errorf("column of the %s %q: want letters, digits and underscores, and dots between the parts of a nested one", column.what, column.name))
		}
	}
	return errors.Join(problems...)
}

func quoted(column string) string {
	return "`" + strings.ReplaceAll(column, ".", "`.`") + "`"
}

// sql is the query: requests by shop, weighed by their age as rank.Counter does, and those of all shops together. decay and window
// say whether there are a half-life and a window; limit is how many shops are wanted.
func (t *Table) sql(decay, window bool, limit int) string {
	weight := "1.0"
	where := []string{quoted(t.Shop) + " != ''", "LENGTH(" + quoted(t.Shop) + ") <= 128", quoted(t.Time) + " IS NOT NULL"}
	if t.Requests != "" {
		weight += " * " + quoted(t.Requests)
		where = append(where, quoted(t.Requests)+" > 0")
	}
	if decay {
		weight += " * POW(2.0, -GREATEST(@now - UNIX_MICROS(" + quoted(t.Time) + "), 0.0) / @half_life)"
	}
	if window {
		where = append(where, quoted(t.Time)+" >= @since")
		if t.Partition != "" {
			where = append(where, quoted(t.Partition)+" >= DATE(@since)")
		}
	}
	return "SELECT\n" +
		"  " + quoted(t.Shop) + " AS shop,\n" +
		"  SUM(" + weight + ") AS requests,\n" +
		"  SUM(SUM(" + weight + ")) OVER () AS total\n" +
		"FROM `" + t.Name + "`\n" +
		"WHERE " + strings.Join(where, "\n  AND ") + "\n" +
		"GROUP BY 1\n" + // By number: a column of the table may have the name that is given here.
		"ORDER BY 2 DESC, 1\n" +
		fmt.Sprintf("LIMIT %d\n", limit)
}
