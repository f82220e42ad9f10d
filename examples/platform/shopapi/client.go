package shopapi

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// maxAnswer bounds an answer of the api.
const maxAnswer = 1 << 20

// Error is a definite answer of the api that is no success.
type Error struct {
	Status  int
	Problem Problem
}

func (e *Error) Error() string { return fmt.Sprintf("api: %d %s", e.Status, e.Problem.Message) }

// Unavailable reports whether err says nothing about the outcome: the api could not be reached, did
// not answer in time, answered with an error of its own, or somebody else answered in its place.
func Unavailable(err error) bool {
	if err == nil {
		return false
	}
	var definite *Error
	if !errors.As(err, &definite) || definite.Status >= 500 {
		return true
	}
	switch definite.Problem.Code {
	case CodeInvalid, CodeNotFound, CodeOutOfStock, CodePriceChanged, CodeKeyReused:
		return false
	}
	return true
}

// NotFound reports whether err is the api's answer that something does not exist.
func NotFound(err error) bool {
	var definite *Error
	return errors.As(err, &definite) && definite.Status == http.StatusNotFound && definite.Problem.Code == CodeNotFound
}

// Client calls the api. Make one with NewClient.
type Client struct {
	base    string
	timeout time.Duration
	http    *http.Client
}

// dialTries is how many connections could be tried in the time of one call.
const dialTries = 4

// NewClient returns a client of the api at base, http://host:port. timeout bounds each call as a
// whole, repetition included.
func NewClient(base string, timeout time.Duration) *Client {
	// Within a cell a connection takes less than a millisecond. A first packet that is lost, as happens while the
	// network learns of a change, would be sent again after a second only: then all the time would be over.
	dialer := &net.Dialer{Timeout: timeout / dialTries, KeepAlive: 30 * time.Second}
	return &Client{base: base, timeout: timeout, http: &http.Client{
		Transport: &http.Transport{
			DialContext: dialer.DialContext,
			// One host takes all connections, so the usual two idle ones are too few. They end soon
			// enough to follow the api when it is scaled.
			MaxIdleConns: 64, MaxIdleConnsPerHost: 64, MaxConnsPerHost: 256, IdleConnTimeout: 30 * time.Second,
			ResponseHeaderTimeout: timeout,
			DisableCompression:    true,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// StartPatience is how long a program that has just started waits for the api before it takes requests all the same: the network
// may learn later than the program that it is there.
const StartPatience = 15 * time.Second

// Ping says whether the api can be reached.
func (c *Client) Ping(ctx context.Context) error {
	_, err := c.Shops(ctx, "", 1)
	return err
}

// ShopByHost returns the shop of a host name.
func (c *Client) ShopByHost(ctx context.Context, host string) (Shop, error) {
	var shop Shop
	return shop, c.get(ctx, "/v1/hosts/"+url.PathEscape(host), &shop)
}

// Shops returns a page of shops.
func (c *Client) Shops(ctx context.Context, after string, limit int) (ShopPage, error) {
	var page ShopPage
	return page, c.get(ctx, "/v1/shops?"+pageQuery(after, limit), &page)
}

// Products returns a page of a shop's products.
func (c *Client) Products(ctx context.Context, shop, after string, limit int) (ProductPage, error) {
	var page ProductPage
	return page, c.get(ctx, "/v1/shops/"+url.PathEscape(shop)+"/products?"+pageQuery(after, limit), &page)
}

// ProductsByID returns those of the products that the shop has, at most MaxLines.
func (c *Client) ProductsByID(ctx context.Context, shop string, ids []int64) ([]Product, error) {
	var page ProductPage
	texts := make([]string, len(ids))
	for i, id := range ids {
		texts[i] = strconv.FormatInt(id, 10)
	}
	err := c.get(ctx, "/v1/shops/"+url.PathEscape(shop)+"/products?ids="+strings.Join(texts, ","), &page)
	return page.Products, err
}

// Product returns one product of a shop.
func (c *Client) Product(ctx context.Context, shop string, id int64) (Product, error) {
	var product Product
	return product, c.get(ctx, "/v1/shops/"+url.PathEscape(shop)+"/products/"+strconv.FormatInt(id, 10), &product)
}

// Order returns an order of a shop.
func (c *Client) Order(ctx context.Context, shop, id string) (Order, error) {
	var order Order
	return order, c.get(ctx, "/v1/shops/"+url.PathEscape(shop)+"/orders/"+url.PathEscape(id), &order)
}

// PlaceOrder buys. The same key with the same request is the same order, however often it is sent.
func (c *Client) PlaceOrder(ctx context.Context, key string, request OrderRequest) (Order, error) {
	body, err := json.Marshal(request)
	if err != nil {
		return Order{}, err
	}
	var order Order
	return order, c.call(ctx, func(ctx context.Context) (*http.Request, error) {
		r, err := http.NewRequestWithContext(ctx, http.MethodPost, c.base+"/v1/orders", bytes.NewReader(body))
		if err == nil {
			r.Header.Set("Content-Type", "application/json")
			r.Header.Set(KeyHeader, key)
		}
		return r, err
	}, &order)
}

func pageQuery(after string, limit int) string {
	query := url.Values{"limit": {strconv.Itoa(limit)}}
	if after != "" {
		query.Set("after", after)
	}
	return query.Encode()
}

func (c *Client) get(ctx context.Context, path string, into any) error {
	return c.call(ctx, func(ctx context.Context) (*http.Request, error) {
		return http.NewRequestWithContext(ctx, http.MethodGet, c.base+path, nil)
	}, into)
}

// tries bounds how often a request is sent.
const tries = 4

// call sends a repeatable request, and again when the connection broke or did not come about: each time a little later, because
// what refuses connections while addresses change does so for a moment, and for no more than a fifth of the time in all.
func (c *Client) call(ctx context.Context, make func(context.Context) (*http.Request, error), into any) error {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	var err error
	for try := range tries {
		if try > 0 {
			select {
			case <-ctx.Done():
				return err
			case <-time.After(c.timeout >> (tries - try) / 5):
			}
		}
		var request *http.Request
		if request, err = make(ctx); err != nil {
			return err
		}
		var definite *Error
		if err = c.once(request, into); err == nil || errors.As(err, &definite) || ctx.Err() != nil {
			return err
		}
	}
	return err
}

func (c *Client) once(request *http.Request, into any) error {
	response, err := c.http.Do(request)
	if err != nil {
		return fmt.Errorf("api: %w", err)
	}
	defer response.Body.Close()
	content, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer+1))
	switch {
	case err != nil:
		return fmt.Errorf("api: %s %s: %w", request.Method, request.URL.Path, err)
	case len(content) > maxAnswer:
		return fmt.Errorf("api: %s %s: the answer is larger than %d bytes", request.Method, request.URL.Path, maxAnswer)
	case response.StatusCode < 200 || response.StatusCode > 299:
		failure := &Error{Status: response.StatusCode}
		if json.Unmarshal(content, &struct{ Error *Problem }{&failure.Problem}) != nil || failure.Problem.Message == "" {
			failure.Problem = Problem{Code: CodeInternal, Message: http.StatusText(response.StatusCode)}
		}
		return failure
	}
	if err := json.Unmarshal(content, into); err != nil {
		return fmt.Errorf("api: %s %s: the answer is no JSON of the expected form: %w", request.Method, request.URL.Path, err)
	}
	return nil
}
