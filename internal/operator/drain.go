package operator

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/shopset/shopset/api/v1alpha1"
	"github.com/shopset/shopset/internal/cell"
)

const (
	// defaultDrainDeadline is the CRD's default.
	defaultDrainDeadline = 5 * time.Minute
	// settleTime is how long a cell is drained at least before it may count as idle: until then not
	// every node may know that the edge takes no more connections.
	settleTime = 2 * time.Second
	// goneDeadline is how long deletion waits for Pods to end. A Pod on a dead node never does, and
	// its garbage collection needs no ShopSet.
	goneDeadline = 2 * time.Minute
)

// ConnectionCounter asks one Pod of the edge for its open client connections.
type ConnectionCounter interface {
	Open(ctx context.Context, address, path string) (int64, error)
}

// HTTPConnections asks over HTTP: GET answers {"open": N}.
type HTTPConnections struct{ Client *http.Client }

// Open asks the Pod at address (host:port).
func (h HTTPConnections) Open(ctx context.Context, address, path string) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+path, nil)
	if err != nil {
		return 0, err
	}
	response, err := h.Client.Do(request)
	if errors.Is(err, syscall.ECONNREFUSED) {
		return 0, nil // Nothing listens, so nobody is connected.
	}
	if err != nil {
		return 0, err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return 0, fmt.Errorf("GET %s answers %s", path, response.Status)
	}
	var answer struct {
		Open *int64 `json:"open"`
	}
	if err := json.NewDecoder(io.LimitReader(response.Body, 64<<10)).Decode(&answer); err != nil || answer.Open == nil {
		return 0, fmt.Errorf(`GET %s does not answer {"open": N}`, path)
	}
	return *answer.Open, nil
}

// idleness says whether a cell may be deleted without anybody noticing.
type idleness struct {
	idle bool
	// since is when the cell was taken out of service; zero while it is in service.
	since time.Time
	// connections open at the edge, nil when unknown.
	connections *int64
	// reason in one word and in words, for the condition.
	reason, message string
}

func (r *Reconciler) idleness(ctx context.Context, ss *v1alpha1.ShopSet, seen *observed) idleness {
	if !cell.Draining(ss) {
		return idleness{reason: "Active", message: "the edge receives traffic"}
	}
	now := r.now()
	since := now
	if ss.Status.DrainStarted != nil {
		since = ss.Status.DrainStarted.Time
	}
	result := idleness{since: since}
	deadline := since.Add(drainDeadline(ss))
	open, unknown := r.connections(ctx, ss, seen)
	result.connections = open
	switch {
	case now.Sub(since) < settleTime:
		result.reason, result.message = "Draining", "taken out of service; nodes are being told"
	case unknown == "" && *open == 0:
		result.idle, result.reason, result.message = true, "NoConnections", "no connection is open at the edge"
	case !now.Before(deadline):
		result.idle, result.reason = true, "DeadlineOver"
		result.message = fmt.Sprintf("the drain deadline of %s is over", drainDeadline(ss))
	case unknown != "":
		result.reason = "Draining"
		result.message = fmt.Sprintf("waiting until %s: %s", deadline.UTC().Format(time.RFC3339), unknown)
	default:
		result.reason = "Draining"
		result.message = fmt.Sprintf("waiting until %s at most for open connections at the edge to end", deadline.UTC().Format(time.RFC3339))
	}
	return result
}

func drainDeadline(ss *v1alpha1.ShopSet) time.Duration {
	if ss.Spec.Drain != nil && ss.Spec.Drain.Deadline != nil {
		return ss.Spec.Drain.Deadline.Duration
	}
	return defaultDrainDeadline
}

// connections adds up the connections of all Pods of the edge. unknown says why it cannot, if so.
func (r *Reconciler) connections(ctx context.Context, ss *v1alpha1.ShopSet, seen *observed) (open *int64, unknown string) {
	var edge *v1alpha1.Component
	for i := range ss.Spec.Components {
		if ss.Spec.Components[i].Edge {
			edge = &ss.Spec.Components[i]
		}
	}
	if edge == nil {
		return new(int64(0)), ""
	}
	var running []*corev1.Pod
	for i := range seen.pods[edge.Name] {
		if pod := &seen.pods[edge.Name][i]; isRunning(pod, edge.Name) {
			running = append(running, pod)
		}
	}
	if len(running) == 0 {
		return new(int64(0)), ""
	}
	if edge.Connections == nil {
		return nil, "component " + edge.Name + " does not tell its connections (set connections in the spec)"
	}
	port := strconv.Itoa(int(cell.PortNumber(edge, edge.Connections.Port)))
	var mu sync.Mutex
	var group sync.WaitGroup
	total, limit := int64(0), make(chan struct{}, 16)
	for _, pod := range running {
		group.Go(func() {
			limit <- struct{}{}
			defer func() { <-limit }()
			n, err := r.Connections.Open(ctx, net.JoinHostPort(pod.Status.PodIP, port), edge.Connections.Path)
			mu.Lock()
			defer mu.Unlock()
			total += n
			if err != nil {
				unknown = fmt.Sprintf("Pod %s does not tell its connections: %v", pod.Name, err)
			}
		})
	}
	group.Wait()
	if unknown != "" {
		return nil, unknown
	}
	return &total, ""
}

