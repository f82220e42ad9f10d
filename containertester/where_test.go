package tester_test

import (
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	tester "github.com/shopset/shopset/containertester"
)

// elsewhere are the tests that must pass wherever test and engine are.
const elsewhere = "^(TestReverseProxy|TestFaults|TestTLS|TestReady|TestCertificateAPI|TestNetworkAliases)$"

// socket of the engine; tests that lead others to it need one.
func socket(t *testing.T) string {
	t.Helper()
	path, ok := strings.CutPrefix(os.Getenv("DOCKER_HOST"), "unix://")
	if !ok || os.Getenv("SHOPSET_DOCKER_IS_OURS") == "" {
		t.Skip("needs an engine in namespaces of its own, as hack/with-docker starts it")
	}
	return path
}

// TestInsideAContainer runs this test binary in a container, as CI does, with the engine's socket.
func TestInsideAContainer(t *testing.T) {
	t.Parallel()
	path := socket(t)
	binary, err := filepath.Abs(os.Args[0])
	if err != nil {
		t.Fatal(err)
	}
	for name, network := range map[string]*tester.Network{"usual network": nil, "network of its own": tester.StartNetwork(t)} {
		inside := tester.StartContainer(t, tester.ContainerConfig{
			Image: image, User: "0", Entrypoint: []string{"/inside", "-test.v", "-test.run", elsewhere}, Command: []string{}, Network: network,
			Mounts:      map[string]string{"/inside": binary, "/var/run/docker.sock": path},
			Environment: map[string]string{"DOCKER_HOST": "unix:///var/run/docker.sock"}, Ready: tester.ReadyAtOnce(),
		})
		if code, log := inside.Wait(t), inside.Logs(t); code != 0 || !strings.Contains(log, "--- PASS: TestNetworkAliases") {
			t.Errorf("%s: code %d\n%s", name, code, log)
		}
	}
}

// TestRemoteEngine runs this test binary where no route leads to the engine's containers, nor back: only to its
// API and to the ports that it publishes.
func TestRemoteEngine(t *testing.T) {
	t.Parallel()
	path := socket(t)
	command := exec.CommandContext(t.Context(), "unshare", "--net", "sh", "-c", //nolint:gosec // This binary.
		`read -r _ && ip link set lo up && ip addr add 10.213.0.2/30 dev engine && ip link set engine up && exec "$@"`,
		"sh", os.Args[0], "-test.v", "-test.run", strings.TrimSuffix(elsewhere, ")$")+"|TestIsRemote)$")
	command.Env = append(os.Environ(), "DOCKER_HOST=tcp://10.213.0.1:2375", "TESTER_IS_REMOTE=1")
	var output strings.Builder
	command.Stdout, command.Stderr = &output, &output
	begin, err := command.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	// The process is in its own namespace only after a moment; before, it would get its end of the wire in this one.
	namespace := func(process string) string {
		link, _ := os.Readlink("/proc/" + process + "/ns/net") // Empty for a process that has ended, which is told below.
		return link
	}
	tester.AssertEventually(t, 20*time.Second, func(t tester.TB) {
		if theirs := namespace(strconv.Itoa(command.Process.Pid)); theirs == namespace("self") {
			t.Errorf("it is still in %s", theirs)
		}
	})
	for _, line := range []string{
		fmt.Sprintf("link add tester-remote type veth peer name engine netns %d", command.Process.Pid),
		"addr add 10.213.0.1/30 dev tester-remote", "link set tester-remote up",
	} {
		if text, err := exec.CommandContext(t.Context(), "ip", strings.Fields(line)...).CombinedOutput(); err != nil {
			t.Fatalf("ip %s: %v: %s", line, err, text)
		}
	}
	listener, err := net.Listen("tcp", "10.213.0.1:2375")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	go forward(listener, path)
	if _, err := begin.Write([]byte("\n")); err != nil {
		t.Fatal(err)
	}
	if err := command.Wait(); err != nil || !strings.Contains(output.String(), "--- PASS: TestIsRemote") {
		t.Errorf("%v\n%s", err, output.String())
	}
}

// TestIsRemote makes sure that TestRemoteEngine tests what it says.
func TestIsRemote(t *testing.T) {
	if remote := os.Getenv("TESTER_IS_REMOTE") != ""; tester.IsRemote(t) != remote {
		t.Errorf("mocks are reached by a relay: %v, want %v", !remote, remote)
	}
}

// forward leads each connection to a socket.
func forward(listener net.Listener, path string) {
	for {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		go func() {
			defer conn.Close()
			engine, err := net.Dial("unix", path)
			if err != nil {
				return
			}
			defer engine.Close()
			go func() { _, _ = io.Copy(engine, conn); _ = engine.Close() }()
			_, _ = io.Copy(conn, engine)
		}()
	}
}

// TestNetworkAliases: one container finds another by its alias, and the mocks from there.
func TestNetworkAliases(t *testing.T) {
	t.Parallel()
	network := tester.StartNetwork(t)
	app := tester.StartMockAP(t, tester.MockApResponseBody("app"))
	inner := tester.StartContainer(t, tester.ContainerConfig{
		Image: image, Environment: map[string]string{"APP_SERVER": app.Host()}, Network: network, Aliases: []string{"inner"},
	})
	outer := tester.StartContainer(t, tester.ContainerConfig{
		Image: image, Environment: map[string]string{"APP_SERVER": "inner:8080"}, Network: network,
	})
	outer.AssertHttpGet(t, tester.Path("/through"), tester.ExpectedBody("app"))
	inner.AssertLog(t, "GET /through")
}

// TestCertificateAPI asks through a container.
func TestCertificateAPI(t *testing.T) {
	t.Parallel()
	api := tester.StartMockCertificateAPI(t)
	certificate := api.Add(t, "shop.example", "*.shop.example")
	nginx := tester.StartContainer(t, tester.ContainerConfig{Image: image, Environment: map[string]string{"APP_SERVER": api.Host()}})
	response := nginx.AssertHttpGet(t, tester.Path("/v1/certificates/shop.example"), tester.ExpectedHeader("Content-Type", "application/json"))
	if response == nil || !strings.Contains(response.Body, strings.Split(certificate.KeyPEM, "\n")[1]) {
		t.Errorf("got %v", response)
	}
	nginx.AssertHttpGet(t, tester.Path("/v1/certificates/other.example"), tester.ExpectedStatus(404),
		tester.ExpectedJSON(map[string]string{"error": "there is no certificate for other.example"}))
	api.Remove("shop.example")
	nginx.AssertHttpGet(t, tester.Path("/v1/certificates/shop.example"), tester.ExpectedStatus(404))
	expired := api.Authority.IssueFor(t, -time.Hour, "old.example")
	api.Put(expired, "old.example")
	nginx.AssertHttpGet(t, tester.Path("/v1/certificates/old.example"), tester.ExpectedBodyContains(expired.NotAfter.UTC().Format(time.RFC3339)))
	api.Fail(t, 500)
	nginx.AssertHttpGet(t, tester.Path("/v1/certificates/old.example"), tester.ExpectedStatus(500))
	api.AssertReceived(t, tester.ReceivedPath("/v1/certificates/other.example"))
	api.AssertCount(t, 5)
}
