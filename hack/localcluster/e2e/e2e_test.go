package e2e

import (
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/shopset/shopset/hack/localcluster/internal/component"
	"github.com/shopset/shopset/hack/localcluster/internal/image"
	"github.com/shopset/shopset/hack/localcluster/internal/node"
	"github.com/shopset/shopset/hack/localcluster/internal/proc"
)

const probeImage = "localhost/shopset-e2e-probe:1"

// TestCluster is one story, told in order: its parts share a cluster, since a start costs seconds.
func TestCluster(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: starts clusters")
	}
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	dir := t.TempDir()
	program := filepath.Join(dir, "localcluster")
	compile(t, "..", program)
	compile(t, "./probe", filepath.Join(dir, "probe"))
	archive := filepath.Join(dir, "probe.tar")
	if err := image.Pack(probeImage, filepath.Join(dir, "probe"), archive); err != nil {
		t.Fatal(err)
	}
	before := takeInventory(t)
	c := newCluster(t, program)

	part(t, c, "down when nothing is up", testNothingUp)
	part(t, c, "up, and up again", testUpTwice)
	part(t, c, "who is not known", testAnonymous)
	part(t, c, "load", func(t *testing.T, c *cluster) { testLoad(t, c, archive) })
	part(t, c, "Pods", testPods)
	part(t, c, "a second cluster", testSecondCluster)
	part(t, c, "components are killed", testComponentsKilled)
	part(t, c, "Pods after that", testPodsStillWork)
	part(t, c, "the node is killed", testNodeKilled)
	part(t, c, "the keeper is killed", testKeeperKilled)
	part(t, c, "the record is deleted", testRecordDeleted)
	part(t, c, "down", func(t *testing.T, c *cluster) { testDown(t, c, before, archive) })
}

// part runs a part of the story; the parts after a failed one could only fail too.
func part(t *testing.T, c *cluster, name string, f func(*testing.T, *cluster)) {
	t.Helper()
	began := time.Now()
	ok := t.Run(name, func(t *testing.T) {
		sub := *c
		sub.t = t
		f(t, &sub)
	})
	if !ok {
		t.FailNow()
	}
	t.Logf("%s: %.2f s", name, time.Since(began).Seconds())
}

func testNothingUp(t *testing.T, c *cluster) {
	c.must("down")
	if out, err := c.run("status"); err == nil || !strings.Contains(out, "localcluster up") {
		t.Errorf("status of no cluster: %v\n%s", err, out)
	}
	if out, err := c.run("kubeconfig"); err == nil {
		t.Errorf("kubeconfig of no cluster: %s", out)
	}
}

func testUpTwice(t *testing.T, c *cluster) {
	t.Log(c.up())
	first := c.record()
	if out := c.up(); !strings.Contains(out, "is up since") {
		t.Errorf("second up: %s", out)
	}
	if c.record().Node != first.Node {
		t.Error("the second up has replaced a healthy cluster")
	}
	t.Log(c.must("status"))
	path := strings.TrimSpace(c.must("kubeconfig"))
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("kubeconfig %q: %v, %v; want mode 0600", path, info, err)
	}
	response, err := http.Get(fmt.Sprintf("http://127.0.0.1:%s/", c.nodePort))
	if err == nil {
		response.Body.Close()
		t.Error("a node port without a Service answers")
	}
}

// testAnonymous asks without credentials: only whether the server lives is anybody's business.
func testAnonymous(t *testing.T, c *cluster) {
	client := http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	plan, port := c.record().Spec.Plan, c.record().Spec.API.Host
	for url, want := range map[string]int{
		fmt.Sprintf("https://127.0.0.1:%d/readyz", port):  http.StatusOK,
		fmt.Sprintf("https://127.0.0.1:%d/api", port):     http.StatusUnauthorized,
		fmt.Sprintf("https://%s:6443/version", plan.Node): http.StatusUnauthorized,
		fmt.Sprintf("https://%s:10250/pods", plan.Node):   http.StatusUnauthorized,
	} {
		response, err := client.Get(url)
		if err != nil {
			t.Error(err)
			continue
		}
		_ = response.Body.Close()
		if response.StatusCode != want {
			t.Errorf("%s: %s, want %d", url, response.Status, want)
		}
	}
}

