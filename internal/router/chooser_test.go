package router

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"runtime"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/shopset/shopset/internal/routetable"
)

// chooserTest is a chooser with a clock of its own, and cells that need no network.
type chooserTest struct {
	*chooser
	t     *testing.T
	at    int64
	table *routetable.Table
	hosts map[string]string
}

func newChooserTest(t *testing.T, maxFailover int, cells map[string]int) *chooserTest {
	c := &chooserTest{t: t, at: int64(time.Hour), hosts: map[string]string{}}
	config := DefaultConfig()
	c.chooser = &chooser{health: config.Health, failover: config.Failover, log: slog.Default(), meters: newMeters(prometheus.NewRegistry()),
		clock: func() int64 { return c.at }}
	c.table = &routetable.Table{Format: routetable.Format, Fleet: "shops/test", Epoch: 1, Version: 1, Created: time.Now(), MaxFailover: maxFailover}
	n := 0
	for name, endpoints := range cells {
		cell := routetable.Cell{Name: name, State: routetable.Active, Weight: 100}
		for range endpoints {
			n++
			cell.Endpoints.HTTPS = append(cell.Endpoints.HTTPS, netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, byte(n >> 8), byte(n)}), 443))
		}
		c.table.Cells = append(c.table.Cells, cell)
	}
	c.use()
	return c
}

func (c *chooserTest) use() {
	c.t.Helper()
	if err := c.apply(c.table, time.Minute, func(context.Context, *endpoint) {}); err != nil {
		c.t.Fatal(err)
	}
}

func (c *chooserTest) pass(d time.Duration) { c.at += int64(d) }

func (c *chooserTest) pool(name string) *pool {
	for _, ce := range c.view.Load().cells {
		if ce.name == name {
			return ce.pools[kindTLS]
		}
	}
	c.t.Fatal(name)
	return nil
}

// set takes all endpoints of a cell down or up.
func (c *chooserTest) set(name string, down bool) {
	for _, e := range *c.pool(name).endpoints.Load() {
		c.mark(e, down)
	}
}

// host is one with a list that begins like this.
func (c *chooserTest) host(order ...string) string {
	key := fmt.Sprint(order)
	if host := c.hosts[key]; host != "" {
		return host
	}
	c.hosts[key] = (&fleet{t: c.t, table: *c.table}).host(order...)
	return c.hosts[key]
}

// goes is the cell that a connection of the host goes to, which answers.
func (c *chooserTest) goes(host string) string {
	c.t.Helper()
	var a attempt
	if _, err := c.start(&a, kindTLS, host, nil); err != nil {
		c.t.Fatal(err)
	}
	e := c.next(&a, 12345)
	if e == nil {
		return ""
	}
	if !e.down.Load() {
		c.answered(e, a.first())
	}
	return e.pool.cell.name
}

func (c *chooserTest) expect(host, want string) {
	c.t.Helper()
	if got := c.goes(host); got != want {
		c.t.Fatalf("%s goes to %q, want %q", host, got, want)
	}
}

func TestTooManyDeadCellsMoveNothing(t *testing.T) {
	c := newChooserTest(t, 50, map[string]int{"a": 1, "b": 1, "c": 1, "d": 1})
	host := c.host("a", "c")
	c.set("a", true)
	c.expect(host, "c")
	c.set("b", true) // Half of them: still no more than maxFailover.
	c.expect(host, "c")
	c.set("d", true)
	c.expect(host, "a") // As if all were well.
	if !c.view.Load().static[kindTLS].Load() {
		t.Error("not static")
	}
	c.set("d", false)
	c.expect(host, "c")
}

// TestCellsWithoutEndpoints are left even when there are so many of them that nothing is moved on looks alone.
func TestCellsWithoutEndpoints(t *testing.T) {
	c := newChooserTest(t, 50, map[string]int{"a": 0, "b": 0, "c": 1, "d": 1})
	c.expect(c.host("a", "c"), "c")
	c.set("d", true)
	c.expect(c.host("d", "c"), "d") // Static: it may well be there.
	c.expect(c.host("a", "c"), "c") // This one is not.
}

