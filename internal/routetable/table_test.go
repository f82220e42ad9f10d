package routetable_test

import (
	"bytes"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/shopset/shopset/internal/routetable"
)

// key is a fixed private key for each number.
func key(n byte) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{n}, ed25519.SeedSize))
}

func public(keys ...ed25519.PrivateKey) (result []ed25519.PublicKey) {
	for _, key := range keys {
		result = append(result, key.Public().(ed25519.PublicKey))
	}
	return result
}

func endpoints(cell, n, port int) (result []netip.AddrPort) {
	for i := range n {
		result = append(result, netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, byte(cell), byte(i / 250), byte(i%250 + 1)}), uint16(port)))
	}
	return result
}

// table has so many cells, endpoints for each role and pins.
func table(cells, perCell, pins int) *routetable.Table {
	t := &routetable.Table{
		Format: routetable.Format, Fleet: "shops/main", Epoch: 1_700_000_000, Version: 7, Created: time.Unix(1_700_000_100, 5).UTC(),
		ShardSize: 2, MaxFailover: 50,
	}
	for i := range cells {
		t.Cells = append(t.Cells, routetable.Cell{
			Name: fmt.Sprintf("cell-%03d", i), State: routetable.Active, Weight: 100, Probe: &routetable.Probe{Port: 9090, Path: "/readyz"},
			Endpoints: routetable.Endpoints{HTTPS: endpoints(i, perCell, 8443), HTTP: endpoints(i, perCell, 8080)},
		})
	}
	for i := range pins {
		t.Pins = append(t.Pins, routetable.Pin{Host: fmt.Sprintf("pinned-%05d.example", i), Cell: t.Cells[i%cells].Name})
	}
	return t
}

func sign(t testing.TB, table *routetable.Table, key ed25519.PrivateKey) []byte {
	t.Helper()
	envelope, err := routetable.Sign(table, key)
	if err != nil {
		t.Fatal(err)
	}
	return envelope
}

func TestSignAndOpen(t *testing.T) {
	for name, original := range map[string]*routetable.Table{"small": table(3, 2, 5), "compressed": table(64, 100, 1000), "one cell, no endpoint": table(1, 0, 0)} {
		t.Run(name, func(t *testing.T) {
			envelope := sign(t, original, key(1))
			opened, err := routetable.Open(envelope, public(key(2), key(1)))
			if err != nil {
				t.Fatal(err)
			}
			want, _ := json.Marshal(original.Canonical())
			if got, _ := json.Marshal(opened); !bytes.Equal(got, want) {
				t.Errorf("opened:\n%s\nwant:\n%s", got, want)
			}
			if compressed := bytes.Contains(envelope[:300], []byte("\nshopset-routes 1 gzip\n")); compressed != (name == "compressed") {
				t.Errorf("compressed: %v", compressed)
			}
		})
	}
}

// TestEqualContentIsEqualBytes whatever the order it comes in; and the content's hash looks at content alone.
func TestEqualContentIsEqualBytes(t *testing.T) {
	one, two := table(8, 5, 20), table(8, 5, 20)
	shuffle := rand.New(rand.NewPCG(1, 2))
	shuffle.Shuffle(len(two.Cells), func(i, j int) { two.Cells[i], two.Cells[j] = two.Cells[j], two.Cells[i] })
	shuffle.Shuffle(len(two.Pins), func(i, j int) { two.Pins[i], two.Pins[j] = two.Pins[j], two.Pins[i] })
	slices.Reverse(two.Cells[0].Endpoints.HTTPS)
	first := two.Cells[0].Name
	two.Created = two.Created.Add(300 * time.Millisecond)
	if !bytes.Equal(sign(t, one, key(1)), sign(t, two, key(1))) {
		t.Error("equal content gives other bytes")
	}
	if two.Cells[0].Name != first {
		t.Error("signing sorts the table of the caller")
	}
	two.Version, two.Epoch, two.Created = 99, two.Epoch+1, two.Created.Add(time.Hour)
	hash := func(table *routetable.Table) string {
		hash, err := table.ContentHash()
		if err != nil {
			t.Fatal(err)
		}
		return hash
	}
	if hash(one) != hash(two) {
		t.Error("the hash of the content depends on the version")
	}
	for name, change := range map[string]func(*routetable.Table){
		"weight": func(t *routetable.Table) { t.Cells[1].Weight++ }, "drain": func(t *routetable.Table) { t.Cells[1].State = routetable.Drain },
		"endpoint": func(t *routetable.Table) { t.Cells[1].Endpoints.HTTP = t.Cells[1].Endpoints.HTTP[1:] },
		"pin":      func(t *routetable.Table) { t.Pins[1].Cell = t.Cells[0].Name }, "shard": func(t *routetable.Table) { t.ShardSize = 3 },
		"maxFailover": func(t *routetable.Table) { t.MaxFailover = 10 }, "probe": func(t *routetable.Table) { t.Cells[1].Probe = nil },
	} {
		changed := table(8, 5, 20)
		change(changed)
		if hash(changed) == hash(one) {
			t.Errorf("a change of %s does not change the hash", name)
		}
	}
}

