// Package bigquerytest is BigQuery for tests: the part of its REST API that queries need, and nothing else.
//
// It refuses what it does not know, in the words of the real one: unknown fields and parameters of a request, parameters of a query
// with a wrong type or of a wrong name, a job without a location, legacy SQL, a query without a bound on what is billed. Queries
// are really run, on a SQLite in memory: what BigQuery's dialect has more, and the queries of this project need, is added as
// functions. It is a fake all the same: it knows no plan, and what a query "reads" is what the test says.
//
// Source: https://cloud.google.com/bigquery/docs/reference/rest (v2: jobs.insert, jobs.get, jobs.getQueryResults, jobs.cancel).
package bigquerytest

import (
	"database/sql"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// Project and Location are the only ones that there are.
const (
	Project  = "shops-prod"
	Location = "EU"
)

// Row is one of the table of requests.
type Row struct {
	Shop     string
	Time     time.Time
	Requests int64
}

// Server answers as BigQuery does.
type Server struct {
	URL string
	// Reads is how many bytes a query reads.
	Reads int64
	// PageRows bounds the rows of an answer.
	PageRows int
	// Polls is how often a job is asked for before it is done; negative: it never is.
	Polls int
	// Failures is how many jobs fail when they are done, for a reason that lies in the service: by FailureReason in what the job says
	// of itself, and with "job" before it in what is said to who asks for its results.
	Failures      int
	FailureReason string
	// Fault may answer a call in place of the server: call is "jobs.insert", "jobs.insert dry", "jobs.get", "jobs.getQueryResults"
	// or "jobs.cancel", n counts those of this kind from 1. A fault with Done happens after the call was carried out.
	Fault func(call string, n int) *Fault

	t    testing.TB
	db   *sql.DB
	mu   sync.Mutex
	jobs map[string]*job
	// calls counts by kind.
	calls map[string]int
	// Queries are all that were run, without dry runs.
	queries []string
}

// Fault is an error that the server answers.
type Fault struct {
	Status  int
	Reason  string
	Message string
	// Done says that the call was carried out, and only its answer is lost.
	Done bool
}

type job struct {
	reference reference
	config    configuration
	columns   []column
	rows      [][]any
	polls     int
	cancelled bool
	failure   string
}

// New starts a server with a table: `project.dataset.table` with the columns host, at, n, and day.
func New(t testing.TB, table string, rows []Row) *Server {
	t.Helper()
	s := &Server{t: t, Reads: 1 << 20, PageRows: 1000, jobs: map[string]*job{}, calls: map[string]int{}, db: openTable(t, table, rows)}
	server := httptest.NewServer(s)
	t.Cleanup(server.Close)
	s.URL = server.URL
	return s
}

// Calls returns how often something was called.
func (s *Server) Calls(call string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.calls[call]
}

// Queries returns what was run, and would be billed.
func (s *Server) Queries() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.queries)
}

// Cancelled returns how many jobs were cancelled.
func (s *Server) Cancelled() (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, j := range s.jobs {
		if j.cancelled {
			n++
		}
	}
	return n
}

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	parts := strings.Split(strings.TrimPrefix(r.URL.Path, "/"), "/")
	if len(parts) < 3 || parts[0] != "projects" || parts[1] != Project {
		s.refuse(w, http.StatusNotFound, "notFound", "not found: "+r.URL.Path)
		return
	}
	switch rest := parts[2:]; {
	case r.Method == http.MethodPost && len(rest) == 1 && rest[0] == "jobs":
		s.insert(w, r)
	case r.Method == http.MethodGet && len(rest) == 2 && rest[0] == "jobs":
		s.withJob(w, r, "jobs.get", rest[1], s.get)
	case r.Method == http.MethodPost && len(rest) == 3 && rest[0] == "jobs" && rest[2] == "cancel":
		s.withJob(w, r, "jobs.cancel", rest[1], s.cancel)
	case r.Method == http.MethodGet && len(rest) == 2 && rest[0] == "queries":
		s.withJob(w, r, "jobs.getQueryResults", rest[1], s.results)
	default:
		s.unexpected(w, "%s %s is no call that the fake knows", r.Method, r.URL.Path)
	}
}

// unexpected is a request that no program should send: the test fails.
func (s *Server) unexpected(w http.ResponseWriter, format string, args ...any) {
	message := fmt.Sprintf(format, args...)
	s.t.Errorf("BigQuery was asked what it does not take: %s", message)
	s.refuse(w, http.StatusBadRequest, "invalid", message)
}

func (s *Server) refuse(w http.ResponseWriter, status int, reason, message string) {
	answer(w, status, map[string]any{"error": map[string]any{"code": status, "message": message, "status": reason,
		"errors": []any{map[string]any{"reason": reason, "message": message, "domain": "global"}}}})
}

func answer(w http.ResponseWriter, status int, content any) {
	w.Header().Set("Content-Type", "application/json; charset=UTF-8")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(content)
}

// fault answers in place of the server, if the test says so.
func (s *Server) fault(w http.ResponseWriter, call string, carryOut func()) bool {
	s.calls[call]++
	if s.Fault == nil {
		return false
	}
	f := s.Fault(call, s.calls[call])
	if f == nil {
		return false
	}
	if f.Done && carryOut != nil {
		carryOut()
	}
	s.refuse(w, f.Status, f.Reason, f.Message)
	return true
}

// parameters wants those of a URL that are known, and no others.
func (s *Server) parameters(w http.ResponseWriter, r *http.Request, known ...string) bool {
	for name, values := range r.URL.Query() {
		if !slices.Contains(append(known, "alt", "prettyPrint"), name) || len(values) != 1 {
			s.unexpected(w, "%s has the parameter %s=%q", r.URL.Path, name, values)
			return false
		}
	}
	return true
}

func (s *Server) withJob(w http.ResponseWriter, r *http.Request, call, id string, do func(http.ResponseWriter, *http.Request, *job)) {
	if r.URL.Query().Get("location") != Location {
		// The real one finds a job outside of US only with its location.
		s.unexpected(w, "%s without the location of the job", call)
		return
	}
	if s.fault(w, call, nil) {
		return
	}
	j := s.jobs[id]
	if j == nil {
		s.refuse(w, http.StatusNotFound, "notFound", "not found: job "+id)
		return
	}
	do(w, r, j)
}
