package tester

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// maxOutput bounds what is read of a log or of a command's output.
const maxOutput = 16 << 20

func (c *Container) logs(ctx context.Context, tail string) (string, error) {
	query := url.Values{"stdout": {"1"}, "stderr": {"1"}, "tail": {tail}}
	response, err := c.engine.send(ctx, http.MethodGet, "/containers/"+c.id+"/logs", query, nil)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	return demultiplex(response.Body, maxOutput)
}

// bounded is a context for what may be done in a cleanup, too, where the test's own is over.
func bounded(t TB) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(t.Context()), time.Minute)
}

// Logs are all that the container has written to its standard output and error.
func (c *Container) Logs(t TB) string {
	t.Helper()
	ctx, cancel := bounded(t)
	defer cancel()
	log, err := c.logs(ctx, "all")
	if err != nil {
		t.Fatalf("logs of %s: %v", c.config.Image, err)
	}
	return log
}

// Exec runs a command in the container and returns what it wrote and its exit code.
func (c *Container) Exec(t TB, command ...string) (output string, exitCode int) {
	t.Helper()
	output, exitCode, err := c.exec(t.Context(), command)
	if err != nil {
		t.Fatalf("exec %s in %s: %v", strings.Join(command, " "), c.config.Image, err)
	}
	return output, exitCode
}

func (c *Container) exec(ctx context.Context, command []string) (string, int, error) {
	var made struct {
		ID string `json:"Id"`
	}
	err := c.engine.call(ctx, http.MethodPost, "/containers/"+c.id+"/exec", nil,
		map[string]any{"Cmd": command, "AttachStdout": true, "AttachStderr": true}, &made)
	if err != nil {
		return "", 0, err
	}
	response, err := c.engine.send(ctx, http.MethodPost, "/exec/"+made.ID+"/start", nil, map[string]any{"Detach": false, "Tty": false})
	if err != nil {
		return "", 0, err
	}
	defer response.Body.Close()
	output, err := demultiplex(response.Body, maxOutput)
	if err != nil {
		return output, 0, err
	}
	var ended struct {
		ExitCode int
		Running  bool
	}
	for { // Its output may end before it does.
		err = c.engine.call(ctx, http.MethodGet, "/exec/"+made.ID+"/json", nil, nil, &ended)
		if err != nil || !ended.Running {
			return output, ended.ExitCode, err
		}
		select {
		case <-ctx.Done():
			return output, 0, ctx.Err()
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// control is one of the engine's verbs on a container.
func (c *Container) control(t TB, verb string, query url.Values) {
	t.Helper()
	ctx, cancel := bounded(t)
	defer cancel()
	if err := c.engine.call(ctx, http.MethodPost, "/containers/"+c.id+"/"+verb, query, nil, nil); err != nil {
		t.Fatalf("%s %s: %v", verb, c.config.Image, err)
	}
}

// Stop ends the program as an orchestrator does: with SIGTERM, and SIGKILL after the grace period. It
// returns the exit code.
func (c *Container) Stop(t TB, grace time.Duration) (exitCode int) {
	t.Helper()
	// The engine counts whole seconds, and none would be SIGKILL at once.
	c.control(t, "stop", url.Values{"t": {strconv.Itoa(int((grace + time.Second - 1) / time.Second))}})
	c.forgetAddresses()
	ctx, cancel := bounded(t)
	defer cancel()
	s, err := inspect(ctx, c.engine, c.id)
	if err != nil {
		t.Fatalf("look at %s: %v", c.config.Image, err)
	}
	return s.State.ExitCode
}

// Wait waits until the container ends by itself, and returns its exit code.
func (c *Container) Wait(t TB) (exitCode int) {
	t.Helper()
	code, err := c.wait(t.Context())
	if err != nil {
		t.Fatalf("wait for %s: %v", c.config.Image, err)
	}
	return code
}

func (c *Container) wait(ctx context.Context) (int, error) {
	var answer struct{ StatusCode int }
	err := c.engine.call(ctx, http.MethodPost, "/containers/"+c.id+"/wait", nil, nil, &answer)
	return answer.StatusCode, err
}

// Restart stops the container, starts it again and waits until it is ready. Its address may change.
func (c *Container) Restart(t TB) {
	t.Helper()
	c.control(t, "stop", url.Values{"t": {"10"}})
	c.forgetAddresses()
	c.noteLog(t)
	ctx, cancel := context.WithTimeout(t.Context(), c.config.StartTimeout)
	defer cancel()
	if err := c.start(ctx); err != nil {
		t.Fatalf("restart %s: %v", c.config.Image, err)
	}
}

// Pause freezes all processes of the container; Unpause lets them go on.
func (c *Container) Pause(t TB) { t.Helper(); c.control(t, "pause", nil) }

// Unpause lets the processes of a paused container go on.
func (c *Container) Unpause(t TB) { t.Helper(); c.control(t, "unpause", nil) }

// Signal sends a signal, such as SIGHUP, to the container's first process.
func (c *Container) Signal(t TB, signal string) {
	t.Helper()
	c.control(t, "kill", url.Values{"signal": {signal}})
}

// AssertLog fails the test if the log does not hold a text within a few seconds.
func (c *Container) AssertLog(t TB, text string) {
	t.Helper()
	limit, cancel := bounded(t)
	defer cancel()
	err := eventually(limit, 5*time.Second, func(ctx context.Context) error { return c.logHolds(ctx, text, 0) })
	if err != nil {
		t.Errorf("%s: %v%s", c.config.Image, err, c.logEnd())
	}
}

// eventually asks until there is no error or the time is over; then it returns the last error.
func eventually(ctx context.Context, limit time.Duration, check func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for {
		err := check(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("after %s still: %w", limit, err)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// Network is a network of its own, in which containers find each other by name.
type Network struct {
	name   string
	engine *engine
}

// StartNetwork makes a network that goes with its test.
func StartNetwork(t TB) *Network {
	t.Helper()
	e, err := theEngine()
	if err != nil {
		t.Fatalf("start a network: %v", err)
	}
	n := &Network{name: "tester-" + randomName(), engine: e}
	err = e.call(t.Context(), http.MethodPost, "/networks/create", nil,
		map[string]any{"Name": n.name, "CheckDuplicate": true, "Labels": map[string]string{ownerLabel: owner()}}, nil)
	if err != nil {
		t.Fatalf("start a network: %v", err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 30*time.Second)
		defer cancel()
		if e.standIn != "" {
			_ = e.call(ctx, http.MethodPost, "/networks/"+n.name+"/disconnect", nil, map[string]any{"Container": e.standIn, "Force": true}, nil)
		}
		if err := e.call(ctx, http.MethodDelete, "/networks/"+n.name, nil, nil, nil); err != nil && !isNotFound(err) {
			t.Errorf("remove the network: %v", err)
		}
	})
	if e.standIn != "" { // So that containers in it find the mocks.
		if err := e.call(t.Context(), http.MethodPost, "/networks/"+n.name+"/connect", nil, map[string]any{"Container": e.standIn}, nil); err != nil {
			t.Fatalf("join the network: %v", err)
		}
	}
	return n
}