// TestNoBitMayChange: every changed byte and every cut of a small table is refused, as is a foreign or a retired key.
func TestNoBitMayChange(t *testing.T) {
	envelope := sign(t, table(2, 1, 1), key(1))
	for at := range envelope {
		changed := slices.Clone(envelope)
		changed[at] ^= 1
		if _, err := routetable.Open(changed, public(key(1))); err == nil {
			t.Fatalf("opens with byte %d changed", at)
		}
		if _, err := routetable.Open(envelope[:at], public(key(1))); err == nil {
			t.Fatalf("opens when cut at byte %d", at)
		}
	}
	if _, err := routetable.Open(append(slices.Clone(envelope), ' '), public(key(1))); !errors.Is(err, routetable.ErrSignature) {
		t.Errorf("opens with a byte more: %v", err)
	}
	for name, test := range map[string]struct {
		trusted []ed25519.PublicKey
		want    string
	}{
		"another key": {public(key(2)), "it names key \"" + routetable.KeyID(public(key(1))[0]) + "\", and trusted are " + routetable.KeyID(public(key(2))[0])},
		"no key":      {nil, "trusted are none"},
		"broken key":  {[]ed25519.PublicKey{{1, 2, 3}}, "trusted are none"},
	} {
		if _, err := routetable.Open(envelope, test.trusted); !errors.Is(err, routetable.ErrSignature) || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestSignedNonsense: a right signature does not make a table usable.
func TestSignedNonsense(t *testing.T) {
	for name, test := range map[string]struct{ signed, want string }{
		"another kind":   {"shopset-routes 2 json\n{}", "of a kind that this program does not know"},
		"no JSON":        {"shopset-routes 1 json\n{", "is no JSON"},
		"no gzip":        {"shopset-routes 1 gzip\n{", "not compressed as it says"},
		"newer format":   {`shopset-routes 1 json` + "\n" + `{"format":2}`, "format 2 is not the one that this program knows, 1"},
		"empty":          {"shopset-routes 1 json\n{}", "cells: there is none"},
		"wrong endpoint": {"shopset-routes 1 json\n" + `{"cells":[{"endpoints":{"http":["shop.example:80"]}}]}`, "is no JSON of the known form"},
	} {
		signature := ed25519.Sign(key(1), []byte(test.signed))
		envelope := fmt.Appendf(nil, "shopset-routes-signature 1 %s %s\n%s", routetable.KeyID(public(key(1))[0]), b64(signature), test.signed)
		if _, err := routetable.Open(envelope, public(key(1))); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestUnknownFieldsAreIgnored(t *testing.T) {
	content, _ := json.Marshal(table(1, 1, 0))
	signed := "shopset-routes 1 json\n" + strings.Replace(string(content), `{"format"`, `{"comes":"later","format"`, 1)
	envelope := fmt.Appendf(nil, "shopset-routes-signature 1 %s %s\n%s", routetable.KeyID(public(key(1))[0]), b64(ed25519.Sign(key(1), []byte(signed))), signed)
	if _, err := routetable.Open(envelope, public(key(1))); err != nil {
		t.Error(err)
	}
}

func TestValidateSaysAllProblems(t *testing.T) {
	broken := table(3, 2, 1)
	broken.Format, broken.Fleet, broken.Version, broken.Created, broken.MaxFailover, broken.ShardSize = 2, "main", 0, time.Time{}, 101, 1000
	broken.Cells[0].State = "Off"
	broken.Cells[1].Name = "Cell;"
	broken.Cells[1].Probe = &routetable.Probe{Path: "ready z"}
	broken.Cells[2].Endpoints.HTTPS = append(endpoints(1, 1, 0), netip.MustParseAddrPort("0.0.0.0:1"), netip.MustParseAddrPort("[fe80::1%eth0]:1"), netip.MustParseAddrPort("[::ffff:10.0.0.1]:1"), netip.AddrPort{})
	broken.Cells[2].Endpoints.HTTP = append(endpoints(1, 1, 80), endpoints(1, 1, 80)...)
	broken.Pins[0].Cell = "nowhere"
	_, err := routetable.Sign(broken, key(1))
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{
		"format 2", `fleet "main" is not NAMESPACE/NAME`, "version 0", "created is missing", "maxFailover 101", "shardSize 1000", `cells[0].state "Off"`,
		`cells[1].name "Cell;"`, "cells[1].probe.port", `cells[1].probe.path "ready z"`, "cells[2].endpoints.https[0]", "https[1]", "https[2]", "https[3]", "https[4]",
		"cells[2].endpoints.http[1]: 10.1.0.1:80 is there twice", `pinned to cell "nowhere"`,
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("no %q in\n%v", want, err)
		}
	}
	if err := table(2, 1001, 0).Validate(); err == nil || !strings.Contains(err.Error(), "has 1001 addresses; 1000 is the most") {
		t.Errorf("endpoints: %v", err)
	}
	if err := table(300, 1, 0).Validate(); err == nil || !strings.Contains(err.Error(), "there are 300; 256 is the most") {
		t.Errorf("cells: %v", err)
	}
}

// TestLargest: what is within all bounds and still too large is refused with what to do, and nothing compresses to more
// than Open reads.
func TestLargest(t *testing.T) {
	if _, err := routetable.Open(sign(t, table(256, 20, 10_000), key(1)), public(key(1))); err != nil {
		t.Error(err)
	}
	large := table(100, 0, 0)
	random := rand.New(rand.NewPCG(3, 4))
	for i := range large.Cells {
		for range 1000 {
			var address [16]byte
			address[0] = 0x20
			for at := 1; at < 16; at++ {
				address[at] = byte(random.Uint32())
			}
			large.Cells[i].Endpoints.HTTPS = append(large.Cells[i].Endpoints.HTTPS, netip.AddrPortFrom(netip.AddrFrom16(address), 8443))
		}
	}
	if _, err := routetable.Sign(large, key(1)); err == nil || !strings.Contains(err.Error(), "use fewer pins or Pods of the edge, or several fleets") {
		t.Errorf("error %v", err)
	}
	if _, err := routetable.Open(make([]byte, routetable.MaxEnvelope+1), public(key(1))); err == nil || !strings.Contains(err.Error(), "more than") {
		t.Errorf("error %v", err)
	}
	bomb := bomb(t)
	envelope := fmt.Appendf(nil, "shopset-routes-signature 1 %s %s\n%s", routetable.KeyID(public(key(1))[0]), b64(ed25519.Sign(key(1), bomb)), bomb)
	if _, err := routetable.Open(envelope, public(key(1))); err == nil || !strings.Contains(err.Error(), "has more than 16777216 bytes") {
		t.Errorf("error %v", err)
	}
}

func TestAfter(t *testing.T) {
	at := func(epoch, version uint64) *routetable.Table {
		return &routetable.Table{Epoch: epoch, Version: version}
	}
	for _, test := range []struct {
		table, other *routetable.Table
		want         bool
	}{
		{at(1, 1), nil, true}, {at(1, 2), at(1, 1), true}, {at(1, 1), at(1, 1), false}, {at(1, 1), at(1, 2), false},
		{at(2, 1), at(1, 9), true}, {at(1, 9), at(2, 1), false},
	} {
		if got := test.table.After(test.other); got != test.want {
			t.Errorf("%+v after %+v: %v", test.table, test.other, got)
		}
	}
}

func TestFunction(t *testing.T) {
	original := table(4, 1, 0)
	original.Cells[2].State = routetable.Drain
	original.Pins = []routetable.Pin{{Host: "big.example", Cell: "cell-003"}, {Host: "late.example", Cell: "cell-002"}}
	opened, err := routetable.Open(sign(t, original, key(1)), public(key(1)))
	if err != nil {
		t.Fatal(err)
	}
	f, err := opened.Function()
	if err != nil {
		t.Fatal(err)
	}
	if got := f.Place("big.example", nil); len(got) != 2 || got[0] != 3 {
		t.Errorf("the pinned host is at %v", got)
	}
	for i := range 1000 {
		if slices.Contains(f.Place(fmt.Sprint("shop-", i, ".example"), nil), 2) {
			t.Fatal("a host at the drained cell")
		}
	}
	if slices.Contains(f.Place("late.example", nil), 2) {
		t.Error("a pin to the drained cell")
	}
}

func TestKeys(t *testing.T) {
	private, err := routetable.MarshalPrivateKey(key(1))
	if err != nil {
		t.Fatal(err)
	}
	if again, err := routetable.ParsePrivateKey(private); err != nil || !again.Equal(key(1)) {
		t.Errorf("the private key does not come back: %v", err)
	}
	text, err := routetable.MarshalPublicKeys(public(key(1), key(2))...)
	if err != nil {
		t.Fatal(err)
	}
	keys, err := routetable.ParsePublicKeys(text)
	if err != nil || len(keys) != 2 || !keys[0].Equal(public(key(1))[0]) || !keys[1].Equal(public(key(2))[0]) {
		t.Errorf("the public keys do not come back: %v %v", keys, err)
	}
	for name, test := range map[string]struct{ text, want string }{
		"nothing": {"", "no block PUBLIC KEY"}, "private": {string(private), `a block "PRIVATE KEY"`},
		"nonsense": {"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", "public key 1 is no Ed25519 key"},
		"many":     {strings.Repeat(string(text), 9), "more than 16"}, "large": {strings.Repeat(" ", 70_000), "more than"},
	} {
		if _, err := routetable.ParsePublicKeys([]byte(test.text)); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, wrong := range map[string]string{"nothing": "", "public": string(text), "nonsense": "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "large": strings.Repeat(" ", 70_000)} {
		if _, err := routetable.ParsePrivateKey([]byte(wrong)); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if _, err := routetable.Sign(table(1, 1, 0), nil); err == nil {
		t.Error("signed without a key")
	}
}

func TestExport(t *testing.T) {
	original := table(3, 1, 0)
	original.Pins = []routetable.Pin{{Host: "*.group.example", Cell: "cell-001"}}
	f, _ := original.Function()
	placed := f.Place("shop.example", nil)
	first, second := original.Cells[placed[0]].Name, original.Cells[placed[1]].Name
	other := original.Cells[f.Place("a.group.example", nil)[1]].Name
	head := "# fleet shops/main, epoch 1700000000, version 7\n"
	for format, want := range map[string]string{
		"haproxy": head + "a.group.example cell-001\nshop.example " + first + "\n",
		"nginx":   head + "a.group.example cell-001;\nshop.example " + first + ";\n",
		"dns": head + "a.group.example\tcell-001\t1\t100\na.group.example\t" + other + "\t2\t0\n" +
			"shop.example\t" + first + "\t1\t100\nshop.example\t" + second + "\t2\t0\n",
	} {
		var text strings.Builder
		if err := original.Export(&text, format, []string{"Shop.example.", "A.group.example:443", "shop.example"}); err != nil || text.String() != want {
			t.Errorf("%s: %v\n%s\nwant\n%s", format, err, text.String(), want)
		}
	}
	var text strings.Builder
	for _, test := range []struct {
		format string
		hosts  []string
		want   string
	}{
		{"bind", nil, `format "bind" is none of haproxy, nginx, dns`}, {"nginx", []string{"a..b", "ok.example", "x{;.example"}, `host "a..b"`},
		{"nginx", []string{"x;y.example"}, "a character"},
	} {
		if err := original.Export(&text, test.format, test.hosts); err == nil || !strings.Contains(err.Error(), test.want) || text.Len() > 0 {
			t.Errorf("%v: %v %q", test, err, text.String())
		}
	}
	for i := range original.Cells {
		original.Cells[i].State = routetable.Drain
	}
	if err := original.Export(&text, "dns", []string{"shop.example"}); err == nil || !strings.Contains(err.Error(), "every cell is drained") {
		t.Errorf("%v", err)
	}
}

func FuzzOpen(f *testing.F) {
	f.Add(sign(f, table(2, 1, 1), key(1)))
	f.Add([]byte("shopset-routes-signature 1 0 AA==\nshopset-routes 1 json\n{}"))
	f.Fuzz(func(t *testing.T, envelope []byte) {
		if _, err := routetable.Open(envelope, public(key(2))); err == nil {
			t.Fatal("opened without the key")
		}
	})
}

// BenchmarkPublish is all that a change of a fleet of 64 cells, 20 endpoints each and 1,000 pins costs but the call of
// the API server: validate, encode, compress if need be, sign.
func BenchmarkPublish(b *testing.B) {
	large := table(64, 20, 1000)
	for b.Loop() {
		if hash, err := large.ContentHash(); err != nil || hash == "" {
			b.Fatal(err)
		}
		sign(b, large, key(1))
	}
}

// BenchmarkOpen is what it costs a router.
func BenchmarkOpen(b *testing.B) {
	envelope := sign(b, table(64, 20, 1000), key(1))
	for b.Loop() {
		if _, err := routetable.Open(envelope, public(key(1))); err != nil {
			b.Fatal(err)
		}
	}
}
