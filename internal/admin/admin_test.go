package admin_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/shopset/shopset/internal/admin"
)

func get(t *testing.T, s *admin.Server, path string) (int, string) {
	t.Helper()
	recorder := httptest.NewRecorder()
	s.ServeHTTP(recorder, httptest.NewRequest(http.MethodGet, path, nil))
	return recorder.Code, recorder.Body.String()
}

func TestReadinessNamesWhatFails(t *testing.T) {
	s := admin.New()
	var broken error
	s.AddCheck("redis", func(context.Context) error { return broken })
	s.AddCheck("api", func(context.Context) error { return nil })

	if code, body := get(t, s, "/readyz"); code != 200 {
		t.Fatalf("all checks pass, got %d %s", code, body)
	}
	broken = errors.New("connection refused")
	code, body := get(t, s, "/readyz")
	if code != 503 || strings.TrimSpace(body) != "redis: connection refused" {
		t.Fatalf("one check fails, got %d %q", code, body)
	}
	if code, _ := get(t, s, "/healthz"); code != 200 {
		t.Fatalf("health must not depend on checks, got %d", code)
	}
}

func TestReadinessBoundsAHangingCheck(t *testing.T) {
	s := admin.New()
	s.AddCheck("stuck", func(context.Context) error { select {} })
	code, body := get(t, s, "/readyz")
	if code != 503 || !strings.Contains(body, "stuck: no answer within") {
		t.Fatalf("got %d %q", code, body)
	}
}

// TestRunEndsGracefully checks that a request under way is finished after the stop, that readiness
// is off meanwhile, and that the admin port still answers then.
func TestRunEndsGracefully(t *testing.T) {
	s := admin.New()
	started, release := make(chan struct{}), make(chan struct{})
	listener := listen(t)
	service := admin.HTTP(listener, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		close(started)
		<-release
		io.WriteString(w, "finished")
	}))
	adminListener := listen(t)
	adminAddress := adminListener.Addr().String()
	adminListener.Close()

	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- s.Run(ctx, admin.Options{Address: adminAddress, Grace: 10 * time.Second}, service)
	}()
	answer := make(chan string, 1)
	go func() {
		response, err := http.Get("http://" + listener.Addr().String())
		if err != nil {
			answer <- err.Error()
			return
		}
		defer response.Body.Close()
		body, _ := io.ReadAll(response.Body)
		answer <- string(body)
	}()
	<-started
	cancel()

	deadline := time.Now().Add(5 * time.Second)
	for {
		response, err := http.Get("http://" + adminAddress + "/readyz")
		if err == nil {
			response.Body.Close()
			if response.StatusCode == http.StatusServiceUnavailable {
				break
			}
		}
		if time.Now().After(deadline) {
			t.Fatalf("readiness stays on after the stop (%v)", err)
		}
	}
	close(release)
	if got := <-answer; got != "finished" {
		t.Fatalf("the request under way got %q", got)
	}
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
}

// TestNoConnectionIsClosedUnderARequest: clients that send one request after the other over a kept connection, and cannot send one a
// second time, lose none while the server ends.
func TestNoConnectionIsClosedUnderARequest(t *testing.T) {
	listener := listen(t)
	service := admin.HTTP(listener, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		io.WriteString(w, "done")
	}))
	served := make(chan error, 1)
	go func() { served <- service.Serve() }()
	var clients, begun sync.WaitGroup
	for range 8 {
		begun.Add(1)
		clients.Go(func() {
			client := &http.Client{Transport: &http.Transport{}}
			defer client.CloseIdleConnections()
			for n := 0; ; n++ {
				// Not one that net/http would send again.
				response, err := client.Post("http://"+listener.Addr().String(), "text/plain", io.MultiReader(strings.NewReader("x")))
				if n == 0 {
					begun.Done()
				}
				if err != nil {
					t.Errorf("request %d: %v", n, err)
					return
				}
				_, err = io.Copy(io.Discard, response.Body) // Or the connection would not be kept.
				response.Body.Close()
				if err != nil {
					t.Errorf("request %d: %v", n, err)
					return
				}
				if response.Close {
					return
				}
			}
		})
	}
	begun.Wait()
	if err := service.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
	clients.Wait()
	if err := <-served; !errors.Is(err, http.ErrServerClosed) {
		t.Error(err)
	}
}

