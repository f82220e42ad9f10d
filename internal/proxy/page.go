package proxy

import (
	"bytes"
	"io"
	"net/http"
	"net/textproto"
	"slices"
	"strconv"
	"strings"
	"time"
)

// page is a copy. One with a nil body only knows the headers that the real ones vary by.
type page struct {
	vary    []string
	header  http.Header
	body    []byte
	arrived time.Time
	// before is how old it was then.
	before time.Duration
	// staleFor is how long the page lets it be served when its role fails; negative if it does not.
	staleFor time.Duration
	// fresh says that it may be used for others without asking (a positive lifetime).
	fresh bool
}

// age is RFC 9111, 4.2.3.
func (c *page) age() time.Duration { return c.before + time.Since(c.arrived) }

// ageAtArrival is how old an answer is that just came: by what it says itself, which may have grown since it was asked for,
// and by its date.
func ageAtArrival(header http.Header, asked, now time.Time) time.Duration {
	age := now.Sub(asked)
	if told, err := strconv.ParseUint(header.Get("Age"), 10, 31); err == nil {
		age += time.Duration(told) * time.Second //nolint:gosec // 31 bits.
	}
	if date, err := http.ParseTime(header.Get("Date")); err == nil {
		age = max(age, now.Sub(date))
	}
	return age
}

// response makes an answer of a copy.
func (c *page) response(request *http.Request) *http.Response {
	header := c.header.Clone()
	header.Set("Age", strconv.Itoa(int(c.age()/time.Second)))
	header.Set("Content-Length", strconv.Itoa(len(c.body)))
	return &http.Response{StatusCode: http.StatusOK, Header: header, ContentLength: int64(len(c.body)),
		Body: io.NopCloser(bytes.NewReader(c.body)), Request: request, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1}
}

// newPage reads what an answer's headers allow; nil if it must not be stored. asked is when it was asked for, or before.
func newPage(header http.Header, asked time.Time) *page {
	control := directives(header["Cache-Control"])
	has := func(names ...string) bool {
		return slices.ContainsFunc(names, func(name string) bool { _, there := control[name]; return there })
	}
	if has("no-store", "private") || header["Set-Cookie"] != nil || header["Trailer"] != nil {
		return nil
	}
	var vary []string
	for _, line := range header["Vary"] {
		for name := range strings.SplitSeq(line, ",") {
			if name = textproto.CanonicalMIMEHeaderKey(strings.TrimSpace(name)); name == "*" || name == "Cookie" || name == "Authorization" {
				return nil
			} else if name != "" && !slices.Contains(vary, name) {
				vary = append(vary, name)
			}
		}
	}
	slices.Sort(vary)
	now := time.Now()
	made := &page{vary: vary, header: header.Clone(), body: []byte{}, arrived: now, before: ageAtArrival(header, asked, now), staleFor: 1<<63 - 1}
	lifetime, there := seconds(control, "s-maxage")
	if !there {
		lifetime, _ = seconds(control, "max-age")
	}
	made.fresh = lifetime > made.before && !has("no-cache")
	switch allowed, there := seconds(control, "stale-if-error"); {
	case has("no-cache"):
		made.staleFor = -1
	case has("must-revalidate", "proxy-revalidate", "s-maxage"):
		// These forbid it (RFC 9111, 4.2.4, 5.2.2.2, 5.2.2.10); stale-if-error (RFC 5861, 4) only stands above what is said of
		// freshness.
		made.staleFor = lifetime
	case there:
		made.staleFor = lifetime + allowed
	}
	return made
}

// directives of Cache-Control, in lower case.
func directives(lines []string) map[string]string {
	result := map[string]string{}
	for _, line := range lines {
		for part := range strings.SplitSeq(line, ",") {
			name, value, _ := strings.Cut(strings.TrimSpace(part), "=")
			if name != "" {
				result[strings.ToLower(name)] = strings.Trim(value, "\"")
			}
		}
	}
	return result
}

func seconds(control map[string]string, name string) (time.Duration, bool) {
	value, there := control[name]
	n, err := strconv.ParseUint(value, 10, 31)
	return time.Duration(n) * time.Second, there && err == nil //nolint:gosec // 31 bits.
}
