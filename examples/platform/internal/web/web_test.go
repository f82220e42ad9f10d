package web_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/shopset/shopset/examples/platform/internal/web"
)

func serve(t *testing.T) (*httptest.Server, *prometheus.Registry) {
	t.Helper()
	mux := http.NewServeMux()
	mux.HandleFunc("GET /items/{id}", func(w http.ResponseWriter, r *http.Request) { web.JSON(w, 200, r.PathValue("id")) })
	mux.HandleFunc("GET /panic", func(http.ResponseWriter, *http.Request) { panic("boom") })
	mux.HandleFunc("GET /wait", func(w http.ResponseWriter, r *http.Request) {
		<-r.Context().Done()
		web.HTML(w, 503, []byte("too late"))
	})
	// Whoever is out of time needs some more to say so: the server notices what happens meanwhile.
	mux.HandleFunc("/late", func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		<-r.Context().Done()
		<-time.After(100 * time.Millisecond)
		web.HTML(w, 503, []byte("too late"))
	})
	mux.HandleFunc("GET /left", func(w http.ResponseWriter, r *http.Request) {
		state := "no error"
		if err := r.Context().Err(); err != nil {
			state = err.Error()
		}
		web.JSON(w, 200, state)
	})
	mux.HandleFunc("POST /body", func(w http.ResponseWriter, r *http.Request) {
		_, err := io.ReadAll(r.Body)
		var tooLarge *http.MaxBytesError
		if errors.As(err, &tooLarge) {
			w.WriteHeader(413)
		}
	})
	registry := prometheus.NewRegistry()
	server := httptest.NewServer(web.Wrap(mux, web.Options{Program: "test", Registry: registry, Timeout: 200 * time.Millisecond, MaxBody: 10}))
	t.Cleanup(server.Close)
	return server, registry
}

func TestWrap(t *testing.T) {
	server, registry := serve(t)
	for _, test := range []struct {
		path string
		code int
		want string
	}{
		{"/items/1", 200, `"1"`},
		{"/items/2", 200, `"2"`},
		{"/panic", 500, "internal error"},
		{"/wait", 503, "too late"},
		{"/elsewhere", 404, ""},
	} {
		response, err := http.Get(server.URL + test.path)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(response.Body)
		response.Body.Close()
		if response.StatusCode != test.code || !strings.Contains(string(body), test.want) || response.Header.Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("%s: %d %s", test.path, response.StatusCode, body)
		}
	}
	response, err := http.Post(server.URL+"/body", "text/plain", strings.NewReader("more than ten"))
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	if response.StatusCode != 413 {
		t.Errorf("large body: %d", response.StatusCode)
	}
	want := `
# HELP shopset_test_requests_total Requests by route and status code.
# TYPE shopset_test_requests_total counter
shopset_test_requests_total{code="200",route="GET /items/{id}"} 2
shopset_test_requests_total{code="404",route="none"} 1
shopset_test_requests_total{code="413",route="POST /body"} 1
shopset_test_requests_total{code="500",route="GET /panic"} 1
shopset_test_requests_total{code="503",route="GET /wait"} 1
`
	if err := testutil.GatherAndCompare(registry, strings.NewReader(want), "shopset_test_requests_total"); err != nil {
		t.Error(err)
	}
}

// TestALateAnswerIsNotTheEnd uses a connection again on which a request took all its time: the next ones have theirs.
func TestALateAnswerIsNotTheEnd(t *testing.T) {
	server, _ := serve(t)
	for _, slow := range []string{
		"GET /late HTTP/1.1\r\nHost: a\r\n\r\n",
		"POST /late HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nab",
	} {
		connection, err := net.Dial("tcp", server.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer connection.Close()
		if err := connection.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
			t.Fatal(err)
		}
		answers := bufio.NewReader(connection)
		ask := func(request string) string {
			fmt.Fprint(connection, request)
			response, err := http.ReadResponse(answers, nil)
			if err != nil {
				t.Fatal(err)
			}
			defer response.Body.Close()
			body, err := io.ReadAll(response.Body)
			if err != nil {
				t.Fatal(err)
			}
			return string(body)
		}
		if got := ask(slow); got != "too late" {
			t.Fatalf("got %q", got)
		}
		if got := ask("GET /left HTTP/1.1\r\nHost: a\r\n\r\n"); got != "\"no error\"\n" {
			t.Errorf("after %.9q… the context of the next request on the connection ended before its time: %s", slow, got)
		}
	}
}

// TestAClientThatSendsSlowly promises a body and does not send it; the request has to end all the same.
func TestAClientThatSendsSlowly(t *testing.T) {
	server, _ := serve(t)
	connection, err := net.Dial("tcp", server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer connection.Close()
	fmt.Fprint(connection, "POST /body HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nab")
	if err := connection.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := bufio.NewReader(connection).ReadString('\n'); err != nil && !errors.Is(err, io.EOF) {
		t.Fatalf("the request did not end: %v", err)
	}
}
