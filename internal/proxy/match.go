package proxy

import (
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/shopset/shopset/internal/certstore"
)

// Match is a set of conditions that all must hold; what is empty holds always.
type Match struct {
	// Hosts are names of hosts, and *.NAME for all below a name.
	Hosts []string `yaml:"hosts"`
	// Path is a whole path, Prefix the beginning of one in whole segments: "/cart" is for /cart and /cart/1, not for
	// /cartoon. Regexp (RE2) has to match anywhere in the path. Paths are compared decoded and without dot segments;
	// what is forwarded is what the client sent.
	Path   string `yaml:"path"`
	Prefix string `yaml:"prefix"`
	Regexp string `yaml:"regexp"`
	// Methods, one of them.
	Methods []string `yaml:"methods"`
	// Headers and Cookies by name: empty for any value, "~" and a regular expression, else the value.
	Headers map[string]string `yaml:"headers"`
	Cookies map[string]string `yaml:"cookies"`
	// Labels and Plans of the domain's record. An empty value of a label holds when it is not there.
	Labels map[string]string `yaml:"labels"`
	Plans  []string          `yaml:"plans"`
}

func (m *Match) problems(p *problems, at string) {
	for i, host := range m.Hosts {
		name := strings.TrimPrefix(host, "*.")
		if name == "" || name != strings.ToLower(name) || strings.ContainsAny(name, "*:/ ") {
			p.add(fmt.Sprintf("%s.hosts[%d]", at, i), strconv.Quote(host)+" is no host: want a name in lower case, or *.NAME")
		}
	}
	kinds := 0
	for field, value := range map[string]string{"path": m.Path, "prefix": m.Prefix} {
		if value == "" {
			continue
		}
		kinds++
		clean := cleanPath(value)
		switch {
		case !strings.HasPrefix(value, "/"):
			p.add(at+"."+field, "want a path that starts with /, not "+strconv.Quote(value))
		case clean != value && (field == "path" || clean+"/" != value):
			p.add(at+"."+field, "no request matches "+strconv.Quote(value)+": write "+strconv.Quote(clean))
		}
	}
	if m.Regexp != "" {
		kinds++
		if _, err := regexp.Compile(m.Regexp); err != nil {
			p.add(at+".regexp", err.Error())
		}
	}
	if kinds > 1 {
		p.add(at, "wants one of path, prefix and regexp")
	}
	for i, method := range m.Methods {
		if !isToken(method) || method != strings.ToUpper(method) {
			p.add(fmt.Sprintf("%s.methods[%d]", at, i), strconv.Quote(method)+" is no method: want one like GET")
		}
	}
	for field, values := range map[string]map[string]string{"headers": m.Headers, "cookies": m.Cookies} {
		for name, value := range values {
			if !isToken(name) {
				p.add(at+"."+field, strconv.Quote(name)+" is no name")
			}
			if pattern, ok := strings.CutPrefix(value, "~"); ok {
				if _, err := regexp.Compile(pattern); err != nil {
					p.add(at+"."+field+"."+name, err.Error())
				}
			}
		}
	}
}

// matcher is a Match at work, but for its hosts, which are looked up first.
type matcher struct {
	prefix, path string
	pattern      *regexp.Regexp
	methods      []string
	headers      []valueMatch
	cookies      []valueMatch
	labels       map[string]string
	plans        []string
	hosts        []string
}

type valueMatch struct {
	name, value string
	pattern     *regexp.Regexp
}

func newMatcher(m *Match) *matcher {
	result := &matcher{prefix: strings.TrimSuffix(m.Prefix, "/"), path: m.Path, methods: m.Methods, labels: m.Labels, plans: m.Plans, hosts: m.Hosts,
		headers: newValues(m.Headers, http.CanonicalHeaderKey), cookies: newValues(m.Cookies, func(name string) string { return name })}
	if m.Regexp != "" {
		result.pattern = regexp.MustCompile(m.Regexp)
	}
	return result
}

func newValues(values map[string]string, canonical func(string) string) (result []valueMatch) {
	for name, value := range values {
		match := valueMatch{name: canonical(name), value: value}
		if pattern, ok := strings.CutPrefix(value, "~"); ok {
			match.pattern = regexp.MustCompile(pattern)
		}
		result = append(result, match)
	}
	slices.SortFunc(result, func(a, b valueMatch) int { return strings.Compare(a.name, b.name) })
	return result
}

func (v *valueMatch) holds(value string, there bool) bool {
	switch {
	case !there:
		return false
	case v.pattern != nil:
		return v.pattern.MatchString(value)
	}
	return v.value == "" || v.value == value
}

// pathHolds says whether a clean path is one that is meant.
func (m *matcher) pathHolds(clean string) bool {
	switch {
	case m.path != "":
		return clean == m.path
	case m.pattern != nil:
		return m.pattern.MatchString(clean)
	}
	rest, ok := strings.CutPrefix(clean, m.prefix)
	return ok && (rest == "" || rest[0] == '/')
}

// hostHolds is for the few rules that are not looked up by host.
func (m *matcher) hostHolds(host string) bool {
	if len(m.hosts) == 0 {
		return true
	}
	for _, candidate := range m.hosts {
		if parent, below := strings.CutPrefix(candidate, "*"); host == candidate || below && strings.HasSuffix(host, parent) {
			return true
		}
	}
	return false
}

// restHolds checks everything but host and path. It says what does not hold, for people.
func (m *matcher) restHolds(r *http.Request, domain *certstore.Domain) (missing string) {
	if len(m.methods) > 0 && !slices.Contains(m.methods, r.Method) {
		return "method"
	}
	for i := range m.headers {
		values, there := r.Header[m.headers[i].name]
		if !m.headers[i].holds(strings.Join(values, ", "), there) {
			return "header " + m.headers[i].name
		}
	}
	for i := range m.cookies {
		cookie, err := r.Cookie(m.cookies[i].name)
		if err != nil || !m.cookies[i].holds(cookie.Value, true) {
			return "cookie " + m.cookies[i].name
		}
	}
	if len(m.labels) == 0 && len(m.plans) == 0 {
		return ""
	}
	var labels map[string]string
	plan := ""
	if domain != nil {
		labels, plan = domain.Labels, domain.Options.Plan
	}
	for name, want := range m.labels {
		if labels[name] != want {
			return "label " + name
		}
	}
	if len(m.plans) > 0 && !slices.Contains(m.plans, plan) {
		return "plan"
	}
	return ""
}

// holds checks everything.
func (m *matcher) holds(e *exchange) bool {
	return m.hostHolds(e.host) && m.pathHolds(e.path) && m.restHolds(e.request, e.domain) == ""
}
