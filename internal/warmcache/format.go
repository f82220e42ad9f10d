package warmcache

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/fxamacker/cbor/v2"
	"github.com/klauspost/compress/zstd"
)

// Limits of a snapshot.
const (
	maxFiles    = 1_000_000
	maxBytes    = 4 << 30
	maxFile     = 64 << 20
	maxPath     = 1024
	maxPacks    = 1024 // 4 GiB that cannot be compressed need 256, and as many more may be half used
	maxDepth    = 32
	frameBytes  = 1 << 20
	packBytes   = 16 << 20 // compressed, after which a pack ends
	packRaw     = 64 << 20 // raw, after which it ends, too
	maxManifest = 128 << 20
	maxHead     = 256 << 10
	maxSources  = 32
	maxSource   = 128 // bytes of a Pod's name
	packFrames  = (packRaw + maxFile) / frameBytes
)

// formatNumber is that of heads; a reader refuses others.
const formatNumber = 1

// Generation is one snapshot of a shop.
type Generation struct {
	Number int64 `json:"number"`
	// Manifest is the SHA-256 of the manifest, in hexadecimal, which is also in its key.
	Manifest string    `json:"manifest"`
	Taken    time.Time `json:"taken"`
	// Source says which Pod it was taken from.
	Source string `json:"source"`
	// Sources are all Pods that files in it come from, that one and those of earlier snapshots that it has files of; the last
	// maxSources of them. A Pod that restored bad files and saves them again is found by them.
	Sources []string `json:"sources,omitempty"`
	// Invalidation is how often the shop had been invalidated when it was begun.
	Invalidation int64 `json:"invalidation,omitempty"`
	Files        int   `json:"files"`
	Bytes        int64 `json:"bytes"`
	// Revoked says that it must not be restored.
	Revoked bool `json:"revoked,omitempty"`
}

// head is what a shop's snapshots are found by, the newest first.
type head struct {
	Format      int          `json:"format"`
	Shop        string       `json:"shop"`
	Generations []Generation `json:"generations"`
	// Lease is whose turn it is to save; see lease.go.
	Lease *lease `json:"lease,omitempty"`
}

// good returns the snapshots that may be restored, the newest first: not revoked, begun after the shop was invalidated last, and
// old enough to be trusted.
func (h *head) good(invalidation int64, before time.Time) (good []*Generation) {
	for i := range h.Generations {
		if g := &h.Generations[i]; !g.Revoked && g.Invalidation >= invalidation && !g.Taken.After(before) {
			good = append(good, g)
		}
	}
	return good
}

// What is kept of a shop's snapshots: the newest ones; and of those that are younger than each of these ages the oldest, of those that
// are older the newest. So there is always one of about an hour and one of about a day ago to go back to, however often a bad Pod
// saves. Revoked ones do not count, and some are kept to be seen.
const (
	keptNewest  = 3
	keptRevoked = 5
)

var keptAges = []time.Duration{time.Hour, 24 * time.Hour}

// retain drops the generations that are not kept any more.
func (h *head) retain(now time.Time) {
	keep := map[int]bool{}
	var good []int
	revoked := 0
	for i := range h.Generations {
		if !h.Generations[i].Revoked {
			good = append(good, i)
		} else if revoked++; revoked <= keptRevoked {
			keep[i] = true
		}
	}
	for n, i := range good {
		keep[i] = keep[i] || n < keptNewest
	}
	from := 0
	for _, age := range keptAges {
		older := from // The first in good that is as old.
		for older < len(good) && now.Sub(h.Generations[good[older]].Taken) < age {
			older++
		}
		if older > from {
			keep[good[older-1]] = true
		}
		if older < len(good) {
			keep[good[older]] = true
		}
		from = older
	}
	kept := h.Generations[:0]
	for i := range h.Generations {
		if keep[i] {
			kept = append(kept, h.Generations[i])
		}
	}
	h.Generations = kept
}

// Manifest lists the files of a snapshot and where their content is.
type manifest struct {
	Shop  string `cbor:"1,keyasint"`
	Packs []pack `cbor:"2,keyasint"`
	Files []file `cbor:"3,keyasint"`
}

// pack is an object of compressed frames. What is in them, one after the other, is its raw content.
type pack struct {
	// Hash is the SHA-256 of the object, in hexadecimal, which is also in its key.
	Hash string `cbor:"1,keyasint"`
	// Raw is the length of the raw content.
	Raw int64 `cbor:"2,keyasint"`
	// Frames of frameBytes each, but for the last.
	Frames []frame `cbor:"3,keyasint"`
	// Sources are the Pods that its files come from.
	Sources []string `cbor:"4,keyasint,omitempty"`
}

type frame struct {
	// Size is the length of the compressed frame.
	Size int `cbor:"1,keyasint"`
	// Sum is the SHA-256 of the raw frame.
	Sum []byte `cbor:"2,keyasint"`
}

