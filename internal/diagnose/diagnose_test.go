package diagnose_test

import (
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/shopset/shopset/internal/diagnose"
)

var born = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func pod(name string, age time.Duration, status corev1.PodStatus) corev1.Pod {
	return corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, CreationTimestamp: metav1.NewTime(born.Add(-age))}, Status: status}
}

func waiting(reason, message string) corev1.ContainerState {
	return corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason, Message: message}}
}

func ended(code int32, reason, message string) corev1.ContainerState {
	return corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: code, Reason: reason, Message: message}}
}

func running() corev1.ContainerState {
	return corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: metav1.NewTime(born)}}
}

func container(state corev1.ContainerState, edit ...func(*corev1.ContainerStatus)) corev1.PodStatus {
	status := corev1.ContainerStatus{Name: "shop", Image: "example/shop:2", State: state}
	for _, e := range edit {
		e(&status)
	}
	return corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{status}}
}

func before(state corev1.ContainerState, restarts int32) func(*corev1.ContainerStatus) {
	return func(s *corev1.ContainerStatus) { s.LastTerminationState, s.RestartCount = state, restarts }
}

func TestComponent(t *testing.T) {
	event := func(reason, message string) corev1.Event {
		return corev1.Event{InvolvedObject: corev1.ObjectReference{Name: "a-shop-1"}, Reason: reason, Message: message}
	}
	for _, test := range []struct {
		name       string
		pods       []corev1.Pod
		events     []corev1.Event
		deployment appsv1.DeploymentStatus
		want       string
		ask        bool
	}{
		{name: "unpullable image", pods: []corev1.Pod{pod("a-shop-1", 0, container(waiting("ErrImagePull",
			`failed to pull and unpack image "example/shop:2": not found`)))},
			want: `Pod a-shop-1: image example/shop:2 cannot be pulled: failed to pull and unpack image "example/shop:2": not found`},
		{name: "unpullable image, later", pods: []corev1.Pod{pod("a-shop-1", 0, container(waiting("ImagePullBackOff",
			`Back-off pulling image "example/shop:2": ErrImagePull: not found`)))},
			want: `Pod a-shop-1: image example/shop:2 cannot be pulled: not found`},
		{name: "image that is not there and may not be pulled", pods: []corev1.Pod{pod("a-shop-1", 0, container(waiting("ErrImageNeverPull", "")))},
			want: `Pod a-shop-1: image example/shop:2 cannot be pulled: ErrImageNeverPull`},
		{name: "crash with the last line of the log", pods: []corev1.Pod{pod("a-shop-1", 0, container(waiting("CrashLoopBackOff", "back-off 5m0s"),
			before(ended(1, "Error", "starting\nDATABASE_URL is not set\n"), 4)))},
			want: "Pod a-shop-1: container shop crashes again and again (4 restarts): it ended with code 1: DATABASE_URL is not set"},
		{name: "first crash", pods: []corev1.Pod{pod("a-shop-1", 0, container(ended(137, "Error", "")))},
			want: "Pod a-shop-1: container shop ended with code 137 (signal 9)"},
		{name: "out of memory", pods: []corev1.Pod{pod("a-shop-1", 0, container(waiting("CrashLoopBackOff", ""), before(ended(137, "OOMKilled", ""), 2)))},
			want: "Pod a-shop-1: container shop crashes again and again (2 restarts): it was killed because it used more memory than its limit"},
		{name: "program not found", pods: []corev1.Pod{pod("a-shop-1", 0, container(waiting("CrashLoopBackOff", ""),
			before(ended(128, "StartError", `exec: "/shop": stat /shop: no such file or directory`), 2)))},
			want: `Pod a-shop-1: container shop crashes again and again (2 restarts): it could not be started: exec: "/shop": stat /shop: no such file or directory`},
		{name: "missing secret", pods: []corev1.Pod{pod("a-shop-1", 0, container(waiting("CreateContainerConfigError", `secret "cart" not found`)))},
			want: `Pod a-shop-1: container shop cannot start: CreateContainerConfigError: secret "cart" not found`, ask: true},
		{name: "init container", pods: []corev1.Pod{pod("a-shop-1", 0, corev1.PodStatus{
			InitContainerStatuses: []corev1.ContainerStatus{{Name: "restore", State: waiting("CrashLoopBackOff", ""), LastTerminationState: ended(2, "Error", "no bucket"), RestartCount: 1}},
			ContainerStatuses:     []corev1.ContainerStatus{{Name: "shop", State: waiting("PodInitializing", "")}},
		})}, want: "Pod a-shop-1: container restore crashes again and again (1 restarts): it ended with code 2: no bucket"},
		{name: "no node", pods: []corev1.Pod{pod("a-shop-1", 0, corev1.PodStatus{Phase: corev1.PodPending, Conditions: []corev1.PodCondition{{
			Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Message: "0/3 nodes are available: 3 Insufficient cpu."}}})},
			want: "Pod a-shop-1: no node takes it: 0/3 nodes are available: 3 Insufficient cpu."},
		{name: "evicted", pods: []corev1.Pod{pod("a-shop-1", 0, corev1.PodStatus{Phase: corev1.PodFailed, Reason: "Evicted", Message: "The node was low on memory."})},
			want: "Pod a-shop-1: Evicted: The node was low on memory."},
		{name: "failing probe", pods: []corev1.Pod{pod("a-shop-1", 0, container(running()))},
			events: []corev1.Event{event("Unhealthy", "Readiness probe failed: HTTP probe failed with statuscode: 503")},
			want:   "Pod a-shop-1: container shop is not ready: Readiness probe failed: HTTP probe failed with statuscode: 503", ask: true},
		{name: "failing probe after restarts", pods: []corev1.Pod{pod("a-shop-1", 0, container(running(), before(ended(1, "Error", "x"), 3)))},
			events: []corev1.Event{event("Unhealthy", "Liveness probe failed: timeout")},
			want:   "Pod a-shop-1: container shop is not ready: Liveness probe failed: timeout; restarted 3 times, before it ended with code 1: x", ask: true},
		{name: "running, not ready, no event yet", pods: []corev1.Pod{pod("a-shop-1", 0, container(running()))},
			want: "Pod a-shop-1: container shop is up since 2026-01-02T03:04:05Z and not ready yet", ask: true},
		{name: "volume that cannot be mounted", pods: []corev1.Pod{pod("a-shop-1", 0, container(waiting("ContainerCreating", "")))},
			events: []corev1.Event{event("FailedMount", `MountVolume.SetUp failed for volume "x": configmap "y" not found`)},
			want:   `Pod a-shop-1: MountVolume.SetUp failed for volume "x": configmap "y" not found`, ask: true},
		{name: "quota", deployment: appsv1.DeploymentStatus{Conditions: []appsv1.DeploymentCondition{{
			Type: appsv1.DeploymentReplicaFailure, Status: corev1.ConditionTrue, Message: `pods "a-shop-1" is forbidden: exceeded quota: small`}}},
			want: `cannot create Pods: pods "a-shop-1" is forbidden: exceeded quota: small`},
		{name: "the youngest of several, with their number", pods: []corev1.Pod{
			pod("old", time.Hour, container(waiting("CrashLoopBackOff", ""), before(ended(1, "Error", "old"), 1))),
			pod("new", 0, container(waiting("CrashLoopBackOff", ""), before(ended(1, "Error", "new"), 1))),
			pod("fine", 0, container(running(), func(s *corev1.ContainerStatus) { s.Ready = true })),
		}, want: "Pod new: container shop crashes again and again (1 restarts): it ended with code 1: new (and 1 more Pods)"},
		{name: "going Pods do not count", pods: []corev1.Pod{func() corev1.Pod {
			p := pod("gone", 0, container(ended(143, "Error", "")))
			p.DeletionTimestamp = &metav1.Time{Time: born}
			return p
		}()}, want: "0 of 2 Pods are at the new revision"},
		{name: "still rolling", deployment: appsv1.DeploymentStatus{UpdatedReplicas: 1}, want: "1 of 2 Pods are at the new revision"},
		{name: "old ones still going", deployment: appsv1.DeploymentStatus{UpdatedReplicas: 2, Replicas: 3}, want: "1 Pods of the earlier revision are still going"},
		{name: "well", deployment: appsv1.DeploymentStatus{UpdatedReplicas: 2, Replicas: 2, AvailableReplicas: 2}, want: ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			d := &appsv1.Deployment{Spec: appsv1.DeploymentSpec{Replicas: new(int32(2))}, Status: test.deployment}
			got := diagnose.Component(d, test.pods, test.events)
			if got.Sentence != test.want || got.Ask != test.ask {
				t.Fatalf("got  %q ask %v\nwant %q ask %v", got.Sentence, got.Ask, test.want, test.ask)
			}
		})
	}
}

func TestSentencesAreBounded(t *testing.T) {
	d := &appsv1.Deployment{}
	long := container(waiting("CrashLoopBackOff", ""), before(ended(1, "Error", strings.Repeat("ü", 5000)+" the cause"), 1))
	got := diagnose.Component(d, []corev1.Pod{pod("a", 0, long)}, nil).Sentence
	if len(got) > diagnose.MaxLength || !utf8.ValidString(got) || !strings.HasSuffix(got, "the cause") {
		t.Fatalf("%d bytes: %q", len(got), got)
	}
}

func TestStuck(t *testing.T) {
	d := &appsv1.Deployment{Status: appsv1.DeploymentStatus{Conditions: []appsv1.DeploymentCondition{{
		Type: appsv1.DeploymentProgressing, Status: corev1.ConditionFalse, Reason: "ProgressDeadlineExceeded"}}}}
	if !diagnose.Component(d, nil, nil).Stuck {
		t.Error("a Deployment whose deadline is over is stuck")
	}
	if diagnose.Component(&appsv1.Deployment{}, nil, nil).Stuck {
		t.Error("a young Deployment is not stuck")
	}
}
