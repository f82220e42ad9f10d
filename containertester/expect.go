package tester

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"time"
)

func expect(check func(*Response) error) HTTPOption {
	return func(c *httpCall) { c.checks = append(c.checks, check) }
}

// ExpectedStatus wants a status.
func ExpectedStatus(status int) HTTPOption {
	return expect(func(r *Response) error {
		if r.Status != status {
			return statusChecked{fmt.Errorf("status is %d, want %d", r.Status, status)}
		}
		return statusChecked{}
	})
}

// ExpectedBody wants exactly this body.
func ExpectedBody(body string) HTTPOption {
	return expect(func(r *Response) error {
		if r.Body != body {
			return fmt.Errorf("body is %q, want %q", clip(r.Body), clip(body))
		}
		return nil
	})
}

// ExpectedBodyContains wants a text in the body.
func ExpectedBodyContains(text string) HTTPOption {
	return expect(func(r *Response) error {
		if !strings.Contains(r.Body, text) {
			return fmt.Errorf("body does not contain %q", text)
		}
		return nil
	})
}

// ExpectedBodyMatches wants a body that matches a regular expression (RE2).
func ExpectedBodyMatches(expression string) HTTPOption {
	pattern := regexp.MustCompile(expression)
	return expect(func(r *Response) error {
		if !pattern.MatchString(r.Body) {
			return fmt.Errorf("body does not match %s", expression)
		}
		return nil
	})
}

// ExpectedJSON wants a body that is this value as JSON, whatever its order and spaces.
func ExpectedJSON(value any) HTTPOption {
	return expect(func(r *Response) error {
		content, err := json.Marshal(value)
		if err != nil {
			return err
		}
		var got, want any
		if err := json.Unmarshal([]byte(r.Body), &got); err != nil {
			return fmt.Errorf("body is no JSON: %w", err)
		}
		if err := json.Unmarshal(content, &want); err != nil {
			return err
		}
		if !reflect.DeepEqual(got, want) {
			return fmt.Errorf("body is %s, want %s", clip(r.Body), content)
		}
		return nil
	})
}

// ExpectedHeader wants a header with this value.
func ExpectedHeader(name, value string) HTTPOption {
	return expect(func(r *Response) error {
		if got := r.Header.Values(name); !slices.Contains(got, value) {
			return fmt.Errorf("header %s is %q, want %q", name, got, value)
		}
		return nil
	})
}

// ExpectedNoHeader wants a header to be absent.
func ExpectedNoHeader(name string) HTTPOption {
	return expect(func(r *Response) error {
		if got := r.Header.Values(name); len(got) > 0 {
			return fmt.Errorf("header %s is %q, want none", name, got)
		}
		return nil
	})
}

// ExpectedRedirect wants a redirect to this place.
func ExpectedRedirect(status int, location string) HTTPOption {
	return expect(func(r *Response) error {
		if got := r.Header.Get("Location"); r.Status != status || got != location {
			return statusChecked{fmt.Errorf("answer is %d to %q, want %d to %q", r.Status, got, status, location)}
		}
		return statusChecked{}
	})
}

// ExpectedFinalPath wants redirects to end at this path; it needs FollowRedirects.
func ExpectedFinalPath(path string) HTTPOption {
	return expect(func(r *Response) error {
		if r.Final != path {
			return fmt.Errorf("redirects end at %q, want %q", r.Final, path)
		}
		return nil
	})
}

// CookieIs wants an attribute of a cookie.
type CookieIs func(*http.Cookie) error

// CookieValue wants a value.
func CookieValue(value string) CookieIs {
	return func(c *http.Cookie) error { return want("value", c.Value, value) }
}

// CookiePath wants a path.
func CookiePath(path string) CookieIs {
	return func(c *http.Cookie) error { return want("path", c.Path, path) }
}

// CookieDomain wants a domain.
func CookieDomain(domain string) CookieIs {
	return func(c *http.Cookie) error { return want("domain", c.Domain, domain) }
}

// CookieSecure wants the attribute Secure.
func CookieSecure() CookieIs {
	return func(c *http.Cookie) error { return want("Secure", c.Secure, true) }
}

// CookieHTTPOnly wants the attribute HttpOnly.
func CookieHTTPOnly() CookieIs {
	return func(c *http.Cookie) error { return want("HttpOnly", c.HttpOnly, true) }
}

// CookieMaxAge wants an age.
func CookieMaxAge(age time.Duration) CookieIs {
	return func(c *http.Cookie) error {
		got := c.MaxAge
		switch { // net/http has -1 for an age of zero, and zero for none.
		case got == 0:
			return errors.New("there is no Max-Age")
		case got < 0:
			got = 0
		}
		return want("Max-Age", got, int(age.Seconds()))
	}
}

// CookieSameSite wants an attribute SameSite.
func CookieSameSite(mode http.SameSite) CookieIs {
	return func(c *http.Cookie) error { return want("SameSite", c.SameSite, mode) }
}

