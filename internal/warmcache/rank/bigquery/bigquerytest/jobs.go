package bigquerytest

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
)

type reference struct {
	ProjectID string `json:"projectId"`
	JobID     string `json:"jobId"`
	Location  string `json:"location"`
}

type configuration struct {
	DryRun       bool              `json:"dryRun,omitempty"`
	Labels       map[string]string `json:"labels,omitempty"`
	JobTimeoutMs string            `json:"jobTimeoutMs,omitempty"`
	Query        *query            `json:"query"`
}

type query struct {
	Query              string      `json:"query"`
	UseLegacySQL       *bool       `json:"useLegacySql,omitempty"`
	MaximumBytesBilled string      `json:"maximumBytesBilled,omitempty"`
	QueryParameters    []parameter `json:"queryParameters,omitempty"`
}

type parameter struct {
	Name string `json:"name"`
	Type struct {
		Type string `json:"type"`
	} `json:"parameterType"`
	Value struct {
		Value *string `json:"value"`
	} `json:"parameterValue"`
}

type column struct {
	Name string `json:"name"`
	Type string `json:"type"`
}

func (s *Server) insert(w http.ResponseWriter, r *http.Request) {
	var body struct {
		Reference     reference     `json:"jobReference"`
		Configuration configuration `json:"configuration"`
	}
	decoder := json.NewDecoder(http.MaxBytesReader(w, r.Body, 1<<20))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&body); err != nil {
		s.unexpected(w, "jobs.insert: %v", err)
		return
	}
	ref, c := body.Reference, body.Configuration
	switch {
	case !s.parameters(w, r):
		return
	case ref.ProjectID != Project || ref.JobID == "" || ref.Location != Location:
		s.unexpected(w, "jobs.insert of %+v", ref)
		return
	case c.Query == nil || c.Query.UseLegacySQL == nil || *c.Query.UseLegacySQL:
		s.unexpected(w, "a job without a query in standard SQL")
		return
	case !c.DryRun && c.Query.MaximumBytesBilled == "":
		s.unexpected(w, "a query without a bound on what is billed")
		return
	}
	call := "jobs.insert"
	if c.DryRun {
		call += " dry"
	}
	made := &job{reference: ref, config: c, polls: s.Polls}
	run := func() error {
		columns, rows, err := s.run(c.Query)
		if err == nil && !c.DryRun {
			made.columns, made.rows = columns, rows
			if s.Failures > 0 {
				s.Failures--
				made.failure = s.FailureReason
			}
			s.jobs[ref.JobID] = made
			s.queries = append(s.queries, c.Query.Query)
		}
		return err
	}
	carryOut := func() {
		if s.jobs[ref.JobID] == nil {
			_ = run()
		}
	}
	if s.fault(w, call, carryOut) {
		return
	}
	if s.jobs[ref.JobID] != nil {
		s.refuse(w, http.StatusConflict, "duplicate", "already exists: job "+ref.JobID)
		return
	}
	if err := run(); err != nil {
		s.unexpected(w, "invalidQuery: %v", err)
		return
	}
	if limit, err := strconv.ParseInt(c.Query.MaximumBytesBilled, 10, 64); !c.DryRun && (err != nil || s.Reads > limit) {
		delete(s.jobs, ref.JobID)
		s.refuse(w, http.StatusBadRequest, "bytesBilledLimitExceeded", fmt.Sprintf("query exceeded limit for bytes billed: %d", limit))
		return
	}
	answer(w, http.StatusOK, s.describe(made))
}

func (s *Server) describe(j *job) map[string]any {
	state := "RUNNING"
	if j.config.DryRun || j.polls == 0 || j.cancelled {
		state = "DONE"
	}
	status := map[string]any{"state": state}
	switch {
	case j.cancelled:
		status["errorResult"] = map[string]any{"reason": "stopped", "message": "job execution was cancelled"}
	case j.failure != "" && state == "DONE":
		status["errorResult"] = map[string]any{"reason": j.failure, "message": "the job encountered an error during execution"}
	}
	return map[string]any{"kind": "bigquery#job", "jobReference": j.reference, "configuration": j.config, "status": status,
		"statistics": map[string]any{"totalBytesProcessed": strconv.FormatInt(s.Reads, 10), "query": map[string]any{
			"totalBytesProcessed": strconv.FormatInt(s.Reads, 10), "statementType": "SELECT"}}}
}

func (s *Server) get(w http.ResponseWriter, r *http.Request, j *job) {
	if s.parameters(w, r, "location", "fields", "projection") {
		answer(w, http.StatusOK, s.describe(j))
		if j.polls > 0 {
			j.polls--
		}
	}
}

func (s *Server) cancel(w http.ResponseWriter, r *http.Request, j *job) {
	if s.parameters(w, r, "location", "fields") {
		j.cancelled = true
		answer(w, http.StatusOK, map[string]any{"kind": "bigquery#jobCancelResponse"})
	}
}

func (s *Server) results(w http.ResponseWriter, r *http.Request, j *job) {
	if !s.parameters(w, r, "location", "fields", "maxResults", "pageToken", "startIndex", "formatOptions.useInt64Timestamp") {
		return
	}
	schema := map[string]any{"fields": j.columns}
	if j.cancelled {
		s.refuse(w, http.StatusBadRequest, "stopped", "job execution was cancelled")
		return
	}
	if j.polls != 0 {
		j.polls--
		answer(w, http.StatusOK, map[string]any{"jobComplete": false, "jobReference": j.reference})
		return
	}
	if j.failure != "" {
		s.refuse(w, http.StatusBadRequest, "job"+strings.ToUpper(j.failure[:1])+j.failure[1:], "the job encountered an error during execution")
		return
	}
	first, rows := 0, s.PageRows
	for name, target := range map[string]*int{"pageToken": &first, "startIndex": &first, "maxResults": &rows} {
		if text := r.URL.Query().Get(name); text != "" {
			n, err := strconv.Atoi(text)
			if err != nil || n < 0 || n > len(j.rows) && name != "maxResults" {
				s.unexpected(w, "%s=%q", name, text)
				return
			}
			*target = n
		}
	}
	last := min(first+min(rows, s.PageRows), len(j.rows))
	page := []any{}
	for _, row := range j.rows[first:last] {
		fields := []any{}
		for _, value := range row {
			fields = append(fields, map[string]any{"v": value})
		}
		page = append(page, map[string]any{"f": fields})
	}
	content := map[string]any{"jobComplete": true, "jobReference": j.reference, "schema": schema, "totalRows": strconv.Itoa(len(j.rows)), "rows": page}
	if last < len(j.rows) {
		content["pageToken"] = strconv.Itoa(last)
	}
	answer(w, http.StatusOK, content)
}
