package tester

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"
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

// isDead says whether the owner of a container is a process of this machine that is no more. Of other
// machines and process namespaces nothing is known.
func isDead(label string) bool {
	mine, theirs := strings.Fields(owner()), strings.Fields(label)
	if len(mine) != 4 || len(theirs) != 4 || mine[0] != theirs[0] || mine[1] != theirs[1] {
		return false
	}
	pid, err := strconv.Atoi(theirs[2])
	return err == nil && startOf(pid) != theirs[3]
}

// sweep removes the containers of tests that were killed.
func (e *engine) sweep(ctx context.Context) {
	filters, _ := json.Marshal(map[string][]string{"label": {ownerLabel}})
	var containers []struct {
		ID     string `json:"Id"`
		Labels map[string]string
	}
	if err := e.call(ctx, http.MethodGet, "/containers/json", url.Values{"all": {"1"}, "filters": {string(filters)}}, nil, &containers); err != nil {
		return // The next test tries again.
	}
	for _, c := range containers {
		if isDead(c.Labels[ownerLabel]) {
			_ = e.remove(ctx, c.ID)
		}
	}
}

func (e *engine) remove(ctx context.Context, id string) error {
	err := e.call(ctx, http.MethodDelete, "/containers/"+id, url.Values{"force": {"1"}, "v": {"1"}}, nil, nil)
	if isNotFound(err) {
		return nil
	}
	return err
}
