package bigquery

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"math"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/api/option"

	"github.com/shopset/shopset/internal/warmcache/rank"
	"github.com/shopset/shopset/internal/warmcache/rank/bigquery/bigquerytest"
)

var update = flag.Bool("update", false, "write the golden files anew")

var now = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

const table = "shops-prod.logs.requests"

func source(t *testing.T, s *bigquerytest.Server, edit ...func(*Config)) *Source {
	t.Helper()
	c := Config{Table: Table{Name: table, Shop: "host", Time: "at", Requests: "n"}, Project: bigquerytest.Project, Location: bigquerytest.Location,
		MaxBytes: 1 << 30, Timeout: 20 * time.Second, Pause: time.Millisecond,
		Options: []option.ClientOption{option.WithEndpoint(s.URL), option.WithoutAuthentication()}}
	for _, e := range edit {
		e(&c)
	}
	made, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	return made
}

// sample has requests of shops over ten days, the last of them in the future.
func sample(n int) (rows []bigquerytest.Row) {
	random := rand.New(rand.NewPCG(7, 7)) //nolint:gosec // It is a test.
	for range n {
		age := time.Duration(random.Int64N(int64(240*time.Hour))) - time.Hour
		rows = append(rows, bigquerytest.Row{Shop: fmt.Sprintf("shop-%d.example", random.IntN(80)), Time: now.Add(-age).Truncate(time.Microsecond), Requests: random.Int64N(50)})
	}
	return rows
}

// TestSameAsLogs: the same requests have the same worth, wherever they are counted.
func TestSameAsLogs(t *testing.T) {
	rows := sample(3000)
	server := bigquerytest.New(t, table, rows)
	server.PageRows = 7 // Many pages.
	server.Polls = 2
	var log strings.Builder
	for _, row := range rows {
		line, err := json.Marshal(map[string]any{"shop": row.Shop, "time": row.Time.Format(time.RFC3339Nano), "n": row.Requests})
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&log, "%s\n", line)
	}
	for _, times := range []struct{ halfLife, window time.Duration }{{72 * time.Hour, 0}, {time.Hour, 100 * time.Hour}, {0, 0}, {0, 50 * time.Hour}} {
		counter := func() *rank.Counter {
			c := rank.NewCounter(now, times.halfLife, 1000)
			c.Window(times.window)
			return c
		}
		byLog, byQuery := counter(), counter()
		if _, err := rank.ReadLog(t.Context(), strings.NewReader(log.String()), rank.LogFormat{Requests: "n"}, byLog); err != nil {
			t.Fatal(err)
		}
		result, err := source(t, server, func(c *Config) { c.PageRows = 10; c.Table.Partition = "day" }).Count(t.Context(), byQuery)
		if err != nil || result.Lines == 0 {
			t.Fatal(result, err)
		}
		want, got := byLog.Rank(rank.Worth{}), byQuery.Rank(rank.Worth{})
		if len(want.Shops) != len(got.Shops) || math.Abs(want.Total-got.Total) > 1e-9*want.Total {
			t.Fatalf("%v: %d shops of %g, want %d of %g", times, len(got.Shops), got.Total, len(want.Shops), want.Total)
		}
		for i := range want.Shops {
			if want.Shops[i].Name != got.Shops[i].Name || math.Abs(want.Shops[i].Score-got.Shops[i].Score) > 1e-9*want.Shops[i].Score {
				t.Fatalf("%v: %d: %+v, want %+v", times, i, got.Shops[i], want.Shops[i])
			}
		}
	}
}

// TestTheOthersCount: shops that are not fetched are in the total, and so in everybody's share; junk names are left out.
func TestTheOthersCount(t *testing.T) {
	rows := []bigquerytest.Row{{Shop: "a", Time: now, Requests: 60}, {Shop: "../x", Time: now, Requests: 20}, {Shop: "b", Time: now, Requests: 15}, {Shop: "c", Time: now, Requests: 25}}
	c := rank.NewCounter(now, 0, 3)
	result, err := source(t, bigquerytest.New(t, table, rows), func(c *Config) {
		c.Valid = func(shop string) bool { return !strings.Contains(shop, "/") }
	}).Count(t.Context(), c)
	ranking := c.Rank(rank.Worth{})
	if err != nil || result.Skipped != 1 || len(ranking.Shops) != 2 || ranking.Shops[0].Name != "a" || ranking.Total != 100 || ranking.Shops[0].Share != 0.6 {
		t.Errorf("%+v %v %+v", result, err, ranking)
	}
}

