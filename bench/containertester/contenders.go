package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"runtime"
	"strings"
	"time"

	"github.com/ory/dockertest/v3"
	"github.com/testcontainers/testcontainers-go"
	"github.com/testcontainers/testcontainers-go/wait"

	tester "github.com/shopset/shopset/containertester"
)

// engine calls the engine's API with as little as possible around it.
var engine = &http.Client{Transport: &http.Transport{
	DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", strings.TrimPrefix(os.Getenv("DOCKER_HOST"), "unix://"))
	},
}}

func call(ctx context.Context, method, path string, in, out any) error {
	var body io.Reader
	if in != nil {
		content, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body = bytes.NewReader(content)
	}
	request, err := http.NewRequestWithContext(ctx, method, "http://engine/v1.41"+path, body)
	if err != nil {
		return err
	}
	request.Header.Set("Content-Type", "application/json")
	response, err := engine.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode >= 300 {
		content, _ := io.ReadAll(response.Body)
		return fmt.Errorf("%s %s: %s", method, path, content)
	}
	if out == nil {
		return nil
	}
	return json.NewDecoder(response.Body).Decode(out)
}

func lines(environment map[string]string) []string {
	var result []string
	for name, value := range environment {
		result = append(result, name+"="+value)
	}
	return result
}

func startRaw(ctx context.Context, environment map[string]string) (string, func() error, error) {
	var made struct{ ID string }
	if err := call(ctx, http.MethodPost, "/containers/create", map[string]any{"Image": image, "Env": lines(environment)}, &made); err != nil {
		return "", nil, err
	}
	remove := func() error { return call(ctx, http.MethodDelete, "/containers/"+made.ID+"?force=1&v=1", nil, nil) }
	if err := call(ctx, http.MethodPost, "/containers/"+made.ID+"/start", nil, nil); err != nil {
		return "", remove, err
	}
	var state struct {
		NetworkSettings struct{ IPAddress string }
	}
	err := call(ctx, http.MethodGet, "/containers/"+made.ID+"/json", nil, &state)
	return state.NetworkSettings.IPAddress + ":8080", remove, err
}

// quiet stands for the test.
type quiet struct {
	context  context.Context //nolint:containedctx // It stands for the test's own.
	cleanups []func()
	failure  string
}

func (q *quiet) Helper()                           {}
func (q *quiet) Name() string                      { return "bench" }
func (q *quiet) Cleanup(f func())                  { q.cleanups = append(q.cleanups, f) }
func (q *quiet) Logf(string, ...any)               {}
func (q *quiet) Errorf(format string, args ...any) { q.failure = fmt.Sprintf(format, args...) }
func (q *quiet) Fatalf(format string, args ...any) { q.Errorf(format, args...); runtime.Goexit() }
func (q *quiet) Failed() bool                      { return q.failure != "" }
func (q *quiet) Context() context.Context          { return q.context }

func (q *quiet) end() error {
	for i := len(q.cleanups) - 1; i >= 0; i-- {
		q.cleanups[i]()
	}
	if q.failure != "" {
		return fmt.Errorf("%s", q.failure)
	}
	return nil
}

// startOurs waits for a page, as testcontainers-go is told to; startDefault as ours does when nobody says how.
func startOurs(ctx context.Context, environment map[string]string) (string, func() error, error) {
	return startReady(ctx, environment, tester.ReadyHTTP(8080, "/"))
}

func startDefault(ctx context.Context, environment map[string]string) (string, func() error, error) {
	return startReady(ctx, environment, nil)
}

func startReady(ctx context.Context, environment map[string]string, ready tester.Ready) (string, func() error, error) {
	t := &quiet{context: ctx}
	var container *tester.Container
	done := make(chan struct{})
	go func() {
		defer close(done)
		container = tester.StartContainer(t, tester.ContainerConfig{Image: image, Environment: environment, Ready: ready})
	}()
	<-done
	if container == nil {
		return "", nil, t.end()
	}
	return container.Address(8080), t.end, nil
}

// startMatrix tests n environments of which some are the same, with ours.
func startMatrix(ctx context.Context, environment map[string]string, n, different int) {
	t := &quiet{context: ctx}
	values := make([]string, n)
	for i := range values {
		values[i] = fmt.Sprintf("%ds", i%different+1)
	}
	tester.RunMatrix(t, tester.ContainerConfig{Image: image, Environment: environment}, tester.Matrix{"PROXY_TIMEOUT": values},
		func(t tester.TB, c *tester.Container) { c.AssertHttpGet(t, tester.ExpectedBody(body)) })
}

func startTestcontainers(ctx context.Context, environment map[string]string) (string, func() error, error) {
	container, err := testcontainers.GenericContainer(ctx, testcontainers.GenericContainerRequest{
		ContainerRequest: testcontainers.ContainerRequest{
			Image: image, Env: environment, ExposedPorts: []string{"8080/tcp"},
			WaitingFor: wait.ForHTTP("/").WithPort("8080/tcp").WithPollInterval(5 * time.Millisecond),
		},
		Started: true,
	})
	if err != nil {
		return "", nil, err
	}
	remove := func() error { return container.Terminate(ctx) }
	address, err := container.PortEndpoint(ctx, "8080/tcp", "")
	return address, remove, err
}

func startDockertest(_ context.Context, environment map[string]string) (string, func() error, error) {
	pool, err := dockertest.NewPool("")
	if err != nil {
		return "", nil, err
	}
	repository, tag, _ := strings.Cut(image, ":")
	resource, err := pool.RunWithOptions(&dockertest.RunOptions{Repository: repository, Tag: tag, Env: lines(environment), ExposedPorts: []string{"8080/tcp"}})
	if err != nil {
		return "", nil, err
	}
	return resource.GetHostPort("8080/tcp"), func() error { return pool.Purge(resource) }, nil
}
