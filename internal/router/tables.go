package router

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/shopset/shopset/internal/routetable"
)

// Source is where routing tables come from beside files. Watch calls offer with the bytes of each, until the context ends. It
// never gives up: when its own source is gone it tries again.
type Source interface {
	Watch(ctx context.Context, offer func(envelope []byte))
}

// tables takes routing tables from wherever they come, and keeps the last good one.
type tables struct {
	router *Router
	keys   []ed25519.PublicKey
	ended  sync.WaitGroup

	mu      sync.Mutex
	unsaved []byte // in use, but not yet in the cache
	// unsigned was refused because its key is not trusted, which may yet come.
	unsigned     []byte
	unsignedFrom string
	logged       map[string]string // the last problem of each place, said once
}

// filePoll is how often the files are looked at.
const filePoll = 200 * time.Millisecond

func newTables(r *Router) *tables { return &tables{router: r, logged: map[string]string{}} }

// start reads the cache and the file, and goes on looking. The only error is that of the keys: everything else may come later.
func (t *tables) start(ctx context.Context, source Source) error {
	config := &t.router.config.Table
	if err := t.readKeys(); err != nil {
		return err
	}
	if config.Cache != "" {
		table, err := routetable.LoadFile(config.Cache, t.keys)
		switch {
		case err == nil:
			if err := t.router.use(table); err != nil {
				return err
			}
			t.router.log.Info("table", "from", config.Cache, "epoch", table.Epoch, "version", table.Version, "age", time.Since(table.Created).Round(time.Second).String())
		case !errors.Is(err, fs.ErrNotExist):
			t.problem(config.Cache, err)
		}
	}
	var seen fileState
	t.look(&seen)
	t.ended.Go(func() {
		ticker := time.NewTicker(filePoll)
		defer ticker.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-ticker.C:
				t.look(&seen)
			}
		}
	})
	if source != nil {
		t.ended.Go(func() { source.Watch(ctx, func(envelope []byte) { t.offer("source", envelope) }) })
	}
	return nil
}

func (t *tables) wait() { t.ended.Wait() }

// readKeys reads the public keys anew; the ones from before stay when that fails.
func (t *tables) readKeys() error {
	path := t.router.config.Table.PublicKeys
	content, err := readBounded(path, maxKeysFile)
	if err != nil {
		return fmt.Errorf("public keys: %w", err)
	}
	keys, err := routetable.ParsePublicKeys(content)
	if err != nil {
		return fmt.Errorf("public keys: %s: %w", path, err)
	}
	t.keys = keys
	return nil
}

// maxKeysFile is more than the keys of any fleet take.
const maxKeysFile = 64 << 10

// fileState tells whether a file is another one than before.
type fileState struct {
	info    os.FileInfo
	content []byte // as long as a change might not show in the file's time
}

// changed says whether the file must be read. One that changed a moment ago may change again in the same tick of the clock of the file
// system, so it is read until it has become older.
func (s *fileState) changed(info os.FileInfo) bool {
	return s.info == nil || !os.SameFile(s.info, info) || !s.info.ModTime().Equal(info.ModTime()) || s.info.Size() != info.Size() || s.content != nil
}

