package operator

import (
	"context"
	"fmt"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/shopset/shopset/api/v1alpha1"
	"github.com/shopset/shopset/internal/cell"
	"github.com/shopset/shopset/internal/diagnose"
)

// maxMessage bounds the message of a condition.
const maxMessage = 1024

// report writes the status if it differs from the one that is there.
func (r *Reconciler) report(ctx context.Context, ss *v1alpha1.ShopSet, seen *observed, out *outcome) error {
	before := ss.Status.DeepCopy()
	r.setStatus(ctx, ss, seen, out)
	r.Metrics.observe(ss)
	if equality.Semantic.DeepEqual(*before, ss.Status) {
		return nil
	}
	r.announce(ctx, before, ss)
	if err := r.saveStatus(ctx, ss, before); client.IgnoreNotFound(err) != nil {
		return err
	}
	return nil
}

// saveStatus writes what differs from the status before.
func (r *Reconciler) saveStatus(ctx context.Context, ss *v1alpha1.ShopSet, before *v1alpha1.ShopSetStatus) error {
	// Only over the version it was made from: merged with another status it would be neither.
	patch, err := client.MergeFromWithOptions(
		&v1alpha1.ShopSet{ObjectMeta: metav1.ObjectMeta{ResourceVersion: ss.ResourceVersion}, Status: *before},
		client.MergeFromWithOptimisticLock{}).
		Data(&v1alpha1.ShopSet{Status: ss.Status})
	if err != nil {
		return err
	}
	answer := metadataOf(ss)
	if err := r.Client.Status().Patch(ctx, answer, client.RawPatch(types.MergePatchType, patch)); err != nil {
		return err
	}
	r.memory.wrote(ss, answer.ResourceVersion)
	return nil
}

func (r *Reconciler) setStatus(ctx context.Context, ss *v1alpha1.ShopSet, seen *observed, out *outcome) {
	status := &ss.Status
	status.ObservedGeneration = ss.Generation
	status.Connections = out.idle.connections
	if out.idle.since.IsZero() {
		status.DrainStarted = nil
	} else if status.DrainStarted == nil {
		status.DrainStarted = &metav1.Time{Time: out.idle.since}
	}
	if out.cell != nil {
		status.Revision = out.cell.Revision
	}
	stuck := false
	status.Components, stuck = r.componentStatus(ctx, ss, seen, out)
	ready, unwell := summarize(status.Components)
	status.Summary = fmt.Sprintf("%d/%d", ready, len(status.Components))

	set, flag := conditions(&status.Conditions, ss.Generation)
	switch {
	case !ss.DeletionTimestamp.IsZero():
		message := deletionMessage(seen, out)
		set(v1alpha1.ConditionReady, false, "Deleting", message)
		flag(v1alpha1.ConditionReconciling, true, "Deleting", message)
		flag(v1alpha1.ConditionStalled, false, "", "")
	case out.problem != nil:
		message := "nothing was changed: " + out.problem.Error()
		set(v1alpha1.ConditionReady, false, "InvalidSpec", message)
		flag(v1alpha1.ConditionReconciling, false, "", "")
		flag(v1alpha1.ConditionStalled, true, "InvalidSpec", message)
	case len(out.refused) > 0:
		set(v1alpha1.ConditionReady, false, "Refused", unwell)
		flag(v1alpha1.ConditionReconciling, false, "", "")
		flag(v1alpha1.ConditionStalled, true, "Refused", unwell)
	case ready < len(status.Components):
		set(v1alpha1.ConditionReady, false, "ComponentsNotReady", unwell)
		flag(v1alpha1.ConditionReconciling, !stuck, "ComponentsNotReady", unwell)
		flag(v1alpha1.ConditionStalled, stuck, "ProgressDeadlineExceeded", unwell)
	default:
		set(v1alpha1.ConditionReady, true, "Serving", "all components serve")
		flag(v1alpha1.ConditionReconciling, false, "", "")
		flag(v1alpha1.ConditionStalled, false, "", "")
	}
	if out.idle.reason != "" {
		set(v1alpha1.ConditionIdle, out.idle.idle, out.idle.reason, out.idle.message)
	}
}

// conditions gives two ways to set a condition: set as it is, and flag with kstatus' rule that Reconciling and
// Stalled are there only while they are true.
func conditions(list *[]metav1.Condition, generation int64) (set, flag func(kind string, value bool, reason, message string)) {
	set = func(kind string, value bool, reason, message string) {
		state := metav1.ConditionFalse
		if value {
			state = metav1.ConditionTrue
		}
		meta.SetStatusCondition(list, metav1.Condition{
			Type: kind, Status: state, Reason: reason, Message: clip(message), ObservedGeneration: generation,
		})
	}
	flag = func(kind string, value bool, reason, message string) {
		if value {
			set(kind, true, reason, message)
		} else {
			meta.RemoveStatusCondition(list, kind)
		}
	}
	return set, flag
}

func deletionMessage(seen *observed, out *outcome) string {
	if !out.idle.idle {
		return "being deleted; draining first: " + out.idle.message
	}
	pods := 0
	for _, list := range seen.pods {
		pods += len(list)
	}
	if pods > 0 {
		return fmt.Sprintf("being deleted; %d Pods are still ending", pods)
	}
	return "being deleted"
}

