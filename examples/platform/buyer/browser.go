package buyer

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"strings"
	"time"

	"golang.org/x/net/html"
)

const maxPage = 4 << 20

// Error says which step of a purchase failed and how.
type Error struct {
	Shop   string
	Step   string
	Method string
	URL    string
	// Status is that of the answer, 0 when there was none.
	Status int
	// Body is the beginning of the answer's text.
	Body string
	// Attempts is how often the step was tried.
	Attempts int
	// Err is the reason when there was no answer, or what is wrong with it.
	Err error
}

func (e *Error) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "buyer: %s: %s %s", e.Step, e.Method, e.URL)
	if e.Status != 0 {
		fmt.Fprintf(&b, ": status %d", e.Status)
	}
	if e.Err != nil {
		fmt.Fprintf(&b, ": %v", e.Err)
	}
	if e.Body != "" {
		fmt.Fprintf(&b, ": %s", e.Body)
	}
	if e.Attempts > 1 {
		fmt.Fprintf(&b, " (%d attempts)", e.Attempts)
	}
	return b.String()
}

func (e *Error) Unwrap() error { return e.Err }

// passing reports whether the step may succeed when it is tried again.
func (e *Error) passing() bool {
	return e.Status == 0 || e.Status >= 500 || e.Status == http.StatusTooManyRequests
}

// page is an answer that was 200 in the end.
type page struct {
	url  *url.URL
	text string
	root *html.Node
}

// browser is one person's browser: cookies and connections of its own.
type browser struct {
	options Options
	base    *url.URL
	client  *http.Client
	close   func()
	steps   []Step
}

func newBrowser(o Options) (*browser, error) {
	base, err := url.Parse(o.Scheme + "://" + o.Shop)
	if err != nil || base.Host != o.Shop || o.Shop == "" {
		return nil, fmt.Errorf("buyer: %q is no host name of a shop", o.Shop)
	}
	jar, err := cookiejar.New(nil)
	if err != nil {
		return nil, err
	}
	dial := (&net.Dialer{Timeout: o.StepTimeout}).DialContext
	if o.Dial != nil {
		dial = o.Dial
	}
	transport := &http.Transport{
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			if o.Address != "" {
				address = o.Address
			}
			return dial(ctx, network, address)
		},
		TLSClientConfig:   &tls.Config{RootCAs: o.RootCAs, InsecureSkipVerify: o.Insecure},
		ForceAttemptHTTP2: true,
	}
	return &browser{options: o, base: base, close: transport.CloseIdleConnections,
		client: &http.Client{Transport: transport, Jar: jar}}, nil
}

// get opens a page.
func (b *browser) get(ctx context.Context, step, path string) (*page, *Error) {
	return b.retry(ctx, step, func() (*page, *Error) { return b.once(ctx, step, http.MethodGet, path, nil) })
}

// retry repeats a step that is safe to repeat.
func (b *browser) retry(ctx context.Context, step string, try func() (*page, *Error)) (*page, *Error) {
	began := time.Now()
	for attempt := 1; ; attempt++ {
		p, failure := try()
		if failure == nil {
			b.steps = append(b.steps, Step{Name: step, Duration: time.Since(began), Attempts: attempt})
			return p, nil
		}
		failure.Attempts = attempt
		if attempt > b.options.Retries || !failure.passing() {
			return nil, failure
		}
		select {
		case <-ctx.Done():
			return nil, failure
		case <-time.After(b.options.RetryPause):
		}
	}
}

// once sends one request, follows redirects, and demands 200 at the end.
func (b *browser) once(ctx context.Context, step, method, path string, form url.Values) (*page, *Error) {
	ctx, cancel := context.WithTimeout(ctx, b.options.StepTimeout)
	defer cancel()
	failure := &Error{Shop: b.options.Shop, Step: step, Method: method, URL: b.base.String() + path}
	target, err := b.base.Parse(path)
	if err != nil || target.Host != b.base.Host {
		failure.Err = errors.New("the page leads to another site")
		return nil, failure
	}
	failure.URL = target.String()
	var body io.Reader
	if form != nil {
		body = strings.NewReader(form.Encode())
	}
	request, err := http.NewRequestWithContext(ctx, method, target.String(), body)
	if err != nil {
		failure.Err = err
		return nil, failure
	}
	request.Header.Set("User-Agent", "shopset-buyer/1")
	request.Header.Set("Accept", "text/html,text/css;q=0.9")
	if form != nil {
		request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		request.Header.Set("Origin", b.base.Scheme+"://"+b.base.Host)
		request.Header.Set("Sec-Fetch-Site", "same-origin")
	}
	response, err := b.client.Do(request)
	if err != nil {
		failure.Err = err
		return nil, failure
	}
	defer response.Body.Close()
	content, err := io.ReadAll(io.LimitReader(response.Body, maxPage+1))
	failure.URL, failure.Status = response.Request.URL.String(), response.StatusCode
	if err != nil {
		// The answer was cut off, so nothing is known.
		failure.Status, failure.Err = 0, err
		return nil, failure
	}
	if response.StatusCode != http.StatusOK {
		failure.Body = excerpt(content)
		return nil, failure
	}
	root, err := html.Parse(bytes.NewReader(content))
	if err == nil && len(content) > maxPage {
		err = fmt.Errorf("the page is larger than %d bytes", maxPage)
	}
	if err != nil {
		failure.Err = err
		return nil, failure
	}
	return &page{url: response.Request.URL, text: string(content), root: root}, nil
}

// wrong makes the error for a page that does not hold what is needed.
func (b *browser) wrong(step string, p *page, problem string) *Error {
	return &Error{Shop: b.options.Shop, Step: step, Method: http.MethodGet, URL: p.url.String(), Status: http.StatusOK,
		Err: errors.New(problem), Body: excerpt([]byte(p.text)), Attempts: 1}
}

// excerpt is the visible text of a page, shortened.
func excerpt(content []byte) string {
	text := string(content)
	if root, err := html.Parse(bytes.NewReader(content)); err == nil {
		text = textOf(root)
	}
	text = strings.Join(strings.Fields(text), " ")
	if len(text) > 300 {
		text = strings.ToValidUTF8(text[:300], "") + "…"
	}
	return text
}
