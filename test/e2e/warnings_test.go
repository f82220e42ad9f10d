package e2e

import (
	"bufio"
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// maxWarnings is how many lines are told of each Pod.
const maxWarnings = 12

// tellWarnings logs what the Pods of a namespace warned of, when a test has failed: afterwards they are gone.
func tellWarnings(t *testing.T, namespace string) {
	if !t.Failed() {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	clientset, err := kubernetes.NewForConfig(target.Config)
	if err != nil {
		t.Log(err)
		return
	}
	list := &corev1.PodList{}
	if err := target.Client.List(ctx, list, client.InNamespace(namespace)); err != nil {
		t.Log(err)
		return
	}
	for _, pod := range list.Items {
		for _, container := range pod.Status.ContainerStatuses {
			warnings, err := warningsOf(ctx, clientset, &pod, container.Name)
			if len(warnings) > 0 || err != nil || container.RestartCount > 0 {
				t.Logf("%s, %s, restarted %d times: %v\n%s", pod.Name, container.Name, container.RestartCount, err, strings.Join(warnings, "\n"))
			}
		}
	}
}

// warningsOf are the last lines of a log that are no information, or about a request that failed.
func warningsOf(ctx context.Context, clientset kubernetes.Interface, pod *corev1.Pod, container string) (warnings []string, err error) {
	stream, err := clientset.CoreV1().Pods(pod.Namespace).GetLogs(pod.Name, &corev1.PodLogOptions{Container: container}).Stream(ctx)
	if err != nil {
		return nil, err
	}
	defer stream.Close()
	lines := bufio.NewScanner(stream)
	for lines.Scan() {
		line := lines.Text()
		if strings.Contains(line, `"level":"INFO"`) && !strings.Contains(line, `"status":5`) {
			continue
		}
		if warnings = append(warnings, fmt.Sprintf("    %.400s", line)); len(warnings) > maxWarnings {
			warnings = warnings[1:]
		}
	}
	return warnings, lines.Err()
}
