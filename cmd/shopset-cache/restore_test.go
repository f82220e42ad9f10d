package main

import (
	"context"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/shopset/shopset/internal/admin"
	"github.com/shopset/shopset/internal/warmcache"
)

// TestEnds: what never ends, and cannot be interrupted, holds up nobody.
func TestEnds(t *testing.T) {
	never := make(chan struct{})
	defer close(never)
	err := endsIn(t.Context(), time.Millisecond, func(context.Context) error { <-never; return nil })
	if err == nil || !strings.Contains(err.Error(), "does not answer") {
		t.Error(err)
	}
	wrong := errors.New("something else")
	for _, limit := range []time.Duration{0, time.Hour} {
		if err := endsIn(t.Context(), limit, func(context.Context) error { return wrong }); !errors.Is(err, wrong) {
			t.Errorf("%s: %v", limit, err)
		}
	}
}

// TestHangingFolder: a storage that is a folder whose files cannot be opened, ever, as on a server that is away. The real restore
// hangs at it, and is left behind.
func TestHangingFolder(t *testing.T) {
	folder := t.TempDir()
	head := filepath.Join(folder, "v1", "1", "heads", "a")
	if err := errors.Join(os.MkdirAll(filepath.Dir(head), 0o755), unix.Mkfifo(head, 0o600)); err != nil {
		t.Fatal(err)
	}
	c := &command{name: "restore", flags: flag.NewFlagSet("restore", flag.ContinueOnError), admin: admin.New(), compat: new(string), dryRun: new(bool)}
	*c.compat = "1"
	r := &restoring{command: c, flags: c.restoreFlags(), folder: t.TempDir()}
	if err := c.flags.Parse([]string{"--budget-time", "1h", "a"}); err != nil {
		t.Fatal(err)
	}
	s, err := openStorage(t.Context(), folder, c.admin.Registry())
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	err = endsIn(t.Context(), 50*time.Millisecond, func(ctx context.Context) error {
		defer close(ended)
		return r.run(ctx, s, false)
	})
	if err == nil || !strings.Contains(err.Error(), "does not answer") {
		t.Error(err)
	}
	// The server is back: nothing of this test outlives it.
	for back := false; !back; {
		pipe, err := os.OpenFile(head, os.O_WRONLY|unix.O_NONBLOCK, 0)
		if err == nil {
			err = pipe.Close()
		}
		if back = err == nil; !back {
			select {
			case <-ended:
				back = true
			case <-time.After(10 * time.Millisecond):
			}
		}
	}
	<-ended
}

// TestReadyTwice: the deadline and the end may come at the same time.
func TestReadyTwice(t *testing.T) {
	ready := (&command{admin: admin.New()}).readyAfter("restore")
	var group sync.WaitGroup
	for range 8 {
		group.Go(ready)
	}
	group.Wait()
}

// TestLeft: what an init container has used of the budgets is not there for the sidecar.
func TestLeft(t *testing.T) {
	c := &command{flags: flag.NewFlagSet("keep", flag.ContinueOnError)}
	r := &restoring{command: c, flags: c.restoreFlags(), before: &warmcache.Report{Bytes: 100, Files: 10}}
	for _, test := range []struct{ bytes, files, wantBytes, wantFiles int64 }{{0, 0, 0, 0}, {150, 10, 50, -1}, {100, 11, -1, 1}, {50, 5, -1, -1}} {
		*r.flags.bytes, *r.flags.files = size(test.bytes), test.files
		if bytes, files := r.left(); bytes != test.wantBytes || files != test.wantFiles {
			t.Errorf("%+v: %d and %d are left", test, bytes, files)
		}
	}
}

// TestSecrets: a password that somebody has put into an address is in no error, and so in no log and no status.
func TestSecrets(t *testing.T) {
	for _, address := range []string{"s3://key:hunter2@caches/warm", "s3://caches/warm?secret-key=hunter2", "s3://caches?endpoint=https://key:hunter2@s3.example",
		"https://key:hunter2@s3.example/caches", "s3://caches/%zz?hunter2", "s3://caches?a=hunter2;b", "s3://caches?region=a&region=hunter2"} {
		_, err := openStorage(t.Context(), address, admin.New().Registry())
		if err == nil || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: %v", address, err)
		}
	}
}
