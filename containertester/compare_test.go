package tester_test

import (
	"net/http"
	"strings"
	"testing"

	tester "github.com/shopset/shopset/containertester"
)

// TestAssertSame: two images, or two configurations of one, that should do the same.
func TestAssertSame(t *testing.T) {
	t.Parallel()
	side := func(environment map[string]string) tester.Endpoint {
		app := tester.StartMockAP(t, tester.MockApResponseBody("a\nb"), tester.MockApHeader("X-Internal", "1"),
			tester.MockApPath("/noise", tester.MockApHeader("X-Request", "1"), tester.MockApResponseBody("1\nsame"),
				tester.MockApThen(tester.MockApHeader("X-Request", "2"), tester.MockApResponseBody("2\nsame"))),
			tester.MockApPath("/cookie", tester.MockApCookie(&http.Cookie{Name: "c", Value: "v", Domain: "inside"})))
		environment["APP_SERVER"] = app.Host()
		return tester.StartContainer(t, tester.ContainerConfig{Image: image, Environment: environment}).Endpoint(app)
	}
	calls := []tester.Call{
		{}, {Method: "POST", Options: []tester.HTTPOption{tester.Path("/buy"), tester.WithBody("x")}},
		{Options: []tester.HTTPOption{tester.Path("/noise")}}, {Options: []tester.HTTPOption{tester.Path("/old/"), tester.Host("h")}},
		{Options: []tester.HTTPOption{tester.Path("/cookie")}},
	}
	one := side(map[string]string{})
	tester.AssertSame(t, one, side(map[string]string{}), calls, nil)

	other := side(map[string]string{"PROXY_SERVER_HEADER": "true", "PROXY_COOKIE_DOMAIN": "outside"})
	fake := &recording{}
	tester.AssertSame(fake, one, other, calls, tester.IgnoreHeaders{"server"})
	// The version of nginx is in the page of the redirect, too.
	if len(fake.errors) != 2 || !strings.Contains(fake.errors[0], "call 4") || !strings.Contains(fake.errors[0], "body line 5") ||
		!strings.Contains(fake.errors[1], "call 5") || !strings.Contains(fake.errors[1], "header Set-Cookie") || !strings.Contains(fake.errors[1], "outside") {
		t.Errorf("got %q", fake.errors)
	}
	fake = &recording{}
	tester.AssertSame(fake, one, other, calls[:1], nil)
	if len(fake.errors) != 1 || !strings.Contains(fake.errors[0], `header Server: "nginx" → "nginx/`) {
		t.Errorf("got %q", fake.errors)
	}
	other.Mocks[0].Down(t)
	fake = &recording{}
	tester.AssertSame(fake, one, other, calls[:1], tester.IgnoreHeaders{"Server"})
	if len(fake.errors) != 1 || !strings.Contains(fake.errors[0], `status: "200" → "502"`) || !strings.Contains(fake.errors[0], `requests to mock 1: "1" → "0"`) {
		t.Errorf("got %q", fake.errors)
	}
}
