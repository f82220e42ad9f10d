package main

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/shopset/shopset/api/v1alpha1"
	"github.com/shopset/shopset/examples/platform/buyer"
	"github.com/shopset/shopset/internal/devcluster"
)

// patience bounds every wait for the cluster.
const patience = 3 * time.Minute

// demo is the ShopSet of config/samples/shopset.yaml.
var demo = client.ObjectKey{Namespace: "shops", Name: "a"}

// fleet is the Fleet that the demo is with CELLS.
var fleet = client.ObjectKey{Namespace: "shops", Name: devcluster.FleetName}

// steps tells what is going on and how long it took.
type steps struct {
	mu    sync.Mutex
	began time.Time
	lines []string
}

func (s *steps) run(name string, do func() error) error {
	began := time.Now()
	s.say("%s …", name)
	if err := do(); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	took := time.Since(began)
	s.mu.Lock()
	s.lines = append(s.lines, fmt.Sprintf("  %-44s %7.1f s", name, took.Seconds()))
	s.mu.Unlock()
	return nil
}

func (s *steps) say(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	fmt.Fprintf(os.Stderr, "[%5.1fs] %s\n", time.Since(s.began).Seconds(), fmt.Sprintf(format, args...))
}

func up(ctx context.Context, t *devcluster.Target) error {
	s := &steps{began: started()}
	warm := isBuilt(t)
	if err := bringUp(ctx, t, s); err != nil {
		return err
	}
	fmt.Fprintln(os.Stderr, "\nHow long it took:")
	for _, line := range s.lines {
		fmt.Fprintln(os.Stderr, line)
	}
	name := "cold_s"
	if warm {
		name = "warm_s"
	}
	fmt.Printf("RESULT up.%s=%.1f s\n", name, time.Since(s.began).Seconds())
	cells, err := wantedCells()
	if err != nil {
		return err
	}
	fmt.Fprint(os.Stderr, next(t, cells))
	return nil
}

// bringUp does everything; what does not depend on each other runs at the same time.
func bringUp(ctx context.Context, t *devcluster.Target, s *steps) error {
	domains, err := wanted("DOMAINS", "how many customers' domains are registered", maxDomains)
	cells, cellsErr := wantedCells()
	if err := errors.Join(err, cellsErr); err != nil {
		return err
	}
	if err := install(ctx, t); err != nil {
		return err
	}
	if t.Local {
		// Built before anything else: both builds use all cores.
		if err := s.run("build Kubernetes", func() error { return t.Run(ctx, t.Tool("localcluster"), "build") }); err != nil {
			return err
		}
	}
	var images devcluster.Images
	build := func() error {
		return s.run("build images", func() (err error) {
			if err := t.Run(ctx, t.Tool("image"), "build"); err != nil {
				return err
			}
			images, err = t.ReadImages()
			return err
		})
	}
	cluster := func() error {
		if !t.Local {
			return nil
		}
		return s.run("start the cluster", func() error { return t.Run(ctx, t.Tool("localcluster"), "up") })
	}
	if err := together(build, cluster); err != nil {
		return err
	}
	if err := t.Connect(); err != nil {
		return err
	}
	if err := s.run("load images", func() error { return t.LoadImages(ctx, images) }); err != nil {
		return err
	}
	if err := s.run("apply manifests", func() error { return apply(ctx, t, images, cells) }); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	waits := []func() error{
		func() error {
			return s.run("operator serves", func() error {
				return t.WaitDeployments(ctx, "shopset-system", func(text string) { s.say("  %s", text) })
			})
		},
		func() error {
			return s.run("Redis, PostgreSQL and the certificate API serve", func() error {
				return t.WaitDeployments(ctx, "managed", func(text string) { s.say("  %s", text) })
			})
		},
		func() error {
			return s.run("domains are registered", func() error {
				return t.RegisterDomains(ctx, domains, func(text string) { s.say("  %s", text) })
			})
		},
		func() error {
			if cells > 0 {
				return s.run("Fleet and routers are ready", func() error {
					_, err := t.WaitFleet(ctx, fleet, func(text string) { s.say("  %s", text) })
					return errors.Join(err, t.WaitDeployments(ctx, fleet.Namespace, func(text string) { s.say("  %s", text) }))
				})
			}
			return s.run("ShopSet is ready", func() error {
				_, err := t.WaitReady(ctx, demo, func(text string) { s.say("  %s", text) })
				return err
			})
		},
	}
	if err := together(waits...); err != nil {
		return err
	}
	return s.run("purchase", func() error { return buy(ctx, t, domains, cells) })
}

// maxDomains is how many customers' domains the demo's api knows.
const maxDomains = 10000

// maxCells is how many cells of the demo fit on the local cluster's node.
const maxCells = 8

func wantedCells() (int, error) {
	return wanted("CELLS", "how many cells the demo has; 0 for a lone ShopSet", maxCells)
}

