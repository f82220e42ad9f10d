// Package diagnose says in one sentence why a component is not well.
//
// It promises a sentence that a human on call can act on: which Pod, which container, what happened
// and what was said about it (exit code, last log line, the failed probe, the image that cannot be
// pulled, why there is no node). It is a pure function of what the API server shows; it reads no
// logs, because the kubelet puts the end of the log of a crashed container into the Pod's status.
//
//	Component(deployment, pods, events):
//	  the Deployment cannot make Pods at all (quota, admission)     → its own message
//	  else the worst Pod, the newest revision first:
//	    not scheduled → image → cannot be created → crashed → probe fails → not ready yet
//	  a number of other Pods with trouble is added
//
// Limits: a sentence has at most MaxLength bytes. It holds no durations: a sentence changes only
// when the state does, and so the status that carries it is not written again and again.
package diagnose

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
)

// MaxLength bounds a sentence, in bytes.
const MaxLength = 400

// Severity orders what is wrong with Pods; the highest is reported.
type severity int

const (
	fine severity = iota
	starting
	probeFails
	crashed
	cannotCreate
	cannotPull
	unscheduled
)

// finding is what is wrong with one Pod.
type finding struct {
	severity severity
	sentence string
}

// Finding says why a component is not well.
type Finding struct {
	// Sentence for a human; empty when nothing is wrong.
	Sentence string
	// Stuck says that Kubernetes gave up on the change: its progress deadline is over.
	Stuck bool
	// Ask says that the events of the Pods may tell more than their status does. They are not
	// watched, so somebody has to ask for them, now and then until this is false.
	Ask bool
}

// Component explains a Deployment that does not have all its Pods ready. events are those of the
// Pods, in any order; they may be missing.
func Component(deployment *appsv1.Deployment, pods []corev1.Pod, events []corev1.Event) Finding {
	if deployment == nil {
		return Finding{Sentence: "not created yet"}
	}
	for _, condition := range deployment.Status.Conditions {
		if condition.Type == appsv1.DeploymentReplicaFailure && condition.Status == corev1.ConditionTrue {
			return Finding{Sentence: shorten("cannot create Pods: " + condition.Message), Stuck: deadlineExceeded(deployment)}
		}
	}
	worst, worstPod, troubled := worstPod(pods, events)
	if worst.severity == fine {
		return Finding{Sentence: progress(deployment), Stuck: deadlineExceeded(deployment)}
	}
	sentence := "Pod " + worstPod.Name + ": " + worst.sentence
	if worst.severity > starting && troubled > 1 {
		sentence = shorten(sentence) + fmt.Sprintf(" (and %d more Pods)", troubled-1)
	}
	return Finding{
		Sentence: shorten(sentence),
		Stuck:    deadlineExceeded(deployment),
		Ask:      worst.severity == starting || worst.severity == probeFails || worst.severity == cannotCreate,
	}
}

// worstPod picks the Pod to tell about: the highest severity, of these the youngest, because the
// youngest is of the newest revision.
func worstPod(pods []corev1.Pod, events []corev1.Event) (worst finding, pod *corev1.Pod, troubled int) {
	sorted := slices.Clone(pods)
	slices.SortFunc(sorted, func(a, b corev1.Pod) int {
		if order := b.CreationTimestamp.Compare(a.CreationTimestamp.Time); order != 0 {
			return order
		}
		return strings.Compare(a.Name, b.Name)
	})
	for i := range sorted {
		if sorted[i].DeletionTimestamp != nil {
			continue
		}
		found := explainPod(&sorted[i], events)
		if found.severity > starting {
			troubled++
		}
		if found.severity > worst.severity {
			worst, pod = found, &sorted[i]
		}
	}
	return worst, pod, troubled
}