func want[T comparable](what string, got, wanted T) error {
	if got != wanted {
		return fmt.Errorf("%s is %v, want %v", what, got, wanted)
	}
	return nil
}

// ExpectedCookie wants a cookie with these attributes.
func ExpectedCookie(name string, attributes ...CookieIs) HTTPOption {
	return expect(func(r *Response) error {
		cookies := (&http.Response{Header: r.Header}).Cookies()
		at := slices.IndexFunc(cookies, func(c *http.Cookie) bool { return c.Name == name })
		if at < 0 {
			return fmt.Errorf("there is no cookie %s", name)
		}
		for _, attribute := range attributes {
			if err := attribute(cookies[at]); err != nil {
				return fmt.Errorf("cookie %s: %w", name, err)
			}
		}
		return nil
	})
}

// ExpectedNoCookie wants no cookie of that name.
func ExpectedNoCookie(name string) HTTPOption {
	return expect(func(r *Response) error {
		for _, cookie := range (&http.Response{Header: r.Header}).Cookies() {
			if cookie.Name == name {
				return fmt.Errorf("there is a cookie %s", name)
			}
		}
		return nil
	})
}

// ExpectedCertificate wants a certificate that is valid for a name.
func ExpectedCertificate(name string) HTTPOption {
	return expect(func(r *Response) error {
		if r.TLS == nil || len(r.TLS.PeerCertificates) == 0 {
			return errors.New("there is no certificate; add WithTLS")
		}
		return r.TLS.PeerCertificates[0].VerifyHostname(name)
	})
}

// ExpectedChain wants the certificates that were sent to lead to one of these roots, for the server name of
// the request.
func ExpectedChain(roots *x509.CertPool) HTTPOption {
	return expect(func(r *Response) error {
		if r.TLS == nil || len(r.TLS.PeerCertificates) == 0 {
			return errors.New("there is no certificate; add WithTLS")
		}
		if r.TLS.ServerName == "" {
			return errors.New("the request named no server, so that nothing says for which name the chain must be; say it in WithTLS")
		}
		others := x509.NewCertPool()
		for _, certificate := range r.TLS.PeerCertificates[1:] {
			others.AddCert(certificate)
		}
		_, err := r.TLS.PeerCertificates[0].Verify(x509.VerifyOptions{DNSName: r.TLS.ServerName, Roots: roots, Intermediates: others})
		return err
	})
}

// ExpectedTLSVersion wants a version of TLS, such as tls.VersionTLS13.
func ExpectedTLSVersion(version uint16) HTTPOption {
	return expect(func(r *Response) error {
		if r.TLS == nil || r.TLS.Version != version {
			return fmt.Errorf("TLS version is not %#x", version)
		}
		return nil
	})
}

// ExpectedHTTP2 wants the answer to come by HTTP/2; it needs WithTLS and WithHTTP2.
func ExpectedHTTP2() HTTPOption {
	return expect(func(r *Response) error { return want("protocol", r.Proto, "HTTP/2.0") })
}

// ExpectedNoAnswer wants none: refused, cut off, or longer than Within.
func ExpectedNoAnswer() HTTPOption { return func(c *httpCall) { c.noAnswer = true } }

// AssertEventually runs assertions again and again until all of them pass, and fails with the last
// failures when they do not within the limit.
func AssertEventually(t TB, limit time.Duration, assertions func(TB)) {
	t.Helper()
	var failures []string
	if err := eventually(t.Context(), limit, func(ctx context.Context) error {
		try := &probe{TB: t, context: ctx}
		try.run(func() { assertions(try) })
		if failures = try.failures; len(failures) > 0 {
			return errors.New("it fails")
		}
		return nil
	}); err != nil {
		t.Errorf("after %s still:\n%s", limit, strings.Join(failures, "\n"))
	}
}

// AssertRateLimit sends three times as many requests as may pass in a period and fails the test unless just
// so many do: n, and what the limit frees again while they are sent. Refused are 429 and 503.
func (c *Container) AssertRateLimit(t TB, n int, per time.Duration, options ...HTTPOption) {
	t.Helper()
	call := newCall(http.MethodGet, c.port, options)
	passed, began := 0, time.Now()
	var last *Response
	for range 3 * n {
		response, err := call.do(t.Context(), c.Address(call.port))
		if err != nil {
			t.Errorf("%s", c.report(call.describe(), last, err))
			return
		}
		last = response
		switch {
		case response.Status == http.StatusTooManyRequests || response.Status == http.StatusServiceUnavailable:
		case response.Status < 400:
			passed++
		default:
			t.Errorf("%s", c.report(call.describe(), response, fmt.Errorf("status is %d", response.Status)))
			return
		}
	}
	took := time.Since(began)
	if freed := int(float64(n) * float64(took) / float64(per)); passed < n || passed > n+freed+1 {
		t.Errorf("%s", c.report(call.describe(), last,
			fmt.Errorf("of %d requests in %s %d pass, want %d per %s", 3*n, took.Round(time.Millisecond), passed, n, per)))
	}
}
