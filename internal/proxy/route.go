package proxy

import (
	"fmt"
	"net/http"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/shopset/shopset/internal/certstore"
)

// Route sends the requests that match to a role.
type Route struct {
	Match `yaml:",inline"`
	// Role is the name of one of the roles.
	Role string `yaml:"role"`
}

// routes finds the role of a request. Whole paths come first, then regular expressions, then prefixes, the longest
// first; among equal ones those that name the host, then those that name a parent of it, then those for all; then the
// order of the file.
//
// A host has a table of its own if a route names it, so that a request is compared with the routes of its host and
// those for all alone: 100,000 hosts cost no more than ten.
type routes struct {
	hosts map[string]*table // exact names, and ".example" for all below example
	any   *table
}

type table struct {
	exact  map[string][]*route
	others []*route // regular expressions, then prefixes
}

type route struct {
	*matcher
	index int
	role  *role
}

func newRoutes(config []Route, roles map[string]*role) *routes {
	byHost := map[string][]*route{}
	var general []*route
	for i := range config {
		r := &route{newMatcher(&config[i].Match), i, roles[config[i].Role]}
		if len(r.hosts) == 0 {
			general = append(general, r)
		}
		for _, host := range r.hosts {
			key := strings.TrimPrefix(host, "*")
			byHost[key] = append(byHost[key], r)
		}
	}
	result := &routes{hosts: make(map[string]*table, len(byHost)), any: newTable(general)}
	// Hosts with the same routes, mostly all of one shop, share a table.
	shared := map[string]*table{}
	for host := range byHost {
		own := slices.Clone(byHost[host])
		for parent := strings.TrimPrefix(host, "."); ; { // Routes for all below a parent hold, too.
			_, after, found := strings.Cut(parent, ".")
			if !found {
				break
			}
			own = append(own, byHost["."+after]...)
			parent = after
		}
		own = append(own, general...)
		key := ""
		for _, r := range own {
			key += strconv.Itoa(r.index) + " "
		}
		if shared[key] == nil {
			shared[key] = newTable(own)
		}
		result.hosts[host] = shared[key]
	}
	return result
}

// newTable takes the routes in the order that counts among those of one path: of the host itself, of its parents, of all.
func newTable(all []*route) *table {
	t := &table{exact: map[string][]*route{}}
	seen := map[*route]bool{}
	for _, r := range all {
		if seen[r] {
			continue
		}
		seen[r] = true
		if r.path != "" {
			t.exact[r.path] = append(t.exact[r.path], r)
		} else {
			t.others = append(t.others, r)
		}
	}
	slices.SortStableFunc(t.others, func(a, b *route) int {
		switch {
		case (a.pattern != nil) != (b.pattern != nil):
			if a.pattern != nil {
				return -1
			}
			return 1
		case a.pattern != nil:
			return a.index - b.index
		}
		return len(b.prefix) - len(a.prefix)
	})
	return t
}

func (t *routes) table(host string) *table {
	if len(t.hosts) == 0 {
		return t.any
	}
	if own := t.hosts[host]; own != nil {
		return own
	}
	for rest := host; ; {
		i := strings.IndexByte(rest, '.')
		if i < 0 {
			return t.any
		}
		if own := t.hosts[rest[i:]]; own != nil {
			return own
		}
		rest = rest[i+1:]
	}
}

// find returns the route of a request, nil when none matches. path is clean.
func (t *routes) find(r *http.Request, host, path string, domain *certstore.Domain) *route {
	own := t.table(host)
	for _, candidate := range own.exact[path] {
		if candidate.restHolds(r, domain) == "" {
			return candidate
		}
	}
	for _, candidate := range own.others {
		if candidate.pathHolds(path) && candidate.restHolds(r, domain) == "" {
			return candidate
		}
	}
	return nil
}

// explain tells for each route that the host has what speaks against it, in the order in which they are tried.
func (t *routes) explain(r *http.Request, host, path string, domain *certstore.Domain) (lines []string) {
	own := t.table(host)
	all := slices.Concat(own.exact[path], own.others)
	for _, candidate := range all {
		why := "matches"
		if !candidate.pathHolds(path) {
			why = "another path"
		} else if missing := candidate.restHolds(r, domain); missing != "" {
			why = "not its " + missing
		}
		lines = append(lines, fmt.Sprintf("routes[%d] → %s: %s", candidate.index, candidate.role.name, why))
		if why == "matches" {
			break
		}
	}
	return lines
}

func (c *Config) routeProblems(p *problems) {
	if len(c.Routes) == 0 {
		p.add("routes", "want at least one route, like {prefix: /, role: shop}")
	}
	seen := map[string]int{}
	for i := range c.Routes {
		r, at := &c.Routes[i], "routes["+strconv.Itoa(i)+"]"
		r.problems(p, at)
		if r.Path == "" && r.Prefix == "" && r.Regexp == "" {
			p.add(at+".prefix", "is missing: want a prefix, a path or a regexp; / is for everything")
		}
		// Without other conditions a second route of the same path is never used.
		if len(r.Methods) == 0 && len(r.Headers) == 0 && len(r.Cookies) == 0 && len(r.Labels) == 0 && len(r.Plans) == 0 && len(r.Hosts) == 0 {
			key := r.Path + "\x00" + strings.TrimSuffix(r.Prefix, "/") + "\x00" + r.Regexp
			if first, ok := seen[key]; ok {
				p.add(at+".prefix", "routes["+strconv.Itoa(first)+"] has the same prefix")
			} else {
				seen[key] = i
			}
		}
		if _, ok := c.Roles[r.Role]; !ok {
			p.add(at+".role", "there is no role "+strconv.Quote(r.Role)+": want one of "+strings.Join(c.roleNames(), ", "))
		}
	}
}

// cleanPath resolves dot segments and double slashes, so that no spelling of a path reaches another
// role than the plain one.
func cleanPath(p string) string {
	if p == "" || p[0] != '/' {
		p = "/" + p
	}
	if !strings.Contains(p, "/.") && !strings.Contains(p, "//") && (p == "/" || p[len(p)-1] != '/') {
		return p
	}
	return path.Clean(p)
}
