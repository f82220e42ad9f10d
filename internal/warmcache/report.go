package warmcache

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"
)

// Report is what was restored.
type Report struct {
	// At is when it began, Compatibility for which key.
	At            time.Time
	Compatibility string
	// Shops that were restored, those without a snapshot, over a budget, and failed.
	Shops, Absent, OverBudget, Failed int
	Files                             int64
	Bytes                             int64
	// Share of the traffic that the restored shops have.
	Share float64
	Took  time.Duration
	// Expired says that the time was over before all was done.
	Expired bool
	// Restored shops, in the order in which they were published.
	Restored []Restored
	// Errors of the shops that failed; 100 of them at most.
	Errors []error
}

// Restored is a shop that was restored.
type Restored struct {
	Shop       string    `json:"shop"`
	Generation int64     `json:"generation"`
	Taken      time.Time `json:"taken"`
}

func (r *Report) String() string {
	text := fmt.Sprintf("warm: %d shops, %.0f %% of traffic, %d files, %d MiB, %.1f s", r.Shops, 100*r.Share, r.Files, r.Bytes>>20, r.Took.Seconds())
	for _, more := range []struct {
		n    int
		what string
	}{{r.Absent, "without a snapshot"}, {r.OverBudget, "over the budget"}, {r.Failed, "failed"}} {
		if more.n > 0 {
			text += fmt.Sprintf(", %d %s", more.n, more.what)
		}
	}
	return text
}

// Add adds what was restored after r to it: by a sidecar, of all that an init container did not restore. What was over the budget,
// absent or failed then was tried again, and is what more says.
func (r *Report) Add(more *Report) {
	r.Shops += more.Shops
	r.Absent, r.OverBudget, r.Failed = more.Absent, more.OverBudget, more.Failed
	r.Files += more.Files
	r.Bytes += more.Bytes
	r.Share += more.Share
	r.Took += more.Took
	r.Expired = r.Expired || more.Expired
	r.Restored = append(r.Restored, more.Restored...)
	r.Errors = more.Errors
}

// Rest is a report of nothing that was restored after r: what was not restored then is not now.
func (r *Report) Rest() *Report {
	return &Report{At: r.At, Compatibility: r.Compatibility, Absent: r.Absent, OverBudget: r.OverBudget, Failed: r.Failed, Errors: r.Errors}
}

// Without leaves out the shops that are restored already.
func (r *Report) Without(shops []Shop) []Shop {
	there := make(map[string]bool, len(r.Restored))
	for _, restored := range r.Restored {
		there[restored.Shop] = true
	}
	return slices.DeleteFunc(slices.Clone(shops), func(s Shop) bool { return there[s.Name] })
}

// reportJSON is a report as a file; see docs/cache.md.
type reportJSON struct {
	Format        int        `json:"format"`
	At            time.Time  `json:"at"`
	Compatibility string     `json:"compatibility"`
	Summary       string     `json:"summary"`
	Shops         int        `json:"shops"`
	Absent        int        `json:"absent"`
	OverBudget    int        `json:"overBudget"`
	Failed        int        `json:"failed"`
	Files         int64      `json:"files"`
	Bytes         int64      `json:"bytes"`
	Share         float64    `json:"share"`
	Seconds       float64    `json:"seconds"`
	Expired       bool       `json:"expired"`
	Restored      []Restored `json:"restored"`
	Errors        []string   `json:"errors"`
}

// MarshalJSON writes a report for programs.
func (r *Report) MarshalJSON() ([]byte, error) {
	out := reportJSON{formatNumber, r.At, r.Compatibility, r.String(), r.Shops, r.Absent, r.OverBudget, r.Failed, r.Files, r.Bytes, r.Share, r.Took.Seconds(), r.Expired, r.Restored, []string{}}
	for _, err := range r.Errors {
		out.Errors = append(out.Errors, err.Error())
	}
	return json.Marshal(out)
}

// UnmarshalJSON reads what MarshalJSON wrote.
func (r *Report) UnmarshalJSON(content []byte) error {
	var in reportJSON
	if err := json.Unmarshal(content, &in); err != nil {
		return err
	}
	if in.Format != formatNumber {
		return fmt.Errorf("a report of format %d", in.Format)
	}
	*r = Report{in.At, in.Compatibility, in.Shops, in.Absent, in.OverBudget, in.Failed, in.Files, in.Bytes, in.Share,
		time.Duration(in.Seconds * float64(time.Second)), in.Expired, in.Restored, nil}
	for _, text := range in.Errors {
		r.Errors = append(r.Errors, errors.New(text))
	}
	return nil
}

// maxReport bounds a report that is read.
const maxReport = 64 << 20

// ReadReport reads a report.
func ReadReport(from io.Reader) (*Report, error) {
	content, err := io.ReadAll(io.LimitReader(from, maxReport+1))
	if err == nil && len(content) > maxReport {
		err = fmt.Errorf("it has more than %d bytes", maxReport)
	}
	r := &Report{}
	if err == nil {
		err = json.Unmarshal(content, r)
	}
	if err != nil {
		return nil, fmt.Errorf("report: %w", err)
	}
	return r, nil
}

// errOverBudget is for shops that nobody began to restore.
var errOverBudget = errors.New("over the budget")

// done notes what came of a shop; used is the snapshot that was restored.
func (r *restoring) done(p *plan, used *Generation, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		r.report.OverBudget++
		r.report.Expired = true
	case errors.Is(err, errOverBudget):
		r.report.OverBudget++
		r.report.Expired = r.report.Expired || r.Time > 0 && !r.Continue && time.Since(r.began) >= r.Time
	case err != nil:
		r.report.Failed++
		if len(r.report.Errors) < 100 {
			r.report.Errors = append(r.report.Errors, fmt.Errorf("%s: %w", p.shop.Name, err))
		}
	case used == nil:
		r.report.Absent++
	default:
		r.report.Shops++
		r.report.Share += p.shop.Share
		r.report.Files += int64(used.Files)
		r.report.Bytes += used.Bytes
		r.report.Restored = append(r.report.Restored, Restored{p.shop.Name, used.Number, used.Taken})
	}
	if r.Progress != nil {
		r.report.Took = time.Since(r.began)
		r.Progress(r.report)
	}
}
