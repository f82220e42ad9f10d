package main

import (
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/shopset/shopset/internal/warmcache"
	"github.com/shopset/shopset/internal/warmcache/storage"
	"github.com/shopset/shopset/internal/warmcache/storage/decorate"
)

// caps keep what is done beside live traffic from being noticed.
type caps struct {
	cpus        *float64
	memory      *size
	sent, reads *size
}

func (c *command) caps() caps {
	return caps{
		cpus:   c.flags.Float64("cpus", 0.25, "how many cores may be used on average; 0 for no bound"),
		memory: c.bytes("memory", 192<<20, "how much memory is aimed at; 0 for no bound"),
		sent:   c.bytes("bytes-per-second", 16<<20, "what may be sent, and received, in a second; 0 for no bound"),
		reads:  c.bytes("read-bytes-per-second", 64<<20, "what may be read of files in a second; 0 for no bound"),
	}
}

// apply lowers the priorities and returns the bounds; the storage is bounded by the wrapper.
func (l caps) apply(s storage.Storage) (storage.Storage, *warmcache.Pace) {
	if *l.memory > 0 {
		debug.SetMemoryLimit(int64(*l.memory))
	}
	if *l.cpus > 0 && *l.cpus <= 1 {
		runtime.GOMAXPROCS(1)
	}
	lowPriority()
	return l.bound(s), warmcache.NewPace(*l.cpus)
}

func (l caps) bound(s storage.Storage) storage.Storage {
	limiter := decorate.BytesPerSecond(int(*l.sent))
	return decorate.Limit{Storage: s, Sent: limiter, Received: limiter}
}

// lowPriority makes all threads yield to others, for the CPU and the disk: each has priorities of its own in Linux, and those to come
// inherit them.
func lowPriority() {
	const idle = 3 << 13 // The class of ioprio_set(2) that gets what nobody else wants.
	threads, err := os.ReadDir("/proc/self/task")
	for _, thread := range threads {
		id, failure := strconv.Atoi(thread.Name())
		if failure == nil {
			failure = unix.Setpriority(unix.PRIO_PROCESS, id, 19)
		}
		if _, _, errno := unix.Syscall(unix.SYS_IOPRIO_SET, 1, uintptr(id), idle); errno != 0 && failure == nil {
			failure = fmt.Errorf("ioprio_set: %w", errno)
		}
		if failure != nil {
			err = failure
		}
	}
	if err != nil {
		slog.Warn("the priority stays as it is", "error", err)
	}
}
