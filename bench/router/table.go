package main

import (
	"crypto/ed25519"
	"crypto/rand"
	"fmt"
	"net/netip"
	"runtime"
	"time"

	"github.com/shopset/shopset/bench/internal/report"
	"github.com/shopset/shopset/internal/placement"
	"github.com/shopset/shopset/internal/routetable"
)

// The sizes that the aims are for.
const (
	tableCells     = 64
	tablePins      = 1000
	tableEndpoints = 8 // of each port and cell
	publishLimit   = 10 * time.Millisecond
	placedCells    = 16
	placedHosts    = 1 << 20
	placedLimit    = 1e6 // hosts per second and core
)

// measureTable measures what a change of the fleet costs: for the operator to compare, check, encode, compress and sign the table, and
// for each router to check it, open it and make the placement function of it.
func measureTable(rounds int) error {
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return err
	}
	table := largeTable()
	var publish, open []float64
	size := 0
	for range max(rounds, 1) * 20 {
		table.Version++
		begin := time.Now()
		if _, err := table.ContentHash(); err != nil {
			return err
		}
		envelope, err := routetable.Sign(table, private)
		if err != nil {
			return err
		}
		publish = append(publish, milliseconds(time.Since(begin)))
		size = len(envelope)
		begin = time.Now()
		opened, err := routetable.Open(envelope, []ed25519.PublicKey{public})
		if err != nil {
			return err
		}
		if _, err := opened.Function(); err != nil {
			return err
		}
		open = append(open, milliseconds(time.Since(begin)))
	}
	report.Say("table: %d cells, %d endpoints each, %d pins, %d bytes", tableCells, 2*tableEndpoints, tablePins, size)
	report.Result("router.table.publish_ms", report.Median(publish), "ms")
	report.Result("router.table.open_ms", report.Median(open), "ms")
	report.Result("router.table.ratio_limit", milliseconds(publishLimit)/report.Median(publish), "")
	return nil
}

func milliseconds(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1e6 }

func largeTable() *routetable.Table {
	t := &routetable.Table{Format: routetable.Format, Fleet: "bench/bench", Epoch: 1, Created: time.Now(), ShardSize: 3, MaxFailover: 50}
	for i := range tableCells {
		cell := routetable.Cell{Name: fmt.Sprintf("cell%d", i), State: routetable.Active, Weight: 100, Probe: &routetable.Probe{Port: 9090, Path: "/readyz"}}
		for j := range tableEndpoints {
			at := netip.AddrFrom4([4]byte{10, 0, byte(i), byte(j)}) //nolint:gosec // Both are below 256.
			cell.Endpoints.HTTPS = append(cell.Endpoints.HTTPS, netip.AddrPortFrom(at, 8443))
			cell.Endpoints.HTTP = append(cell.Endpoints.HTTP, netip.AddrPortFrom(at, 8080))
		}
		t.Cells = append(t.Cells, cell)
	}
	for i := range tablePins {
		t.Pins = append(t.Pins, routetable.Pin{Host: fmt.Sprintf("shop-%d.example", i), Cell: t.Cells[i%tableCells].Name})
	}
	return t
}

// measurePlacement places hosts on one core, as a router does: in their normal form, with pins looked up.
func measurePlacement(rounds int) error {
	config := placement.Config{ShardSize: 3, Pins: []placement.Pin{{Host: "pinned.example", Cell: "cell0"}, {Host: "*.pinned.example", Cell: "cell1"}}}
	for i := range placedCells {
		config.Cells = append(config.Cells, placement.Cell{Name: fmt.Sprintf("cell%d", i), Weight: 100})
	}
	function, err := placement.New(config)
	if err != nil {
		return err
	}
	hosts := make([]string, placedHosts)
	for i := range hosts {
		hosts[i] = fmt.Sprintf("shop-%d.example", i)
	}
	runtime.GC()
	into := make([]int, 0, config.ShardSize)
	var rates []float64
	for range max(rounds, 1) {
		first := make([]int, placedCells)
		begin := time.Now()
		for _, host := range hosts {
			name, err := placement.Normalise(host)
			if err != nil {
				return err
			}
			into = function.Place(name, into)
			first[into[0]]++
		}
		rates = append(rates, float64(len(hosts))/time.Since(begin).Seconds())
		report.Say("placement: %.0f hosts/s, %v on each cell", rates[len(rates)-1], first)
	}
	report.Result("router.placement.hosts_per_s", report.Median(rates), "1/s")
	report.Result("router.placement.ratio_limit", report.Median(rates)/placedLimit, "")
	return nil
}