func (r *Reconciler) componentStatus(ctx context.Context, ss *v1alpha1.ShopSet, seen *observed, out *outcome) (result []v1alpha1.ComponentStatus, stuck bool) {
	for i := range ss.Spec.Components {
		name := ss.Spec.Components[i].Name
		status := v1alpha1.ComponentStatus{Name: name}
		live := seen.deployments[name]
		if live != nil {
			status.Ready, status.Desired = live.Status.ReadyReplicas, cell.Desired(live)
			status.Revision = live.Annotations[cell.AnnotationRevision]
		}
		if ss.Spec.Components[i].WarmCache != nil {
			status.Warm = diagnose.Warm(seen.pods[name], cell.RestoreContainer)
		}
		switch {
		case out.refused[name] != "":
			status.Message = out.refused[name]
		case !ss.DeletionTimestamp.IsZero() && status.Ready == 0 && (live == nil || live.DeletionTimestamp != nil):
			status.Message = "being deleted"
		case out.cell == nil:
			status.Message = r.explain(ctx, ss, seen, name, live, out, &stuck)
		case len(out.waits[name]) > 0:
			status.Message = "waits until the change of " + strings.Join(out.waits[name], " and ") + " is done"
		case live == nil || !cell.Ready(&out.cell.Components[i], live):
			wanted := out.cell.Components[i].Deployment
			if live == nil {
				status.Desired, status.Revision = cell.Desired(wanted), out.cell.Components[i].Revision
			}
			status.Message = r.explain(ctx, ss, seen, name, live, out, &stuck)
			if status.Message == "" {
				status.Message = "waiting for Kubernetes to take up the change"
			}
		}
		result = append(result, status)
	}
	return result, stuck
}

// explain asks diagnose, with the events of the Pods where they may tell more.
func (r *Reconciler) explain(ctx context.Context, ss *v1alpha1.ShopSet, seen *observed, name string, live *appsv1.Deployment, out *outcome, stuck *bool) string {
	if live == nil {
		return ""
	}
	found := diagnose.Component(live, seen.pods[name], nil)
	if found.Ask {
		out.ask = true
		if events := r.podEvents(ctx, ss, seen.pods[name]); len(events) > 0 {
			found = diagnose.Component(live, seen.pods[name], events)
		}
	}
	*stuck = *stuck || found.Stuck
	if found.Sentence != "" && !cell.RolledOut(live) {
		if serving := live.Status.AvailableReplicas; serving > 0 && live.Status.UpdatedReplicas < live.Status.Replicas {
			return fmt.Sprintf("%s; %d Pods serve meanwhile", found.Sentence, serving)
		}
	}
	return found.Sentence
}

// podEvents asks the API server for the warnings about up to three Pods that are not ready; one is
// enough to tell why. The same Pod is asked about every few seconds at most, however much there is news.
func (r *Reconciler) podEvents(ctx context.Context, ss *v1alpha1.ShopSet, pods []corev1.Pod) []corev1.Event {
	var events []corev1.Event
	asked := 0
	for i := range pods {
		if pods[i].DeletionTimestamp != nil || isReady(&pods[i]) || asked == 3 {
			continue
		}
		asked++
		known, fresh := r.memory.warnings(ss.UID, pods[i].UID, r.now())
		if !fresh {
			list := &corev1.EventList{}
			err := r.Live.List(ctx, list, client.InNamespace(ss.Namespace), client.Limit(50),
				client.MatchingFieldsSelector{Selector: fields.SelectorFromSet(fields.Set{
					"involvedObject.uid": string(pods[i].UID), "type": corev1.EventTypeWarning,
				})})
			if err != nil {
				return events // The sentence is a little poorer; not a reason to fail.
			}
			known = list.Items
			r.memory.noteWarnings(ss.UID, pods[i].UID, known, r.now())
		}
		events = append(events, known...)
	}
	return events
}

func isReady(pod *corev1.Pod) bool {
	for _, condition := range pod.Status.Conditions {
		if condition.Type == corev1.PodReady {
			return condition.Status == corev1.ConditionTrue
		}
	}
	return false
}

// summarize counts the components that serve at the wanted revision and joins the reasons of the
// others, those that only wait for others last.
func summarize(components []v1alpha1.ComponentStatus) (ready int, unwell string) {
	var causes, waiting []string
	for _, component := range components {
		switch text := component.Name + ": " + component.Message; {
		case component.Message == "":
			ready++
		case strings.HasPrefix(component.Message, "waits until"):
			waiting = append(waiting, text)
		default:
			causes = append(causes, text)
		}
	}
	return ready, strings.Join(append(causes, waiting...), "; ")
}

// announce makes an event when the cell becomes ready, or not ready for a new reason.
func (r *Reconciler) announce(ctx context.Context, before *v1alpha1.ShopSetStatus, after *v1alpha1.ShopSet) {
	was := meta.FindStatusCondition(before.Conditions, v1alpha1.ConditionReady)
	is := meta.FindStatusCondition(after.Status.Conditions, v1alpha1.ConditionReady)
	switch {
	case was == nil || is == nil:
	case was.Status != metav1.ConditionTrue && is.Status == metav1.ConditionTrue:
		r.event(ctx, after, corev1.EventTypeNormal, "Ready", "Report", "%s", is.Message)
	case was.Status == metav1.ConditionTrue && is.Status != metav1.ConditionTrue,
		was.Reason != is.Reason && is.Status != metav1.ConditionTrue:
		r.event(ctx, after, corev1.EventTypeWarning, is.Reason, "Report", "%s", is.Message)
	}
}

func clip(message string) string {
	if len(message) <= maxMessage {
		return message
	}
	return strings.ToValidUTF8(message[:maxMessage-3], "") + "…"
}