// TestGoldenSQL: the query is read and approved by people.
func TestGoldenSQL(t *testing.T) {
	for name, test := range map[string]struct {
		table         Table
		decay, window bool
	}{
		"all":    {Table{Name: table, Shop: "http.host", Time: "at", Requests: "n", Partition: "day"}, true, true},
		"simple": {Table{Name: table, Shop: "shop", Time: "time"}, false, false},
	} {
		got := test.table.sql(test.decay, test.window, 200000)
		path := filepath.Join("testdata", name+".sql")
		if *update {
			if err := os.WriteFile(path, []byte(got), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(path)
		if err != nil || got != string(want) {
			t.Errorf("%s: %v\n%s", name, err, got)
		}
	}
}

// TestTooMuch: nothing is billed that was not allowed, and the sentence says what would be.
func TestTooMuch(t *testing.T) {
	server := bigquerytest.New(t, table, nil)
	server.Reads = 5000000
	_, err := source(t, server, func(c *Config) { c.MaxBytes = 4000000 }).Count(t.Context(), rank.NewCounter(now, 0, 10))
	if err == nil || !strings.Contains(err.Error(), "would read 5000000 bytes, and 4000000 are allowed") || len(server.Queries()) != 0 {
		t.Errorf("%v, %d queries", err, len(server.Queries()))
	}
	// What the dry run did not know, the job itself still does.
	server.Fault = func(call string, _ int) *bigquerytest.Fault {
		server.Reads = map[string]int64{"jobs.insert dry": 1000, "jobs.insert": 5000000}[call]
		return nil
	}
	_, err = source(t, server, func(c *Config) { c.MaxBytes = 4000000 }).Count(t.Context(), rank.NewCounter(now, 0, 10))
	if err == nil || !strings.Contains(err.Error(), "bytes billed") {
		t.Error(err)
	}
	dry := source(t, server, func(c *Config) { c.DryRun = true })
	queries := len(server.Queries())
	if _, err := dry.Count(t.Context(), rank.NewCounter(now, 0, 10)); err != nil || dry.Estimate != 1000 || len(server.Queries()) != queries {
		t.Errorf("%v, estimate %d, %d queries", err, dry.Estimate, len(server.Queries()))
	}
}

// TestBusy: quotas and errors of the server are waited for, in each call; a job whose beginning was not answered is not begun twice.
func TestBusy(t *testing.T) {
	rows := sample(100)
	for _, call := range []string{"jobs.insert dry", "jobs.insert", "jobs.get", "jobs.getQueryResults"} {
		for _, fault := range []bigquerytest.Fault{
			{Status: http.StatusForbidden, Reason: "rateLimitExceeded"}, {Status: http.StatusForbidden, Reason: "quotaExceeded"},
			{Status: http.StatusTooManyRequests, Reason: "rateLimitExceeded"}, {Status: http.StatusServiceUnavailable, Reason: "backendError"},
			{Status: http.StatusInternalServerError, Reason: "internalError", Done: true},
		} {
			server := bigquerytest.New(t, table, rows)
			server.PageRows = 20
			server.Fault = func(called string, n int) *bigquerytest.Fault {
				if called == call && n%4 != 0 { // Three times, then it works; and again for the next.
					return &fault
				}
				return nil
			}
			c := rank.NewCounter(now, 0, 1000)
			_, err := source(t, server).Count(t.Context(), c)
			if err != nil || len(c.Rank(rank.Worth{}).Shops) == 0 || len(server.Queries()) != 1 {
				t.Errorf("%s, %+v: %v, %d queries", call, fault, err, len(server.Queries()))
			}
		}
	}
}

// TestFailedInside: a job that the service itself failed is begun anew, and counted once; one that goes on failing is told.
func TestFailedInside(t *testing.T) {
	rows := sample(100)
	once := rank.NewCounter(now, 0, 1000)
	if _, err := source(t, bigquerytest.New(t, table, rows)).Count(t.Context(), once); err != nil {
		t.Fatal(err)
	}
	for _, reason := range []string{"backendError", "internalError", "rateLimitExceeded"} {
		server := bigquerytest.New(t, table, rows)
		server.Polls, server.Failures, server.FailureReason = 1, 2, reason
		c := rank.NewCounter(now, 0, 1000)
		if _, err := source(t, server).Count(t.Context(), c); err != nil || len(server.Queries()) != 3 || c.Rank(rank.Worth{}).Total != once.Rank(rank.Worth{}).Total {
			t.Errorf("%s: %v, %d queries, %+v", reason, err, len(server.Queries()), c.Rank(rank.Worth{}).Total)
		}
		server = bigquerytest.New(t, table, rows)
		server.Failures, server.FailureReason = 1000, reason
		if _, err := source(t, server).Count(t.Context(), c); err == nil || !strings.Contains(err.Error(), "error during execution") || len(server.Queries()) != maxTries {
			t.Errorf("%s, for ever: %v, %d queries", reason, err, len(server.Queries()))
		}
	}
}

// TestRefused: what will not be otherwise later is told at once.
func TestRefused(t *testing.T) {
	server := bigquerytest.New(t, table, nil)
	server.Fault = func(call string, _ int) *bigquerytest.Fault {
		return &bigquerytest.Fault{Status: http.StatusForbidden, Reason: "accessDenied", Message: "permission bigquery.jobs.create denied"}
	}
	_, err := source(t, server).Count(t.Context(), rank.NewCounter(now, 0, 10))
	if err == nil || !strings.Contains(err.Error(), "jobs.create denied") || server.Calls("jobs.insert dry") != 1 {
		t.Errorf("%v after %d calls", err, server.Calls("jobs.insert dry"))
	}
}

// TestNoStatus: a job that nothing more can be learned of is cancelled, though there is time left.
func TestNoStatus(t *testing.T) {
	server := bigquerytest.New(t, table, nil)
	server.Polls = -1
	server.Fault = func(call string, _ int) *bigquerytest.Fault {
		if call == "jobs.get" {
			return &bigquerytest.Fault{Status: http.StatusForbidden, Reason: "accessDenied", Message: "permission bigquery.jobs.get denied"}
		}
		return nil
	}
	if _, err := source(t, server).Count(t.Context(), rank.NewCounter(now, 0, 10)); err == nil || !strings.Contains(err.Error(), "jobs.get denied") || server.Cancelled() != 1 {
		t.Errorf("%v, %d jobs cancelled", err, server.Cancelled())
	}
}

// TestForEver: a quota that is never there again, and a job that is never done, end at the deadline or with the context, and the
// job is cancelled.
func TestForEver(t *testing.T) {
	server := bigquerytest.New(t, table, nil)
	server.Fault = func(string, int) *bigquerytest.Fault {
		return &bigquerytest.Fault{Status: http.StatusForbidden, Reason: "quotaExceeded"}
	}
	_, err := source(t, server, func(c *Config) { c.Timeout = 50 * time.Millisecond; c.Pause = time.Hour }).Count(t.Context(), rank.NewCounter(now, 0, 10))
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
	for name, edit := range map[string]func(*Config){"deadline": func(c *Config) { c.Timeout = 300 * time.Millisecond }, "context": func(*Config) {}} {
		server = bigquerytest.New(t, table, nil)
		server.Polls = -1
		ctx, cancel := context.WithCancel(t.Context())
		if name == "context" {
			server.Fault = func(call string, _ int) *bigquerytest.Fault {
				if call == "jobs.get" {
					cancel()
				}
				return nil
			}
		}
		_, err = source(t, server, edit).Count(ctx, rank.NewCounter(now, 0, 10))
		for longer := time.Second; name == "deadline" && server.Calls("jobs.get") == 0; longer *= 2 {
			// A slow machine had not even begun.
			_, err = source(t, server, func(c *Config) { c.Timeout = longer }).Count(ctx, rank.NewCounter(now, 0, 10))
		}
		cancel()
		if err == nil || server.Cancelled() < 1 {
			t.Errorf("%s: %v, %d jobs cancelled", name, err, server.Cancelled())
		}
	}
}

// TestBadConfig: all that is wrong is told at once, and no name is more than a name.
func TestBadConfig(t *testing.T) {
	_, err := New(Config{Table: Table{Name: "x`; DROP TABLE y.z.a", Shop: "a b", Time: "`", Requests: "n)", Partition: "1"}, Location: "", Project: "X", MaxBytes: 0})
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{"PROJECT.DATASET.TABLE", `"a b"`, "\"`\"", `"n)"`, `"1"`, "pays for the query", "location", "how many bytes"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%s is not told: %v", want, err)
		}
	}
	for _, name := range []string{"shops-prod.logs", "a.b.c", "shops-prod.logs.x`y", "shops-prod.logs.x;y", "shops-prod.lo gs.x", "shops-prod.logs.*"} {
		if err := (&Table{Name: name}).check(); err == nil {
			t.Errorf("%s was taken", name)
		}
	}
	if err := (&Table{Name: "example.com:shops-prod.logs.x_2"}).check(); err != nil {
		t.Error(err)
	}
}
