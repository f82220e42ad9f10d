package e2e

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/shopset/shopset/hack/localcluster/internal/keeper"
	"github.com/shopset/shopset/hack/localcluster/internal/layout"
)

// cluster drives one cluster through the built command.
type cluster struct {
	t        *testing.T
	program  string
	layout   layout.Layout
	nodePort string // what of the loopback leads to node port 30080
}

// compile builds a package of this module, statically.
func compile(t *testing.T, pkg, output string) {
	t.Helper()
	cmd := exec.Command("go", "build", "-o", output, pkg)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build %s: %v\n%s", pkg, err, out)
	}
}

func newCluster(t *testing.T, program string) *cluster {
	t.Helper()
	bin := os.Getenv("SHOPSET_CLUSTER_BIN")
	if bin == "" {
		root, err := layout.RepoRoot()
		if err != nil {
			t.Fatal(err)
		}
		bin = filepath.Join(root, ".state", "bin")
	}
	l, err := layout.New(t.TempDir(), bin)
	if err != nil {
		t.Fatal(err)
	}
	c := &cluster{t: t, program: program, layout: l, nodePort: freePort(t)}
	t.Cleanup(func() {
		if t.Failed() {
			c.dumpLogs()
		}
		if out, err := c.run("down"); err != nil {
			t.Errorf("down: %v\n%s", err, out)
		}
	})
	return c
}

func freePort(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	_, port, _ := net.SplitHostPort(listener.Addr().String())
	return port
}

// run runs a command of localcluster.
func (c *cluster) run(command string, args ...string) (string, error) {
	args = append([]string{command, "--state", c.layout.State, "--bin", c.layout.Bin}, args...)
	out, err := exec.Command(c.program, args...).CombinedOutput()
	return string(out), err
}

func (c *cluster) must(command string, args ...string) string {
	c.t.Helper()
	out, err := c.run(command, args...)
	if err != nil {
		c.t.Fatalf("%s: %v\n%s", command, err, out)
	}
	return out
}

func (c *cluster) up() string { c.t.Helper(); return c.must("up", "--publish", c.nodePort+":30080") }

func (c *cluster) record() keeper.Record {
	c.t.Helper()
	record, err := keeper.Read(c.layout)
	if err != nil {
		c.t.Fatal(err)
	}
	return record
}

// kubectl runs the built kubectl against the cluster.
func (c *cluster) kubectl(args ...string) (string, error) {
	cmd := exec.Command(c.layout.Program("kubectl"), args...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+c.layout.Kubeconfig())
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	if err != nil {
		err = fmt.Errorf("kubectl %s: %w\n%s", strings.Join(args, " "), err, out.String())
	}
	return out.String(), err
}

func (c *cluster) mustKubectl(args ...string) string {
	c.t.Helper()
	out, err := c.kubectl(args...)
	if err != nil {
		c.t.Fatal(err)
	}
	return out
}

// exec runs a command of the probe in a Pod of namespace test.
func (c *cluster) exec(pod string, args ...string) (string, error) {
	return c.kubectl(append([]string{"exec", "-n", "test", pod, "--", "/program"}, args...)...)
}

// eventually polls until ask has no complaint.
func eventually(t *testing.T, limit time.Duration, what string, ask func() error) {
	t.Helper()
	deadline := time.Now().Add(limit)
	for {
		err := ask()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %s: %v", what, limit, err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func (c *cluster) dumpLogs() {
	for _, command := range [][]string{{"get", "pods,events", "-A", "-o", "wide"}} {
		out, _ := c.kubectl(command...)
		c.t.Log(out)
	}
	files, _ := filepath.Glob(filepath.Join(c.layout.Logs(), "*.log"))
	for _, file := range files {
		data, _ := os.ReadFile(file)
		c.t.Logf("%s:\n%s", filepath.Base(file), data[max(0, len(data)-3000):])
	}
}
