package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/shopset/shopset/internal/warmcache"
	"github.com/shopset/shopset/internal/warmcache/rank"
	"github.com/shopset/shopset/internal/warmcache/storage"
)

// defaultRanking is the one that Pods follow when they are told no other.
const defaultRanking = "@default"

// rankingKey is where a ranking named @NAME is in the storage; empty for other names, which are files.
func rankingKey(name string) string {
	if key, ok := strings.CutPrefix(name, "@"); ok {
		return "v1/rankings/" + key
	}
	return ""
}

// readRanking reads a ranking from a file, or from the storage.
func readRanking(ctx context.Context, s storage.Storage, name string) (*rank.Ranking, error) {
	ranking, err := func() (*rank.Ranking, error) {
		var from io.ReadCloser
		var err error
		if key := rankingKey(name); key == "" {
			from, err = os.Open(name)
		} else if err = storage.CheckKey(key); err == nil {
			from, _, err = s.Get(ctx, key, 0, -1)
		}
		if err != nil {
			return nil, err
		}
		defer from.Close()
		return rank.Read(from)
	}()
	if err != nil {
		return nil, fmt.Errorf("ranking %s: %w", name, err)
	}
	return ranking, nil
}

// writeRanking writes a ranking to stdout, a file, or the storage.
func writeRanking(ctx context.Context, s storage.Storage, ranking *rank.Ranking, name string) error {
	if name == "-" {
		return ranking.Write(os.Stdout)
	}
	key := rankingKey(name)
	if key == "" {
		return replaceFile(name, ranking.Write)
	}
	if s == nil {
		return fmt.Errorf("--out %s is in the storage: want --storage", name)
	}
	if err := storage.CheckKey(key); err != nil {
		return fmt.Errorf("--out: %w", err)
	}
	var content bytes.Buffer
	if err := ranking.Write(&content); err != nil {
		return err
	}
	_, err := s.Put(ctx, key, content.Bytes(), storage.Condition{})
	return err
}

// toRestore are the shops that are named, or those of a ranking. Without one they are those of the default ranking; and as long as
// nobody has made that, all that there are.
func toRestore(ctx context.Context, s storage.Storage, args []string, ranking, compat string) ([]warmcache.Shop, error) {
	if len(args) > 0 || ranking != "" {
		return chosen(ctx, s, args, ranking, "")
	}
	shops, err := chosen(ctx, s, nil, defaultRanking, "")
	if !errors.Is(err, storage.ErrNotFound) {
		return shops, err
	}
	names, err := warmcache.Names(ctx, s, compat)
	all := make([]warmcache.Shop, len(names))
	for i, name := range names {
		all[i] = warmcache.Shop{Name: name, Share: 1 / float64(len(names))} // Nobody knows better.
	}
	return all, err
}

// toSave are the shops that are named, or those of a ranking. Without one they are those of the default ranking; and as long as
// nobody has made that, all that the folder has.
func toSave(ctx context.Context, s storage.Storage, args []string, ranking, folder string) ([]warmcache.Shop, error) {
	if len(args) > 0 || ranking != "" {
		return chosen(ctx, s, args, ranking, folder)
	}
	shops, err := chosen(ctx, s, nil, defaultRanking, folder)
	if errors.Is(err, storage.ErrNotFound) {
		return chosen(ctx, s, nil, "", folder)
	}
	return shops, err
}
