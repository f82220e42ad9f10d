package diagnose

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// restored is the part of shopset-cache's report that is told (docs/cache.md). It is the termination message of the container
// that restores.
type restored struct {
	Shops   int     `json:"shops"`
	Share   float64 `json:"share"`
	Seconds float64 `json:"seconds"`
	Failed  int     `json:"failed"`
	Error   string  `json:"error"`
}

// Warm says what the container of a name restored in the Pod that started last, as in "187 shops, 68 % of traffic, 9.2 s", or
// why it starts cold. Empty when there is nothing to tell.
func Warm(pods []corev1.Pod, container string) string {
	var message string
	var last time.Time
	for i := range pods {
		if pods[i].DeletionTimestamp != nil {
			continue
		}
		for j := range pods[i].Status.InitContainerStatuses {
			status := &pods[i].Status.InitContainerStatuses[j]
			if ended := status.State.Terminated; status.Name == container && ended != nil && ended.FinishedAt.After(last) {
				message, last = ended.Message, ended.FinishedAt.Time
			}
		}
	}
	if message == "" {
		return ""
	}
	var report restored
	if err := json.Unmarshal([]byte(message), &report); err != nil {
		return shorten("cold: " + strings.TrimSpace(message))
	}
	if report.Error != "" {
		return shorten("cold: " + report.Error)
	}
	text := fmt.Sprintf("%d shops, %.0f %% of traffic, %.1f s", report.Shops, 100*report.Share, report.Seconds)
	if report.Failed > 0 {
		text += fmt.Sprintf("; %d shops could not be restored", report.Failed)
	}
	return text
}
