package tester_test

import (
	"bufio"
	"fmt"
	"io"
	"maps"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	tester "github.com/shopset/shopset/containertester"
)

// TestPairs: every pair is in a set, with far fewer sets than combinations.
func TestPairs(t *testing.T) {
	for _, test := range []struct{ variables, values, most int }{{1, 3, 3}, {2, 3, 9}, {4, 3, 12}, {10, 2, 13}, {8, 4, 48}} {
		matrix := tester.Matrix{}
		for v := range test.variables {
			for n := range test.values {
				name := fmt.Sprintf("V%d", v)
				matrix[name] = append(matrix[name], fmt.Sprint(n))
			}
		}
		sets, all := matrix.Pairs()
		want := 1
		for range test.variables {
			want *= test.values
		}
		if len(sets) > test.most || all != want {
			t.Errorf("%d variables of %d values: %d sets of %d, want %d at most of %d", test.variables, test.values, len(sets), all, test.most, want)
		}
		names := slices.Sorted(maps.Keys(matrix))
		for i, a := range names {
			for _, b := range names[i+1:] {
				for _, va := range matrix[a] {
					for _, vb := range matrix[b] {
						if !slices.ContainsFunc(sets, func(s map[string]string) bool { return s[a] == va && s[b] == vb }) {
							t.Fatalf("%s=%s with %s=%s is in no set", a, va, b, vb)
						}
					}
				}
			}
		}
	}
}

// TestRunMatrix: a mistake that needs two variables is told with these two alone.
func TestRunMatrix(t *testing.T) {
	t.Parallel()
	app := tester.StartMockAP(t, tester.MockApResponseBody("app"))
	matrix := tester.Matrix{
		"PROXY_TIMEOUT":         {"1s", "2s"},
		"PROXY_SERVER_HEADER":   {"true", "false", tester.Unset},
		"PROXY_COOKIE_DOMAIN":   {"shop.example", tester.Unset},
		"PROXY_RATE_PER_MINUTE": {"100", tester.Unset},
	}
	config := tester.ContainerConfig{Image: image, Environment: map[string]string{"APP_SERVER": app.Host()}}
	tester.RunMatrix(t, config, matrix, func(t tester.TB, nginx *tester.Container) { nginx.AssertHttpGet(t, tester.ExpectedBody("app")) })
	fake := &recording{}
	tester.RunMatrix(fake, config, matrix, func(t tester.TB, nginx *tester.Container) {
		config, _ := nginx.Exec(t, "cat", "/run/nginx/nginx.conf")
		if strings.Contains(config, "server_tokens on") && strings.Contains(config, "limit_req ") {
			t.Errorf("a mistake")
		}
	})
	fake.end()
	want := "fails with docker run --rm -e APP_SERVER=" + app.Host() + " -e PROXY_RATE_PER_MINUTE=100 -e PROXY_SERVER_HEADER=true " + image + ":"
	if len(fake.errors) != 1 || !strings.HasPrefix(fake.errors[0], want) || !strings.Contains(fake.errors[0], "a mistake") {
		t.Fatalf("got %q, want %q", fake.errors, want)
	}
}

func TestMatrixWithoutValues(t *testing.T) {
	failures := failuresOf(func(t tester.TB) {
		tester.RunMatrix(t, tester.ContainerConfig{Image: image}, tester.Matrix{"A": {}}, func(tester.TB, *tester.Container) {})
	})
	if len(failures) != 1 || !strings.Contains(failures[0], "no value for A") {
		t.Errorf("got %q", failures)
	}
}

// TestUnusedVariables: a name that the image does not know is found, and so is a template that was not
// rendered.
func TestUnusedVariables(t *testing.T) {
	t.Parallel()
	nginx := tester.StartContainer(t, tester.ContainerConfig{Image: image, Environment: map[string]string{
		"APP_SERVER": "127.0.0.1:1", "APP_SEVRER": "x", "TIMEOUT": "x"}, Files: map[string]tester.File{"/srv/bad.conf": {Content: "a\nlisten ${PORT};\n{{ .X }}\n$host ${host}\n"}}})
	fake := &recording{}
	nginx.AssertEnvironmentUsed(fake)
	if len(fake.errors) != 2 || !strings.Contains(fake.errors[0], "APP_SEVRER") || !strings.Contains(fake.errors[1], "TIMEOUT") {
		t.Errorf("got %q", fake.errors)
	}
	nginx.AssertNoLeftovers(t, "/run/nginx/nginx.conf")
	fake = &recording{}
	nginx.AssertNoLeftovers(fake, "/srv", "/nowhere")
	want := []string{"/srv/bad.conf line 2 was not rendered: ${PORT}", "/srv/bad.conf line 3 was not rendered: {{ .X }}", "no file at /nowhere"}
	for i, text := range want {
		if len(fake.errors) != len(want) || !strings.Contains(fake.errors[i], text) {
			t.Errorf("got %q, want %q", fake.errors, want)
			break
		}
	}
}

// TestMockRedis and TestMockTCP talk to the mocks as a container would, from one.
func TestMockRedis(t *testing.T) {
	t.Parallel()
	redis := tester.StartMockRedis(t)
	redis.Set(t, "key", "value")
	ask := func() (string, error) {
		conn, err := net.DialTimeout("tcp", redis.Host(), time.Second)
		if err != nil {
			return "", err
		}
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
		if _, err := io.WriteString(conn, "*2\r\n$3\r\nGET\r\n$3\r\nkey\r\n"); err != nil {
			return "", err
		}
		reader := bufio.NewReader(conn)
		if _, err := reader.ReadString('\n'); err != nil {
			return "", err
		}
		return reader.ReadString('\n')
	}
	if got, err := ask(); got != "value\r\n" {
		t.Fatalf("got %q %v", got, err)
	}
	redis.AssertReceived(t, "GET key")
	redis.Down(t)
	if _, err := ask(); err == nil {
		t.Fatal("it answers while it is down")
	}
	redis.Up(t)
	began := time.Now()
	redis.Latency(50 * time.Millisecond)
	if got, err := ask(); got != "value\r\n" || time.Since(began) < 50*time.Millisecond {
		t.Fatalf("got %q %v after %s", got, err, time.Since(began))
	}
	fake := &recording{}
	redis.AssertReceived(fake, "GET other")
	if len(fake.errors) != 1 || !strings.Contains(fake.errors[0], "GET key") || redis.Get("none") != "" {
		t.Errorf("got %q", fake.errors)
	}
}

func TestMockTCP(t *testing.T) {
	t.Parallel()
	server := tester.StartMockTCP(t, func(conn net.Conn) {
		defer conn.Close()
		line, _ := bufio.NewReader(conn).ReadString('\n')
		_, _ = io.WriteString(conn, strings.ToUpper(line))
	})
	conn, err := net.Dial("tcp", server.Host())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_, _ = io.WriteString(conn, "hello\n")
	if got, err := io.ReadAll(conn); string(got) != "HELLO\n" || server.Received()[0] != "hello\n" {
		t.Fatalf("got %q %v, recorded %q", got, err, server.Received())
	}
}
