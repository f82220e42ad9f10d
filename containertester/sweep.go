package tester

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// ownerLabel names the process that made a container: boot, process namespace, process, its start.
const ownerLabel = "dev.shopset.tester.owner"

// owner is this process, told apart from a later one of the same number.
var owner = sync.OnceValue(func() string {
	boot, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	namespace, _ := os.Readlink("/proc/self/ns/pid")
	return fmt.Sprintf("%s %s %d %s", strings.TrimSpace(string(boot)), namespace, os.Getpid(), startOf(os.Getpid()))
})

// startOf is when a process started, in clock ticks; empty when it is not there (proc(5), field 22).
func startOf(pid int) string {
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return ""
	}
	_, rest, _ := strings.Cut(string(stat), ") ") // The name may hold anything.
	fields := strings.Fields(rest)
	if len(fields) < 20 {
		return ""
	}
	return fields[19]
}

// forgotten is after how long something goes whose owner nothing is known of: it ran in another process
// namespace, such as a container of CI, or on another machine.
const forgotten = 24 * time.Hour

// isLeft says whether the owner of a container or network is a process of this machine that is no more.
func isLeft(label string, made time.Time) bool {
	mine, theirs := strings.Fields(owner()), strings.Fields(label)
	if len(mine) != 4 || len(theirs) != 4 || mine[0] != theirs[0] || mine[1] != theirs[1] {
		return time.Since(made) > forgotten
	}
	pid, err := strconv.Atoi(theirs[2])
	if start := startOf(pid); err != nil || start != "" {
		return err == nil && start != theirs[3]
	}
	return errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) // Other users' processes may be hidden.
}

// left are the IDs of what killed tests have left.
func (e *engine) left(ctx context.Context) (containers, networks []string) {
	filters, _ := json.Marshal(map[string][]string{"label": {ownerLabel}})
	query := url.Values{"all": {"1"}, "filters": {string(filters)}}
	var listed []struct {
		ID      string `json:"Id"`
		Created json.RawMessage
		Labels  map[string]string
	}
	find := func(path string) (ids []string) {
		if err := e.call(ctx, http.MethodGet, path, query, nil, &listed); err != nil {
			return nil // The next test tries again.
		}
		for _, item := range listed {
			// Seconds for containers, a time for networks.
			made, seconds := time.Now(), int64(0)
			if json.Unmarshal(item.Created, &seconds) == nil {
				made = time.Unix(seconds, 0)
			} else {
				_ = json.Unmarshal(item.Created, &made)
			}
			if isLeft(item.Labels[ownerLabel], made) {
				ids = append(ids, item.ID)
			}
		}
		return ids
	}
	return find("/containers/json"), find("/networks")
}

// sweep removes them.
func (e *engine) sweep(ctx context.Context) {
	containers, networks := e.left(ctx)
	for _, id := range containers {
		_ = e.remove(ctx, id)
	}
	for _, id := range networks {
		var network struct{ Containers map[string]struct{} }
		if e.call(ctx, http.MethodGet, "/networks/"+id, nil, nil, &network) == nil {
			for container := range network.Containers { // The test's own one, which outlives the test.
				_ = e.call(ctx, http.MethodPost, "/networks/"+id+"/disconnect", nil, map[string]any{"Container": container, "Force": true}, nil)
			}
		}
		_ = e.call(ctx, http.MethodDelete, "/networks/"+id, nil, nil, nil)
	}
}

func (e *engine) remove(ctx context.Context, id string) error {
	err := e.call(ctx, http.MethodDelete, "/containers/"+id, url.Values{"force": {"1"}, "v": {"1"}}, nil, nil)
	if isNotFound(err) {
		return nil
	}
	return err
}
