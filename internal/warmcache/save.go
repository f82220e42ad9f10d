package warmcache

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/time/rate"

	"github.com/shopset/shopset/internal/warmcache/storage"
)

// SaveConfig says what to save.
type SaveConfig struct {
	Storage storage.Storage
	// Folder of all shops; the shop's is below it.
	Folder string
	Shop   string
	// Compatibility key: only programs with the same read the snapshot.
	Compatibility string
	// Source names the Pod, for people and for Revoke.
	Source string
	// Settle is how long a file must have been left alone; 2 s when zero, and leastSettle at least.
	Settle time.Duration
	// Skip are patterns (path.Match) of names that are not saved; [".*"] when nil.
	Skip []string
	// Pace bounds the CPU, Reads the bytes that are read of files in a second, for all shops together; nil is no bound. What is sent
	// is bounded by the storage (decorate.Limit).
	Pace  *Pace
	Reads *rate.Limiter
	// Least is the part of the last snapshot's files that there must be; 0 for any. A Pod that has just started cold has less, and
	// would put its empty cache in the place of a full one. After a day less is taken to be how it is.
	Least float64
	// Recent is how long a snapshot of another Pod is good enough, unless this one has a tenth more files; 0 for no time. Of Pods that
	// serve the same shop each has other files, and without it each would put its own in the place of those of the others, all of
	// them, in every round.
	Recent time.Duration
	// Validate is asked before anything is sent; an error keeps the shop from being saved.
	Validate func(ctx context.Context, folder string) error
	// DryRun looks and sends nothing.
	DryRun bool
	// Now is the clock; time.Now when nil.
	Now func() time.Time
}

// SaveResult is what came of it.
type SaveResult struct {
	Generation int64
	Files      int
	Bytes      int64
	// New are the files that were read and sent, in SentBytes, compressed, with the manifest.
	New       int
	SentBytes int64
	// Left out are files that were written meanwhile, or are none.
	LeftOut int
	// Unchanged says that there was nothing to save, Busy that another saver is at it, Smaller that there is too little, and Recent that
	// another Pod's snapshot is good enough.
	Unchanged, Busy, Smaller, Recent bool
}

// leastSettle is several ticks of the clock that file systems take their times from: two writes within one leave the same time,
// and the second could not be told.
const leastSettle = 20 * time.Millisecond

// smallerAfter is after which a smaller snapshot than the last is taken all the same.
const smallerAfter = 24 * time.Hour

