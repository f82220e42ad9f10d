package tester

import (
	"context"
	"fmt"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"
)

// Endpoint is one side of a comparison: a container, or any address, with the mocks behind it.
type Endpoint struct {
	// Name for reports.
	Name string
	// Address as host:port.
	Address string
	// Mocks that stand behind it, in the same order on both sides.
	Mocks []*MockAP
}

// Endpoint is the container as one side of a comparison.
func (c *Container) Endpoint(mocks ...*MockAP) Endpoint {
	return Endpoint{Name: c.config.Image, Address: c.Address(c.port), Mocks: mocks}
}

// Call is one request of a comparison.
type Call struct {
	// Method; GET when empty.
	Method string
	// Options of the request; expectations are not looked at.
	Options []HTTPOption
}

// IgnoreHeaders are left out of comparisons, besides Date.
type IgnoreHeaders []string

// AssertSame sends each call to both sides and fails the test where their answers differ, or what reached
// the mocks. Each call is sent twice to each side: what differs between two answers of the same side is
// noise and does not count. Addresses of the two sides and of their mocks count as the same.
func AssertSame(t TB, before, after Endpoint, calls []Call, ignore IgnoreHeaders) {
	t.Helper()
	for i, call := range calls {
		if call.Method == "" {
			call.Method = http.MethodGet
		}
		request := newCall(call.Method, 0, call.Options)
		if request.port != 0 {
			t.Errorf("call %d: OnPort has no place here; an Endpoint says its address", i+1)
			continue
		}
		first, err := before.observe(t.Context(), request, ignore)
		if err != nil {
			t.Errorf("call %d to %s: %v\n%s", i+1, before.Name, err, indent(request.describe()))
			continue
		}
		second, err := after.observe(t.Context(), request, ignore)
		if err != nil {
			t.Errorf("call %d to %s: %v\n%s", i+1, after.Name, err, indent(request.describe()))
			continue
		}
		if differences := first.compare(second); len(differences) > 0 {
			t.Errorf("call %d: %s and %s differ\n%s\n\nrequest:\n%s", i+1, before.Name, after.Name,
				indent(strings.Join(differences, "\n")), indent(request.describe()))
		}
	}
}

// observation is what came of a call, as named facts; noise are the names of those that change by
// themselves.
type observation struct {
	facts map[string]string
	noise map[string]bool
	// again are the facts of the second time that are never noise: which they are may depend on the first.
	again map[string]string
}

// isNoise says whether a fact may change by itself. Whether a call succeeds, and how many others it causes, may not.
func isNoise(name string) bool {
	return name != "status" && !strings.HasPrefix(name, "requests to mock ")
}

// settle is how long a mock may still be told of a call after its answer.
const settle = 20 * time.Millisecond

// observe sends a call twice.
func (e Endpoint) observe(ctx context.Context, call *httpCall, ignore IgnoreHeaders) (*observation, error) {
	result := &observation{noise: map[string]bool{}}
	for range 2 {
		for _, mock := range e.Mocks {
			mock.Forget()
		}
		response, err := call.do(ctx, e.Address)
		if err != nil {
			return nil, err
		}
		time.Sleep(settle) // Nothing says that no more requests come.
		facts := e.facts(response, ignore)
		if result.facts == nil {
			result.facts = facts
			continue
		}
		result.again = map[string]string{}
		for name := range union(result.facts, facts) {
			if !isNoise(name) {
				result.again[name] = facts[name]
			} else if result.facts[name] != facts[name] {
				result.noise[name] = true
			}
		}
	}
	return result, nil
}

// facts are all that is compared, each under a name.
func (e Endpoint) facts(response *Response, ignore IgnoreHeaders) map[string]string {
	facts := map[string]string{"status": fmt.Sprint(response.Status)}
	e.headers(facts, "header ", response.Header, ignore)
	for i, line := range strings.Split(response.Body, "\n") {
		facts[fmt.Sprintf("body line %d", i+1)] = e.plain(line)
	}
	for i, mock := range e.Mocks {
		received := mock.Received()
		facts[fmt.Sprintf("requests to mock %d", i+1)] = fmt.Sprint(len(received))
		for j, request := range received {
			prefix := fmt.Sprintf("mock %d, request %d: ", i+1, j+1)
			facts[prefix+"line"] = e.plain(request.Method + " " + request.Target)
			facts[prefix+"host"] = e.plain(request.Host)
			facts[prefix+"body"] = e.plain(request.Body)
			e.headers(facts, prefix+"header ", request.Header, ignore)
		}
	}
	return facts
}

func (e Endpoint) headers(facts map[string]string, prefix string, header http.Header, ignore IgnoreHeaders) {
	for name, values := range header {
		if name != "Date" && !slices.ContainsFunc(ignore, func(i string) bool { return strings.EqualFold(i, name) }) {
			facts[prefix+name] = e.plain(strings.Join(values, "; "))
		}
	}
}

// plain takes the side's own addresses out of a text.
func (e Endpoint) plain(text string) string {
	text = strings.ReplaceAll(text, e.Address, "(this side)")
	for i, mock := range e.Mocks {
		text = strings.ReplaceAll(text, mock.Host(), fmt.Sprintf("(mock %d)", i+1))
	}
	if host, _, err := net.SplitHostPort(e.Address); err == nil && net.ParseIP(host) != nil { // As in a Host header without its port.
		text = strings.ReplaceAll(text, host, "(this side's host)")
	}
	return text
}

func union(a, b map[string]string) map[string]bool {
	names := map[string]bool{}
	for _, m := range []map[string]string{a, b} {
		for name := range m {
			names[name] = true
		}
	}
	return names
}

// compare tells the facts that differ and are noise on neither side.
func (o *observation) compare(other *observation) (differences []string) {
	for _, name := range slices.Sorted(maps.Keys(union(o.facts, other.facts))) {
		before, had := o.facts[name]
		after, has := other.facts[name]
		if before == after && had == has || o.noise[name] || other.noise[name] {
			continue
		}
		differences = append(differences, fmt.Sprintf("%s: %s → %s", name, shown(before, had), shown(after, has)))
	}
	for _, name := range slices.Sorted(maps.Keys(o.again)) {
		if before, after := o.again[name], other.again[name]; before != after && o.facts[name] == other.facts[name] {
			differences = append(differences, fmt.Sprintf("%s, the second time: %q → %q", name, before, after))
		}
	}
	return differences
}

func shown(value string, there bool) string {
	if !there {
		return "(none)"
	}
	return fmt.Sprintf("%q", clip(value))
}
