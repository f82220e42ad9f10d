package warmcache

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"syscall"

	"github.com/klauspost/compress/zstd"

	"github.com/shopset/shopset/internal/warmcache/storage"
)

// pack reads the files that are new, and sends them.
func (s *saving) pack(ctx context.Context, files []file, fresh []int) (err error) {
	if s.encoder, err = zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithWindowSize(frameBytes)); err != nil {
		return err
	}
	defer s.encoder.Close()
	torn := map[int]bool{}
	for _, i := range fresh {
		f := &files[i]
		if f.Size == 0 {
			f.Pack = 0
			continue
		}
		if err := s.wait(ctx, f.Size); err != nil {
			return err
		}
		content, err := s.read(f)
		if err != nil {
			return err
		}
		if content == nil {
			torn[i] = true
			s.result.LeftOut++
			continue
		}
		f.Pack, f.Offset = len(s.next.Packs), s.current.Raw
		if err := s.append(content); err != nil {
			return err
		}
		s.result.New++
		if s.packed.Len() >= packBytes || s.current.Raw >= packRaw {
			if err := s.endPack(ctx); err != nil {
				return err
			}
		}
	}
	if err := s.endPack(ctx); err != nil {
		return err
	}
	for i := range files {
		if !torn[i] {
			s.next.Files = append(s.next.Files, files[i])
		}
	}
	s.next.Shop = s.Shop
	return nil
}

// wait keeps the bounds of the CPU and of what is read.
func (s *saving) wait(ctx context.Context, bytes int64) error {
	if err := s.Pace.Wait(ctx); err != nil {
		return err
	}
	for s.Reads != nil && bytes > 0 {
		n := min(bytes, int64(s.Reads.Burst()))
		if err := s.Reads.WaitN(ctx, int(n)); err != nil {
			return err
		}
		bytes -= n
	}
	return nil
}

// read returns the content of a file, nil if it was written meanwhile. It is good until the next one is read.
func (s *saving) read(f *file) ([]byte, error) {
	// A pipe that somebody puts in its place does not hold up anything.
	opened, err := s.root.OpenFile(f.Path, os.O_RDONLY|syscall.O_NONBLOCK|syscall.O_NOFOLLOW, 0)
	if err != nil {
		// It went, or is a link by now, or something else that is not to be opened. That is no failure of the disk.
		if info, failure := s.root.Lstat(f.Path); failure != nil || !info.Mode().IsRegular() || errors.Is(err, fs.ErrPermission) {
			return nil, nil //nolint:nilerr // As above.
		}
		return nil, err
	}
	defer opened.Close()
	before, err := opened.Stat()
	if err != nil || !before.Mode().IsRegular() || before.Size() != f.Size || before.ModTime().UnixNano() != f.Modified {
		return nil, nil //nolint:nilerr // It is another one by now.
	}
	if int64(cap(s.content)) < f.Size {
		s.content = make([]byte, f.Size)
	}
	content := s.content[:f.Size]
	if _, err := io.ReadFull(opened, content); err != nil {
		return nil, nil //nolint:nilerr // It was cut while it was read.
	}
	after, err := opened.Stat()
	if err != nil || after.Size() != f.Size || !after.ModTime().Equal(before.ModTime()) || changed(after) != changed(before) {
		return nil, nil //nolint:nilerr // It was written while it was read.
	}
	return content, nil
}

// changed is when a file was changed last, by the kernel's own account, which no program sets.
func changed(info fs.FileInfo) syscall.Timespec {
	if stat, ok := info.Sys().(*syscall.Stat_t); ok {
		return stat.Ctim
	}
	return syscall.Timespec{}
}

// append adds raw content to the pack that has begun.
func (s *saving) append(content []byte) error {
	s.current.Raw += int64(len(content))
	for len(content) > 0 {
		n := min(len(content), frameBytes-len(s.raw))
		s.raw = append(s.raw, content[:n]...)
		content = content[n:]
		if len(s.raw) == frameBytes {
			s.endFrame()
		}
	}
	return nil
}

func (s *saving) endFrame() {
	if len(s.raw) == 0 {
		return
	}
	sum := sha256.Sum256(s.raw)
	before := s.packed.Len()
	s.packed.Grow(frameBytes + frameBytes/8)
	s.packed.Write(s.encoder.EncodeAll(s.raw, s.packed.AvailableBuffer()))
	s.current.Frames = append(s.current.Frames, frame{s.packed.Len() - before, sum[:]})
	s.raw = s.raw[:0]
}

func (s *saving) endPack(ctx context.Context) error {
	s.endFrame()
	if s.current.Raw == 0 {
		return nil
	}
	s.current.Hash = hashOf(s.packed.Bytes())
	s.current.Sources = merge(s.sources, s.Source)
	if len(s.next.Packs) == maxPacks {
		return fmt.Errorf("it needs more than %d packs", maxPacks)
	}
	if err := s.put(ctx, packKey(s.Compatibility, s.Shop, s.current.Hash), s.packed.Bytes()); err != nil {
		return err
	}
	s.next.Packs = append(s.next.Packs, s.current)
	s.current = pack{}
	s.packed.Reset()
	return nil
}

// put sends an object that is named by its content.
func (s *saving) put(ctx context.Context, key string, content []byte) error {
	if err := s.turn.renew(ctx); err != nil {
		return err
	}
	s.result.SentBytes += int64(len(content))
	_, err := s.Storage.Put(ctx, key, content, storage.Condition{})
	return err
}
