package proxy

import (
	"path"
	"slices"
	"strings"
)

// routes finds the role of a path. The longest prefix comes first.
type routes []prefixRoute

type prefixRoute struct {
	prefix string // without the slash at the end, so "" is everything
	role   *role
}

func newRoutes(config []Route, roles map[string]*role) routes {
	table := make(routes, 0, len(config))
	for _, route := range config {
		table = append(table, prefixRoute{strings.TrimSuffix(cleanPath(route.Prefix), "/"), roles[route.Role]})
	}
	slices.SortFunc(table, func(a, b prefixRoute) int { return len(b.prefix) - len(a.prefix) })
	return table
}

// find returns the role for a decoded path, nil when no route matches.
func (t routes) find(requestPath string) *role {
	clean := cleanPath(requestPath)
	for _, route := range t {
		if rest, ok := strings.CutPrefix(clean, route.prefix); ok && (rest == "" || rest[0] == '/') {
			return route.role
		}
	}
	return nil
}

// cleanPath resolves dot segments and double slashes, so that no spelling of a path reaches another
// role than the plain one.
func cleanPath(p string) string {
	if p == "" || p[0] != '/' {
		p = "/" + p
	}
	return path.Clean(p)
}
