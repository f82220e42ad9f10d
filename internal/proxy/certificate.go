package proxy

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// certificateFiles is one certificate in two files, read again when they change. Their content is
// compared, not their times: Kubernetes swaps a symbolic link, and people restore backups.
type certificateFiles struct {
	certificate, key string

	current atomic.Pointer[tls.Certificate]

	mu   sync.Mutex
	last string // both files as they were last read, whether they fitted or not
}

func openCertificate(certificate, key string) (*certificateFiles, error) {
	files := &certificateFiles{certificate: certificate, key: key}
	if _, err := files.reload(); err != nil {
		return nil, err
	}
	return files, nil
}

// GetCertificate is for tls.Config.
func (f *certificateFiles) GetCertificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	return f.current.Load(), nil
}

// reload reads the files. It says whether they changed; when they do not fit, the pair in use stays.
func (f *certificateFiles) reload() (changed bool, err error) {
	certificate, err := os.ReadFile(f.certificate)
	if err != nil {
		return false, fmt.Errorf("certificate: %w", err)
	}
	key, err := os.ReadFile(f.key)
	if err != nil {
		return false, fmt.Errorf("key of the certificate: %w", err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	content := string(certificate) + "\x00" + string(key)
	if content == f.last {
		return false, nil
	}
	f.last = content
	pair, err := tls.X509KeyPair(certificate, key)
	if err != nil {
		return true, fmt.Errorf("certificate %s with key %s: %w", f.certificate, f.key, err)
	}
	f.current.Store(&pair)
	return true, nil
}

// expires is when the certificate in use ends.
func (f *certificateFiles) expires() time.Time {
	if leaf := f.current.Load().Leaf; leaf != nil {
		return leaf.NotAfter
	}
	return time.Time{}
}

// watch looks at the files until the context ends. failed is told of every problem once.
func (f *certificateFiles) watch(ctx context.Context, every time.Duration, failed func(error)) {
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	var known string
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		changed, err := f.reload()
		switch {
		case err == nil && changed:
			slog.Info("certificate reloaded", "expires", f.expires())
			known = ""
		case err != nil && err.Error() != known:
			known = err.Error()
			slog.Error("certificate not reloaded, the old one stays in use", "error", err)
			failed(err)
		}
	}
}
