// Command containertester measures how long a test of an image waits for its first assertion, and for the end,
// with containertester, with its peers, and with bare calls of the engine's API. See the README of bench/.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/shopset/shopset/bench/internal/report"
)

const (
	image = "nginx-proxy:test"
	body  = "app server"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench containertester:", err)
		os.Exit(1)
	}
}

// contender starts the image with an environment and returns where it listens and how to remove it.
type contender struct {
	name            string
	start           func(ctx context.Context, environment map[string]string) (address string, remove func() error, err error)
	first, teardown []float64
}

func run(ctx context.Context) error {
	rounds := flag.Int("rounds", 15, "how often the contenders take turns")
	combinations := flag.Int("combinations", 50, "how many environments")
	flag.Parse()
	app, err := startApp()
	if err != nil {
		return err
	}
	defer app.Close()
	environment := map[string]string{"APP_SERVER": app.Listener.Addr().String()}
	contenders := []*contender{
		{name: "raw", start: startRaw}, {name: "ours", start: startOurs}, {name: "default_ready", start: startDefault},
		{name: "testcontainers", start: startTestcontainers}, {name: "dockertest", start: startDockertest},
	}
	for round := -1; round < *rounds; round++ { // The first round warms caches up.
		for _, c := range contenders {
			if err := c.turn(ctx, environment, round >= 0); err != nil {
				return fmt.Errorf("%s: %w", c.name, err)
			}
		}
	}
	raw := report.Median(contenders[0].first)
	for _, c := range contenders {
		name := "containertester." + c.name + "_"
		if c.name == "ours" {
			name = "containertester."
			report.Result("containertester.overhead_ratio", report.Median(c.first)/raw, "x")
		}
		report.Result(name+"first_assert_ms", report.Median(c.first), "ms")
		report.Result(name+"teardown_ms", report.Median(c.teardown), "ms")
	}
	return runCombinations(ctx, environment, *combinations)
}

// startApp is the application behind the image, where containers reach it.
func startApp() (*httptest.Server, error) {
	listener, err := net.Listen("tcp", "172.17.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("%w; run it by `make bench-containertester`", err)
	}
	server := &httptest.Server{Listener: listener, Config: &http.Server{ReadHeaderTimeout: time.Minute,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, body) })}}
	server.Start()
	return server, nil
}

func (c *contender) turn(ctx context.Context, environment map[string]string, counts bool) error {
	began := time.Now()
	address, remove, err := c.start(ctx, environment)
	if err != nil {
		return err
	}
	if err := awaitBody(ctx, address); err != nil {
		return errors.Join(err, remove())
	}
	first := time.Since(began)
	began = time.Now()
	if err := remove(); err != nil {
		return err
	}
	if counts {
		c.first = append(c.first, milliseconds(first))
		c.teardown = append(c.teardown, milliseconds(time.Since(began)))
	}
	return nil
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// awaitBody is the first assertion: it must pass, at once for those who waited until the container was ready.
func awaitBody(ctx context.Context, address string) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	for {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+"/", nil)
		if err != nil {
			return err
		}
		request.Close = true
		response, err := http.DefaultClient.Do(request)
		if err == nil {
			content, errRead := io.ReadAll(response.Body)
			response.Body.Close()
			if err = errRead; err == nil && string(content) == body {
				return nil
			}
		}
		select {
		case <-ctx.Done():
			return errors.Join(ctx.Err(), err)
		case <-time.After(2 * time.Millisecond):
		}
	}
}

// runCombinations tests many environments with ours: one after the other, in parallel, and in parallel when
// only every fifth is another one, so that the others are reused.
func runCombinations(ctx context.Context, environment map[string]string, n int) error {
	for _, mode := range []string{"sequential", "parallel", "reused"} {
		began := time.Now()
		if mode == "reused" {
			startMatrix(ctx, environment, n, n/5)
		} else if err := each(n, map[string]int{"sequential": 1, "parallel": 4}[mode], func(i int) error {
			return (&contender{start: startOurs}).turn(ctx, with(environment, i), false)
		}); err != nil {
			return err
		}
		report.Result(fmt.Sprintf("containertester.%d_environments_%s_s", n, mode), time.Since(began).Seconds(), "s")
	}
	return nil
}

func with(environment map[string]string, i int) map[string]string {
	return map[string]string{"APP_SERVER": environment["APP_SERVER"], "PROXY_TIMEOUT": fmt.Sprintf("%ds", i+1)}
}

// each calls do n times, some at a time.
func each(n, atATime int, do func(int) error) error {
	errs := make([]error, n)
	limit := make(chan struct{}, atATime)
	var group sync.WaitGroup
	for i := range n {
		limit <- struct{}{}
		group.Go(func() {
			defer func() { <-limit }()
			errs[i] = do(i)
		})
	}
	group.Wait()
	return errors.Join(errs...)
}
