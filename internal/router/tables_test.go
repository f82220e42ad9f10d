package router

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"net/http"
	"os"
	"path/filepath"
	"testing"

	"github.com/shopset/shopset/internal/admin"
	"github.com/shopset/shopset/internal/routetable"
)

// updates is how many tables had a result.
func (r *testRouter) updates(result string) float64 {
	return r.metric("shopset_router_table_updates_total", `result="`+result+`"`)
}

func TestBadTablesChangeNothing(t *testing.T) {
	f, _ := threeCells(t)
	r := startRouter(t, f, EnginePlain, nil)
	good := f.envelope()
	host := f.host("a")
	refused := r.updates("refused")
	_, stranger, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	other := f.table
	other.Version = 99
	forged, err := routetable.Sign(&other, stranger)
	if err != nil {
		t.Fatal(err)
	}
	other.Fleet = "shops/another"
	foreign, err := routetable.Sign(&other, f.private)
	if err != nil {
		t.Fatal(err)
	}
	flipped := bytes.Clone(good)
	flipped[len(flipped)/2] ^= 1
	for i, bad := range [][]byte{nil, []byte("nonsense"), good[:len(good)-9], flipped, forged, foreign, bytes.Repeat([]byte("x"), routetable.MaxEnvelope+1)} {
		before := r.updates("refused")
		f.write(bad)
		if i < 6 {
			eventually(t, "it is refused", func() bool { return r.updates("refused") > before })
		}
		if got := r.explain(host); got.Version != 1 || got.Cell != "a" {
			t.Fatalf("table %d: %+v", i, got)
		}
	}
	if r.updates("refused") <= refused {
		t.Fatal("nothing was refused")
	}
	if code, body := r.ready(); code != http.StatusOK {
		t.Fatal(code, body)
	}
	f.publish()
	eventually(t, "a good one is used", func() bool { return r.explain(host).Version == 2 })
}

func TestTablesDoNotGoBack(t *testing.T) {
	f, _ := threeCells(t)
	r := startRouter(t, f, EnginePlain, nil)
	old := f.envelope()
	f.publish()
	eventually(t, "version 2", func() bool { return r.metric("shopset_router_table_version", "") == 2 })
	f.write(old)
	eventually(t, "the old one is seen", func() bool { return r.updates("old") == 1 })
	if got := r.metric("shopset_router_table_info", `fleet="`+f.table.Fleet+`"`); got != 1 {
		t.Errorf("the fleet of the table is told %v times", got)
	}
	if got := r.metric("shopset_router_table_version", ""); got != 2 {
		t.Fatalf("version %v", got)
	}
	f.table.Epoch, f.table.Version = 5, 0 // The publisher has lost its versions.
	f.publish()
	eventually(t, "the next epoch", func() bool { return r.metric("shopset_router_table_epoch", "") == 5 })
}

// TestRestartWithNothing starts a second router from the first one's cache, with every source gone.
func TestRestartWithNothing(t *testing.T) {
	eachEngine(t, func(t *testing.T, engine string) {
		f, _ := threeCells(t)
		cache := filepath.Join(t.TempDir(), "cache")
		first := startRouter(t, f, engine, func(c *Config) { c.Table.Cache = cache })
		eventually(t, "it is kept", func() bool { return first.updates("kept") == 1 })
		first.Close()
		if err := os.Remove(f.file); err != nil {
			t.Fatal(err)
		}
		second := startRouter(t, f, engine, func(c *Config) { c.Table.Cache = cache })
		if code, body := second.ready(); code != http.StatusOK {
			t.Fatal(code, body)
		}
		if cell, _ := second.served(f.host("b")); cell != "b" {
			t.Fatal(cell)
		}
	})
}