// TestPoisonDoesNotWalk takes down each cell that serves the host shortly after it began to.
func TestPoisonDoesNotWalk(t *testing.T) {
	c := newChooserTest(t, 90, map[string]int{"a": 1, "b": 1, "c": 1, "d": 1, "e": 1, "f": 1})
	host, innocent := c.host("a", "b", "c", "d"), c.host("b", "c")
	c.expect(host, "a")
	c.set("a", true)
	c.expect(host, "b")
	c.pass(20 * time.Second)
	c.set("b", true)
	c.expect(host, "a")     // Held back: c is well, but shall stay so.
	c.expect(innocent, "c") // Hosts of b have moved only once.
	c.pass(c.failover.Hold - time.Second)
	c.expect(host, "a")
	c.pass(2 * time.Second)
	c.expect(host, "c") // One cell more for each hold.
	c.pass(time.Second)
	c.set("c", true)
	c.expect(host, "a")
	c.set("a", false)
	c.pass(c.failover.SlowStart)
	c.expect(host, "a")
}

// TestLateFailureIsNoPoison lets the second cell live for long with the hosts of the first.
func TestLateFailureIsNoPoison(t *testing.T) {
	c := newChooserTest(t, 90, map[string]int{"a": 1, "b": 1, "c": 1, "d": 1})
	host := c.host("a", "b", "c")
	c.set("a", true)
	for range 20 {
		c.expect(host, "b")
		c.pass(c.failover.Window / 10)
	}
	c.set("b", true)
	c.expect(host, "c")
}

// TestCellsThatFailTogetherAreNoPoison takes two down before any host has moved.
func TestCellsThatFailTogetherAreNoPoison(t *testing.T) {
	c := newChooserTest(t, 90, map[string]int{"a": 1, "b": 1, "c": 1, "d": 1})
	c.set("a", true)
	c.set("b", true)
	c.expect(c.host("a", "b", "c"), "c")
}

// TestFlappingIsPoison lets the first cell recover in between.
func TestFlappingIsPoison(t *testing.T) {
	c := newChooserTest(t, 90, map[string]int{"a": 1, "b": 1, "c": 1, "d": 1})
	host := c.host("a", "b", "c")
	for range 2 {
		c.set("a", true)
		c.expect(host, "b")
		c.pass(5 * time.Second)
		c.set("a", false)
		c.pass(c.failover.SlowStart)
		c.expect(host, "a")
	}
	c.set("a", true)
	c.set("b", true)
	c.expect(host, "a")
}

// TestFlappingEndpoint passes its probes and fails its connections: it comes back later each time, until it has stayed for long.
func TestFlappingEndpoint(t *testing.T) {
	c := newChooserTest(t, 90, map[string]int{"a": 1, "b": 1})
	e := (*c.pool("a").endpoints.Load())[0]
	rise := func() (probes int) {
		for c.failed(e, failedRefused); e.down.Load(); probes++ {
			c.probed(e, true)
		}
		return probes
	}
	for _, want := range []int{2, 4, 8, 16, 32, 32} {
		if got := rise(); got != want {
			t.Errorf("back after %d probes, want %d", got, want)
		}
		c.pass(time.Second)
	}
	c.pass(c.failover.Window)
	if got := rise(); got != 2 {
		t.Errorf("back after %d probes, although it had been well for long", got)
	}
}

func TestSlowStart(t *testing.T) {
	c := newChooserTest(t, 90, map[string]int{"a": 1, "b": 1, "c": 1})
	var hosts []string
	function, err := c.table.Function()
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; len(hosts) < 1000; i++ {
		host := fmt.Sprintf("shop-%d.example", i)
		if c.table.Cells[function.Place(host, nil)[0]].Name == "a" {
			hosts = append(hosts, host)
		}
	}
	at := func() (n int) {
		for _, host := range hosts {
			if c.goes(host) == "a" {
				n++
			}
		}
		return n
	}
	if got := at(); got != 1000 {
		t.Fatalf("%d at the first start, which is not slow", got)
	}
	c.set("a", true)
	if got := at(); got != 0 {
		t.Fatalf("%d go to a dead cell", got)
	}
	c.set("a", false)
	previous := map[string]bool{}
	for _, percent := range []int{0, 25, 50, 75, 100} {
		if got := at(); got < percent*10-60 || got > percent*10+60 {
			t.Errorf("after %d %% of the time %d of 1000 hosts are back", percent, got)
		}
		for _, host := range hosts {
			back := c.goes(host) == "a"
			if previous[host] && !back {
				t.Fatal("a host went away again")
			}
			previous[host] = back
		}
		c.pass(c.failover.SlowStart / 4)
	}
}

