package main

import (
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/shopset/shopset/internal/warmcache"
)

// isTerminal says whether people look: /dev/null, which is a device of characters as well, is none.
func isTerminal() bool {
	_, err := unix.IoctlGetTermios(int(os.Stderr.Fd()), unix.TCGETS) //nolint:gosec // It is a file descriptor.
	return err == nil
}

// progress draws a bar on a terminal, and writes a line every few seconds elsewhere.
func progress(all int) func(*warmcache.Report) {
	var mu sync.Mutex
	last := time.Now()
	terminal := isTerminal()
	return func(r *warmcache.Report) {
		mu.Lock()
		defer mu.Unlock()
		done := r.Shops + r.Absent + r.OverBudget + r.Failed
		switch now := time.Now(); {
		case terminal && (done == all || now.Sub(last) > 100*time.Millisecond):
			last = now
			filled := 40 * done / max(1, all)
			fmt.Fprintf(os.Stderr, "\r[%s%s] %d of %d shops, %d files ", strings.Repeat("#", filled), strings.Repeat(".", 40-filled), done, all, r.Files)
		case !terminal && now.Sub(last) > 5*time.Second:
			last = now
			slog.Info("restoring", "done", done, "of", all, "files", r.Files, "bytes", r.Bytes)
		}
	}
}

// tell says in a sentence what came of it: to people on a terminal, else in the log.
func tell(r *warmcache.Report) {
	for _, failure := range r.Errors {
		slog.Warn("a shop starts cold", "error", failure)
	}
	if isTerminal() {
		fmt.Fprintf(os.Stderr, "\r\033[K%s\n", r)
		return
	}
	slog.Info(r.String(), "shops", r.Shops, "share", r.Share, "files", r.Files, "bytes", r.Bytes, "seconds", r.Took.Seconds(), "absent", r.Absent,
		"overBudget", r.OverBudget, "failed", r.Failed, "expired", r.Expired)
}