// TestDiskFull uses a table that cannot be kept, and keeps it once there is room.
func TestDiskFull(t *testing.T) {
	f, _ := threeCells(t)
	folder := t.TempDir()
	cache := filepath.Join(folder, "cache")
	// What is written beside the file goes to a device that is always full.
	if err := os.Symlink("/dev/full", cache+".new"); err != nil {
		t.Fatal(err)
	}
	r := startRouter(t, f, EnginePlain, func(c *Config) { c.Table.Cache = cache })
	if r.updates("used") != 1 || r.updates("unkept") != 1 || r.updates("kept") != 0 {
		t.Fatal("used", r.updates("used"), "unkept", r.updates("unkept"), "kept", r.updates("kept"))
	}
	if cell, _ := r.served(f.host("c")); cell != "c" {
		t.Fatal(cell)
	}
	if err := os.Remove(cache + ".new"); err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	eventually(t, "it is kept", func() bool { return r.updates("kept") == 1 })
}

func TestCorruptCacheIsReplaced(t *testing.T) {
	f, _ := threeCells(t)
	cache := filepath.Join(t.TempDir(), "cache")
	if err := os.WriteFile(cache, []byte("torn"), 0o600); err != nil {
		t.Fatal(err)
	}
	r := startRouter(t, f, EnginePlain, func(c *Config) { c.Table.Cache = cache })
	eventually(t, "it is kept", func() bool { return r.updates("kept") == 1 })
}

// TestKeysChange signs with a new key, which the file of keys has only later: the table that waits for it is used then.
func TestKeysChange(t *testing.T) {
	f, _ := threeCells(t)
	r := startRouter(t, f, EnginePlain, nil)
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	f.private = private
	f.publish()
	eventually(t, "the unknown key is refused", func() bool { return r.updates("refused") == 1 })
	keys, err := routetable.MarshalPublicKeys(public)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(f.keys, keys, 0o600); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the known one is used", func() bool { return r.metric("shopset_router_table_version", "") == 2 })
	if got := r.updates("refused"); got != 1 {
		t.Errorf("refused %v times", got)
	}
}

// handed is a Source that a test hands tables to.
type handed chan []byte

func (h handed) Watch(ctx context.Context, offer func([]byte)) {
	for {
		select {
		case <-ctx.Done():
			return
		case envelope := <-h:
			offer(envelope)
		}
	}
}

func TestSource(t *testing.T) {
	f, _ := threeCells(t)
	source := make(handed)
	config := DefaultConfig()
	config.TLS = &Port{Address: "127.0.0.1:0"}
	config.Table = Table{ConfigMap: "shops/test-routes", PublicKeys: f.keys}
	r := &testRouter{t: t, server: admin.New()}
	var err error
	if r.Router, err = New(config, r.server, source); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	source <- f.envelope()
	eventually(t, "version 1", func() bool { return r.metric("shopset_router_table_version", "") == 1 })
	if cell, _ := r.served(f.host("a")); cell != "a" {
		t.Fatal(cell)
	}
}

// TestSourceIsGone starts while the API says nothing: the file is what there is. What is later wins, wherever it comes from.
func TestSourceIsGone(t *testing.T) {
	f, _ := threeCells(t)
	source := make(handed)
	config := DefaultConfig()
	config.TLS = &Port{Address: "127.0.0.1:0"}
	config.Table = Table{ConfigMap: "shops/test-routes", File: f.file, PublicKeys: f.keys}
	r := &testRouter{t: t, server: admin.New()}
	var err error
	if r.Router, err = New(config, r.server, source); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	if code, body := r.ready(); code != http.StatusOK {
		t.Fatal(code, body)
	}
	if cell, _ := r.served(f.host("b")); cell != "b" {
		t.Fatal(cell)
	}
	f.table.Version = 4
	source <- f.envelope()
	eventually(t, "version 4", func() bool { return r.metric("shopset_router_table_version", "") == 4 })
	f.table.Version = 3
	f.write(f.envelope()) // The kubelet is behind.
	eventually(t, "the old one is seen", func() bool { return r.updates("old") == 1 })
	if got := r.metric("shopset_router_table_version", ""); got != 4 {
		t.Errorf("version %v", got)
	}
}

func TestNoKeysNoStart(t *testing.T) {
	f, _ := threeCells(t)
	config := DefaultConfig()
	config.TLS = &Port{Address: "127.0.0.1:0"}
	config.Table = Table{File: f.file, PublicKeys: f.keys + ".missing"}
	if r, err := New(config, admin.New(), nil); err == nil {
		r.Close()
		t.Fatal("it starts")
	}
}
