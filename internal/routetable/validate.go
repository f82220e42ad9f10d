package routetable

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"github.com/shopset/shopset/internal/placement"
)

// Bounds of a table.
const (
	MaxCells     = placement.MaxCells
	MaxPins      = placement.MaxPins
	MaxEndpoints = 1000
	maxFleet     = 300
	maxPath      = 1024
)

// Validate reports all problems at once.
func (t *Table) Validate() error {
	var problems []error
	bad := func(format string, values ...any) { problems = append(problems, fmt.Errorf(format, values...)) }
	if t.Format != Format {
		bad("format %d is not the one that this program knows, %d; use the release that wrote the table", t.Format, Format)
	}
	if namespace, name, found := strings.Cut(t.Fleet, "/"); !found || namespace == "" || name == "" || len(t.Fleet) > maxFleet {
		bad("fleet %q is not NAMESPACE/NAME", clip(t.Fleet))
	}
	if t.Epoch == 0 || t.Version == 0 {
		bad("epoch %d and version %d must be at least 1", t.Epoch, t.Version)
	}
	if t.Created.IsZero() {
		bad("created is missing")
	}
	if t.ShardSize > MaxCells {
		bad("shardSize %d is more than %d", t.ShardSize, MaxCells)
	}
	if t.MaxFailover < 0 || t.MaxFailover > 100 {
		bad("maxFailover %d is not a percentage from 0 to 100", t.MaxFailover)
	}
	for i := range t.Cells[:min(len(t.Cells), MaxCells)] {
		problems = append(problems, t.Cells[i].validate(i)...)
	}
	if _, err := t.Function(); err != nil {
		problems = append(problems, err)
	}
	return errors.Join(problems...)
}

func (c *Cell) validate(i int) (problems []error) {
	bad := func(format string, values ...any) {
		problems = append(problems, fmt.Errorf("cells[%d]%s", i, fmt.Sprintf(format, values...)))
	}
	if strings.ContainsFunc(c.Name, func(r rune) bool { return !isUsual(r) }) {
		bad(".name %q has something else than a-z, 0-9, '-' and '.'", clip(c.Name))
	}
	if c.State != Active && c.State != Drain {
		bad(".state %q is neither %s nor %s", clip(string(c.State)), Active, Drain)
	}
	for _, role := range []struct {
		name string
		list []netip.AddrPort
	}{{"https", c.Endpoints.HTTPS}, {"http", c.Endpoints.HTTP}} {
		if len(role.list) > MaxEndpoints {
			bad(".endpoints.%s has %d addresses; %d is the most", role.name, len(role.list), MaxEndpoints)
			continue
		}
		seen := make(map[netip.AddrPort]bool, len(role.list))
		for at, endpoint := range role.list {
			address := endpoint.Addr()
			if !address.IsValid() || endpoint.Port() == 0 || address.Zone() != "" || address.IsUnspecified() || address.IsMulticast() || address.Is4In6() {
				bad(".endpoints.%s[%d]: %q is not the address and port of one Pod", role.name, at, endpoint)
			}
			if seen[endpoint] {
				bad(".endpoints.%s[%d]: %s is there twice", role.name, at, endpoint)
			}
			seen[endpoint] = true
		}
	}
	if c.Probe != nil {
		if c.Probe.Port == 0 {
			bad(".probe.port is missing")
		}
		if !strings.HasPrefix(c.Probe.Path, "/") || len(c.Probe.Path) > maxPath || strings.ContainsFunc(c.Probe.Path, func(r rune) bool { return r <= ' ' || r > '~' }) {
			bad(".probe.path %q is not the path of a URL: it starts with / and has up to %d printable ASCII characters", clip(c.Probe.Path), maxPath)
		}
	}
	return problems
}

func isUsual(r rune) bool {
	return 'a' <= r && r <= 'z' || '0' <= r && r <= '9' || r == '-' || r == '.'
}

func clip(text string) string {
	if len(text) > 100 {
		return strings.ToValidUTF8(text[:100], "") + "…"
	}
	return text
}
