package tester

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"
	"time"
)

// Ready says when a container is: it returns nil then, and an error that says what is missing before. It is
// asked again and again.
type Ready func(ctx context.Context, c *Container) error

// How long a first connection must stay open for a port to count as ready: half of the time that it took to come about, because
// what is slow to open its port is slow to close it, within these bounds.
const (
	leastHold = 40 * time.Millisecond
	mostHold  = time.Second
)

// ReadyPort waits until a port takes connections and keeps them: an nginx that only tests its configuration
// opens its ports, too, for some milliseconds, and a port that the engine publishes takes connections before
// the container does. Where that takes longer, ReadyHTTP or ReadyLog tell more.
func ReadyPort(port int) Ready {
	return func(ctx context.Context, c *Container) error {
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", c.Address(port))
		if err != nil {
			return err
		}
		defer conn.Close()
		now := time.Now()
		_ = conn.SetReadDeadline(now.Add(min(max(now.Sub(c.waited)/2, leastHold), mostHold)))
		if _, err := conn.Read(make([]byte, 1)); err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			return fmt.Errorf("port %d takes connections and closes them: %w", port, err)
		}
		return nil
	}
}

// ReadyHTTP waits until a page answers with a status below 500.
func ReadyHTTP(port int, path string) Ready {
	return func(ctx context.Context, c *Container) error {
		response, err := newCall(http.MethodGet, port, []HTTPOption{Path(path)}).do(ctx, c.Address(port))
		if err != nil {
			return err
		}
		if response.Status >= http.StatusInternalServerError {
			return fmt.Errorf("GET %s answers %d", path, response.Status)
		}
		return nil
	}
}

// ReadyLog waits until the log holds a text.
func ReadyLog(text string) Ready {
	return func(ctx context.Context, c *Container) error {
		return c.logHolds(ctx, text, int(c.logSeen.Load()))
	}
}

// logHolds looks for a text in the log, behind what was there before.
func (c *Container) logHolds(ctx context.Context, text string, before int) error {
	log, err := c.logs(ctx, "all")
	if err == nil && !strings.Contains(log[min(before, len(log)):], text) {
		err = fmt.Errorf("the log does not say %q", text)
	}
	return err
}

// noteLog has ReadyLog look at nothing that was written before now.
func (c *Container) noteLog(t TB) {
	ctx, cancel := bounded(t)
	defer cancel()
	if log, err := c.logs(ctx, "all"); err == nil {
		c.logSeen.Store(int64(len(log)))
	}
}

// ReadyHealthy waits until the image's own HEALTHCHECK succeeds.
func ReadyHealthy() Ready {
	return func(ctx context.Context, c *Container) error {
		s, err := inspect(ctx, c.engine, c.id)
		switch {
		case err != nil:
			return err
		case s.State.Health == nil:
			return errors.New("the image has no HEALTHCHECK")
		case s.State.Health.Status != "healthy":
			return fmt.Errorf("its health is %s", s.State.Health.Status)
		}
		return nil
	}
}

// ReadyAtOnce is for containers that need not be waited for, and may have ended already.
func ReadyAtOnce() Ready {
	return func(_ context.Context, c *Container) error {
		c.mayEnd = true
		return nil
	}
}

// awaitReady asks until the container is ready, has ended, or the time is over.
func (c *Container) awaitReady(ctx context.Context) error {
	if err := c.locate(ctx); err != nil {
		return err
	}
	if c.config.Ready == nil {
		return nil
	}
	c.waited = time.Now()
	ended := make(chan int, 1)
	alive, stop := context.WithCancel(ctx)
	defer stop()
	go func() {
		if code, err := c.wait(alive); err == nil {
			ended <- code
			stop() // Nobody answers any more.
		}
	}()
	var missing error
	for pause := 2 * time.Millisecond; ; pause = min(pause*3/2, 50*time.Millisecond) {
		try, cancel := context.WithTimeout(alive, 2*time.Second)
		err := c.config.Ready(try, c)
		cancel()
		if err == nil {
			// One that ended may have left its address to another container, which has answered.
			if s, err := inspect(ctx, c.engine, c.id); err != nil || s.State.Running || c.mayEnd {
				return err
			}
		}
		if ctx.Err() == nil || missing == nil { // That the time is over says nothing of what was missing.
			missing = err
		}
		select {
		case code := <-ended:
			return fmt.Errorf("it ended with code %d before it was ready%s", code, c.logEnd())
		case <-ctx.Done():
			return fmt.Errorf("not ready within %s: %w%s", c.config.StartTimeout, missing, c.logEnd())
		case <-time.After(pause):
		}
	}
}

// logLines is how much of a log reports show.
const logLines = "25"

// logEnd is the end of the log, for reports.
func (c *Container) logEnd() string {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	log, err := c.logs(ctx, logLines)
	switch {
	case err != nil:
		return "\n\nits log cannot be read: " + err.Error()
	case strings.TrimSpace(log) == "":
		return "\n\nit has written no log"
	default:
		return "\n\nthe end of its log:\n" + indent(strings.TrimRight(log, "\n"))
	}
}

func indent(text string) string { return "    " + strings.ReplaceAll(text, "\n", "\n    ") }
