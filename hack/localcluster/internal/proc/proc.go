// Package proc names processes so that a recycled process ID is never mistaken for them.
package proc

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// ID is a process: its number and the moment of its start in clock ticks since boot, and the boot
// it belongs to. All three together are never given out twice.
type ID struct {
	PID   int    `json:"pid"`
	Start uint64 `json:"start"`
	Boot  string `json:"boot"`
}

// Of returns the identity of the process that has this number now.
func Of(pid int) (ID, error) {
	start, err := startTime(pid)
	if err != nil {
		return ID{}, err
	}
	return ID{PID: pid, Start: start, Boot: bootID()}, nil
}

// Alive says whether this very process still runs. A zombie does not.
func (id ID) Alive() bool {
	if id.PID <= 0 || id.Boot != bootID() {
		return false
	}
	start, err := startTime(id.PID)
	return err == nil && start == id.Start
}

// Signal sends a signal to this very process: the process is pinned before it is checked.
func (id ID) Signal(signal unix.Signal) error {
	if id.PID <= 0 {
		return os.ErrProcessDone
	}
	fd, err := unix.PidfdOpen(id.PID, 0)
	if errors.Is(err, unix.ESRCH) {
		return os.ErrProcessDone
	}
	if err != nil {
		return fmt.Errorf("process %d: pidfd_open: %w", id.PID, err)
	}
	defer unix.Close(fd)
	if !id.Alive() {
		return os.ErrProcessDone
	}
	if err := unix.PidfdSendSignal(fd, signal, nil, 0); err != nil {
		return fmt.Errorf("process %d: %s: %w", id.PID, unix.SignalName(signal), err)
	}
	return nil
}

// WaitGone waits until the process has ended, and says whether it has.
func (id ID) WaitGone(limit time.Duration) bool {
	for deadline := time.Now().Add(limit); ; {
		if !id.Alive() {
			return true
		}
		if time.Now().After(deadline) {
			return false
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// startTime reads field 22 of /proc/PID/stat. The name in field 2 may hold anything, so the
// fields are counted from its closing bracket.
func startTime(pid int) (uint64, error) {
	data, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		return 0, err
	}
	return parseStat(string(data))
}

func parseStat(stat string) (uint64, error) {
	_, rest, ok := cutLast(stat, ") ")
	fields := strings.Fields(rest)
	if !ok || len(fields) < 20 {
		return 0, fmt.Errorf("unreadable /proc/PID/stat: %q", stat)
	}
	if fields[0] == "Z" || fields[0] == "X" {
		return 0, os.ErrProcessDone
	}
	return strconv.ParseUint(fields[19], 10, 64)
}

func cutLast(s, sep string) (before, after string, found bool) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+len(sep):], true
}

func bootID() string {
	data, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(data))
}
