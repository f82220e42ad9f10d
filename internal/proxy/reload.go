package proxy

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"time"
)

// Reload uses another configuration for requests that come from now on. What is known stays where what is said of it stays the
// same: endpoints and connections to them, stored pages, limits. restart names the settings that are other ones than those in
// use and need a restart.
func (p *Proxy) Reload(config *Config) (restart []string, err error) {
	p.reloading.Lock()
	defer p.reloading.Unlock()
	next, err := p.newPipeline(config)
	if err != nil {
		return nil, err
	}
	p.use(next)
	return outside(p.config, config), nil
}

// outside names what differs of two configurations, and what a reload does not change.
func outside(a, b *Config) (names []string) {
	for name, differ := range map[string]bool{
		"admin":                !reflect.DeepEqual(a.Admin, b.Admin),
		"https":                !reflect.DeepEqual(a.HTTPS, b.HTTPS),
		"http":                 !reflect.DeepEqual(a.HTTP, b.HTTP),
		"certificates":         !reflect.DeepEqual(a.Certificates, b.Certificates),
		"serving":              a.Serving != b.Serving,
		"shutdown":             a.Shutdown != b.Shutdown,
		"accessLog":            a.AccessLog != b.AccessLog,
		"topShops":             a.TopShops != b.TopShops,
		"reload":               a.Reload != b.Reload,
		"limits.headerBytes":   a.Limits.HeaderBytes != b.Limits.HeaderBytes,
		"limits.headerTimeout": a.Limits.HeaderTimeout != b.Limits.HeaderTimeout,
		"limits.idleTimeout":   a.Limits.IdleTimeout != b.Limits.IdleTimeout,
		"limits.stallTimeout":  a.Limits.StallTimeout != b.Limits.StallTimeout, // HTTP/2 has one of its own.
		"limits.streams":       a.Limits.Streams != b.Limits.Streams,
	} {
		if differ {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// files are those that a configuration names and a reload reads: of folders, the pages in them.
func (c *Config) files() (paths []string) {
	folders := []string{c.Maintenance.Page}
	for _, rule := range c.Access {
		paths = append(paths, rule.Users)
	}
	for _, role := range c.Roles {
		if role.Static != nil {
			paths = append(paths, role.Static.File)
		}
		for _, u := range role.Upstreams {
			paths = append(paths, u.CA)
		}
		for _, f := range role.Fallback {
			folders = append(folders, f.Page)
		}
	}
	if redis := c.redis(); redis != nil {
		paths = append(paths, redis.PasswordFile, redis.CA)
	}
	for _, folder := range folders {
		if folder != "" {
			pages, _ := filepath.Glob(filepath.Join(folder, "*.html"))
			paths = append(paths, pages...)
		}
	}
	slices.Sort(paths)
	return slices.DeleteFunc(slices.Compact(paths), func(path string) bool { return path == "" })
}

// state stands for the content of the configuration's file and of all files that it names.
func (c *Config) state(content []byte) [sha256.Size]byte {
	h := sha256.New()
	add := func(part []byte) { // With its length, so that no two lists of parts look alike.
		_, _ = h.Write(binary.AppendUvarint(nil, uint64(len(part))))
		_, _ = h.Write(part)
	}
	add(content)
	for _, path := range c.files() {
		add([]byte(path))
		part := sha256.New()
		if file, err := os.Open(path); err == nil {
			_, _ = io.Copy(part, file) // What cannot be read is another content, too.
			_ = file.Close()
		}
		add(part.Sum(nil))
	}
	return [sha256.Size]byte(h.Sum(nil))
}

// Follow has the proxy look at its configuration file, and at the files that it names, while it serves, and use what changed.
// What cannot be used is told about, once, and tried again; until then the configuration in use stays. Call it before Serve.
func (p *Proxy) Follow(path string) {
	content, _ := os.ReadFile(path) // What cannot be read now is told when it changes.
	f := &follower{proxy: p, path: path, used: p.config.state(content), content: string(content), config: p.config}
	p.follow = func() { f.run(p.ctx) }
}

// follower looks at a configuration file.
type follower struct {
	proxy *Proxy
	path  string
	used  [sha256.Size]byte // the state in use
	// content was read last, config is what it says; nil when that is nothing.
	content string
	config  *Config
	failure string // told already
}

func (f *follower) run(ctx context.Context) {
	ticker := time.NewTicker(f.proxy.config.Reload)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			f.look()
		}
	}
}

func (f *follower) look() {
	content, err := os.ReadFile(f.path)
	if err != nil {
		return // It is being replaced, mostly.
	}
	if f.config == nil || f.content != string(content) {
		f.content = string(content)
		if f.config, err = Load(f.path); err != nil {
			f.config = nil
			f.failed(err)
			return
		}
	}
	state := f.config.state(content)
	if state == f.used {
		f.failure = ""
		return
	}
	restart, err := f.proxy.Reload(f.config)
	if err != nil {
		f.failed(err)
		return
	}
	f.used, f.failure = state, ""
	f.proxy.metrics.configs.WithLabelValues("used").Inc()
	if len(restart) > 0 {
		slog.Warn("the changed configuration is used, but for settings that need a restart", "restart", restart)
		return
	}
	slog.Info("the changed configuration is used")
}

func (f *follower) failed(err error) {
	if f.failure == err.Error() {
		return
	}
	f.failure = err.Error()
	f.proxy.metrics.configs.WithLabelValues("failed").Inc()
	slog.Error("the changed configuration cannot be used, the old one stays", "error", err)
}
