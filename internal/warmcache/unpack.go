package warmcache

import (
	"bufio"
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/klauspost/compress/zstd"
)

// kit is what a worker uses for one shop after the other.
type kit struct {
	decoder         *zstd.Decoder
	stream          *bufio.Reader
	compressed, raw []byte // of a frame
	whole           []byte // of a file that spans frames
}

func newKit() (*kit, error) {
	decoder, err := newDecoder()
	if err != nil {
		return nil, err
	}
	return &kit{decoder: decoder, stream: bufio.NewReaderSize(nil, 64<<10), raw: make([]byte, 0, frameBytes)}, nil
}

// keep keeps a buffer for the next file, unless it is a large one: there are few of them.
func (k *kit) keep(whole []byte) {
	if cap(whole) <= 4*frameBytes {
		k.whole = whole
	}
}

// unpack streams a pack, from the first frame that is needed to the last, into files.
func (r *restoring) unpack(ctx context.Context, shop string, p *pack, files []*file, k *kit, w *writer) error {
	if len(files) == 0 {
		return nil
	}
	slices.SortFunc(files, func(a, b *file) int { return cmp.Compare(a.Offset, b.Offset) })
	last := files[len(files)-1]
	first, end := int(files[0].Offset/frameBytes), int((last.Offset+last.Size-1)/frameBytes)
	offset, length, largest := int64(0), int64(0), 0
	for i, f := range p.Frames[:end+1] {
		if i < first {
			offset += int64(f.Size)
			continue
		}
		length += int64(f.Size)
		largest = max(largest, f.Size)
	}
	body, _, err := r.Storage.Get(ctx, packKey(r.Compatibility, shop, p.Hash), offset, length)
	if err != nil {
		return err
	}
	defer body.Close()
	k.stream.Reset(body)
	defer k.stream.Reset(nil)
	if cap(k.compressed) < largest {
		k.compressed = make([]byte, largest)
	}
	whole := k.whole[:0] // of a file that spans frames
	defer func() { k.keep(whole) }()
	var raw []byte
	for i := first; i <= end; i++ {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if r.late.Load() {
			if err := r.Pace.Wait(ctx); err != nil {
				return err
			}
		}
		if raw, err = readFrame(k.stream, k.compressed[:p.Frames[i].Size], p.Frames[i].Sum, k.raw[:0], k.decoder); err != nil {
			return fmt.Errorf("frame %d of pack %.8s: %w", i, p.Hash, err)
		}
		start := int64(i) * frameBytes
		stop := start + int64(len(raw))
		for len(files) > 0 {
			f := files[0]
			from, to := max(f.Offset, start), min(f.Offset+f.Size, stop)
			if from >= to {
				break // It begins in a later frame.
			}
			part := raw[from-start : to-start]
			if f.Offset >= start && f.Offset+f.Size <= stop {
				if err := w.write(f, part); err != nil {
					return err
				}
			} else {
				whole = append(whole, part...)
				if f.Offset+f.Size > stop {
					break
				}
				if err := w.write(f, whole); err != nil {
					return err
				}
				whole = whole[:0]
			}
			files = files[1:]
		}
	}
	if len(files) > 0 {
		return errors.New("files overlap, or are not where they are said to be")
	}
	return nil
}

// readFrame reads, decompresses and checks one frame.
func readFrame(stream io.Reader, compressed, sum, raw []byte, decoder *zstd.Decoder) ([]byte, error) {
	if _, err := io.ReadFull(stream, compressed); err != nil {
		return raw, fmt.Errorf("it is cut off: %w", err)
	}
	raw, err := decoder.DecodeAll(compressed, raw)
	if err != nil {
		return raw, err
	}
	if got := sha256.Sum256(raw); len(raw) > frameBytes || string(got[:]) != string(sum) {
		return raw, errors.New("its content is not what the manifest says")
	}
	return raw, nil
}
