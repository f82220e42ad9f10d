package operator

import (
	"context"
	"fmt"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/shopset/shopset/api/v1alpha1"
	"github.com/shopset/shopset/internal/cell"
	"github.com/shopset/shopset/internal/fleet"
	"github.com/shopset/shopset/internal/routetable"
)

// publishedTable is a table as it is in its ConfigMap.
type publishedTable = routetable.Table

// fleetSeen is what the cluster holds for one Fleet.
type fleetSeen struct {
	fleet.Seen
	// routes and keys are the ConfigMaps, nil if they are not there. They belong to the cache: do not change them.
	routes, keys *corev1.ConfigMap
	// ring is nil if it cannot be used; keyProblem says why.
	ring       *keyring
	keyProblem string
	signedBy   string
}

func (r *FleetReconciler) gather(ctx context.Context, f *v1alpha1.Fleet) (*fleetSeen, error) {
	seen := &fleetSeen{Seen: fleet.Seen{Endpoints: map[string]routetable.Endpoints{}}}
	shopSets := &v1alpha1.ShopSetList{}
	if err := r.Client.List(ctx, shopSets, client.InNamespace(f.Namespace), client.UnsafeDisableDeepCopy); err != nil {
		return nil, fmt.Errorf("list ShopSets: %w", err)
	}
	for i := range shopSets.Items {
		seen.ShopSets = append(seen.ShopSets, &shopSets.Items[i])
	}
	endpoints := &discoveryv1.EndpointSliceList{}
	if err := r.Client.List(ctx, endpoints, client.InNamespace(f.Namespace), client.HasLabels{cell.LabelEdge}, client.UnsafeDisableDeepCopy); err != nil {
		return nil, fmt.Errorf("list EndpointSlices: %w", err)
	}
	byShopSet := map[string][]*discoveryv1.EndpointSlice{}
	for i := range endpoints.Items {
		name := endpoints.Items[i].Labels[cell.LabelShopSet]
		byShopSet[name] = append(byShopSet[name], &endpoints.Items[i])
	}
	for name, list := range byShopSet {
		seen.Endpoints[name] = routetable.Endpoints{HTTPS: addresses(list, fleet.PortHTTPS), HTTP: addresses(list, fleet.PortHTTP)}
	}
	if err := r.gatherTable(ctx, f, seen); err != nil {
		return nil, err
	}
	return seen, nil
}

// gatherTable reads the table that is published, and the keys.
func (r *FleetReconciler) gatherTable(ctx context.Context, f *v1alpha1.Fleet, seen *fleetSeen) error {
	var err error
	if seen.routes, err = r.configMap(ctx, f, routesName(f)); err != nil {
		return err
	}
	if seen.keys, err = r.configMap(ctx, f, keysName(f)); err != nil {
		return err
	}
	if seen.ring, seen.keyProblem, err = r.keyring(ctx, f); err != nil || seen.ring == nil || seen.routes == nil {
		return err
	}
	envelope := seen.routes.BinaryData[routesKey]
	// One that does not open is as good as lost: a new epoch begins.
	if table, err := routetable.Open(envelope, seen.ring.trusted); err == nil && table.Fleet == f.Namespace+"/"+f.Name {
		seen.Table, seen.signedBy = table, routetable.SignedBy(envelope)
	}
	return nil
}

// configMap is nil if there is none. What the operator wrote a moment ago counts, though the cache does not show it yet.
func (r *FleetReconciler) configMap(ctx context.Context, f *v1alpha1.Fleet, name string) (*corev1.ConfigMap, error) {
	found := &corev1.ConfigMap{}
	err := r.Tables.Get(ctx, client.ObjectKey{Namespace: f.Namespace, Name: name}, found)
	if apierrors.IsNotFound(err) {
		found, err = nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read ConfigMap %s: %w", name, err)
	}
	return r.memory.latest(f.UID, name, found, r.now()), nil
}

// addresses are those of the ready endpoints at the port of that name; of all that are not ending if none is ready,
// because routers see for themselves. Sorted, each once, and bounded.
func addresses(list []*discoveryv1.EndpointSlice, port string) []netip.AddrPort {
	var ready, others []netip.AddrPort
	for _, slice := range list {
		at := slices.IndexFunc(slice.Ports, func(p discoveryv1.EndpointPort) bool {
			return p.Name != nil && *p.Name == port && p.Port != nil && *p.Port > 0 && *p.Port <= 65535 && (p.Protocol == nil || *p.Protocol == corev1.ProtocolTCP)
		})
		if at < 0 || slice.AddressType == discoveryv1.AddressTypeFQDN || !slice.DeletionTimestamp.IsZero() {
			continue
		}
		number := uint16(*slice.Ports[at].Port) //nolint:gosec // Checked above.
		for _, endpoint := range slice.Endpoints {
			if len(endpoint.Addresses) == 0 {
				continue
			}
			// The addresses of one endpoint stand for the same thing; consumers use the first.
			address, err := netip.ParseAddr(endpoint.Addresses[0])
			if err != nil {
				continue
			}
			target := netip.AddrPortFrom(address.Unmap().WithZone(""), number)
			switch conditions := endpoint.Conditions; {
			case conditions.Terminating != nil && *conditions.Terminating:
			case conditions.Ready == nil || *conditions.Ready:
				ready = append(ready, target)
			default:
				others = append(others, target)
			}
		}
	}
	if len(ready) == 0 {
		ready = others
	}
	slices.SortFunc(ready, netip.AddrPort.Compare)
	ready = slices.Compact(ready)
	return ready[:min(len(ready), routetable.MaxEndpoints)]
}
