package warmcache

import (
	"strings"
	"testing"
	"time"

	"github.com/fxamacker/cbor/v2"
	"github.com/klauspost/compress/zstd"
)

func packed(t testing.TB, raw []byte) []byte {
	t.Helper()
	encoder, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	return encoder.EncodeAll(raw, nil)
}

// FuzzManifest: whatever comes, compressed or not, it is an error or a manifest that holds, and in bounded memory.
func FuzzManifest(f *testing.F) {
	raw, err := cbor.Marshal(&manifest{Shop: "a", Packs: []pack{{Hash: strings.Repeat("0", 64), Raw: 10, Frames: []frame{{Size: 5, Sum: make([]byte, 32)}}, Sources: []string{"p"}}},
		Files: []file{{Path: "x", Mode: 0o644, Size: 10}, {Path: "y/z"}}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw, false)
	f.Add(packed(f, raw), true)
	f.Fuzz(func(t *testing.T, content []byte, compressed bool) {
		if !compressed {
			content = packed(t, content)
		}
		for _, g := range []Generation{{Files: 2, Bytes: 10}, {Files: maxFiles}} {
			g.Manifest = hashOf(content)
			m, err := decodeManifest(content, "a", &g)
			if err != nil {
				continue
			}
			if err := m.check("a"); err != nil || len(m.Files) != g.Files || sizeOf(m.Files) != g.Bytes {
				t.Fatal(err, len(m.Files))
			}
			if again, err := encodeManifest(m); err != nil || len(again) == 0 {
				t.Fatal(err)
			}
		}
	})
}

// FuzzHead: whatever comes, it is an error or a head that can be changed and read again.
func FuzzHead(f *testing.F) {
	hash := strings.Repeat("ab", 32)
	f.Add([]byte(`{"format":1,"shop":"a","generations":[{"number":3,"manifest":"` + hash + `","taken":"2026-11-23T12:00:00Z","source":"p","files":1,"bytes":2,"revoked":true}],"lease":{"holder":"p","token":"x","until":"2026-11-23T12:00:00Z"}}`))
	f.Fuzz(func(t *testing.T, content []byte) {
		h, err := readHead(content, "a")
		if err != nil {
			return
		}
		if n := h.newest(); n < 0 || n >= 1<<53 {
			t.Fatal(n)
		}
		before := len(h.Generations)
		for _, g := range h.good(0, time.Now()) {
			if g.Revoked {
				t.Fatal("a revoked one is good")
			}
		}
		h.retain(time.Now())
		if len(h.Generations) > before || len(h.Generations) > keptNewest+2*len(keptAges)+keptRevoked {
			t.Fatal(len(h.Generations))
		}
	})
}

// FuzzFrame: whatever a frame holds, no more than a frame comes out of it.
func FuzzFrame(f *testing.F) {
	f.Add(packed(f, []byte("hello")))
	f.Fuzz(func(t *testing.T, content []byte) {
		decoder, err := newDecoder()
		if err != nil {
			t.Fatal(err)
		}
		defer decoder.Close()
		if raw, _ := readFrame(strings.NewReader(string(content)), make([]byte, len(content)), nil, nil, decoder); len(raw) > 2*frameBytes {
			t.Fatal(len(raw))
		}
	})
}

// TestBombs: what is small and says that it is large is refused before it is made large.
func TestBombs(t *testing.T) {
	array := func(n int) []byte { return []byte{0x9a, byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)} }
	outer := func(packs []byte) []byte {
		raw := append([]byte{0xa3, 0x01, 0x61, 'a', 0x02}, packs...)
		return append(raw, 0x03, 0x80)
	}
	frames := func(n int) []byte { // A pack with frames of one byte each: empty maps.
		raw := append([]byte{0xa1, 0x03}, array(n)...)
		return append(raw, strings.Repeat("\xa0", n)...)
	}
	many := array(1000)
	for range 1000 {
		many = append(many, frames(1000)...)
	}
	for name, raw := range map[string][]byte{
		"frames":          outer(append(array(1), frames(1<<20)...)),
		"packs of frames": outer(many),
		"zeros":           make([]byte, 256<<20),
		"unknown fields":  []byte{0xa4, 0x01, 0x61, 'a', 0x02, 0x80, 0x03, 0x80, 0x09, 0x80},
		"nested":          outer([]byte(strings.Repeat("\x81", 100) + "\x80")),
	} {
		content := packed(t, raw)
		for _, files := range []int{0, maxFiles} {
			if len(content) > 1<<20 {
				t.Fatalf("%s: %d bytes are no bomb", name, len(content))
			}
			allocated := testing.AllocsPerRun(1, func() {
				if _, err := decodeManifest(content, "a", &Generation{Manifest: hashOf(content), Files: files}); err == nil {
					t.Errorf("%s: no error", name)
				}
			})
			if allocated > 20000 {
				t.Errorf("%s: %.0f allocations", name, allocated)
			}
		}
	}
	decoder, err := newDecoder()
	if err != nil {
		t.Fatal(err)
	}
	defer decoder.Close()
	bomb := packed(t, make([]byte, 512<<20))
	if raw, err := readFrame(strings.NewReader(string(bomb)), make([]byte, len(bomb)), nil, nil, decoder); err == nil || len(raw) > 2*frameBytes {
		t.Errorf("%d bytes of %d: %v", len(raw), len(bomb), err)
	}
}
