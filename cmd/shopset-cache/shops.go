package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"github.com/shopset/shopset/internal/warmcache"
	"github.com/shopset/shopset/internal/warmcache/storage"
)

// chosen are the shops that are named, or those of a ranking, or all folders.
func chosen(ctx context.Context, s storage.Storage, args []string, ranking, folder string) ([]warmcache.Shop, error) {
	var shops []warmcache.Shop
	switch {
	case len(args) > 0:
		for _, name := range args {
			if err := warmcache.CheckShop(name); err != nil {
				return nil, err
			}
			shops = append(shops, warmcache.Shop{Name: name})
		}
		return shops, nil
	case ranking != "":
		made, err := readRanking(ctx, s, ranking)
		if err != nil {
			return nil, err
		}
		for _, shop := range made.Shops {
			if warmcache.CheckShop(shop.Name) == nil { // Nobody's name.
				shops = append(shops, warmcache.Shop{Name: shop.Name, Share: shop.Share})
			}
		}
		return shops, nil
	case folder == "":
		return nil, errors.New("want shops, or --ranking")
	}
	entries, err := os.ReadDir(folder)
	if err != nil {
		return nil, err
	}
	for _, entry := range entries {
		if entry.IsDir() && warmcache.CheckShop(entry.Name()) == nil {
			shops = append(shops, warmcache.Shop{Name: entry.Name()})
		}
	}
	return shops, nil
}

// validator runs a command with a shop's folder as its last argument; nil for none.
func validator(line string) func(ctx context.Context, folder string) error {
	words := strings.Fields(line)
	if len(words) == 0 {
		return nil
	}
	return func(ctx context.Context, folder string) error {
		command := exec.CommandContext(ctx, words[0], append(words[1:len(words):len(words)], folder)...) //nolint:gosec // That is what it is for.
		// When it is killed, what it has started may hold its output open for ever.
		command.WaitDelay = time.Second
		said := &beginning{left: 500}
		command.Stdout, command.Stderr = said, said
		if err := command.Run(); err != nil {
			return fmt.Errorf("%s: %w: %s", line, errors.Join(ctx.Err(), err), said.text)
		}
		return nil
	}
}

// beginning keeps the first bytes that are written to it.
type beginning struct {
	text []byte
	left int
}

// Write implements io.Writer.
func (b *beginning) Write(p []byte) (int, error) {
	n := min(len(p), b.left)
	b.text, b.left = append(b.text, p[:n]...), b.left-n
	return len(p), nil
}

// size is a flag of bytes: 1073741824, 1GiB, 1Gi, 1GB.
type size int64

func (s *size) String() string { return strconv.FormatInt(int64(*s), 10) }

// Set implements flag.Value.
func (s *size) Set(text string) error {
	number := strings.TrimRight(text, "BKMGTibkmgt")
	unit := strings.ToLower(strings.TrimSuffix(strings.TrimSuffix(text[len(number):], "B"), "b"))
	factors := map[string]float64{"": 1, "k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12, "ki": 1 << 10, "mi": 1 << 20, "gi": 1 << 30, "ti": 1 << 40}
	factor, known := factors[unit]
	n, err := strconv.ParseFloat(number, 64)
	if err != nil || !known || n < 0 || n*factor >= math.MaxInt64 {
		return fmt.Errorf("%q: want bytes, such as 1073741824, 1GiB or 1GB", text)
	}
	*s = size(n * factor)
	return nil
}

// bytes is a flag of that type.
func (c *command) bytes(name string, value int64, usage string) *size {
	s := size(value)
	c.flags.Var(&s, name, usage)
	return &s
}
