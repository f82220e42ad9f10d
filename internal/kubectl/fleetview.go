package kubectl

import (
	"cmp"
	"context"
	"crypto/ed25519"
	"fmt"
	"os"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/shopset/shopset/api/v1alpha1"
	"github.com/shopset/shopset/internal/fleet"
	"github.com/shopset/shopset/internal/placement"
	"github.com/shopset/shopset/internal/routetable"
)

// fleetView is a Fleet and what the operator decides from.
type fleetView struct {
	fleet    *v1alpha1.Fleet
	shopSets []*v1alpha1.ShopSet
	// table is nil if there is none; noTable says why.
	table   *routetable.Table
	noTable error
}

func (t *tool) viewOf(ctx context.Context, f *v1alpha1.Fleet, keysFile string) (*fleetView, error) {
	view := &fleetView{fleet: f}
	list := &v1alpha1.ShopSetList{}
	if err := t.client.List(ctx, list, client.InNamespace(f.Namespace)); err != nil {
		return nil, err
	}
	for i := range list.Items {
		view.shopSets = append(view.shopSets, &list.Items[i])
	}
	view.table, view.noTable = t.publishedTable(ctx, f, keysFile)
	return view, nil
}

// decide is the operator's decision about the fleet, were its spec and ShopSets as they are here.
func (v *fleetView) decide(now time.Time) *fleet.Plan {
	seen := fleet.Seen{ShopSets: v.shopSets, Table: v.table, Endpoints: map[string]routetable.Endpoints{}}
	if v.table != nil {
		for _, cell := range v.table.Cells {
			seen.Endpoints[cell.Name] = cell.Endpoints
		}
	}
	return fleet.Decide(v.fleet, seen, now)
}

// cells are the names of the cells that there shall be.
func (v *fleetView) cells(now time.Time) (names []string) {
	for _, cell := range v.decide(now).Cells {
		if cell.State != v1alpha1.CellLeaving {
			names = append(names, cell.Name)
		}
	}
	return names
}

func (v *fleetView) shopSet(name string) *v1alpha1.ShopSet {
	for _, ss := range v.shopSets {
		if ss.Name == name {
			return ss
		}
	}
	return nil
}

// publishedTable reads the table of a fleet and checks its signature by the keys of a file; without one, by those that
// the operator publishes.
func (t *tool) publishedTable(ctx context.Context, f *v1alpha1.Fleet, keysFile string) (*routetable.Table, error) {
	routes, err := t.configMap(ctx, f, routetable.RoutesName(f.Name))
	if err != nil {
		return nil, err
	}
	keys, err := readKeys(keysFile)
	if keysFile == "" {
		published, failure := t.configMap(ctx, f, routetable.KeysName(f.Name))
		if failure != nil {
			return nil, failure
		}
		keys, err = routetable.ParsePublicKeys([]byte(published.Data[routetable.KeysEntry]))
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w; give the keys that your routers trust by --keys", cmp.Or(keysFile, "ConfigMap "+routetable.KeysName(f.Name)), err)
	}
	table, err := routetable.Open(routes.BinaryData[routetable.RoutesEntry], keys)
	if err != nil {
		return nil, fmt.Errorf("ConfigMap %s: %w; routers refuse it, too: delete it, and the operator publishes it anew", routes.Name, err)
	}
	if want := f.Namespace + "/" + f.Name; table.Fleet != want {
		return nil, fmt.Errorf("ConfigMap %s: it holds the table of fleet %s, not of %s; delete it, and the operator publishes it anew", routes.Name, table.Fleet, want)
	}
	return table, nil
}

// notPublished is the kind of error for a table that may come.
type notPublished struct{ error }

func (t *tool) configMap(ctx context.Context, f *v1alpha1.Fleet, name string) (*corev1.ConfigMap, error) {
	found := &corev1.ConfigMap{}
	err := t.client.Get(ctx, client.ObjectKey{Namespace: f.Namespace, Name: name}, found)
	if apierrors.IsNotFound(err) {
		return nil, notPublished{fmt.Errorf("no routing table of fleet %s is published yet (there is no ConfigMap %s); kubectl shopset status says what it waits for", f.Name, name)}
	}
	return found, err
}

// readKeys is nothing without a file.
func readKeys(path string) ([]ed25519.PublicKey, error) {
	if path == "" {
		return nil, nil
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	return routetable.ParsePublicKeys(text)
}

// pinOf is the entry of the spec for just this host, in any spelling; -1 if there is none.
func pinOf(f *v1alpha1.Fleet, host string) int {
	if f.Spec.Placement == nil {
		return -1
	}
	for i, pin := range f.Spec.Placement.Pins {
		if name, err := placement.NormalisePin(pin.Host); err == nil && name == host {
			return i
		}
	}
	return -1
}
