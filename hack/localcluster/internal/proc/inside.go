package proc

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Inside maps the process IDs that a PID namespace uses inside to the ones seen from here. The
// namespace is that of process init; processes of namespaces nested in it are left out.
func Inside(init int) map[int]int {
	want, err := os.Readlink(filepath.Join("/proc", strconv.Itoa(init), "ns/pid"))
	if err != nil {
		return nil
	}
	inside := make(map[int]int)
	entries, _ := os.ReadDir("/proc")
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		dir := filepath.Join("/proc", entry.Name())
		if ns, err := os.Readlink(filepath.Join(dir, "ns/pid")); err != nil || ns != want {
			continue
		}
		if ids := strings.Fields(statusField(dir, "NSpid")); len(ids) > 0 {
			if inner, err := strconv.Atoi(ids[len(ids)-1]); err == nil {
				inside[inner] = pid
			}
		}
	}
	return inside
}

// RSS returns the resident memory of a process in bytes, 0 when it is gone.
func RSS(pid int) int64 {
	value, _, _ := strings.Cut(statusField(filepath.Join("/proc", strconv.Itoa(pid)), "VmRSS"), " ")
	kib, _ := strconv.ParseInt(value, 10, 64)
	return kib << 10
}

func statusField(dir, name string) string {
	data, _ := os.ReadFile(filepath.Join(dir, "status"))
	for line := range strings.Lines(string(data)) {
		if value, ok := strings.CutPrefix(line, name+":"); ok {
			return strings.TrimSpace(value)
		}
	}
	return ""
}
