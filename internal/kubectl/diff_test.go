package kubectl_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/shopset/shopset/api/v1alpha1"
	"github.com/shopset/shopset/internal/kubectl"
)

const soloText = "apiVersion: shopset.dev/v1alpha1\nkind: ShopSet\nmetadata: {name: solo}\nspec:" + components

func TestDiffShopSet(t *testing.T) {
	namespace := newNamespace(t)
	solo := parse(t, &v1alpha1.ShopSet{}, soloText)
	solo.Namespace = namespace
	create(t, solo)
	diff := func(text string) result {
		t.Helper()
		return kubectlShopsetWith(t, namespace, text, "diff", "-f", "-")
	}
	diff(soloText).must(t, kubectl.ExitWell, "ShopSet "+namespace+"/solo: nothing changes")

	t.Run("one image", func(t *testing.T) {
		golden(t, namespace, "diff-image.txt", diff(strings.Replace(soloText, "example/shop:1", "example/shop:2", 1)).must(t, kubectl.ExitNotWell).out)
	})
	t.Run("a value of all, in order", func(t *testing.T) {
		golden(t, namespace, "diff-value.txt", diff(strings.Replace(soloText, "LOG_LEVEL: info", "LOG_LEVEL: debug", 1)).must(t, kubectl.ExitNotWell).out)
	})
	t.Run("replicas restart nothing", func(t *testing.T) {
		r := diff(strings.Replace(soloText, "image: example/api:1", "image: example/api:1\n      replicas: 5", 1)).must(t, kubectl.ExitNotWell, "no component restarts", "+  replicas: 5")
		if strings.Contains(r.out, "shopset.dev/revision") {
			t.Fatal(r.out)
		}
	})
	t.Run("a component goes and one comes", func(t *testing.T) {
		text := strings.Replace(strings.Replace(soloText, "name: api", "name: core", 1), "uses: [api]", "uses: [core]", 1)
		diff(text).must(t, kubectl.ExitNotWell, "1 of 3 components restart: shop; core start; api end", "--- /dev/null\n+++ Deployment solo-core", "--- Deployment solo-api\n+++ /dev/null")
	})
	t.Run("a new one", func(t *testing.T) {
		diff(strings.Replace(soloText, "name: solo", "name: other", 1)).must(t, kubectl.ExitNotWell, "other: is new; proxy, shop, api start", "+++ Deployment other-api")
	})
	t.Run("traffic that the file does not state stays", func(t *testing.T) {
		change(t, solo, func(ss *v1alpha1.ShopSet) { ss.Spec.Traffic = v1alpha1.TrafficDrain })
		diff(soloText).must(t, kubectl.ExitWell, "nothing changes")
		stated := strings.Replace(soloText, "spec:", "spec:\n    traffic: Active", 1)
		diff(stated).must(t, kubectl.ExitNotWell, "traffic becomes Active instead of Drain; no component restarts")
	})
	t.Run("what is wrong", func(t *testing.T) {
		diff(strings.Replace(soloText, "edge: true", "edge: false", 1)).must(t, kubectl.ExitError, "ShopSet solo: ", "exactly one component must have edge: true")
		diff(strings.Replace(soloText, "{{ .LOG_LEVEL }}", "{{ .NOT_THERE }}", 1)).must(t, kubectl.ExitError, "ShopSet solo: the operator would change nothing", "NOT_THERE")
		diff(strings.Replace(soloText, "image: example/api:1", "imaje: example/api:1", 1)).must(t, kubectl.ExitError, "document 1", "imaje")
		diff(strings.Replace(soloText, "{name: solo}", "{}", 1)).must(t, kubectl.ExitError, "has no metadata.name")
		diff("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\n").must(t, kubectl.ExitError, "has no ShopSet and no Fleet")
		diff("a: [").must(t, kubectl.ExitError, "-, document 1")
		kubectlShopset(t, namespace, "diff").must(t, kubectl.ExitError, "by -f")
		kubectlShopset(t, namespace, "diff", "-f", filepath.Join(t.TempDir(), "none")).must(t, kubectl.ExitError, "no such file")
	})
	after := &v1alpha1.ShopSet{}
	if err := get(t, after, namespace, "solo"); err != nil || after.ResourceVersion != solo.ResourceVersion {
		t.Fatalf("something was written: %v %s %s", err, after.ResourceVersion, solo.ResourceVersion)
	}
	if err := get(t, after, namespace, "other"); client.IgnoreNotFound(err) != nil || err == nil {
		t.Fatalf("a ShopSet was made: %v", err)
	}
}

func TestDiffFleet(t *testing.T) {
	namespace, f := serving(t, &open{})
	version := f.ResourceVersion
	file := filepath.Join(t.TempDir(), "fleet.yaml")
	diff := func(args []string, changes ...string) result {
		t.Helper()
		if err := os.WriteFile(file, []byte(strings.NewReplacer(changes...).Replace(fleetText)), 0o600); err != nil {
			t.Fatal(err)
		}
		return kubectlShopset(t, namespace, append([]string{"diff", "-f", file}, args...)...)
	}
	diff(nil).must(t, kubectl.ExitWell, "main-1: nothing changes", "main-3: nothing changes")
	r := diff(nil, "example/shop:1", "example/shop:2", "cells: 3", "cells: 4").must(t, kubectl.ExitNotWell,
		"-cells: 3\n+cells: 4\n", "main-1: 1 of 3 components restart: shop", "main-2: 1 of 3 components restart: shop\n  its objects change as those of main-1 do",
		"main-4: is new; proxy, shop, api start")
	if n := strings.Count(r.out, "+        image: example/shop:2"); n != 2 { // Of main-1, and of the new one.
		t.Fatalf("the change is shown %d times:\n%s", n, r.out)
	}
	r = diff([]string{"--all"}, "example/shop:1", "example/shop:2").must(t, kubectl.ExitNotWell)
	if n := strings.Count(r.out, "+        image: example/shop:2"); n != 3 {
		t.Fatalf("the change is shown %d times:\n%s", n, r.out)
	}
	diff(nil, "cells: 3", "cells: 2").must(t, kubectl.ExitNotWell, "main-3 leaves: it is drained, and deleted when it is idle")
	diff(nil, "cell: main-2", "cell: main-9").must(t, kubectl.ExitError, "Fleet main: the operator would change nothing", `pinned to cell "main-9"`, "its cells are main-1, main-2, main-3")
	diff(nil, "maxShare: 50", "maxShare: 20").must(t, kubectl.ExitError, "spec.placement", "add cells or raise maxShare")
	diff(nil, "name: main", "name: other", "cell: main-2", "cell: other-1").must(t, kubectl.ExitNotWell, "Fleet "+namespace+"/other is new", "other-3: is new")

	kubectlShopsetWith(t, namespace, strings.Replace(strings.Replace(soloText, "name: solo", "name: main-1", 1), "example/shop:1", "example/shop:2", 1), "diff", "-f", "-").
		must(t, kubectl.ExitNotWell, "main-1 belongs to Fleet main, which would set it back", "1 of 3 components restart: shop")
	if err := get(t, f, namespace, "main"); err != nil || f.ResourceVersion != version {
		t.Fatalf("something was written: %v %s %s", err, f.ResourceVersion, version)
	}
}
