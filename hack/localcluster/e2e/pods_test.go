package e2e

import (
	"bufio"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/shopset/shopset/hack/localcluster/internal/component"
)

func testPods(t *testing.T, c *cluster) {
	c.mustKubectl("apply", "-f", "testdata/pods.yaml")
	c.mustKubectl("rollout", "status", "-n", "test", "deployment/web", "--timeout=60s")
	c.mustKubectl("wait", "-n", "test", "pod/alone", "--for=condition=Ready", "--timeout=60s")

	t.Run("node port", func(t *testing.T) { eventually(t, 10*time.Second, "node port", c.serves) })
	t.Run("host port", func(t *testing.T) { testHostPort(t, c) })
	t.Run("logs", func(t *testing.T) {
		if out := c.mustKubectl("logs", "-n", "test", "alone"); !strings.Contains(out, "serving as alone") {
			t.Errorf("logs: %s", out)
		}
	})
	t.Run("port-forward", func(t *testing.T) { testPortForward(t, c) })
	t.Run("inside", func(t *testing.T) { testInside(t, c) })
	t.Run("names outside fail fast", func(t *testing.T) {
		began := time.Now()
		out, err := c.exec("alone", "lookup", "nosuch.shopset.invalid")
		if took := time.Since(began); err == nil || took > 4*time.Second {
			t.Errorf("lookup of a name that does not exist: %v after %s\n%s", err, took, out)
		}
	})
	t.Run("addresses outside fail fast", func(t *testing.T) {
		out, err := c.exec("alone", "get", "http://192.0.2.123/")
		if err == nil || !strings.Contains(out, "unreachable") && !strings.Contains(out, "no route") {
			t.Errorf("an address outside: %v\n%s", err, out)
		}
	})
}

// testInside runs commands in Pods and looks at what they say.
func testInside(t *testing.T, c *cluster) {
	dns := c.record().Spec.Plan
	// A Pod's own short name is its own address, from its /etc/hosts; hence alone.test.
	for _, try := range []struct{ name, pod, command, arg, want string }{
		{"Pod to Pods by a Service", "alone", "get", "http://web/", "web-"},
		{"Pod to Pods by a full name", "alone", "get", "http://web.test.svc.cluster.local/", "web-"},
		{"Pod to itself by its Service", "alone", "get", "http://alone.test/", "alone"},
		{"another namespace's name", "alone", "lookup", "kube-dns.kube-system", dns.DNS().String()},
		{"the machine's name", "alone", "lookup", component.HostName, dns.Host.String()},
		{"projected token", "alone", "get", "https://kubernetes.default/version", "v1.37"},
		{"emptyDir", "deployment/web", "write", "/disk/file", ""},
		{"emptyDir in memory", "deployment/web", "write", "/memory/file", ""},
		{"emptyDir in memory is tmpfs", "deployment/web", "read", "/proc/mounts", "tmpfs /memory tmpfs"},
	} {
		t.Run(try.name, func(t *testing.T) {
			out, err := c.exec(try.pod, try.command, try.arg)
			if err != nil || !strings.Contains(out, try.want) {
				t.Errorf("%s %s: %v\n%swant %q in it", try.command, try.arg, err, out, try.want)
			}
		})
	}
}

func testHostPort(t *testing.T, c *cluster) {
	url := fmt.Sprintf("http://%s:18080/", c.record().Spec.Plan.Node)
	eventually(t, 20*time.Second, "host port", func() error {
		client := http.Client{Timeout: 2 * time.Second}
		response, err := client.Get(url)
		if err == nil {
			_ = response.Body.Close()
		}
		return err
	})
}

func testPortForward(t *testing.T, c *cluster) {
	cmd := exec.Command(c.layout.Program("kubectl"), "port-forward", "-n", "test", "pod/alone", ":8080")
	cmd.Env = append(os.Environ(), "KUBECONFIG="+c.layout.Kubeconfig())
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	// Forwarding from 127.0.0.1:43210 -> 8080
	address := strings.Fields(strings.TrimPrefix(line, "Forwarding from "))[0]
	response, err := http.Get("http://" + address + "/")
	if err != nil {
		t.Fatalf("%s: %v", strings.TrimSpace(line), err)
	}
	_ = response.Body.Close()
}

func testPodsStillWork(t *testing.T, c *cluster) {
	eventually(t, 30*time.Second, "Pods to answer", c.serves)
	c.mustKubectl("scale", "-n", "test", "deployment/web", "--replicas=3")
	c.mustKubectl("rollout", "status", "-n", "test", "deployment/web", "--timeout=60s")
	eventually(t, 30*time.Second, "a Pod to reach others", func() error {
		_, err := c.exec("alone", "get", "http://web/")
		return err
	})
}

// testSecondCluster starts another cluster beside the first and looks whether both are well.
func testSecondCluster(t *testing.T, c *cluster) {
	second := newCluster(t, c.program)
	second.up()
	if a, b := c.record().Spec, second.record().Spec; a.Plan == b.Plan || a.API == b.API {
		t.Errorf("two clusters share addresses: %+v", a)
	}
	c.must("status")
	second.must("status")
	second.must("down")
	c.must("status")
}