// progress tells how far a Deployment is whose Pods show no problem.
func progress(d *appsv1.Deployment) string {
	want := int32(1)
	if d.Spec.Replicas != nil {
		want = *d.Spec.Replicas
	}
	status := d.Status
	switch {
	case status.ObservedGeneration < d.Generation:
		return "waiting for Kubernetes to take up the change"
	case status.UpdatedReplicas < want:
		return fmt.Sprintf("%d of %d Pods are at the new revision", status.UpdatedReplicas, want)
	case status.Replicas > want:
		return fmt.Sprintf("%d Pods of the earlier revision are still going", status.Replicas-want)
	case status.AvailableReplicas < want:
		return fmt.Sprintf("%d of %d Pods are ready", status.AvailableReplicas, want)
	default:
		return ""
	}
}

func deadlineExceeded(d *appsv1.Deployment) bool {
	for _, condition := range d.Status.Conditions {
		if condition.Type == appsv1.DeploymentProgressing && condition.Reason == "ProgressDeadlineExceeded" {
			return true
		}
	}
	return false
}

func explainPod(pod *corev1.Pod, events []corev1.Event) finding {
	if pod.Status.Phase == corev1.PodFailed && pod.Status.Reason != "" {
		return finding{severity: crashed, sentence: strings.TrimSuffix(pod.Status.Reason+": "+pod.Status.Message, ": ")}
	}
	for _, condition := range pod.Status.Conditions {
		if condition.Type == corev1.PodScheduled && condition.Status == corev1.ConditionFalse {
			return finding{severity: unscheduled, sentence: "no node takes it: " + condition.Message}
		}
	}
	var worst finding
	for _, status := range slices.Concat(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses) {
		if found := explainContainer(pod, &status, events); found.severity > worst.severity {
			worst = found
		}
	}
	if worst.severity == fine && len(pod.Status.ContainerStatuses) == 0 && pod.Status.Phase == corev1.PodPending {
		worst = finding{severity: starting, sentence: "scheduled, not started yet"}
		if message := lastEvent(events, pod.Name, "FailedMount", "FailedCreatePodSandBox", "FailedAttachVolume"); message != "" {
			worst = finding{severity: cannotCreate, sentence: message}
		}
	}
	return worst
}

func explainContainer(pod *corev1.Pod, status *corev1.ContainerStatus, events []corev1.Event) finding {
	name := "container " + status.Name + " "
	if waiting := status.State.Waiting; waiting != nil {
		return explainWaiting(pod, status, events)
	}
	if ended := status.State.Terminated; ended != nil {
		if ended.ExitCode == 0 {
			return finding{} // An init container that is done, or a Pod on its way out.
		}
		return finding{severity: crashed, sentence: name + exit(ended)}
	}
	if status.State.Running == nil || status.Ready {
		return finding{}
	}
	if message := lastEvent(events, pod.Name, "Unhealthy"); message != "" {
		text := name + "is not ready: " + strings.TrimSpace(message)
		if ended := status.LastTerminationState.Terminated; ended != nil && status.RestartCount > 0 {
			text += fmt.Sprintf("; restarted %d times, before it %s", status.RestartCount, exit(ended))
		}
		return finding{severity: probeFails, sentence: text}
	}
	if ended := status.LastTerminationState.Terminated; ended != nil && ended.ExitCode != 0 {
		return finding{severity: crashed, sentence: fmt.Sprintf("%srestarted %d times; before it %s", name, status.RestartCount, exit(ended))}
	}
	return finding{severity: starting, sentence: fmt.Sprintf("%sis up since %s and not ready yet",
		name, status.State.Running.StartedAt.UTC().Format(time.RFC3339))}
}