// TestOnce: what counts at the start alone does not make a program unready later, nor for ever.
func TestOnce(t *testing.T) {
	broken := errors.New("not there yet")
	asked := 0
	once := admin.Once(time.Hour, func(context.Context) error { asked++; return broken })
	if err := once(t.Context()); !errors.Is(err, broken) {
		t.Error(err)
	}
	failing := broken
	broken = nil
	if err := once(t.Context()); err != nil {
		t.Error(err)
	}
	broken = failing
	if err := once(t.Context()); err != nil || asked != 2 {
		t.Errorf("%v, asked %d times", err, asked)
	}
	if err := admin.Once(0, func(context.Context) error { return broken })(t.Context()); err != nil {
		t.Errorf("its time was over: %v", err)
	}
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return listener
}

func TestConfigErrorsNameEveryLine(t *testing.T) {
	type config struct {
		Listen  string `yaml:"listen"`
		Workers int    `yaml:"workers"`
	}
	for _, test := range []struct{ name, content, want string }{
		{"unknown field and wrong type", "listn: x\nworkers: many\n",
			"configuration c.yaml: line 1: unknown field listn\n" +
				"configuration c.yaml: line 2: cannot unmarshal !!str `many` into int"},
		{"empty", "", "configuration c.yaml: empty"},
		{"two documents", "listen: a\n---\nlisten: b\n", "configuration c.yaml: more than one YAML document"},
		{"no YAML", "a: [", "configuration c.yaml: line 1: did not find expected node content"},
	} {
		t.Run(test.name, func(t *testing.T) {
			err := admin.ParseConfig("c.yaml", []byte(test.content), &config{})
			if err == nil || err.Error() != test.want {
				t.Fatalf("got  %v\nwant %s", err, test.want)
			}
		})
	}
	var good config
	if err := admin.ParseConfig("c.yaml", []byte("listen: a\nworkers: 3\n"), &good); err != nil || good.Workers != 3 {
		t.Fatal(err, good)
	}
}

type validated struct {
	Name  string           `yaml:"name"`
	Items []map[string]int `yaml:"items"`
}

func (*validated) Problems() []admin.Problem {
	return []admin.Problem{
		{Path: "items[1].b", Message: "is wrong"},
		{Path: "name", Message: "is not reported, its line could not be read"},
		{Path: "items[0].missing", Message: "is missing"},
		{Message: "nothing fits"},
	}
}

func TestConfigProblemsHaveLinesAndComeAllAtOnce(t *testing.T) {
	err := admin.ParseConfig("c.yaml", []byte("name: [1]\nitems:\n- a: 1\n- c: 2\n  b: 3\nextra: 1\n"), &validated{})
	want := "configuration c.yaml: nothing fits\n" +
		"configuration c.yaml: line 1: cannot unmarshal !!seq into string\n" +
		"configuration c.yaml: line 3: items[0].missing: is missing\n" +
		"configuration c.yaml: line 5: items[1].b: is wrong\n" +
		"configuration c.yaml: line 6: unknown field extra"
	if err == nil || err.Error() != want {
		t.Fatalf("got\n%v\nwant\n%s", err, want)
	}
}

// TestHelpIsNoFailure would end this test with exit code 1.
func TestHelpIsNoFailure(t *testing.T) {
	before := slog.Default()
	defer slog.SetDefault(before)
	admin.Main("test", func() error { return fmt.Errorf("flags: %w", flag.ErrHelp) })
}