// Save takes a snapshot of a shop's folder. That another saver is at it is no error: its snapshot is as good.
func Save(ctx context.Context, c SaveConfig) (*SaveResult, error) {
	if err := errors.Join(CheckShop(c.Shop), CheckCompatibility(c.Compatibility), checkSource(c.Source)); err != nil {
		return nil, err
	}
	if c.Settle == 0 {
		c.Settle = 2 * time.Second
	}
	c.Settle = max(c.Settle, leastSettle)
	if c.Skip == nil {
		c.Skip = []string{".*"}
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	s := &saving{SaveConfig: c, result: &SaveResult{}, taken: c.Now()}
	err := s.run(ctx)
	if errors.Is(err, errBusy) {
		s.result.Busy = true
		return s.result, nil
	}
	if err != nil {
		return s.result, fmt.Errorf("save %s: %w", c.Shop, err)
	}
	return s.result, nil
}

type saving struct {
	SaveConfig
	result *SaveResult
	taken  time.Time
	root   *os.Root
	turn   *turn
	known  *head // as it was before anything was looked at
	// next is the manifest to be; sources are the Pods that the files of earlier snapshots in it come from.
	next    manifest
	sources []string

	encoder *zstd.Encoder
	content []byte       // of the file that is read
	raw     []byte       // of the frame that has begun
	packed  bytes.Buffer // the pack that has begun
	current pack
}

func (s *saving) run(ctx context.Context) error {
	shops, err := os.OpenRoot(s.Folder)
	if err != nil {
		return err
	}
	defer shops.Close()
	if s.root, err = openFolder(shops, s.Shop); err != nil {
		return err
	}
	defer s.root.Close()
	known, _, err := loadHead(ctx, s.Storage, s.Compatibility, s.Shop)
	if err != nil {
		return err
	}
	s.known = known
	if known.held("", s.Now()) {
		return errBusy
	}
	// Before anything is looked at: what is invalidated while this is under way is in it, perhaps.
	invalid, err := invalidations(ctx, s.Storage, s.Shop)
	if err != nil {
		return err
	}
	if s.Validate != nil {
		if err := s.Validate(ctx, s.root.Name()); err != nil {
			return fmt.Errorf("it is not valid: %w", err)
		}
	}
	files, err := s.walk(ctx)
	if err != nil {
		return err
	}
	last, newest, err := s.last(ctx, known)
	if err != nil {
		return err
	}
	fresh := s.reuse(files, last)
	if last != nil && newest.Invalidation >= invalid && !s.worthIt(len(files), len(fresh), len(last.Files), newest) {
		s.result.Files, s.result.Bytes = len(files), sizeOf(files)
		return nil
	}
	if s.DryRun {
		s.result.New, s.result.Files, s.result.Bytes = len(fresh), len(files), sizeOf(files)
		return nil
	}
	if s.turn, err = s.begin(ctx, known.newest()); err != nil {
		return err
	}
	if err = s.pack(ctx, files, fresh); err == nil {
		err = s.publish(ctx, invalid)
	}
	if err != nil {
		s.turn.giveUp(ctx)
	}
	return err
}

// worthIt says whether so many files, some of them fresh, are to be saved after the last snapshot of so many, and why not.
func (s *saving) worthIt(files, fresh, last int, newest *Generation) bool {
	age := s.taken.Sub(newest.Taken)
	switch r := s.result; {
	case fresh == 0 && files == last:
		r.Unchanged = true
	case float64(files) < s.Least*float64(last) && age < smallerAfter:
		r.Smaller = true
	case (newest.Source != s.Source || s.Source == "") && age < s.Recent && files*10 < last*11:
		r.Recent = true
	default:
		return true
	}
	return false
}

// last is the newest snapshot whose packs can be used, and its manifest; nil when there is none. One that cannot be read is no reason
// not to save: everything is sent anew.
func (s *saving) last(ctx context.Context, known *head) (*manifest, *Generation, error) {
	good := known.good(0, s.taken)
	if len(good) == 0 {
		return nil, nil, nil
	}
	m, err := readManifest(ctx, s.Storage, s.Compatibility, s.Shop, good[0])
	if ctx.Err() != nil {
		return nil, nil, ctx.Err()
	}
	if err != nil {
		slog.Warn("everything is saved anew", "shop", s.Shop, "error", err)
		return nil, nil, nil
	}
	return m, good[0], nil
}

// publish puts the manifest, then the head, which has the lease still.
func (s *saving) publish(ctx context.Context, invalid int64) error {
	content, err := encodeManifest(&s.next)
	if err != nil {
		return err
	}
	if err := s.next.check(s.Shop); err != nil {
		return fmt.Errorf("what was made cannot be read: %w", err)
	}
	hash := hashOf(content)
	if err := s.put(ctx, manifestKey(s.Compatibility, s.Shop, hash), content); err != nil {
		return err
	}
	var sources []string
	for i := range s.next.Packs {
		sources = merge(sources, s.next.Packs[i].Sources...)
	}
	made := Generation{Manifest: hash, Taken: s.taken.UTC(), Source: s.Source, Sources: merge(sources, s.Source), Invalidation: invalid,
		Files: len(s.next.Files), Bytes: sizeOf(s.next.Files)}
	err = s.turn.commit(ctx, &made)
	s.result.Generation, s.result.Files, s.result.Bytes = made.Number, made.Files, made.Bytes
	return err
}
