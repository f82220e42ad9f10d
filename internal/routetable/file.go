package routetable

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// ErrOlder is the kind of error for a table that would replace a later one.
var ErrOlder = errors.New("the routing table is not later than the one that is kept")

// errUnusable is the kind of error for a file that is there and does not open.
var errUnusable = errors.New("is not usable")

// Added to the name of the file: the table before, and the one that is being written.
const (
	formerSuffix = ".former"
	newSuffix    = ".new"
)

// SaveFile keeps a signed table as the last good one. It refuses one that is not later than what is there, or of another
// fleet; the very same bytes are kept without a write. A file that does not open (torn, or signed by a key that
// is no longer trusted) is replaced by whatever does. One process at a time may save to a path.
func SaveFile(path string, envelope []byte, trusted []ed25519.PublicKey) error {
	table, err := Open(envelope, trusted)
	if err != nil {
		return err
	}
	kept, err := open(path, trusted)
	usable := err == nil
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, errUnusable) {
			return err
		}
		// The former one has been good once: older than it is older still.
		kept, _ = open(path+formerSuffix, trusted)
	}
	switch {
	case kept != nil && kept.Fleet != table.Fleet:
		return fmt.Errorf("the routing table is that of fleet %s, and %s holds that of fleet %s; use a file for each", table.Fleet, path, kept.Fleet)
	case usable && kept.Epoch == table.Epoch && kept.Version == table.Version && same(path, envelope):
		return nil
	case !table.After(kept) && (usable || kept.Epoch != table.Epoch || kept.Version != table.Version):
		return fmt.Errorf("%w: epoch %d, version %d against %d, %d in %s", ErrOlder, table.Epoch, table.Version, kept.Epoch, kept.Version, path)
	}
	return replace(path, envelope, usable)
}

// LoadFile opens the last good table, or the one before if that does not open. The error of one that was never kept
// is fs.ErrNotExist.
func LoadFile(path string, trusted []ed25519.PublicKey) (*Table, error) {
	table, err := open(path, trusted)
	if err == nil {
		return table, nil
	}
	if former, formerErr := open(path+formerSuffix, trusted); formerErr == nil {
		return former, nil
	}
	return nil, err
}

func open(path string, trusted []ed25519.PublicKey) (*Table, error) {
	content, err := read(path)
	if err != nil {
		return nil, err
	}
	table, err := Open(content, trusted)
	if err != nil {
		return nil, fmt.Errorf("%s %w: %w", path, errUnusable, err)
	}
	return table, nil
}

func read(path string) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	return io.ReadAll(io.LimitReader(file, MaxEnvelope+1))
}

func same(path string, envelope []byte) bool {
	content, err := read(path)
	return err == nil && string(content) == string(envelope)
}

// replace writes beside the file and renames, so that a crash leaves the file whole, old or new.
func replace(path string, envelope []byte, keepFormer bool) error {
	temporary := path + newSuffix
	file, err := os.OpenFile(temporary, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o640)
	if err != nil {
		return err
	}
	_, err = file.Write(envelope)
	if err = errors.Join(err, file.Sync(), file.Close()); err != nil {
		return err
	}
	if keepFormer {
		if err := os.Remove(path + formerSuffix); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if err := os.Link(path, path+formerSuffix); err != nil {
			return err
		}
	}
	if err := os.Rename(temporary, path); err != nil {
		return err
	}
	folder, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(folder.Sync(), folder.Close())
}
