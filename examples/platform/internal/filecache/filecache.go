// Package filecache keeps results of expensive work in small files below one folder.
//
// It promises that Get returns either exactly what Put was given for the same key, or a reason why
// not: a file that is torn, foreign or made for another key is never used. Put replaces a file in
// one step (a temporary file and a rename), so a reader sees the old or the new one. No path leads
// out of the folder (os.Root). A folder that cannot be written is no error for the caller: the work
// is merely done again, and the metrics say so.
//
// A file is one line of header and the content:
//
//	shopset-cache 1 KEY SHA256-OF-CONTENT LENGTH\n
//	CONTENT
//
// It holds no path, time or name of a machine, so a copy of the folder is as good as the folder.
// The key says what the content was made of; it is the caller's, in hexadecimal.
//
// Limits: nothing is synced to the disk, since a torn file is recognised; a file is at most maxFile
// bytes; the number of files is the caller's concern, who should not put what varies into the name,
// but into the key. Names of temporary files begin with ".tmp-"; one that a crash left is
// overwritten by nobody and may be removed.
package filecache

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

const (
	magic   = "shopset-cache 1 "
	maxFile = 4 << 20
)

// Key makes a key of parts; no two lists of parts have the same.
func Key(parts ...string) string {
	h := sha256.New()
	for _, part := range parts {
		fmt.Fprintf(h, "%d:%s", len(part), part)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// Cache is a folder of files. Make one with Open.
type Cache struct {
	dir      string
	root     atomic.Pointer[os.Root]
	hits     *prometheus.CounterVec
	misses   *prometheus.CounterVec
	failures prometheus.Counter
	writable prometheus.Gauge

	mu        sync.Mutex
	lastError time.Time
}

// Open returns the cache in dir, with metrics named prefix_…. A folder that cannot be opened makes
// a cache that misses; it is looked for again at each Put.
func Open(dir, prefix string, registry prometheus.Registerer) *Cache {
	c := &Cache{
		dir: dir,
		hits: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: prefix + "_hits_total", Help: "Files that were found and used, by kind."}, []string{"kind"}),
		misses: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: prefix + "_misses_total",
			Help: "Files that could not be used, by kind and reason: absent, stale (made of something else), torn, unreadable."},
			[]string{"kind", "reason"}),
		failures: prometheus.NewCounter(prometheus.CounterOpts{
			Name: prefix + "_write_errors_total", Help: "Files that could not be written."}),
		writable: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: prefix + "_writable", Help: "1 when the last write succeeded, 0 when the cache cannot keep anything."}),
	}
	registry.MustRegister(c.hits, c.misses, c.failures, c.writable)
	c.writable.Set(1)
	if err := c.open(); err != nil {
		c.failed(err)
	}
	return c
}

// open opens the folder and tries whether it can be written.
func (c *Cache) open() error {
	if c.root.Load() == nil {
		if err := os.MkdirAll(c.dir, 0o755); err != nil {
			return err
		}
		root, err := os.OpenRoot(c.dir)
		if err != nil {
			return err
		}
		if !c.root.CompareAndSwap(nil, root) {
			root.Close()
		}
	}
	return c.write(".tmp-probe-"+rand.Text(), nil, "")
}

// Get returns the content of the file name if it was made for key.
func (c *Cache) Get(kind, name, key string) ([]byte, bool) {
	content, reason := c.read(name, key)
	if reason != "" {
		c.misses.WithLabelValues(kind, reason).Inc()
		return nil, false
	}
	c.hits.WithLabelValues(kind).Inc()
	return content, true
}

// Peek is Get without a trace in the metrics, for a second look at the same question.
func (c *Cache) Peek(name, key string) ([]byte, bool) {
	content, reason := c.read(name, key)
	return content, reason == ""
}

func (c *Cache) read(name, key string) (content []byte, reason string) {
	root := c.root.Load()
	if root == nil {
		return nil, "unreadable"
	}
	file, err := root.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, "absent"
	}
	if err != nil {
		return nil, "unreadable"
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil || !info.Mode().IsRegular() || info.Size() > maxFile {
		return nil, "unreadable"
	}
	all := make([]byte, info.Size())
	if _, err := io.ReadFull(file, all); err != nil {
		return nil, "torn"
	}
	return parse(all, key)
}

func parse(all []byte, key string) (content []byte, reason string) {
	end := bytes.IndexByte(all, '\n')
	if end < 0 || !bytes.HasPrefix(all, []byte(magic)) {
		return nil, "torn"
	}
	fields := bytes.Fields(all[len(magic):end])
	if len(fields) != 3 {
		return nil, "torn"
	}
	if string(fields[0]) != key {
		return nil, "stale"
	}
	content = all[end+1:]
	if string(fields[2]) != fmt.Sprint(len(content)) || string(fields[1]) != sum(content) {
		return nil, "torn"
	}
	return content, ""
}

func sum(content []byte) string {
	h := sha256.Sum256(content)
	return hex.EncodeToString(h[:])
}

// Put keeps the content under name for key. A failure is only counted and logged.
func (c *Cache) Put(name, key string, content []byte) {
	var err error
	if c.root.Load() == nil {
		err = c.open()
	}
	if err == nil {
		header := fmt.Sprintf("%s%s %s %d\n", magic, key, sum(content), len(content))
		err = c.write(path.Dir(name)+"/.tmp-"+rand.Text(), append([]byte(header), content...), name)
	}
	if err != nil {
		c.failed(err)
		return
	}
	c.writable.Set(1)
}

// write makes the file temporary and renames it; without a name it is only a try.
func (c *Cache) write(temporary string, content []byte, name string) error {
	root := c.root.Load()
	if len(content) > maxFile {
		return fmt.Errorf("%s: %d bytes are more than %d", name, len(content), maxFile)
	}
	file, err := root.OpenFile(temporary, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if errors.Is(err, fs.ErrNotExist) {
		if err = root.MkdirAll(path.Dir(temporary), 0o755); err == nil {
			file, err = root.OpenFile(temporary, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
		}
	}
	if err != nil {
		return err
	}
	_, err = file.Write(content)
	if closeErr := file.Close(); err == nil {
		err = closeErr
	}
	if err == nil && name != "" {
		if err = root.Rename(temporary, name); err == nil {
			return nil
		}
	}
	return errors.Join(err, root.Remove(temporary))
}

// failed counts a failed write and logs at most one in ten seconds: a full disk fails each.
func (c *Cache) failed(err error) {
	c.failures.Inc()
	c.writable.Set(0)
	c.mu.Lock()
	defer c.mu.Unlock()
	if now := time.Now(); now.Sub(c.lastError) > 10*time.Second {
		c.lastError = now
		slog.Error("the cache keeps nothing; pages are made anew each time", "dir", c.dir, "error", err)
	}
}
