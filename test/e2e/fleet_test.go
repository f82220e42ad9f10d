package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/shopset/shopset/api/v1alpha1"
	"github.com/shopset/shopset/examples/platform/buyer"
	"github.com/shopset/shopset/internal/devcluster"
	"github.com/shopset/shopset/internal/placement"
	"github.com/shopset/shopset/internal/routetable"
)

// fleet is one of its own, with routers in front of it.
type fleet struct {
	*v1alpha1.Fleet
	options buyer.Options
	// people and hosts are who buys at present, and where.
	people *shoppers
	hosts  []string
}

// startedFleet waits for a fleet of so many cells that serves.
func startedFleet(t *testing.T, cells int) *fleet {
	t.Helper()
	namespace := newNamespace(t)
	ss := sample(t, namespace)
	f := &fleet{Fleet: devcluster.FleetOf(ss, cells)}
	if err := target.Client.Create(t.Context(), f.Fleet); err != nil {
		t.Fatal(err)
	}
	// The namespace waits for ShopSets, and the fleet would make them anew.
	t.Cleanup(func() { f.end(t) })
	content, err := os.ReadFile(filepath.Join(target.Root, "config/router/router.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	manifest := strings.NewReplacer("namespace: shops", "namespace: "+namespace, "shops/main-routes", namespace+"/main-routes").Replace(images.Pin(string(content)))
	objects, err := devcluster.Parse(manifest)
	if err != nil {
		t.Fatal(err)
	}
	for _, object := range objects {
		if err := target.Apply(t.Context(), object); err != nil {
			t.Fatal(err)
		}
	}
	f.wait(t)
	if f.options, err = target.RouterBuyer(t.Context(), namespace); err != nil {
		t.Fatal(err)
	}
	f.options.StepTimeout = 5 * time.Second
	return f
}

// end deletes the fleet: its cells go with the namespace.
func (f *fleet) end(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := target.Client.Delete(ctx, f.Fleet, client.PropagationPolicy(metav1.DeletePropagationBackground)); client.IgnoreNotFound(err) != nil {
		t.Error(err)
	}
}

// wait until all cells and all routers are well.
func (f *fleet) wait(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	current, err := target.WaitFleet(ctx, client.ObjectKeyFromObject(f.Fleet), func(string) {})
	if err != nil {
		t.Fatal(err)
	}
	f.Fleet = current
	if err := target.WaitDeployments(ctx, f.Namespace, func(string) {}); err != nil {
		t.Fatal(err)
	}
}

// firstCells maps hosts to the cell that the published table has first for them.
func (f *fleet) firstCells(t *testing.T, hosts []string) map[string]string {
	t.Helper()
	table := f.table(t)
	function, err := table.Function()
	if err != nil {
		t.Fatal(err)
	}
	first := map[string]string{}
	for _, host := range hosts {
		name, err := placement.Normalise(host)
		if err != nil {
			t.Fatal(err)
		}
		first[host] = table.Cells[function.Place(name, nil)[0]].Name
	}
	return first
}

// settled waits until every router leads every host to its first cell: a cell that has come back gets its hosts one after the other.
func (f *fleet) settled(t *testing.T, first map[string]string) {
	t.Helper()
	clientset, err := kubernetes.NewForConfig(target.Config)
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error {
		routers := &corev1.PodList{}
		if err := target.Client.List(t.Context(), routers, client.InNamespace(f.Namespace), client.MatchingLabels{"shopset.dev/router": "true"}); err != nil || len(routers.Items) == 0 {
			return errors.Join(err, errors.New("there is no router"))
		}
		for _, router := range routers.Items {
			if router.DeletionTimestamp != nil {
				continue
			}
			for host, cell := range first {
				answer, err := clientset.CoreV1().Pods(f.Namespace).ProxyGet("http", router.Name, "9090", "/debug/route", map[string]string{"host": host}).DoRaw(t.Context())
				var route struct{ Cell string }
				if err = errors.Join(err, json.Unmarshal(answer, &route)); err != nil {
					return err
				}
				if route.Cell != cell {
					return fmt.Errorf("%s leads %s to %s in place of %s", router.Name, host, route.Cell, cell)
				}
			}
		}
		return nil
	})
}

func (f *fleet) table(t *testing.T) *routetable.Table {
	t.Helper()
	routes, keys := &corev1.ConfigMap{}, &corev1.ConfigMap{}
	for name, into := range map[string]*corev1.ConfigMap{"-routes": routes, "-routes-keys": keys} {
		if err := target.Client.Get(t.Context(), client.ObjectKey{Namespace: f.Namespace, Name: f.Name + name}, into); err != nil {
			t.Fatal(err)
		}
	}
	public, err := routetable.ParsePublicKeys([]byte(keys.Data["keys.pem"]))
	if err != nil {
		t.Fatal(err)
	}
	table, err := routetable.Open(routes.BinaryData["routes"], public)
	if err != nil {
		t.Fatal(err)
	}
	return table
}

func (f *fleet) cell(name string) *v1alpha1.ShopSet {
	return &v1alpha1.ShopSet{ObjectMeta: metav1.ObjectMeta{Namespace: f.Namespace, Name: name}}
}

// shoppers buy at many shops until they are stopped, and know when each shop has sold something.
type shoppers struct {
	*load
	mu     sync.Mutex
	sold   map[string]int
	failed int
}

func (f *fleet) shoppers(t *testing.T, hosts []string) *shoppers {
	s := &shoppers{sold: map[string]int{}}
	s.load = startLoadAt(t, f.options, hosts, func(receipt buyer.Receipt, err error) {
		s.mu.Lock()
		defer s.mu.Unlock()
		if err == nil {
			s.sold[receipt.Shop]++
		} else {
			s.failed++
		}
	})
	return s
}

// notice waits until somebody could not buy.
func (s *shoppers) notice(t *testing.T) {
	t.Helper()
	eventually(t, func() error {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.failed == 0 {
			return errors.New("nobody notices anything")
		}
		return nil
	})
}

// everyShop waits until each shop has sold something that was begun after this call: of one more than there are people, one was.
func (s *shoppers) everyShop(t *testing.T, hosts []string) {
	t.Helper()
	s.mu.Lock()
	before := maps.Clone(s.sold)
	s.mu.Unlock()
	eventually(t, func() error {
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, host := range hosts {
			if s.sold[host] < before[host]+2 {
				return fmt.Errorf("%s sells nothing", host)
			}
		}
		return nil
	})
}

// TestFleetUnderFaults breaks one cell after the other in every way while people buy at many shops. Shops of other cells notice
// nothing, those of the broken one are served by others, and no order is lost or made twice.
func TestFleetUnderFaults(t *testing.T) {
	if !target.Local {
		t.Skip("it stops processes and cuts networks of the node, which only the local cluster's is at hand for")
	}
	f := startedFleet(t, 3)
	hosts := shops(20)
	cells := []string{f.Name + "-1", f.Name + "-2", f.Name + "-3"}
	for i, fault := range []struct {
		name string
		// do breaks a cell and returns what mends it, nil for what mends itself.
		do func(t *testing.T, f *fleet, cell string) (mend func())
		// quiet says that nobody at all may notice.
		quiet bool
	}{
		{"pods_killed", killPods, false},
		{"hung", hang, false},
		{"network_cut", cutNetwork, false},
		{"answers_5xx", answerErrors, false},
		{"hung_inside", hangInside, false},
		{"drained", drain, true},
		{"deleted", deleteCell, true},
		{"added", addCell, true},
		{"routers_restarted", restartRouters, true},
		{"no_control_plane", withoutControlPlane, false},
	} {
		t.Run(fault.name, func(t *testing.T) {
			victim := cells[i%len(cells)]
			first := f.firstCells(t, hosts)
			if !fault.quiet {
				f.settled(t, first)
			}
			before := orders(t)
			people := f.shoppers(t, hosts)
			people.everyShop(t, hosts)
			f.people, f.hosts = people, hosts
			mend := fault.do(t, f, victim)
			people.everyShop(t, hosts)
			if mend != nil {
				mend()
			}
			f.wait(t)
			people.everyShop(t, hosts)
			report := people.stop()
			checkOrders(t, report, people.lost, before)
			touched := 0
			var longest time.Duration
			for _, host := range slices.Sorted(maps.Keys(report.Shops)) {
				shop := report.Shops[host]
				if shop.Failed == 0 {
					continue
				}
				touched++
				longest = max(longest, shop.Outage)
				if fault.quiet || first[host] != victim {
					t.Errorf("%s, a shop of %s, failed %d times while %s of %s: %v", host, first[host], shop.Failed, fault.name, victim, shop.FirstError)
				}
			}
			fmt.Printf("RESULT fleet.%s.shops_touched=%d shops\nRESULT fleet.%s.requests_failed=%d requests\nRESULT fleet.%s.outage_s=%.3f s\nRESULT fleet.%s.purchases=%d purchases\n",
				fault.name, touched, fault.name, report.Failed, fault.name, longest.Seconds(), fault.name, report.Bought)
		})
	}
}
