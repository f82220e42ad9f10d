package certrecord_test

import (
	"bytes"
	"encoding/base64"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/shopset/shopset/internal/certrecord"
)

func TestName(t *testing.T) {
	for host, want := range map[string]string{
		"shop.example": "shop.example", "Shop.Example.": "shop.example", "*.Shop.example": "*.shop.example",
		"bücher.example": "xn--bcher-kva.example", "BÜCHER.example": "xn--bcher-kva.example", "xn--bcher-kva.example": "xn--bcher-kva.example",
		"faß.example": "xn--fa-hia.example", "a_b.example": "a_b.example", "1.2.3.example": "1.2.3.example", "a--b.example": "a--b.example",
		strings.Repeat("a", 63) + ".example": strings.Repeat("a", 63) + ".example", "商店.example": "xn--czrs0t.example",
	} {
		got, err := certrecord.Name(host)
		if got != want || err != nil {
			t.Errorf("%s: %q %v, want %q", host, got, err, want)
		}
		if again, err := certrecord.Name(got); again != got || err != nil {
			t.Errorf("%s: not stable: %q %v", got, again, err)
		}
		if lookup, ok := certrecord.LookupName(host); ok == strings.HasPrefix(want, "*") || ok && lookup != want {
			t.Errorf("%s: looked up as %q, %v", host, lookup, ok)
		}
	}
	for host, want := range map[string]string{
		"": "is empty", ".": "is empty", "*.": "a * that is not", "localhost": "one label only", "192.0.2.1": "is an address", "[2001:db8::1]": "that no host name has",
		"2001:db8::1": "that no host name has", "a.*.example": "a * that is not", "**.example": "a * that is not", "shop.example:443": "that no host name has",
		strings.Repeat("a", 64) + ".example": "is no host name", strings.Repeat("abc.", 70) + "example": "is no host name", "a..example": "is no host name",
		"xn--a.example": "is no host name", "*.example": "one label only", "a b.example": "that no host name has", "a\x00.example": "that no host name has",
	} {
		if got, err := certrecord.Name(host); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %q and error %v, want %q", host, got, err, want)
		}
		if name, ok := certrecord.LookupName(host); ok {
			t.Errorf("%q is looked up as %q", host, name)
		}
	}
	for name, want := range map[string]string{"a.shop.example": "*.shop.example", "shop.example": "", "a.b.shop.example": "*.b.shop.example"} {
		if got := certrecord.Wildcard(name); got != want {
			t.Errorf("%s: wildcard %q, want %q", name, got, want)
		}
	}
	if n := testing.AllocsPerRun(100, func() { certrecord.LookupName("www.shop.example") }); n > 0 {
		t.Errorf("looking a usual name up allocates %v times", n)
	}
}

func FuzzName(f *testing.F) {
	for _, seed := range []string{"shop.example", "*.bücher.example", "xn--bcher-kva.example", "1.2.3.4", "a..b", "A-.b", "ß.x"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, host string) {
		name, err := certrecord.Name(host)
		if err != nil {
			return
		}
		if again, err := certrecord.Name(name); again != name || err != nil {
			t.Errorf("%q becomes %q, and that %q %v", host, name, again, err)
		}
		if lookup, ok := certrecord.LookupName(host); ok && lookup != name {
			t.Errorf("%q is kept as %q and looked up as %q", host, name, lookup)
		}
	})
}

func ring(t *testing.T, seeds ...byte) *certrecord.Keyring {
	t.Helper()
	var secrets [][]byte
	for _, seed := range seeds {
		secrets = append(secrets, bytes.Repeat([]byte{seed}, 32))
	}
	keys, err := certrecord.NewKeyring(secrets...)
	if err != nil {
		t.Fatal(err)
	}
	return keys
}

func example() *certrecord.Record {
	return &certrecord.Record{Name: "shop.example", Version: 7, Shop: "s1", Labels: map[string]string{"a": "b"},
		Options:      certrecord.Options{Maintenance: true, Allow: []string{"192.0.2.0/24"}, Upstream: "https://other.example", Plan: "big"},
		Certificates: []certrecord.Certificate{{Kind: certrecord.ECDSA, Chain: [][]byte{{1}, {2}}, Key: []byte{3}, NotAfter: 4}}}
}

