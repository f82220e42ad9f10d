package diagnose_test

import (
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/shopset/shopset/internal/diagnose"
)

func TestWarm(t *testing.T) {
	restored := func(name string, after time.Duration, message string) corev1.Pod {
		state := ended(0, "Completed", message)
		state.Terminated.FinishedAt = metav1.NewTime(born.Add(after))
		return pod(name, 0, corev1.PodStatus{InitContainerStatuses: []corev1.ContainerStatus{
			{Name: "render", State: ended(0, "Completed", "of another container")}, {Name: "restore", State: state}}})
	}
	leaving := restored("c", time.Hour, `{"shops": 3}`)
	leaving.DeletionTimestamp = &metav1.Time{Time: born}
	for _, test := range []struct {
		name string
		pods []corev1.Pod
		want string
	}{
		{"no Pod", nil, ""},
		{"not ended yet", []corev1.Pod{pod("a", 0, corev1.PodStatus{InitContainerStatuses: []corev1.ContainerStatus{{Name: "restore", State: running()}}})}, ""},
		{"the last one counts", []corev1.Pod{
			restored("b", 2*time.Second, `{"shops": 187, "share": 0.684, "seconds": 9.24, "files": 3, "new": "field"}`),
			restored("a", time.Second, `{"shops": 1, "share": 0.01, "seconds": 1}`), leaving,
		}, "187 shops, 68 % of traffic, 9.2 s"},
		{"some failed", []corev1.Pod{restored("a", 0, `{"shops": 2, "share": 0.5, "seconds": 1, "failed": 4}`)}, "2 shops, 50 % of traffic, 1.0 s; 4 shops could not be restored"},
		{"cold", []corev1.Pod{restored("a", 0, `{"error": "s3: access denied"}`)}, "cold: s3: access denied"},
		{"no report", []corev1.Pod{restored("a", 0, "exec format error\n")}, "cold: exec format error"},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := diagnose.Warm(test.pods, "restore"); got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
	if got := diagnose.Warm([]corev1.Pod{restored("a", 0, strings.Repeat("é", 4000))}, "restore"); len(got) > diagnose.MaxLength {
		t.Errorf("%d bytes", len(got))
	}
}
