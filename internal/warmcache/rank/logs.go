package rank

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/klauspost/compress/zstd"
)

// LogFormat says what is in an access log.
type LogFormat struct {
	// Shop and Time name the fields of JSON lines, or the columns of CSV with a header. Default "shop" and "time".
	Shop, Time string
	// CSV is for tables; else there is a JSON object in each line.
	CSV bool
	// Requests names a column or field with a number of requests; each line is one when empty.
	Requests string
	// Valid says whether a text can be a shop's name; nil when all can. Scanners ask for names that nobody has.
	Valid func(shop string) bool
}

// maxLine bounds a line of a log.
const maxLine = 1 << 20

// LogResult is what was read of logs.
type LogResult struct {
	Lines, Skipped int
	// Broken logs were read up to where they could be.
	Broken int
}

// ErrBroken says that a log cannot be read on because of what is in it: it was cut off, or is not what it begins like.
var ErrBroken = errors.New("the log is broken")

// noticing remembers what kept a log from being read that has nothing to do with what is in it.
type noticing struct {
	io.Reader
	failure error
}

func (n *noticing) Read(p []byte) (int, error) {
	read, err := n.Reader.Read(p)
	if err != nil && err != io.EOF { //nolint:errorlint // Readers return it as it is.
		n.failure = err
	}
	return read, err
}

// ReadLog counts the requests of an access log, plain or compressed by gzip or zstd, line by line. Lines that make no sense, are
// longer than a line may be, or name no shop, are skipped and counted. An error is one of reading; ErrBroken if the log itself is
// to blame.
func ReadLog(ctx context.Context, from io.Reader, format LogFormat, counter *Counter) (LogResult, error) {
	if format.Shop == "" {
		format.Shop = "shop"
	}
	if format.Time == "" {
		format.Time = "time"
	}
	source := &noticing{Reader: from}
	result, err := readPlain(ctx, source, format, counter)
	if err != nil && source.failure == nil && ctx.Err() == nil && !errors.Is(err, errColumn) {
		err = fmt.Errorf("%w: %w", ErrBroken, err)
	}
	return result, err
}

func readPlain(ctx context.Context, from io.Reader, format LogFormat, counter *Counter) (LogResult, error) {
	plain, err := decompress(from)
	if err != nil {
		return LogResult{}, err
	}
	defer plain.Close()
	if format.CSV {
		return readCSV(ctx, plain, format, counter)
	}
	return readJSON(ctx, plain, format, counter)
}

// errColumn is for a table that is not the one that was described: no fault of the log.
var errColumn = errors.New("there is no such column")

