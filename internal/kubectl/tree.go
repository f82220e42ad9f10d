package kubectl

import (
	"context"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/shopset/shopset/api/v1alpha1"
	"github.com/shopset/shopset/internal/cell"
)

func (t *tool) treeCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "tree [SHOPSET]",
		Short: "Show what a ShopSet owns, down to its Pods",
		Args:  cobra.MaximumNArgs(1), ValidArgsFunction: t.complete(shopSetList),
		RunE: func(c *cobra.Command, args []string) error {
			if err := t.connect(); err != nil {
				return err
			}
			return t.tree(c.Context(), strings.Join(args, ""))
		},
	}
}

func shopSetList() client.ObjectList { return &v1alpha1.ShopSetList{} }

func (t *tool) tree(ctx context.Context, name string) error {
	list := &v1alpha1.ShopSetList{}
	if name != "" {
		ss, err := t.getShopSet(ctx, name)
		if err != nil {
			return err
		}
		list.Items = append(list.Items, *ss)
	} else if err := t.client.List(ctx, list, client.InNamespace(t.namespace)); err != nil {
		return err
	}
	if len(list.Items) == 0 {
		fmt.Fprintf(t.Out, "There is no ShopSet in namespace %s.\n", t.namespace)
	}
	out := newPrinter(t.Out)
	for i := range list.Items {
		root, err := t.treeOf(ctx, &list.Items[i])
		if err != nil {
			return err
		}
		out.tree([]line{root})
	}
	return nil
}

// treeOf gathers what belongs to a ShopSet.
func (t *tool) treeOf(ctx context.Context, ss *v1alpha1.ShopSet) (line, error) {
	var owned []client.Object
	replicaSets, pods := &appsv1.ReplicaSetList{}, &corev1.PodList{}
	var lists []client.ObjectList
	for _, list := range cell.OwnedLists() {
		lists = append(lists, list)
	}
	for _, list := range append(lists, replicaSets, pods) {
		if err := t.client.List(ctx, list, client.InNamespace(ss.Namespace), client.MatchingLabels{cell.LabelShopSet: ss.Name}); err != nil {
			return line{}, err
		}
	}
	for _, list := range lists {
		if err := meta.EachListItem(list, func(item runtime.Object) error {
			if object, _ := item.(client.Object); metav1.IsControlledBy(object, ss) {
				owned = append(owned, object)
			}
			return nil
		}); err != nil {
			return line{}, err
		}
	}
	return shopSetTree(ss, owned, replicaSets.Items, pods.Items), nil
}

// shopSetTree puts components below the ShopSet in the order of its spec, objects below components, Pods below what
// made them.
func shopSetTree(ss *v1alpha1.ShopSet, owned []client.Object, replicaSets []appsv1.ReplicaSet, pods []corev1.Pod) line {
	report := cellReport(ss)
	root := line{columns: []column{{"ShopSet " + ss.Name, bold}, wellness(report.Well), {text: report.Summary}, {text: report.Message}}}
	var order []string
	told := map[string]ComponentReport{}
	for _, component := range ss.Spec.Components {
		order = append(order, component.Name)
	}
	for _, component := range report.Components {
		told[component.Name] = component
	}
	children := map[string][]line{}
	for _, object := range owned {
		name := object.GetLabels()[cell.LabelComponent]
		if name != "" && !slices.Contains(order, name) {
			order = append(order, name) // Gone from the spec, and still there.
		}
		children[name] = append(children[name], objectLine(object, replicaSets, pods))
	}
	for _, name := range order {
		l := line{columns: []column{{text: name}}, children: children[name]}
		if component, found := told[name]; found {
			l.columns = append(l.columns, wellness(component.Well), column{text: component.Message})
		} else {
			l.columns = append(l.columns, column{"no longer in the spec", yellow})
		}
		root.children = append(root.children, l)
	}
	root.children = append(root.children, children[""]...)
	return root
}

