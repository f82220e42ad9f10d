package bigquery

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"slices"
	"time"

	"cloud.google.com/go/bigquery"
)

// Tries and pauses of a request that was refused for the time being.
const (
	maxTries  = 8
	lastPause = 32 * time.Second
	// maxBody bounds what is kept of a request, to send it again.
	maxBody = 1 << 20
	// maxError bounds what is looked at of an answer that is an error.
	maxError = 64 << 10
)

// retrying sends a request again when the API is busy, over a quota, or broken for the time being. It stands below the client,
// because the client itself never tries again after quotaExceeded, and not in all calls.
type retrying struct {
	next  http.RoundTripper
	pause time.Duration // the first
}

// RoundTrip implements http.RoundTripper.
func (r retrying) RoundTrip(request *http.Request) (*http.Response, error) {
	var body []byte
	if request.Body != nil {
		read, err := io.ReadAll(io.LimitReader(request.Body, maxBody+1))
		if err = errors.Join(err, request.Body.Close()); err == nil && len(read) > maxBody {
			err = fmt.Errorf("a query of more than %d bytes", maxBody)
		}
		if err != nil {
			return nil, err
		}
		body = read
	}
	for try := 1; ; try++ {
		attempt := request.Clone(request.Context())
		if request.Body != nil {
			attempt.Body = io.NopCloser(bytes.NewReader(body))
		}
		response, err := r.next.RoundTrip(attempt)
		if try == maxTries || request.Context().Err() != nil {
			return response, err
		}
		status := 0
		if err == nil {
			if !busy(response) {
				return response, nil
			}
			status = response.StatusCode
			_ = response.Body.Close() // It is an error that nobody reads.
		}
		slog.Warn("BigQuery is asked again", "status", status, "error", err, "try", try)
		if ended := wait(request.Context(), r.pause, try); ended != nil {
			return nil, errors.Join(ended, err)
		}
	}
}

// wait until the next try: longer each time, and not all at once.
func wait(ctx context.Context, first time.Duration, try int) error {
	pause := min(first<<(try-1), lastPause)
	timer := time.NewTimer(pause/2 + rand.N(pause/2+1)) //nolint:gosec // No secret.
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// failedInside says whether a job ended for a reason that another one need not meet.
// Source: https://cloud.google.com/bigquery/docs/error-messages
func failedInside(err error) bool {
	var job *bigquery.Error
	return errors.As(err, &job) && slices.Contains([]string{"backendError", "internalError", "rateLimitExceeded",
		"jobBackendError", "jobInternalError", "jobRateLimitExceeded"}, job.Reason)
}

// busy says whether an answer may be another one later; what it reads of the body it puts back.
func busy(response *http.Response) bool {
	switch response.StatusCode {
	case http.StatusTooManyRequests, http.StatusInternalServerError, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return true
	case http.StatusForbidden:
	default:
		return false
	}
	content, err := io.ReadAll(io.LimitReader(response.Body, maxError))
	response.Body = struct {
		io.Reader
		io.Closer
	}{io.MultiReader(bytes.NewReader(content), response.Body), response.Body}
	var answer struct {
		Error struct {
			Errors []struct {
				Reason string `json:"reason"`
			} `json:"errors"`
		} `json:"error"`
	}
	if err != nil || json.Unmarshal(content, &answer) != nil {
		return false
	}
	for _, e := range answer.Error.Errors {
		if slices.Contains([]string{"rateLimitExceeded", "quotaExceeded", "jobRateLimitExceeded"}, e.Reason) {
			return true
		}
	}
	return false
}
