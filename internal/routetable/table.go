package routetable

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/shopset/shopset/internal/placement"
)

// Format is the one that this package writes, and reads.
const Format = 1

// Table is the snapshot.
type Table struct {
	Format int `json:"format"`
	// Fleet is NAMESPACE/NAME.
	Fleet string `json:"fleet"`
	// Epoch and Version order all tables of a fleet.
	Epoch   uint64    `json:"epoch"`
	Version uint64    `json:"version"`
	Created time.Time `json:"created"`
	// ShardSize is how many cells may serve a host; 0 is all.
	ShardSize int `json:"shardSize"`
	// MaxFailover is in percent of the cells: while more of them look dead, a router moves no hosts, because then it
	// is more likely its own view that is wrong.
	MaxFailover int    `json:"maxFailover"`
	Cells       []Cell `json:"cells"`
	Pins        []Pin  `json:"pins,omitempty"`
}

// State says whether a cell takes hosts.
type State string

const (
	// Active cells take hosts by their weight.
	Active State = "Active"
	// Drain means none, whatever the weight.
	Drain State = "Drain"
)

// Cell is one ShopSet.
type Cell struct {
	Name  string `json:"name"`
	State State  `json:"state"`
	// Weight is the one to place hosts by, with maxShare kept already.
	Weight    uint32    `json:"weight"`
	Endpoints Endpoints `json:"endpoints"`
	// Probe is how the health of an endpoint is asked for; nil if it does not tell.
	Probe *Probe `json:"probe,omitempty"`
}

// Endpoints are the addresses of a cell's edge, by the role of the port.
type Endpoints struct {
	HTTPS []netip.AddrPort `json:"https,omitempty"`
	HTTP  []netip.AddrPort `json:"http,omitempty"`
}

// Probe is an HTTP GET to the address of an endpoint, at another port. 2xx means that it serves.
type Probe struct {
	Port uint16 `json:"port"`
	Path string `json:"path"`
}

// Pin is a placement.Pin.
type Pin struct {
	Host string `json:"host"`
	Cell string `json:"cell"`
}

// After says whether a table replaces another one of the same fleet. Every table replaces none (nil).
func (t *Table) After(other *Table) bool {
	if other == nil || t.Epoch != other.Epoch {
		return other == nil || t.Epoch > other.Epoch
	}
	return t.Version > other.Version
}

// Function is the placement of the table. Its indexes are those of Cells.
func (t *Table) Function() (*placement.Function, error) {
	config := placement.Config{ShardSize: t.ShardSize}
	for _, cell := range t.Cells {
		if cell.State != Active {
			cell.Weight = 0
		}
		config.Cells = append(config.Cells, placement.Cell{Name: cell.Name, Weight: cell.Weight})
	}
	for _, pin := range t.Pins {
		config.Pins = append(config.Pins, placement.Pin(pin))
	}
	return placement.New(config)
}

// Canonical is a copy in which what has no order is sorted, so that equal content is equal bytes.
func (t *Table) Canonical() *Table {
	result := *t
	result.Created = t.Created.UTC().Truncate(time.Second)
	result.Cells = slices.Clone(t.Cells)
	slices.SortFunc(result.Cells, func(a, b Cell) int { return strings.Compare(a.Name, b.Name) })
	for i := range result.Cells {
		endpoints := &result.Cells[i].Endpoints
		endpoints.HTTPS, endpoints.HTTP = sorted(endpoints.HTTPS), sorted(endpoints.HTTP)
	}
	result.Pins = slices.Clone(t.Pins)
	slices.SortFunc(result.Pins, func(a, b Pin) int { return strings.Compare(a.Host, b.Host) })
	return &result
}

func sorted(list []netip.AddrPort) []netip.AddrPort {
	list = slices.Clone(list)
	slices.SortFunc(list, netip.AddrPort.Compare)
	return list
}

// ContentHash is the same for two tables that say the same, whenever and under whatever version they were made.
func (t *Table) ContentHash() (string, error) {
	content := t.Canonical()
	content.Epoch, content.Version, content.Created = 0, 0, time.Time{}
	encoded, err := encode(content)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(encoded)
	return hex.EncodeToString(sum[:8]), nil
}

func encode(t *Table) ([]byte, error) {
	var text bytes.Buffer
	encoder := json.NewEncoder(&text)
	encoder.SetEscapeHTML(false)
	err := encoder.Encode(t)
	return text.Bytes(), err
}