// wanted is a number in the environment.
func wanted(name, what string, most int) (int, error) {
	text := os.Getenv(name)
	if text == "" {
		return 0, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 0 || n > most {
		return 0, fmt.Errorf("%s=%s: want %s, 0 to %d", name, text, what, most)
	}
	return n, nil
}

// apply installs everything at once: who needs somebody else waits for it by itself.
func apply(ctx context.Context, t *devcluster.Target, images devcluster.Images, cells int) error {
	if err := t.ApplyFiles(ctx, images,
		"config/crd/shopset.dev_shopsets.yaml", "config/crd/shopset.dev_fleets.yaml",
		"config/operator/namespace.yaml", "config/operator/rbac.yaml", "config/operator/operator.yaml",
		"hack/manifests/managed.yaml", "hack/manifests/certs.yaml",
		"config/samples/namespace.yaml",
	); err != nil {
		return err
	}
	if err := t.EnsureSecrets(ctx, demo.Namespace); err != nil {
		return err
	}
	if cells == 0 {
		return t.ApplyFiles(ctx, images, "config/samples/shopset.yaml")
	}
	return t.ApplyDemoFleet(ctx, images, cells)
}

// together runs functions at the same time and returns all their errors.
func together(functions ...func() error) error {
	failures := make([]error, len(functions))
	var group sync.WaitGroup
	for i, function := range functions {
		group.Go(func() { failures[i] = function() })
	}
	group.Wait()
	return errors.Join(failures...)
}

// buy makes a purchase as a browser would and tells about it.
func buy(ctx context.Context, t *devcluster.Target, domains, cells int) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	options, err := wayIn(ctx, t, cells)
	if err != nil {
		return err
	}
	options.Shop = "shop-01." + devcluster.Domain
	if domains > 0 { // The last one, which no proxy has seen yet.
		options.Shop = devcluster.CustomerDomain(domains)
	}
	receipt, err := buyer.Buy(ctx, options)
	// A new certificate reaches the proxies a moment after the certificate API has taken it.
	var refused *net.OpError
	for until := time.Now().Add(5 * time.Second); domains > 0 && errors.As(err, &refused) && refused.Op == "remote error" && time.Now().Before(until); {
		time.Sleep(50 * time.Millisecond)
		receipt, err = buyer.Buy(ctx, options)
	}
	for unknown, said := new(x509.UnknownAuthorityError), false; errors.As(err, unknown); receipt, err = buyer.Buy(ctx, options) {
		if !said {
			fmt.Fprintln(os.Stderr, "waiting for the edge to serve the demo's new certificate; Pods get it after a minute or so")
			said = true
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(time.Second):
		}
	}
	if err != nil {
		return err
	}
	fmt.Fprintf(os.Stderr, "bought %d × %s at %s for %d.%02d EUR: order %s, %d ms\n", receipt.Quantity, receipt.Product,
		receipt.Shop, receipt.TotalCents/100, receipt.TotalCents%100, receipt.Order, receipt.Duration.Milliseconds())
	return nil
}

// wayIn is the edge of the ShopSet, or the routers of the fleet.
func wayIn(ctx context.Context, t *devcluster.Target, cells int) (buyer.Options, error) {
	if cells == 0 { // Whoever buys from what is there need not say what that is.
		lone := t.Client.Get(ctx, demo, &v1alpha1.ShopSet{})
		if apierrors.IsNotFound(lone) && t.Client.Get(ctx, fleet, &v1alpha1.Fleet{}) == nil {
			cells = 1
		}
	}
	if cells > 0 {
		return t.RouterBuyer(ctx, fleet.Namespace)
	}
	ss, err := t.WaitReady(ctx, demo, func(string) {})
	if err != nil {
		return buyer.Options{}, err
	}
	return t.Buyer(ctx, ss)
}

// isBuilt says whether the slow builds were made earlier.
func isBuilt(t *devcluster.Target) bool {
	_, images := os.Stat(filepath.Join(t.State, "images", "images.json"))
	_, kube := os.Stat(filepath.Join(t.State, "bin", "kube"))
	return images == nil && (kube == nil || !t.Local)
}

// started is when make began, so that building this program counts too.
func started() time.Time {
	if ms, err := strconv.ParseInt(os.Getenv("SHOPSET_STARTED"), 10, 64); err == nil {
		return time.UnixMilli(ms)
	}
	return time.Now()
}

func next(t *devcluster.Target, cells int) string {
	text := "\nWhat to look at next:\n"
	if path := t.Kubeconfig(); path != "" {
		text += "  export KUBECONFIG=" + path + "\n"
	}
	if t.Local {
		text += "  export PATH=$PATH:" + filepath.Join(t.State, "bin") + "\n"
	}
	first := "a"
	if cells > 0 {
		first = fleet.Name + "-1"
		text += "  kubectl -n shops get fleet             # one line tells how all cells are\n" +
			"  kubectl shopset -n shops explain shop-01.shops.example   # why this shop is on its cell, and what would serve it next\n" +
			"  kubectl shopset -n shops drain " + first + " --wait  # its shops are served by the others; undrain brings it back\n"
	}
	text += "  kubectl shopset status -A              # what is wrong, where, and whom it touches\n" +
		"  kubectl get shopset -A                 # one line tells how a cell is, and what is wrong\n" +
		"  kubectl -n shops get pods\n" +
		"  kubectl -n shops scale deployment/" + first + "-api --replicas=0   # drift: the operator mends it\n" +
		"  make buy                               # buy again\n"
	if t.Local && cells == 0 {
		text += "  curl --cacert " + t.CAFile() + " --resolve shop-01.shops.example:8443:127.0.0.1 https://shop-01.shops.example:8443/\n"
	}
	if t.Local {
		text += "  make down\n"
	}
	return text
}