// look reads the file if it changed, and tries again to keep what could not be kept.
func (t *tables) look(seen *fileState) {
	if path := t.router.config.Table.File; path != "" {
		info, err := os.Stat(path)
		switch {
		case err != nil:
			if seen.info != nil || !errors.Is(err, fs.ErrNotExist) {
				t.problem(path, err)
			}
		case seen.changed(info):
			t.readFile(path, info, seen)
		}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.unsigned != nil {
		t.tryAgain()
	}
	if t.unsaved != nil {
		t.save(t.unsaved)
	}
}

// tryAgain offers the table that was refused for its key once more when that key has come to be trusted. Without this a change of keys
// in the wrong order would leave a router with an old table until the next change of the fleet.
func (t *tables) tryAgain() {
	if err := t.readKeys(); err != nil {
		t.problemLocked(t.router.config.Table.PublicKeys, err)
	} else if t.trusts(t.unsigned) {
		t.offerLocked(t.unsignedFrom, t.unsigned)
	}
}

// trusts says whether the key that a table names is one of the trusted ones.
func (t *tables) trusts(envelope []byte) bool {
	id := routetable.SignedBy(envelope)
	return slices.ContainsFunc(t.keys, func(key ed25519.PublicKey) bool { return routetable.KeyID(key) == id })
}

// freshFile is the age up to which a file is not trusted to show its changes.
const freshFile = time.Second

func (t *tables) readFile(path string, info os.FileInfo, seen *fileState) {
	content, err := readBounded(path, routetable.MaxEnvelope)
	if err != nil {
		t.problem(path, err)
		seen.info = info
		return
	}
	same := seen.content != nil && bytes.Equal(content, seen.content)
	*seen = fileState{info: info}
	if time.Since(info.ModTime()) < freshFile {
		seen.content = append(make([]byte, 0, len(content)+1), content...)
	}
	if !same {
		t.offer(path, content)
	}
}

func readBounded(path string, most int64) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if info.Size() > most {
		return nil, fmt.Errorf("%d bytes, more than %d", info.Size(), most)
	}
	return os.ReadFile(path)
}

// offer takes a table into use if it is good and later than the one in use, and keeps it.
func (t *tables) offer(from string, envelope []byte) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.readKeys(); err != nil {
		t.problemLocked(t.router.config.Table.PublicKeys, err)
	} else {
		delete(t.logged, t.router.config.Table.PublicKeys)
	}
	t.offerLocked(from, envelope)
}

func (t *tables) offerLocked(from string, envelope []byte) {
	t.unsigned = nil
	table, err := routetable.Open(envelope, t.keys)
	if err != nil {
		if errors.Is(err, routetable.ErrSignature) && !t.trusts(envelope) {
			t.unsigned, t.unsignedFrom = envelope, from
		}
		t.count("refused")
		t.problemLocked(from, err)
		return
	}
	if v := t.router.chooser.view.Load(); v != nil {
		if v.table.Fleet != table.Fleet {
			t.count("refused")
			t.problemLocked(from, fmt.Errorf("it is that of fleet %s, and this router serves %s; remove the cache to change over", table.Fleet, v.table.Fleet))
			return
		}
		if !table.After(v.table) {
			t.count("old")
			return
		}
	}
	if err := t.router.use(table); err != nil {
		t.count("refused")
		t.problemLocked(from, err)
		return
	}
	t.count("used")
	delete(t.logged, from)
	t.router.log.Info("table", "from", from, "epoch", table.Epoch, "version", table.Version, "cells", len(table.Cells))
	t.save(envelope)
}

// save keeps a table for the next start. A disk that is full or broken does not keep the router from using it.
func (t *tables) save(envelope []byte) {
	path := t.router.config.Table.Cache
	if path == "" {
		return
	}
	err := routetable.SaveFile(path, envelope, t.keys)
	switch {
	case err == nil:
		t.unsaved = nil
		delete(t.logged, path)
		t.count("kept")
	case errors.Is(err, routetable.ErrOlder):
		t.unsaved = nil
	default:
		if t.unsaved == nil {
			t.count("unkept")
		}
		t.unsaved = envelope
		t.problemLocked(path, err)
	}
}

func (t *tables) count(result string) { t.router.meters.tables.WithLabelValues(result).Inc() }

func (t *tables) problem(from string, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.problemLocked(from, err)
}

// problemLocked says what is wrong with a table, once as long as it stays the same.
func (t *tables) problemLocked(from string, err error) {
	if t.logged[from] == err.Error() {
		return
	}
	t.logged[from] = err.Error()
	t.router.log.Error("routing table is not used or not kept; the last good one stays", "from", from, "error", err)
}