func objectLine(object client.Object, replicaSets []appsv1.ReplicaSet, pods []corev1.Pod) line {
	kind := reflect.TypeOf(object).Elem().Name()
	l := line{columns: []column{{text: kind + " " + object.GetName()}, objectState(object)}}
	for i := range replicaSets {
		set := &replicaSets[i]
		if !metav1.IsControlledBy(set, object) {
			continue
		}
		below := podLines(set, pods)
		if want := set.Spec.Replicas; len(below) > 0 || want != nil && *want > 0 { // The others are history.
			l.children = append(l.children, line{
				columns:  []column{{text: "ReplicaSet " + set.Name}, {text: fmt.Sprintf("%d/%d ready", set.Status.ReadyReplicas, set.Status.Replicas)}},
				children: below,
			})
		}
	}
	return l
}

func podLines(owner client.Object, pods []corev1.Pod) (lines []line) {
	for i := range pods {
		if pod := &pods[i]; metav1.IsControlledBy(pod, owner) {
			lines = append(lines, line{columns: []column{{text: "Pod " + pod.Name}, podState(pod), {text: pod.Spec.NodeName}}})
		}
	}
	return lines
}

func objectState(object client.Object) column {
	state := column{}
	switch o := object.(type) {
	case *appsv1.Deployment:
		state.text = fmt.Sprintf("%d/%d ready", o.Status.ReadyReplicas, cell.Desired(o))
		if !cell.RolledOut(o) {
			state.colour = red
		}
	case *corev1.Service:
		var ports []string
		for _, port := range o.Spec.Ports {
			ports = append(ports, fmt.Sprintf("%s %d", port.Name, port.Port))
		}
		state.text = string(o.Spec.Type) + ", " + strings.Join(ports, ", ")
		if cell.Drained(o) {
			state = column{"drained: takes no new connections", yellow}
		}
	case *autoscalingv2.HorizontalPodAutoscaler:
		state.text = fmt.Sprintf("%d Pods, up to %d", o.Status.DesiredReplicas, o.Spec.MaxReplicas)
	case *policyv1.PodDisruptionBudget:
		state.text = fmt.Sprintf("%d Pods may go now", o.Status.DisruptionsAllowed)
	case *appsv1.ControllerRevision:
		state.text = fmt.Sprintf("number %d", o.Revision)
	}
	if object.GetDeletionTimestamp() != nil {
		state = column{"being deleted", yellow}
	}
	return state
}

// podState is what a Pod is about, in few words; the ShopSet's status has the sentences.
func podState(pod *corev1.Pod) column {
	ready, restarts := 0, int32(0)
	reason := string(pod.Status.Phase)
	for _, status := range slices.Concat(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses) {
		restarts += status.RestartCount
		switch {
		case status.State.Waiting != nil && status.State.Waiting.Reason != "" && status.State.Waiting.Reason != "PodInitializing":
			reason = status.State.Waiting.Reason
		case status.State.Terminated != nil && status.State.Terminated.ExitCode != 0:
			reason = fmt.Sprintf("%s, exit code %d", status.Name, status.State.Terminated.ExitCode)
		}
	}
	for _, status := range pod.Status.ContainerStatuses {
		if status.Ready {
			ready++
		}
	}
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodScheduled && c.Status == corev1.ConditionFalse {
			reason = c.Reason
		}
	}
	colour := plain
	switch containers := len(pod.Spec.Containers); {
	case pod.DeletionTimestamp != nil:
		reason, colour = "Terminating", yellow
	case ready < containers && pod.Status.Phase != corev1.PodSucceeded:
		colour = red
		reason = fmt.Sprintf("%s, %d/%d ready", reason, ready, containers)
	default:
		reason += ", ready"
	}
	if restarts > 0 {
		reason += ", " + count(int(restarts), "restart", "restarts")
	}
	return column{reason, colour}
}
