package tester_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"

	tester "github.com/shopset/shopset/containertester"
)

// examples stands for the t of a test: it prints what fails. So all examples run, and those that pass print
// nothing by themselves. TestExamples wants each exported name in one of them.
var examples = &printing{}

type printing struct {
	mu       sync.Mutex
	cleanups []func()
}

func (p *printing) Helper()                           {}
func (p *printing) Name() string                      { return "Example" }
func (p *printing) Logf(string, ...any)               {}
func (p *printing) Errorf(format string, args ...any) { fmt.Printf(format+"\n", args...) }
func (p *printing) Fatalf(format string, args ...any) { panic(fmt.Sprintf(format, args...)) }
func (p *printing) Failed() bool                      { return false }
func (p *printing) Context() context.Context          { return context.Background() }

func (p *printing) Cleanup(clean func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cleanups = append(p.cleanups, clean)
}

func (p *printing) end() {
	for len(p.cleanups) > 0 {
		last := len(p.cleanups) - 1
		clean := p.cleanups[last]
		p.cleanups = p.cleanups[:last]
		clean()
	}
}

func Example() {
	t := examples // In a test, t is its argument.
	app := tester.StartMockAP(t, tester.MockApResponseBody("app server"))
	defer app.Close(t)

	nginx := tester.StartContainer(t, tester.ContainerConfig{
		Image:       "nginx-proxy:test",
		Environment: map[string]string{"APP_SERVER": app.Host()},
	})
	defer nginx.Close(t)

	nginx.AssertHttpGet(t, tester.ExpectedBody("app server"))
	// Output:
}

// example starts an nginx in front of an application, which the examples below have in common.
func example(options ...tester.MockApOption) (t *printing, app *tester.MockAP, nginx *tester.Container) {
	t = examples
	app = tester.StartMockAP(t, options...)
	nginx = tester.StartContainer(t, tester.ContainerConfig{
		Image: "nginx-proxy:test", Environment: map[string]string{"APP_SERVER": app.Host()}})
	return t, app, nginx
}

func ExampleTB() {
	// Whatever has these methods is a test: *testing.T, *testing.B, or one that prints, as here.
	var t tester.TB = examples
	t.Errorf("hello")
	// Output: hello
}

func ExampleReady() {
	t := examples
	app := tester.StartMockAP(t)
	environment := map[string]string{"APP_SERVER": app.Host()}
	// Besides the usual ways, any function that returns nil when the container is ready.
	own := tester.Ready(func(ctx context.Context, c *tester.Container) error {
		if !strings.Contains(c.Logs(t), "worker process") {
			return errors.New("there is no worker yet")
		}
		return nil
	})
	for _, ready := range []tester.Ready{
		tester.ReadyPort(8080), tester.ReadyHTTP(8080, "/"), tester.ReadyLog("start worker process"), tester.ReadyAtOnce(), own,
	} {
		nginx := tester.StartContainer(t, tester.ContainerConfig{Image: "nginx-proxy:test", Environment: environment, Ready: ready})
		fmt.Println(nginx.Address(8080) != "")
	}
	// Output:
	// true
	// true
	// true
	// true
	// true
}
