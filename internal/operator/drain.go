package operator

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
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
	// countTimeout bounds how long one look at the connections of all Pods holds up a run.
	countTimeout = 2 * time.Second
)

// ConnectionCounter asks one Pod of the edge for its open client connections.
type ConnectionCounter interface {
	Open(ctx context.Context, address, path string) (int64, error)
}

// HTTPConnections asks over HTTP: GET answers {"open": N}. Make it with NewHTTPConnections.
type HTTPConnections struct{ client *http.Client }

// NewHTTPConnections makes a client that asks only whom it is told to ask: where a Pod redirects it to is
// not its business.
func NewHTTPConnections() HTTPConnections {
	return HTTPConnections{client: &http.Client{
		Transport: &http.Transport{
			DialContext:         (&net.Dialer{Timeout: time.Second}).DialContext,
			MaxIdleConnsPerHost: 1, IdleConnTimeout: 10 * time.Second,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Timeout:       time.Second,
	}}
}

// Open asks the Pod at address (host:port). The error has no address in it: those of connections differ
// from one time to the next, and it becomes part of the status.
func (h HTTPConnections) Open(ctx context.Context, address, path string) (int64, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+path, nil)
	if err != nil {
		return 0, err
	}
	response, err := h.client.Do(request)
	if err != nil {
		return 0, withoutAddress(err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return 0, fmt.Errorf("GET %s answers %s", path, response.Status)
	}
	var answer struct {
		Open *int64 `json:"open"`
	}
	if err := json.NewDecoder(io.LimitReader(response.Body, 64<<10)).Decode(&answer); err != nil || answer.Open == nil || *answer.Open < 0 {
		return 0, fmt.Errorf(`GET %s does not answer {"open": N}`, path)
	}
	return *answer.Open, nil
}

func withoutAddress(err error) error {
	if wrapped, ok := errors.AsType[*url.Error](err); ok {
		err = wrapped.Err
	}
	if wrapped, ok := errors.AsType[*net.OpError](err); ok {
		err = wrapped.Err
	}
	if os.IsTimeout(err) || errors.Is(err, context.DeadlineExceeded) {
		return errors.New("no answer in time")
	}
	return err
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

// idleness asks the edge, once its Service takes no more connections. Only deletion has a deadline: to
// call a cell idle that has connections, or that does not tell, would be to say what is not so.
func (r *Reconciler) idleness(ctx context.Context, ss *v1alpha1.ShopSet, seen *observed) idleness {
	if !cell.Draining(ss) {
		return idleness{reason: "Active", message: "the edge receives traffic"}
	}
	until := "until all connections have ended"
	if deleted := ss.DeletionTimestamp; deleted != nil {
		deadline := deleted.Add(drainDeadline(ss))
		if !r.now().Before(deadline) {
			return idleness{idle: true, reason: "DeadlineOver",
				message: fmt.Sprintf("the drain deadline of %s is over", drainDeadline(ss))}
		}
		until = "until " + deadline.UTC().Format(time.RFC3339) + " at most"
	}
	if open := seen.openEdge(); open != "" {
		return idleness{reason: "InService", message: fmt.Sprintf("Service %s still takes connections; waiting %s", open, until)}
	}
	result := idleness{since: r.now(), reason: "Draining"}
	if ss.Status.DrainStarted != nil {
		result.since = ss.Status.DrainStarted.Time
	}
	open, unknown := r.connections(ctx, ss, seen)
	result.connections = open
	switch {
	case r.now().Sub(result.since) < settleTime:
		result.message = "taken out of service; nodes are being told"
	case unknown != "":
		result.message = fmt.Sprintf("waiting %s: %s", until, unknown)
	case *open == 0:
		result.idle, result.reason, result.message = true, "NoConnections", "no connection is open at the edge"
	default:
		result.message = fmt.Sprintf("waiting %s for open connections at the edge to end", until)
	}
	return result
}

// openEdge names a Service of an edge that is not taken out of service. A Service that is not there
// takes no connections.
func (o *observed) openEdge() string {
	for _, service := range o.edges() {
		if !cell.Drained(service) {
			return service.Name
		}
	}
	return ""
}

// edges are the Services that bring traffic in: the spec may name another edge meanwhile.
func (o *observed) edges() []*corev1.Service {
	var result []*corev1.Service
	for _, object := range o.objects {
		if service, ok := object.(*corev1.Service); ok && service.Labels[cell.LabelEdge] != "" {
			result = append(result, service)
		}
	}
	slices.SortFunc(result, func(a, b *corev1.Service) int { return strings.Compare(a.Name, b.Name) })
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
	names := map[string]bool{}
	for _, service := range seen.edges() {
		names[service.Labels[cell.LabelComponent]] = true
	}
	for i := range ss.Spec.Components {
		if component := &ss.Spec.Components[i]; component.Edge {
			names[component.Name] = true
		}
	}
	total := int64(0)
	for _, name := range slices.Sorted(maps.Keys(names)) {
		n, unknown := r.connectionsOf(ctx, ss, name, seen.pods[name])
		if unknown != "" {
			return nil, unknown
		}
		total += n
	}
	return &total, ""
}

func (r *Reconciler) connectionsOf(ctx context.Context, ss *v1alpha1.ShopSet, name string, pods []corev1.Pod) (total int64, unknown string) {
	var running []*corev1.Pod
	for i := range pods {
		if isRunning(&pods[i], name) {
			running = append(running, &pods[i])
		}
	}
	if len(running) == 0 {
		return 0, ""
	}
	at := slices.IndexFunc(ss.Spec.Components, func(c v1alpha1.Component) bool { return c.Name == name })
	if at < 0 || ss.Spec.Components[at].Connections == nil {
		return 0, "component " + name + " does not tell its connections (set connections in the spec)"
	}
	component := &ss.Spec.Components[at]
	port := strconv.Itoa(int(cell.PortNumber(component, component.Connections.Port)))
	slices.SortFunc(running, func(a, b *corev1.Pod) int { return strings.Compare(a.Name, b.Name) })
	ctx, cancel := context.WithTimeout(ctx, countTimeout)
	defer cancel()
	var group errgroup.Group
	group.SetLimit(16)
	counts, failures := make([]int64, len(running)), make([]error, len(running))
	for i, pod := range running {
		group.Go(func() error {
			counts[i], failures[i] = r.Connections.Open(ctx, net.JoinHostPort(pod.Status.PodIP, port), component.Connections.Path)
			return nil
		})
	}
	_ = group.Wait() // Every Pod is asked; failures holds what went wrong.
	for i, pod := range running {
		err := failures[i]
		if errors.Is(err, syscall.ECONNREFUSED) && pod.DeletionTimestamp != nil {
			continue // It was told to end and does not listen any more: it is at its very end.
		}
		if err != nil {
			return 0, fmt.Sprintf("Pod %s does not tell its connections: %v", pod.Name, err)
		}
		total += counts[i]
	}
	return total, ""
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
// but for the edge's Service: a spec that is wrong, a write that fails, or a namespace that ends, must
// not keep anything from being deleted.
func (r *Reconciler) turndown(ctx context.Context, ss *v1alpha1.ShopSet, seen *observed) (ctrl.Result, error) {
	if !slices.Contains(ss.Finalizers, Finalizer) {
		return ctrl.Result{}, nil
	}
	if slices.Contains(ss.Finalizers, metav1.FinalizerOrphanDependents) {
		// Whoever deletes with --cascade=orphan wants the children to live on. Kubernetes takes them out
		// of the ShopSet's ownership first; then there is nothing to drain or to delete.
		return ctrl.Result{RequeueAfter: drainRetry}, nil
	}
	out := &outcome{refused: map[string]string{}, idle: idleness{idle: true}}
	var failures []error
	if len(seen.objects) > 0 && !seen.ending() {
		if out.idle = r.idleness(ctx, ss, seen); !out.idle.idle {
			failures = append(failures, r.closeEdge(ctx, ss, seen))
		}
	}
	failures = append(failures, r.report(ctx, ss, seen, out))
	if !out.idle.idle {
		return again(drainRetry, failures...)
	}
	patienceOver := !r.now().Before(ss.DeletionTimestamp.Add(drainDeadline(ss) + goneDeadline))
	left, err := r.deleteAll(ctx, seen, patienceOver)
	if failures = append(failures, err); errors.Join(failures...) != nil || left > 0 && !patienceOver {
		return again(drainRetry, failures...)
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
		if spec, err := cell.DecodeRevision(revision.Data); err == nil {
			specs = append(specs, spec)
		}
	}
	for _, spec := range specs {
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

// deleteAll deletes all children and says how many objects and Pods are still there. First goes what
// makes Pods; the rest stays around the Pods until they have ended, unless everything shall go now.
func (r *Reconciler) deleteAll(ctx context.Context, seen *observed, now bool) (left int, err error) {
	pods := 0
	for _, list := range seen.pods {
		pods += len(list)
	}
	left = pods + len(seen.objects) + len(seen.revisions)
	var failures []error
	remove := func(makesPods bool) {
		for _, object := range seen.objects {
			if object.GetDeletionTimestamp().IsZero() && isPodMaker(object) == makesPods {
				failures = append(failures, r.delete(ctx, object))
			}
		}
	}
	remove(true)
	if pods+len(seen.deployments) == 0 || now {
		remove(false)
		for _, revision := range seen.revisions {
			failures = append(failures, r.deleteRevision(ctx, seen.namespace, revision.Name))
		}
	}
	return left, errors.Join(failures...)
}

// isPodMaker: an autoscaler without its Deployment only makes events.
func isPodMaker(object client.Object) bool {
	switch object.(type) {
	case *appsv1.Deployment, *autoscalingv2.HorizontalPodAutoscaler:
		return true
	default:
		return false
	}
}