// TestRisingCellServesWhenAlone checks that hosts without another cell need not wait.
func TestRisingCellServesWhenAlone(t *testing.T) {
	c := newChooserTest(t, 100, map[string]int{"a": 1, "b": 1})
	host := c.host("a", "b")
	c.set("a", true)
	c.set("b", true)
	c.set("a", false)
	c.expect(host, "a")
}

func TestEndpointsShareConnections(t *testing.T) {
	c := newChooserTest(t, 50, map[string]int{"a": 5})
	host := c.host("a")
	random := uint32(1)
	for range 1000 {
		var a attempt
		if _, err := c.start(&a, kindTLS, host, nil); err != nil {
			t.Fatal(err)
		}
		random = random*1664525 + 1013904223
		c.next(&a, random).open.Add(1)
	}
	for _, e := range *c.pool("a").endpoints.Load() {
		if n := e.open.Load(); n < 190 || n > 210 {
			t.Errorf("%s has %d of 1000", e.address, n)
		}
	}
}

// TestAttemptsEnd checks that one attempt asks each endpoint once, first those of its cell, and ends.
func TestAttemptsEnd(t *testing.T) {
	c := newChooserTest(t, 90, map[string]int{"a": 2, "b": 2, "c": 2})
	var a attempt
	if _, err := c.start(&a, kindTLS, c.host("a", "b", "c"), nil); err != nil {
		t.Fatal(err)
	}
	var order []string
	seen := map[*endpoint]bool{}
	for e := c.next(&a, 99); e != nil; e = c.next(&a, 99) {
		if seen[e] {
			t.Fatal("asked twice")
		}
		seen[e] = true
		order = append(order, e.pool.cell.name)
		c.failed(e, failedRefused)
	}
	if got := fmt.Sprint(order); got != "[a a b b c c]" && got != "[a a b b]" {
		t.Errorf("order %v", got)
	}
}

// TestHealthSurvivesTables checks that a new table does not bring dead endpoints back, and that new ones count as well.
func TestHealthSurvivesTables(t *testing.T) {
	c := newChooserTest(t, 90, map[string]int{"a": 1, "b": 1})
	host := c.host("a", "b")
	c.set("a", true)
	c.table.Version++
	c.use()
	c.expect(host, "b")
	for i := range c.table.Cells {
		if c.table.Cells[i].Name == "a" {
			c.table.Cells[i].Endpoints.HTTPS = []netip.AddrPort{netip.MustParseAddrPort("10.9.9.9:443")}
		}
	}
	c.table.Version++
	c.use()
	c.pass(c.failover.SlowStart)
	c.expect(host, "a")
}

// TestNoMemoryPerHost routes a million hosts, with a cell down, and looks at the heap.
func TestNoMemoryPerHost(t *testing.T) {
	c := newChooserTest(t, 90, map[string]int{"a": 2, "b": 2, "c": 2, "d": 2, "e": 2, "f": 2, "g": 2, "h": 2})
	c.set("c", true)
	scratch := make([]int, 0, 256)
	host := []byte("shop-0000000.example")
	route := func(from, to int) {
		for i := from; i < to; i++ {
			for j, n := 11, i; j >= 5; j, n = j-1, n/10 {
				host[j] = byte('0' + n%10)
			}
			var a attempt
			if scratch, _ = c.start(&a, kindTLS, string(host), scratch); a.cells == 0 {
				t.Fatal("no cell")
			}
			c.answered(c.next(&a, uint32(i)), a.first()) //nolint:gosec // It is random enough.
		}
	}
	heap := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	route(0, 1000)
	before := heap()
	route(1000, 1_000_000)
	if after := heap(); after > before+64<<10 {
		t.Errorf("the heap grew by %d bytes for a million hosts", after-before)
	}
}

func BenchmarkChoose(b *testing.B) {
	c := newChooserTest(&testing.T{}, 90, map[string]int{"a": 2, "b": 2, "c": 2, "d": 2})
	scratch := make([]int, 0, 256)
	b.ReportAllocs()
	for i := range b.N {
		var a attempt
		scratch, _ = c.start(&a, kindTLS, "shop-1.example", scratch)
		c.next(&a, uint32(i)) //nolint:gosec // It is random enough.
	}
}
