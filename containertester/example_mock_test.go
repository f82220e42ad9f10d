package tester_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	tester "github.com/shopset/shopset/containertester"
)

func ExampleStartMockAP() {
	t, app, nginx := example(
		tester.MockApResponseBody("first"),
		tester.MockApHeader("Cache-Control", "no-store"),
		tester.MockApThen(tester.MockApStatus(http.StatusNotFound)), // The second answer, and all after it.
		tester.MockApPath("/slow/", tester.MockApDelay(10*time.Millisecond)),
	)
	nginx.AssertHttpGet(t, tester.ExpectedBody("first"))
	nginx.AssertHttpGet(t, tester.ExpectedStatus(http.StatusNotFound))
	nginx.AssertHttpGet(t, tester.Path("/slow/page"))
	fmt.Println(app.URL() == "http://"+app.Host(), strings.HasSuffix(app.Host(), fmt.Sprint(":", app.Port())))
	// Output: true true
}

func ExampleMockApHandler() {
	t, _, nginx := example(tester.MockApHandler(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "got %s", body)
	}))
	nginx.AssertHttp(t, http.MethodPost, tester.WithBody("n=1"), tester.ExpectedBody("got n=1"))
	// Output:
}

func ExampleMockApTLS() {
	t := examples
	authority := tester.NewAuthority(t)
	app := tester.StartMockAP(t, tester.MockApTLS(authority.Issue(t, "app.internal")))
	// For the container under test: authority.PEM() as a file that it trusts.
	fmt.Println(strings.HasPrefix(app.URL(), "https://"), strings.HasPrefix(authority.PEM(), "-----BEGIN CERTIFICATE-----"))
	// Output: true true
}

func ExampleMocksHost() {
	t := examples
	authority := tester.NewAuthority(t)
	// Containers that verify find the mock under the name that its certificate has.
	app := tester.StartMockAP(t, tester.MockApTLS(authority.Issue(t, tester.MocksHost(t))))
	host, _, err := net.SplitHostPort(app.Host())
	fmt.Println(host == tester.MocksHost(t), err)
	// Output: true <nil>
}

func ExampleMockAP_AssertReceived() {
	t, app, nginx := example()
	nginx.AssertHttp(t, http.MethodPost, tester.Path("/buy"), tester.Host("shop.example"), tester.WithBody("n=1"))
	fromNginx := tester.Header("X-Forwarded-Proto", "http")
	app.AssertReceived(t, fromNginx, tester.ReceivedMethod("POST"), tester.ReceivedPath("/buy"), tester.ReceivedHost("shop.example"),
		tester.NoHeader("X-Debug"), tester.ReceivedBody("n=1"))
	app.AssertNotReceived(t, tester.ReceivedPath("/admin"))
	app.AssertCount(t, 1)
	for _, request := range app.Received() {
		line, _, _ := strings.Cut(request.String(), "\n")
		fmt.Println(line)
	}
	app.Forget()
	app.AssertNotReceived(t)
	// Output: POST /buy
}

func ExampleListener() {
	t := examples
	app := tester.StartMockAP(t, tester.MockApResponseBody("app"))
	fallback := tester.StartMockAP(t, tester.MockApResponseBody("fallback"))
	nginx := tester.StartContainer(t, tester.ContainerConfig{Image: "nginx-proxy:test", Environment: map[string]string{
		"APP_SERVER": app.Host(), "PROXY_FALLBACK_SERVER": fallback.Host(), "PROXY_TIMEOUT": "1s"}})
	for _, fails := range []func(tester.TB){
		app.Down, app.Refuse, app.Reset, app.Hang,
		func(t tester.TB) { app.Slow(t, time.Minute) },
		func(t tester.TB) { app.Fail(t, http.StatusServiceUnavailable) },
	} {
		fails(t)
		nginx.AssertHttpGet(t, tester.ExpectedBody("fallback"))
		app.Recover(t)
		nginx.AssertHttpGet(t, tester.ExpectedBody("app"), tester.Eventually(10*time.Second))
	}
	// Output:
}

func ExampleStartMockRedis() {
	t := examples
	redis := tester.StartMockRedis(t)
	redis.Set(t, "certificate:shop.example", "…")
	redis.Latency(time.Millisecond)
	fmt.Println(redis.Get("certificate:shop.example"), len(redis.Received()))
	redis.Down(t)
	redis.Up(t) // As Recover of a mock application.
	failing := &recording{}
	redis.AssertReceived(failing, "GET certificate:shop.example") // No container has asked for it.
	fmt.Println(len(failing.errors))
	// Output:
	// … 0
	// 1
}

func ExampleStartMockCertificateAPI() {
	t := examples
	api := tester.StartMockCertificateAPI(t)
	api.Add(t, "shop.example", "*.shop.example")
	api.Put(api.Authority.IssueFor(t, -time.Hour, "old.example"), "old.example") // Expired.
	api.Remove("*.shop.example")
	fmt.Println(api.URL() != "") // For the environment of a proxy that fetches its certificates.
	// Output: true
}

func ExampleStartMockTCP() {
	t := examples
	echo := tester.StartMockTCP(t, func(conn net.Conn) {
		defer conn.Close()
		line, _ := bufio.NewReader(conn).ReadString('\n')
		_, _ = io.WriteString(conn, line)
	})
	conn, err := net.Dial("tcp", echo.Host()) // As a container would.
	if err != nil {
		t.Fatalf("%v", err)
	}
	_, _ = io.WriteString(conn, "hello\n")
	answer, _ := io.ReadAll(conn)
	fmt.Printf("%s%q", answer, echo.Received())
	// Output:
	// hello
	// ["hello\n"]
}

func ExampleMockAP() {
	t, app, nginx := example(tester.MockApResponseBody("hello"))
	nginx.AssertHttpGet(t, tester.ExpectedBody("hello"))
	app.Close(t)
	nginx.AssertHttpGet(t, tester.ExpectedStatus(http.StatusBadGateway))
	nginx.Close(t)
	// Output:
}
