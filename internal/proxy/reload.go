package proxy

import (
	"context"
	"log/slog"
	"os"
	"reflect"
	"time"
)

// retire ends what a pipeline runs beside requests. Requests under way keep their connections.
func (p *pipeline) retire() {
	if p.stop != nil {
		p.stop()
	}
	for _, role := range p.roles {
		role.close()
	}
	p.externals.close()
}

// sameOutside says whether two configurations are alike in what a reload does not change.
func sameOutside(a, b *Config) bool {
	outside := func(c *Config) []any {
		return []any{c.Admin, c.HTTPS, c.HTTP, c.Certificates, c.Redis, c.Shutdown, c.AccessLog, c.TopShops, c.Reload}
	}
	return reflect.DeepEqual(outside(a), outside(b))
}

// Follow has the proxy look at its configuration file while it serves, and use what changed. A file that cannot be used
// is told about, once, and the configuration in use stays. Call it before Serve.
func (p *Proxy) Follow(path string) {
	content, _ := os.ReadFile(path) // What cannot be read now is told when it changes.
	p.follow = func() { p.watch(p.ctx, path, string(content)) }
}

func (p *Proxy) watch(ctx context.Context, path, last string) {
	ticker := time.NewTicker(p.config.Reload)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		content, err := os.ReadFile(path)
		if err != nil || string(content) == last {
			continue // It is being replaced, mostly.
		}
		last = string(content)
		config, err := Load(path)
		restart := false
		if err == nil {
			restart, err = p.Reload(config)
		}
		switch {
		case err != nil:
			p.metrics.configs.WithLabelValues("failed").Inc()
			slog.Error("the changed configuration cannot be used, the old one stays", "error", err)
		case restart:
			p.metrics.configs.WithLabelValues("used").Inc()
			slog.Warn("the changed configuration is used, but for ports, certificates, logs and shutdown: these need a restart")
		default:
			p.metrics.configs.WithLabelValues("used").Inc()
			slog.Info("the changed configuration is used")
		}
	}
}