func TestSealedRecords(t *testing.T) {
	keys, want := ring(t, 1), example()
	sealed, err := certrecord.Seal(keys, want)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := certrecord.Open(keys, want.Name, sealed); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v %v", got, err)
	}
	if !strings.HasPrefix(string(sealed), "0000000000000007") || bytes.Contains(sealed, []byte("other.example")) {
		t.Errorf("sealed: %q", sealed)
	}
	if _, err := certrecord.Open(keys, want.Name, certrecord.Tombstone(9)); !errors.Is(err, certrecord.ErrDeleted) {
		t.Errorf("a tombstone: %v", err)
	}
	// No other name, key, version or content opens.
	if _, err := certrecord.Open(keys, "other.example", sealed); err == nil {
		t.Error("the record of another name opened")
	}
	if _, err := certrecord.Open(ring(t, 2), want.Name, sealed); !errors.Is(err, certrecord.ErrUnknownKey) {
		t.Errorf("with another key: %v", err)
	}
	for i := range sealed {
		changed := bytes.Clone(sealed)
		changed[i] ^= 1
		if _, err := certrecord.Open(keys, want.Name, changed); err == nil {
			t.Errorf("opened with byte %d changed", i)
		}
		if _, err := certrecord.Open(keys, want.Name, sealed[:i]); err == nil {
			t.Errorf("opened when cut off at %d", i)
		}
	}
	if _, err := certrecord.Open(keys, want.Name, make([]byte, certrecord.MaxSize+1)); err == nil || !strings.Contains(err.Error(), "more than") {
		t.Errorf("too large: %v", err)
	}
	want.Certificates[0].Key = make([]byte, certrecord.MaxSize)
	if _, err := certrecord.Seal(keys, want); err == nil || !strings.Contains(err.Error(), "shorten") {
		t.Errorf("too large: %v", err)
	}
}

func TestRotation(t *testing.T) {
	sealed := ring(t, 1).Seal(nil, []byte("x"), "context")
	both := ring(t, 2, 1)
	if plain, err := both.Open(sealed, "context"); string(plain) != "x" || err != nil {
		t.Errorf("got %q %v", plain, err)
	}
	if both.IsCurrent(sealed) || !both.IsCurrent(both.Seal(nil, nil, "")) || both.IsCurrent(nil) {
		t.Error("which key sealed is not told apart")
	}
}

func TestReadKeyring(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys")
	one, two := base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{1}, 32)), base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{2}, 32))
	for content, want := range map[string]string{
		one + "\n": "", "# now\n" + one + "\n\n" + two: "", "": "has no key", "abc": "line 1: want 32 bytes", one + "\n" + one: "is there twice", one + "\nAAAA": "line 2",
	} {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := certrecord.ReadKeyring(path)
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), one)) {
			t.Errorf("%q: %v, want %q", content, err, want)
		}
	}
	if _, err := certrecord.ReadKeyring(path + "x"); err == nil {
		t.Error("no file, no error")
	}
}

// TestTicketKeys: two proxies agree, over the change of a period and while keys are rotated.
func TestTicketKeys(t *testing.T) {
	now := time.Date(2026, 1, 1, 11, 59, 59, 0, time.UTC)
	of := func(keys *certrecord.Keyring, at time.Time) [][32]byte {
		derived, err := keys.TicketKeys(at)
		if err != nil {
			t.Fatal(err)
		}
		return derived
	}
	accepts := func(keys [][32]byte, key [32]byte) bool {
		for _, k := range keys {
			if k == key {
				return true
			}
		}
		return false
	}
	before, after := of(ring(t, 1), now), of(ring(t, 1), now.Add(2*time.Second))
	if before[0] == after[0] || !accepts(after, before[0]) || !accepts(before, after[0]) {
		t.Error("the change of a period is not bridged")
	}
	rotated := of(ring(t, 2, 1), now)
	if rotated[0] == before[0] || !accepts(rotated, before[0]) {
		t.Error("the rotation of a key is not bridged")
	}
	if accepts(of(ring(t, 1), now.Add(3*certrecord.TicketPeriod)), before[0]) {
		t.Error("an old key is accepted")
	}
}