func testLoad(t *testing.T, c *cluster, archive string) {
	if out := c.must("load", archive); !strings.Contains(out, "loaded "+probeImage) {
		t.Errorf("first load: %s", out)
	}
	if out := c.must("load", archive); !strings.Contains(out, "already there") {
		t.Errorf("second load: %s", out)
	}
	broken := filepath.Join(t.TempDir(), "broken.tar")
	if err := os.WriteFile(broken, []byte("no tar"), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := c.run("load", broken); err == nil || !strings.Contains(out, "is not an image file") {
		t.Errorf("load of a broken file: %v\n%s", err, out)
	}
}

// hostPid returns the process of a component as the machine sees it, while it runs.
func (c *cluster) hostPid(name string) (int, node.Status, error) {
	statuses, err := node.ReadStatus(c.layout)
	if err != nil {
		return 0, node.Status{}, err
	}
	inside := proc.Inside(c.record().Node.PID)
	for _, status := range statuses {
		if status.Name == name && status.State == node.Running && inside[status.PID] != 0 {
			return inside[status.PID], status, nil
		}
	}
	return 0, node.Status{}, fmt.Errorf("%s does not run", name)
}

func testComponentsKilled(t *testing.T, c *cluster) {
	for _, name := range component.Names {
		pid, before, err := c.hostPid(name)
		if err != nil {
			t.Fatal(err)
		}
		if err := unix.Kill(pid, unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
		eventually(t, 30*time.Second, name+" to run again", func() error {
			_, now, err := c.hostPid(name)
			if err == nil && now.Restarts <= before.Restarts {
				err = fmt.Errorf("restarts %d, were %d", now.Restarts, before.Restarts)
			}
			if err == nil && now.LastExit != "killed by SIGKILL" {
				err = fmt.Errorf("last exit %q", now.LastExit)
			}
			return err
		})
	}
	eventually(t, time.Minute, "all to be well again", func() error {
		out, err := c.run("status")
		if err != nil {
			return fmt.Errorf("%w\n%s", err, out)
		}
		return nil
	})
}

func testNodeKilled(t *testing.T, c *cluster) {
	old := c.record()
	if err := old.Node.Signal(unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	c.up()
	if c.record().Node == old.Node {
		t.Error("the same node is recorded")
	}
	if out := c.mustKubectl("get", "namespaces"); strings.Contains(out, "test") {
		t.Errorf("the new cluster is not empty:\n%s", out)
	}
}

func testKeeperKilled(t *testing.T, c *cluster) {
	old := c.record()
	if err := old.Keeper.Signal(unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if !old.Node.WaitGone(10 * time.Second) {
		t.Error("the node has outlived its keeper")
	}
	if out, err := c.run("status"); err == nil || !strings.Contains(out, "was killed") {
		t.Errorf("status of a killed cluster: %v\n%s", err, out)
	}
	c.up()
}

func testRecordDeleted(t *testing.T, c *cluster) {
	old := c.record()
	if err := os.Remove(c.layout.Record()); err != nil {
		t.Fatal(err)
	}
	c.up() // while the old one may still be ending
	if !old.Keeper.WaitGone(15*time.Second) || !old.Node.WaitGone(time.Second) {
		t.Error("a cluster without a record goes on")
	}
	c.must("status")
}

func testDown(t *testing.T, c *cluster, before inventory, archive string) {
	c.must("load", archive)
	c.mustKubectl("apply", "-f", "testdata/pods.yaml")
	eventually(t, time.Minute, "Pods", func() error { return c.serves() })
	record := c.record()
	namespace, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", record.Node.PID))
	if err != nil {
		t.Fatal(err)
	}
	c.must("down")
	if left := processesOf(c.layout, namespace); len(left) > 0 {
		t.Errorf("down left processes:\n%s", strings.Join(left, "\n"))
	}
	compare(t, c.layout, before, takeInventory(t))
	for _, path := range []string{c.layout.Run(), c.layout.Record(), c.layout.Kubeconfig()} {
		if _, err := os.Stat(path); !os.IsNotExist(err) {
			t.Errorf("down left %s: %v", path, err)
		}
	}
	c.must("down")
}

// serves asks the test's Service through the published port.
func (c *cluster) serves() error {
	client := http.Client{Timeout: 2 * time.Second}
	response, err := client.Get(fmt.Sprintf("http://127.0.0.1:%s/", c.nodePort))
	if err != nil {
		return err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err == nil && !strings.HasPrefix(string(body), "web-") {
		err = fmt.Errorf("answer %q", body)
	}
	return err
}
