package bigquerytest

import (
	"database/sql"
	"database/sql/driver"
	"fmt"
	"regexp"
	"strconv"
	"sync"
	"testing"
	"time"

	"modernc.org/sqlite"
)

// timestamps are kept as texts that sort by time.
const timestamps = "2006-01-02 15:04:05.000000-07:00"

// functions are those of BigQuery that SQLite does not have.
var functions = sync.OnceValue(func() error {
	if err := sqlite.RegisterDeterministicScalarFunction("UNIX_MICROS", 1, func(_ *sqlite.FunctionContext, args []driver.Value) (driver.Value, error) {
		text, ok := args[0].(string)
		if !ok {
			return nil, fmt.Errorf("UNIX_MICROS of %v, which is no TIMESTAMP", args[0])
		}
		at, err := time.Parse(timestamps, text)
		return at.UnixMicro(), err
	}); err != nil {
		return err
	}
	return sqlite.RegisterDeterministicScalarFunction("GREATEST", 2, func(_ *sqlite.FunctionContext, args []driver.Value) (driver.Value, error) {
		a, first := args[0].(float64)
		b, second := args[1].(float64)
		if !first || !second {
			return nil, fmt.Errorf("GREATEST of %T and %T", args[0], args[1])
		}
		return max(a, b), nil
	})
})

func openTable(t testing.TB, table string, rows []Row) *sql.DB {
	t.Helper()
	if err := functions(); err != nil {
		t.Fatal(err)
	}
	db, err := sql.Open("sqlite", ":memory:")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	db.SetMaxOpenConns(1) // Each connection would have a memory of its own.
	run := func(text string, args ...any) {
		t.Helper()
		if _, err := db.ExecContext(t.Context(), text, args...); err != nil {
			t.Fatal(err)
		}
	}
	run("CREATE TABLE `" + table + "` (host TEXT, at TEXT, n INTEGER, day TEXT)")
	run("BEGIN")
	for _, row := range rows {
		at := row.Time.UTC()
		run("INSERT INTO `"+table+"` VALUES (?, ?, ?, ?)", row.Shop, at.Format(timestamps), row.Requests, at.Format(time.DateOnly))
	}
	run("COMMIT")
	return db
}

var used = regexp.MustCompile(`@[a-z_]+`)

// run runs a query; all its parameters must be used, and all that it uses be there.
func (s *Server) run(q *query) ([]column, [][]any, error) {
	args, given := []any{}, map[string]bool{}
	for _, p := range q.QueryParameters {
		if p.Value.Value == nil || given[p.Name] {
			return nil, nil, fmt.Errorf("the parameter %q has no value, or two", p.Name)
		}
		given[p.Name] = true
		value, err := valueOf(p.Type.Type, *p.Value.Value)
		if err != nil {
			return nil, nil, fmt.Errorf("the parameter %q: %w", p.Name, err)
		}
		args = append(args, sql.Named(p.Name, value))
	}
	wanted := map[string]bool{}
	for _, name := range used.FindAllString(q.Query, -1) {
		if wanted[name[1:]] = true; !given[name[1:]] {
			return nil, nil, fmt.Errorf("query parameter %q not found", name[1:])
		}
	}
	if len(wanted) != len(given) {
		return nil, nil, fmt.Errorf("there are %d parameters, and %d are used", len(given), len(wanted))
	}
	rows, err := s.db.Query(q.Query, args...)
	if err != nil {
		return nil, nil, err
	}
	defer rows.Close()
	names, err := rows.Columns()
	if err != nil {
		return nil, nil, err
	}
	columns := make([]column, len(names))
	for i, name := range names {
		columns[i] = column{Name: name, Type: "FLOAT"}
	}
	var all [][]any
	for rows.Next() {
		values, targets := make([]any, len(names)), make([]any, len(names))
		for i := range values {
			targets[i] = &values[i]
		}
		if err := rows.Scan(targets...); err != nil {
			return nil, nil, err
		}
		for i, value := range values {
			switch v := value.(type) {
			case string:
				columns[i].Type = "STRING"
			case int64:
				columns[i].Type, values[i] = "INTEGER", strconv.FormatInt(v, 10)
			case float64:
				values[i] = strconv.FormatFloat(v, 'g', -1, 64)
			}
		}
		all = append(all, values)
	}
	return columns, all, rows.Err()
}

func valueOf(kind, text string) (any, error) {
	switch kind {
	case "FLOAT64":
		return strconv.ParseFloat(text, 64)
	case "INT64":
		return strconv.ParseInt(text, 10, 64)
	case "STRING":
		return text, nil
	case "TIMESTAMP":
		at, err := time.Parse("2006-01-02 15:04:05.999999-07:00", text)
		return at.UTC().Format(timestamps), err
	}
	return nil, fmt.Errorf("the type %q is unknown", kind)
}