func isRunning(pod *corev1.Pod, container string) bool {
	if pod.Status.PodIP == "" {
		return false
	}
	for _, status := range pod.Status.ContainerStatuses {
		if status.Name == container {
			return status.State.Running != nil
		}
	}
	return false
}

// turndown ends a ShopSet that is being deleted. Until it is idle, its children are left as they are,
// but for the edge's Service: a spec that is wrong, or a namespace that ends, must not keep anything
// from being deleted.
func (r *Reconciler) turndown(ctx context.Context, ss *v1alpha1.ShopSet, seen *observed) (ctrl.Result, error) {
	if !slices.Contains(ss.Finalizers, Finalizer) {
		return ctrl.Result{}, nil
	}
	out := &outcome{refused: map[string]string{}, idle: idleness{idle: true}}
	if len(seen.objects) > 0 && !seen.ending() {
		if err := r.closeEdge(ctx, ss, seen); err != nil {
			return again(0, err)
		}
		out.idle = r.idleness(ctx, ss, seen)
	}
	if err := r.report(ctx, ss, seen, out); err != nil {
		return again(0, err)
	}
	if !out.idle.idle {
		return ctrl.Result{RequeueAfter: drainRetry}, nil
	}
	left, err := r.deleteAll(ctx, seen)
	if err != nil {
		return ctrl.Result{}, err
	}
	started := ss.DeletionTimestamp.Time
	if ss.Status.DrainStarted != nil {
		started = ss.Status.DrainStarted.Time
	}
	if left > 0 && r.now().Before(started.Add(drainDeadline(ss)+goneDeadline)) {
		return ctrl.Result{RequeueAfter: drainRetry}, nil
	}
	others := slices.DeleteFunc(slices.Clone(ss.Finalizers), func(name string) bool { return name == Finalizer })
	if err := r.setFinalizers(ctx, ss, others); client.IgnoreNotFound(err) != nil {
		return again(0, err)
	}
	r.memory.forget(ss.UID)
	return ctrl.Result{}, nil
}

// closeEdge takes the edge out of service. The newest recorded spec stands in for one that cannot be
// built.
func (r *Reconciler) closeEdge(ctx context.Context, ss *v1alpha1.ShopSet, seen *observed) error {
	specs := []*v1alpha1.ShopSetSpec{&ss.Spec}
	for _, revision := range seen.revisions {
		specs = append(specs, revision.Spec)
	}
	for _, spec := range specs {
		if spec == nil {
			continue
		}
		candidate := ss.DeepCopy()
		candidate.Spec = *spec.DeepCopy()
		desired, err := cell.Build(candidate)
		if err != nil {
			continue
		}
		for i := range desired.Components {
			service := desired.Components[i].Service
			if service == nil || !candidate.Spec.Components[i].Edge {
				continue
			}
			if live := seen.objects[keyOf(service)]; live != nil && live.GetDeletionTimestamp().IsZero() {
				if _, err := r.ensure(ctx, ss, service, live); err != nil && refusal(err) == "" {
					return err
				}
			}
		}
		return nil
	}
	return nil
}

// ending says whether children are being deleted already: then nobody can be drained any more.
func (o *observed) ending() bool {
	for _, deployment := range o.deployments {
		if !deployment.DeletionTimestamp.IsZero() {
			return true
		}
	}
	return len(o.deployments) == 0
}

// deleteAll deletes all children and says how many objects and Pods are still there.
func (r *Reconciler) deleteAll(ctx context.Context, seen *observed) (left int, err error) {
	var failures []error
	for _, object := range seen.objects {
		left++
		if object.GetDeletionTimestamp().IsZero() {
			failures = append(failures, r.delete(ctx, object))
		}
	}
	for _, revision := range seen.revisions {
		left++
		old := &metav1.PartialObjectMetadata{}
		old.SetGroupVersionKind(controllerRevisionKind)
		old.SetName(revision.Name)
		old.SetNamespace(seen.namespace)
		failures = append(failures, client.IgnoreNotFound(r.Client.Delete(ctx, old)))
	}
	for _, pods := range seen.pods {
		left += len(pods)
	}
	return left, errors.Join(failures...)
}