func explainWaiting(pod *corev1.Pod, status *corev1.ContainerStatus, events []corev1.Event) finding {
	waiting := status.State.Waiting
	name := "container " + status.Name + " "
	switch waiting.Reason {
	case "ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "RegistryUnavailable", "ImageInspectError":
		return finding{severity: cannotPull, sentence: fmt.Sprintf("image %s cannot be pulled: %s", status.Image, pullReason(waiting))}
	case "CrashLoopBackOff":
		text := name + "crashes again and again"
		if ended := status.LastTerminationState.Terminated; ended != nil {
			text = fmt.Sprintf("%scrashes again and again (%d restarts): it %s", name, status.RestartCount, exit(ended))
		}
		return finding{severity: crashed, sentence: text}
	case "ContainerCreating", "PodInitializing", "":
		if message := lastEvent(events, pod.Name, "FailedMount", "FailedCreatePodSandBox", "FailedAttachVolume"); message != "" {
			return finding{severity: cannotCreate, sentence: message}
		}
		if ended := status.LastTerminationState.Terminated; ended != nil && ended.ExitCode != 0 {
			return finding{severity: crashed, sentence: name + exit(ended)}
		}
		return finding{severity: starting, sentence: name + "is being created"}
	default:
		return finding{severity: cannotCreate, sentence: fmt.Sprintf("%scannot start: %s: %s", name, waiting.Reason, waiting.Message)}
	}
}

// pullReason takes the innermost reason out of the kubelet's message.
func pullReason(waiting *corev1.ContainerStateWaiting) string {
	message := strings.TrimSpace(waiting.Message)
	if waiting.Reason == "ImagePullBackOff" {
		if _, inner, found := strings.Cut(message, "ErrImagePull: "); found {
			message = inner
		}
	}
	if message == "" {
		return waiting.Reason
	}
	return message
}

// exit tells how a container ended: its exit code or signal and the last line it wrote.
func exit(ended *corev1.ContainerStateTerminated) string {
	var text string
	switch {
	case ended.Reason == "OOMKilled":
		text = "was killed because it used more memory than its limit"
	case ended.Signal != 0:
		text = fmt.Sprintf("was ended by signal %d", ended.Signal)
	case ended.ExitCode > 128 && ended.ExitCode < 160:
		text = fmt.Sprintf("ended with code %d (signal %d)", ended.ExitCode, ended.ExitCode-128)
	case ended.Reason == "StartError" || ended.Reason == "ContainerCannotRun":
		text = "could not be started"
	default:
		text = fmt.Sprintf("ended with code %d", ended.ExitCode)
	}
	if line := lastLine(ended.Message); line != "" {
		text += ": " + line
	}
	return text
}

// lastLine is the last line of a log that is not empty. The kubelet gives the last lines or the last
// 2 KiB.
func lastLine(log string) string {
	lines := strings.Split(strings.TrimRight(log, " \t\r\n"), "\n")
	return strings.TrimSpace(lines[len(lines)-1])
}

// lastEvent is the newest message of a Pod's events with one of the reasons.
func lastEvent(events []corev1.Event, pod string, reasons ...string) string {
	var newest *corev1.Event
	for i := range events {
		event := &events[i]
		if event.InvolvedObject.Name != pod || !slices.Contains(reasons, event.Reason) {
			continue
		}
		if newest == nil || eventTime(newest).Before(eventTime(event)) {
			newest = event
		}
	}
	if newest == nil {
		return ""
	}
	return newest.Message
}

func eventTime(event *corev1.Event) time.Time {
	if !event.LastTimestamp.IsZero() {
		return event.LastTimestamp.Time
	}
	return event.EventTime.Time
}

var spaces = regexp.MustCompile(`\s+`)

// shorten makes one line of at most MaxLength bytes and keeps both ends: the start names the place,
// the end of an error is its cause.
func shorten(sentence string) string {
	sentence = strings.TrimSpace(spaces.ReplaceAllString(strings.ToValidUTF8(sentence, "?"), " "))
	if len(sentence) <= MaxLength {
		return sentence
	}
	const mark = " … "
	head, tail := sentence[:MaxLength/2], sentence[len(sentence)-(MaxLength/2-len(mark)):]
	for !utf8.ValidString(head) {
		head = head[:len(head)-1]
	}
	for !utf8.ValidString(tail) {
		tail = tail[1:]
	}
	return head + mark + tail
}