// file is a plain file: its content is Size bytes of a pack's raw content.
type file struct {
	_        struct{} `cbor:",toarray"`
	Path     string
	Mode     uint32
	Modified int64 // in nanoseconds since 1970
	Pack     int
	Offset   int64
	Size     int64
}

var (
	shopPattern   = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$`)
	compatPattern = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)
	hashPattern   = regexp.MustCompile(`^[0-9a-f]{64}$`)
)

// CheckShop says whether a name can be a shop's.
func CheckShop(shop string) error {
	if !shopPattern.MatchString(shop) || strings.Contains(shop, "..") {
		return fmt.Errorf("%q is no name of a shop: want up to 128 letters, digits, dots, dashes or underscores", shop)
	}
	return nil
}

// CheckCompatibility says whether a text can be a compatibility key.
func CheckCompatibility(compat string) error {
	if !compatPattern.MatchString(compat) || strings.Contains(compat, "..") || slices.Contains(reserved, compat) {
		return fmt.Errorf("%q is no compatibility key: want up to 64 letters, digits, dots, dashes or underscores, and not %s", compat, strings.Join(reserved, " or "))
	}
	return nil
}

// reserved are not compatibility keys: below them is what all of these have in common, for which others have the rights.
var reserved = []string{"invalid", "rankings"}

// Keys of objects; see docs/cache-format.md.
func headKey(compat, shop string) string { return "v1/" + compat + "/heads/" + shop }
func manifestKey(compat, shop, hash string) string {
	return "v1/" + compat + "/manifests/" + shop + "/" + hash
}
func packKey(compat, shop, hash string) string { return "v1/" + compat + "/packs/" + shop + "/" + hash }
func invalidKey(shop string) string            { return "v1/invalid/" + shop }
func conditionsKey(compat string) string       { return "v1/" + compat + "/conditions" }

func hashOf(content []byte) string {
	sum := sha256.Sum256(content)
	return hex.EncodeToString(sum[:])
}

func readHead(content []byte, shop string) (*head, error) {
	h := &head{}
	if err := json.Unmarshal(content, h); err != nil {
		return nil, fmt.Errorf("the head of %s: %w", shop, err)
	}
	if h.Format != formatNumber || h.Shop != shop || len(h.Generations) > 100 {
		return nil, fmt.Errorf("the head of %s is of format %d and of %.40q, or has %d generations", shop, h.Format, h.Shop, len(h.Generations))
	}
	for i := range h.Generations {
		if g := &h.Generations[i]; !g.makesSense() {
			return nil, fmt.Errorf("the head of %s: generation %d makes no sense", shop, g.Number)
		}
	}
	if h.Lease != nil && (len(h.Lease.Holder) > maxSource || h.Lease.Token == "" || len(h.Lease.Token) > 64) {
		return nil, fmt.Errorf("the head of %s: its lease makes no sense", shop)
	}
	return h, nil
}

func (g *Generation) makesSense() bool {
	return hashPattern.MatchString(g.Manifest) && g.Files >= 0 && g.Files <= maxFiles && g.Bytes >= 0 && g.Bytes <= maxBytes &&
		g.Number > 0 && g.Number < 1<<53 && g.Invalidation >= 0 && g.Invalidation < 1<<53 && len(g.Source) <= maxSource && goodSources(g.Sources)
}

func goodSources(sources []string) bool {
	return len(sources) <= maxSources && !slices.ContainsFunc(sources, func(s string) bool { return len(s) > maxSource })
}

// merge adds Pods to others, and keeps the last ones.
func merge(sources []string, more ...string) []string {
	for _, source := range more {
		if source == "" {
			continue
		}
		sources = append(slices.DeleteFunc(slices.Clone(sources), func(s string) bool { return s == source }), source)
	}
	return sources[max(0, len(sources)-maxSources):]
}

// newDecoder makes one for frames, with DecodeAll.
func newDecoder() (*zstd.Decoder, error) {
	return zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(2*frameBytes))
}

func encodeManifest(m *manifest) ([]byte, error) {
	raw, err := cbor.Marshal(m)
	if err != nil {
		return nil, err
	}
	encoder, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1))
	if err != nil {
		return nil, err
	}
	defer encoder.Close()
	return encoder.EncodeAll(raw, nil), nil
}

// Arrays that a manifest may have: those of files, and those of packs and frames, which are far shorter. With one bound for all, a few
// KiB could ask for thousands of packs of a million frames each.
var (
	decodingFiles = decoding(maxFiles)
	decodingPacks = decoding(max(packFrames, maxPacks, maxSources))
)

func decoding(elements int) cbor.DecMode {
	mode, err := cbor.DecOptions{MaxArrayElements: elements, MaxMapPairs: 16, MaxNestedLevels: 8, DupMapKey: cbor.DupMapKeyEnforcedAPF,
		ExtraReturnErrors: cbor.ExtraDecErrorUnknownField}.DecMode()
	if err != nil {
		panic(err) // The options are constants.
	}
	return mode
}

// rawManifest is a manifest of which nothing but the outer map is read.
type rawManifest struct {
	Shop  string          `cbor:"1,keyasint"`
	Packs cbor.RawMessage `cbor:"2,keyasint"`
	Files cbor.RawMessage `cbor:"3,keyasint"`
}

// manifestLimit is how long a manifest of so many files can be when it is not compressed.
func manifestLimit(files int) int64 {
	return int64(min(maxManifest, 1<<20+files*(maxPath+64)))
}

// decodeManifest reads the manifest of a generation and checks all that it says: nothing of it is believed before.
func decodeManifest(content []byte, shop string, g *Generation) (*manifest, error) {
	if hashOf(content) != g.Manifest {
		return nil, fmt.Errorf("the manifest of %s is not what its head says", shop)
	}
	decoder, err := zstd.NewReader(bytes.NewReader(content), zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxMemory(8<<20))
	if err != nil {
		return nil, err
	}
	defer decoder.Close()
	limit := manifestLimit(g.Files)
	raw, err := io.ReadAll(io.LimitReader(decoder, limit+1))
	if err != nil || int64(len(raw)) > limit {
		return nil, errors.Join(fmt.Errorf("the manifest of %s cannot be decompressed, or has more than %d bytes", shop, limit), err)
	}
	var outer rawManifest
	m := &manifest{}
	if err = decodingFiles.Unmarshal(raw, &outer); err == nil {
		m.Shop = outer.Shop
		if err = decodingPacks.Unmarshal(outer.Packs, &m.Packs); err == nil {
			err = decodingFiles.Unmarshal(outer.Files, &m.Files)
		}
	}
	if err == nil {
		err = m.check(shop)
	}
	if err == nil && (len(m.Files) != g.Files || sizeOf(m.Files) != g.Bytes) {
		// Budgets were kept by what the head says.
		err = fmt.Errorf("it has %d files of %d bytes, its head says %d of %d", len(m.Files), sizeOf(m.Files), g.Files, g.Bytes)
	}
	if err != nil {
		return nil, fmt.Errorf("the manifest of %s: %w", shop, err)
	}
	return m, nil
}

func (m *manifest) check(shop string) error {
	if m.Shop != shop {
		return fmt.Errorf("it is of %.40q", m.Shop)
	}
	if len(m.Packs) > maxPacks || len(m.Files) > maxFiles {
		return fmt.Errorf("%d packs and %d files are too many", len(m.Packs), len(m.Files))
	}
	for i := range m.Packs {
		if err := m.Packs[i].check(); err != nil {
			return fmt.Errorf("pack %d: %w", i, err)
		}
	}
	total := int64(0)
	before := ""
	for i := range m.Files {
		f := &m.Files[i]
		if err := checkPath(f.Path); err != nil {
			return err
		}
		if f.Path <= before {
			return fmt.Errorf("%q is out of order, or there twice", f.Path)
		}
		before = f.Path
		if f.Mode&^0o777 != 0 {
			return fmt.Errorf("%q has the mode %o", f.Path, f.Mode)
		}
		if f.Size < 0 || f.Size > maxFile || f.Size > 0 && (f.Pack < 0 || f.Pack >= len(m.Packs) || f.Offset < 0 || f.Offset > m.Packs[f.Pack].Raw-f.Size) {
			return fmt.Errorf("%q is not where it is said to be", f.Path)
		}
		if total += f.Size; total > maxBytes {
			return fmt.Errorf("the files have more than %d bytes", int64(maxBytes))
		}
	}
	return nil
}

func (p *pack) check() error {
	if !hashPattern.MatchString(p.Hash) || p.Raw < 0 || p.Raw > packRaw+maxFile || int64(len(p.Frames)) != (p.Raw+frameBytes-1)/frameBytes || !goodSources(p.Sources) {
		return errors.New("its frames make no sense")
	}
	for _, f := range p.Frames {
		if f.Size <= 0 || f.Size > frameBytes+frameBytes/8 || len(f.Sum) != sha256.Size {
			return errors.New("a frame makes no sense")
		}
	}
	return nil
}

// checkPath wants a clean relative path of ordinary names.
func checkPath(name string) error {
	if name == "." || !fs.ValidPath(name) || len(name) > maxPath || strings.ContainsAny(name, "\x00\\") || strings.Count(name, "/") > maxDepth || strings.HasPrefix(name, stagingPrefix) || strings.Contains(name, "/"+stagingPrefix) {
		return fmt.Errorf("%.80q is no path of a file below a shop's folder", name)
	}
	return nil
}