// decompress looks at the first bytes.
func decompress(from io.Reader) (io.ReadCloser, error) {
	buffered := bufio.NewReaderSize(from, 256<<10)
	magic, err := buffered.Peek(4)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	switch {
	case bytes.HasPrefix(magic, []byte{0x1f, 0x8b}):
		return gzip.NewReader(buffered)
	case bytes.HasPrefix(magic, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		decoder, err := zstd.NewReader(buffered, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(128<<20))
		if err != nil {
			return nil, err
		}
		return decoder.IOReadCloser(), nil
	}
	return io.NopCloser(buffered), nil
}

func readJSON(ctx context.Context, from io.Reader, format LogFormat, counter *Counter) (result LogResult, err error) {
	lines := bufio.NewReaderSize(from, maxLine)
	for {
		line, err := lines.ReadSlice('\n')
		tooLong := false
		for errors.Is(err, bufio.ErrBufferFull) {
			line, tooLong = nil, true
			_, err = lines.ReadSlice('\n')
			if ctx.Err() != nil {
				return result, ctx.Err()
			}
		}
		if err != nil && !errors.Is(err, io.EOF) {
			return result, err
		}
		end := errors.Is(err, io.EOF)
		if end && len(line) == 0 && !tooLong {
			return result, nil //nolint:nilerr // It is the end.
		}
		if result.Lines++; result.Lines%10000 == 0 && ctx.Err() != nil {
			return result, ctx.Err()
		}
		if tooLong || !addJSON(line, format, counter) {
			result.Skipped++
		}
		if end {
			return result, nil
		}
	}
}

func addJSON(line []byte, format LogFormat, counter *Counter) bool {
	var fields map[string]json.RawMessage
	if json.Unmarshal(line, &fields) != nil {
		return false
	}
	text := func(name string) string {
		var value string
		if json.Unmarshal(fields[name], &value) != nil {
			return strings.Trim(string(fields[name]), `"`)
		}
		return value
	}
	return add(counter, text(format.Shop), text(format.Time), format, text)
}

func readCSV(ctx context.Context, from io.Reader, format LogFormat, counter *Counter) (result LogResult, err error) {
	bound := &bounded{from: from, left: maxLine}
	reader := csv.NewReader(bound)
	reader.ReuseRecord, reader.FieldsPerRecord = true, -1
	header, err := reader.Read()
	if errors.Is(err, io.EOF) {
		return result, nil // There is nothing in it.
	}
	if err != nil {
		return result, fmt.Errorf("the header: %w", err)
	}
	columns := map[string]int{}
	for i, name := range header {
		columns[strings.TrimSpace(name)] = i
	}
	if _, ok := columns[format.Shop]; !ok {
		return result, fmt.Errorf("%w as %q", errColumn, format.Shop)
	}
	for {
		bound.left = maxLine
		record, err := reader.Read()
		var wrong *csv.ParseError
		switch {
		case errors.Is(err, io.EOF):
			return result, nil
		case errors.As(err, &wrong):
			result.Lines++
			result.Skipped++
			continue
		case err != nil:
			return result, err
		}
		if result.Lines++; result.Lines%10000 == 0 && ctx.Err() != nil {
			return result, ctx.Err()
		}
		text := func(name string) string {
			if i, ok := columns[name]; ok && i < len(record) {
				return record[i]
			}
			return ""
		}
		if !add(counter, text(format.Shop), text(format.Time), format, text) {
			result.Skipped++
		}
	}
}

// bounded fails when a record has no end: a quotation mark that is never closed would else take the rest of the table into memory.
type bounded struct {
	from io.Reader
	left int
}

func (b *bounded) Read(p []byte) (int, error) {
	if b.left <= 0 {
		return 0, fmt.Errorf("a record has more than %d bytes; is a quotation mark not closed?", maxLine)
	}
	n, err := b.from.Read(p)
	b.left -= n
	return n, err
}

func add(counter *Counter, shop, at string, format LogFormat, text func(string) string) bool {
	requests := 1.0
	if format.Requests != "" {
		if _, err := fmt.Sscanf(text(format.Requests), "%g", &requests); err != nil {
			return false
		}
	}
	when := time.Time{}
	if at != "" {
		parsed, err := parseTime(at)
		if err != nil {
			return false
		}
		when = parsed
	}
	if shop == "" || len(shop) > 128 || requests <= 0 || format.Valid != nil && !format.Valid(shop) {
		return false
	}
	counter.Add(shop, when, requests)
	return true
}

// parseTime reads what logs have: RFC 3339, or seconds since 1970.
func parseTime(text string) (time.Time, error) {
	if parsed, err := time.Parse(time.RFC3339Nano, text); err == nil {
		return parsed, nil
	}
	if parsed, err := time.Parse("2006-01-02 15:04:05", strings.TrimSuffix(text, " UTC")); err == nil {
		return parsed, nil
	}
	var seconds float64
	if _, err := fmt.Sscanf(text, "%g", &seconds); err != nil || seconds < 0 || seconds > 1e11 {
		return time.Time{}, fmt.Errorf("%.40q is no time", text)
	}
	return time.Unix(0, int64(seconds*1e9)), nil
}
